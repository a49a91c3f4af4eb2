"""Text, built as a whole answer or step by step.

A step ends after a delimiter, after so many tokens, or only with the answer. The delimiter stays in
the text; an empty step ends the answer (but for a single blank line, and for tokens that are blanks), and so does the
last step allowed. A partial answer is continued verbatim (the model must offer `prefix`), never put through the
chat template again.

A server stops at a line, a paragraph or another fixed text by itself. Sentences and patterns are cut out of a
continuation of `step_tokens` tokens: what comes after the first end is thrown away, and in the ledger all the same.
So is what a server writes that does not stop where it is told to.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Literal

from ponder.core.context import Context
from ponder.core.merge import merge
from ponder.core.model import Completion, Model, Sampling
from ponder.core.problem import Problem, Prompt, instructed
from ponder.core.process import Process
from ponder.core.registry import process
from ponder.core.state import State
from ponder.errors import CapabilityError, ParameterError
from ponder.ledger.spend import Spend
from ponder.processes._proposals import Listing, proposed

_SAMPLING_FIELDS = frozenset(f.name for f in fields(Sampling))
_ENDS = frozenset({"", "<|im_end|>", "<|endoftext|>", "</s>", "<|eot_id|>", "<end_of_turn>", "<|end|>"})
"""How backends write the token that ends an answer, in a list of alternatives."""
_DELIMITERS = {"line": "\n", "paragraph": "\n\n"}
_SENTENCE_END = r"[.!?。！？]+[\"'”’)\]]*\s+|[。！？]|\n+"
_SPECIAL = frozenset(r"\.^$*+?{}[]|()")


@process("text_steps")
@dataclass(frozen=True)
class TextSteps(Process):
    r"""A language model writing an answer.

    An `instruction` among a state's settings is added to the prompt; `propose` has the steps after it listed in one
    call instead of drawn one by one.

    Args:
        model: writes it.
        step: `answer` (one step), `line`, `paragraph`, `sentence`, `tokens`, or `pattern`.
        step_tokens: length limit of one step; for `tokens`, its length.
        pattern: for `step=pattern`: a regular expression of what ends a step, such as `\n(?=Step \d)`. It is looked for
            after the first character that is not blank.
        max_steps: after so many steps the answer ends.
        answer_marker: text after which a step completes the answer, such as `\boxed{`.
    """

    model: Model
    step: Literal["answer", "line", "paragraph", "sentence", "tokens", "pattern"] = "answer"
    step_tokens: int = 256
    max_steps: int = 40
    answer_marker: str | None = None
    pattern: str | None = None

    name: ClassVar[str]

    def __post_init__(self) -> None:
        if self.step_tokens < 1 or self.max_steps < 1:
            raise ParameterError(self, "step_tokens/max_steps", (self.step_tokens, self.max_steps), allowed="≥ 1")
        if (self.step == "pattern") != (self.pattern is not None):
            raise ParameterError(
                self, "pattern", self.pattern, allowed="a regular expression if step=pattern, else none"
            )
        try:
            end = re.compile(self._end) if self._end is not None else None
        except re.error as error:
            raise ParameterError(self, "pattern", self.pattern, allowed=f"a regular expression ({error})") from None
        if end is not None and end.fullmatch(""):
            raise ParameterError(self, "pattern", self.pattern, allowed="a regular expression that needs some text")
        if self.step != "answer":
            self.model.require("prefix", f"text in steps of one {self.step}", "Use step=answer.")

    @property
    def identity(self) -> str:
        """The model's identity and the way of stepping."""
        parts = [
            self.model.identity,
            self.step,
            self.step_tokens,
            self.max_steps,
            *([self.pattern] * bool(self.pattern)),
        ]
        return "/".join(map(str, parts))

    @property
    def _delimiter(self) -> str | None:
        """The fixed text that ends a step, if it is one."""
        fixed = self.pattern is not None and not _SPECIAL.intersection(self.pattern)
        return self.pattern if fixed else _DELIMITERS.get(self.step)

    @property
    def _end(self) -> str | None:
        """What ends a step, as a regular expression."""
        if self.step == "sentence":
            return _SENTENCE_END
        fixed = _DELIMITERS.get(self.step)
        return self.pattern if fixed is None else re.escape(fixed)

    async def extend(
        self, states: Sequence[State], slots: Sequence[Sequence[int]], ctx: Context
    ) -> AsyncIterator[State]:
        """Children as they are written; all states' requests are under way at once."""
        async with aclosing(merge([self._children(s, k, ctx) for s, k in zip(states, slots, strict=True)])) as children:
            async for child in children:
                yield child

    async def _children(self, state: State, slots: Sequence[int], ctx: Context) -> AsyncIterator[State]:
        overrides = {k: v for k, v in state.meta.items() if k in _SAMPLING_FIELDS}
        whole = replace(ctx.sampling, **overrides) if overrides else ctx.sampling
        left = max(1, whole.max_new_tokens - state.total_tokens())
        last = self.step == "answer" or ctx.to_end or state.depth + 1 >= self.max_steps
        if state.meta.get("propose") and self.proposes and not last:
            for child in await proposed(
                self.model, self._prompt(state, ctx), state, slots, ctx, self._listed(whole, left)
            ):
                yield child
            return
        completions = ctx.generate(
            self.model,
            self._prompt(state, ctx),
            seeds=ctx.seeds_for(state, slots),
            sampling=whole if self.step == "answer" else self._for_one_step(whole, left, last),
            prefix=self._prefix(state),
        )
        async with aclosing(completions):
            async for position, completion in completions:
                cut = None if last or completion.error is not None else self._cut(completion)
                step = cut or completion
                finish = step.finish if last else self._finish(state, step, left, cut=cut is not None)
                end = self._delimiter or ""
                stopped = cut is None and finish is None and completion.finish == "stop" and not step.text.endswith(end)
                yield state.child(
                    slots[position],
                    step.text + end if stopped else step.text,
                    logprob=step.logprob,
                    n_tokens=step.n_tokens,
                    payload=completion,
                    finish=finish,
                    error=completion.error,
                )

    @property
    def proposes(self) -> bool:
        """Lines and paragraphs can be listed; the steps of other ways of stepping have no form of their own."""
        return self.step in _DELIMITERS

    def _listed(self, whole: Sampling, left: int) -> Listing:
        return Listing(whole, min(left, self.step_tokens), left, _DELIMITERS[self.step], self.answer_marker)

    async def branch(
        self, states: Sequence[State], ctx: Context, *, most: int
    ) -> AsyncIterator[tuple[State, list[State]]]:
        """The likeliest next tokens as steps. A token that is part of a character cannot be a step and is left out."""
        self.model.require("logprobs", "listing next tokens", "Use a backend that gives alternatives to tokens.")
        self.model.require("prefix", "listing next tokens")

        async def one(state: State) -> AsyncIterator[tuple[State, list[State]]]:
            sampling = replace(ctx.sampling, temperature=1.0, top_p=1.0, max_new_tokens=1, stop=(), logprobs=most)
            drawn = ctx.generate(
                self.model, self._prompt(state, ctx), seeds=ctx.seeds_for(state, [0]), sampling=sampling,
                prefix=self.output(state),
            )  # fmt: skip
            async for _, completion in drawn:
                if completion.error is not None:
                    yield state, [state.child(0, "", finish="error", error=completion.error)]
                elif completion.top_logprobs is None:
                    raise CapabilityError(
                        f"{self.model} gave no alternatives to a token; token-level search needs them"
                    )
                else:
                    yield state, self._tokens(state, completion, ctx.sampling.max_new_tokens)

        async with aclosing(merge([one(state) for state in states])) as found:
            async for item in found:
                yield item

    def _tokens(self, state: State, completion: Completion, longest: int) -> list[State]:
        offered = completion.top_logprobs[0] if completion.top_logprobs else {}
        ranked = sorted(offered.items(), key=lambda item: -item[1])
        whole = [(text, logprob) for text, logprob in ranked if "\ufffd" not in text]
        last = state.depth + 1 >= longest
        return [
            state.child(
                rank,
                "" if text in _ENDS else text,
                logprob=logprob,
                n_tokens=1,
                finish="stop" if text in _ENDS else "length" if last else None,
            )
            for rank, (text, logprob) in enumerate(whole)
        ]

    def _prompt(self, state: State, ctx: Context) -> Prompt:
        instruction = state.meta.get("instruction")
        return instructed(state.problem.prompt, instruction) if instruction else state.problem.prompt

    def _prefix(self, state: State) -> str:
        """What the model goes on from."""
        return self.output(state)

    def _for_one_step(self, whole: Sampling, left: int, last: bool) -> Sampling:
        delimiter = self._delimiter
        stop = whole.stop if last or delimiter is None else (*whole.stop, delimiter)
        return replace(whole, max_new_tokens=left if last else min(left, self.step_tokens), stop=stop)

    def _cut(self, completion: Completion) -> Completion | None:
        """The first step of a continuation that holds more than it; None if it does not.

        Its tokens are counted, and their log-probabilities added up, where the backend names them; else they are
        shared out by length, and the log-probability is unknown.
        """
        text = completion.text
        begin = len(text) - len(text.lstrip())
        ends = () if self._end is None else re.compile(self._end).finditer(text, begin)
        end = next((found.end() for found in ends if found.end() > begin), len(text))
        if not text[end:].strip():
            return None
        kept = text[:end]
        if completion.tokens is None or completion.token_logprobs is None:
            share = -(-completion.n_tokens * end // len(text))
            return replace(completion, text=kept, n_tokens=share, logprob=None)
        n = length = 0
        while length < end and n < len(completion.tokens):
            length += len(completion.tokens[n])
            n += 1
        return replace(completion, text=kept, n_tokens=n, logprob=sum(completion.token_logprobs[:n]))

    def _finish(self, parent: State, completion: Completion, left: int, *, cut: bool) -> str | None:
        """Why the answer is complete with a step that need not be the last, or None.

        A backend that does not say which stop text ended the step is taken to mean the delimiter: if it
        was the end of the answer, the next step comes back empty and ends it. A blank line that is known
        to be one goes on, a second one after it ends the answer.
        """
        marked = self.answer_marker is not None and self.answer_marker in completion.text
        if completion.error is not None or completion.finish not in ("stop", "length"):
            return completion.finish
        if marked:
            return "stop"
        if cut:
            return None
        if not completion.text.strip() and not (self.step == "tokens" and completion.n_tokens):
            known_blank = completion.stop_reason is not None and completion.stop_reason == self._delimiter
            return None if known_blank and parent.step is not None and str(parent.step).strip() else "stop"
        if completion.finish == "length":
            return "length" if completion.n_tokens >= left else None
        if self._delimiter is None:
            return "stop"  # it was not told to stop anywhere
        return None if completion.stop_reason in (None, self._delimiter) else "stop"

    def horizon(self, problem: Problem) -> int:
        """The most steps that an answer has."""
        return 1 if self.step == "answer" else self.max_steps

    def to_finish(self, state: State, ctx: Context) -> Spend:
        """One completion to the answer's length limit."""
        written = state.total_tokens()
        return ctx.most(self.model, self._prompt(state, ctx), ctx.sampling.max_new_tokens - written, written)

    def revising(self) -> Process:
        """Whole answers by the same model, each shown earlier ones."""
        from ponder.processes.text_revisions import TextRevisions

        return TextRevisions(self.model)

    def output(self, state: State) -> str:
        """All steps joined."""
        return "".join(state.steps())
