"""Text, built as a whole answer or step by step.

A step ends after a delimiter, after so many tokens, or only with the answer. The delimiter stays in
the text; an empty step ends the answer (but for a single blank line), and so does the last step
allowed. A partial answer is continued verbatim (the model must offer `prefix`), never put through the
chat template again.
"""

from __future__ import annotations

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

_SAMPLING_FIELDS = frozenset(f.name for f in fields(Sampling))
_ENDS = frozenset({"", "<|im_end|>", "<|endoftext|>", "</s>", "<|eot_id|>", "<end_of_turn>", "<|end|>"})
"""How backends write the token that ends an answer, in a list of alternatives."""
_DELIMITERS = {"line": "\n", "paragraph": "\n\n"}


@process("text_steps")
@dataclass(frozen=True)
class TextSteps(Process):
    r"""A language model writing an answer. An `instruction` among a state's settings is added to the prompt.

    Args:
        model: writes it.
        step: `answer` (one step), `line`, `paragraph`, or `tokens`.
        step_tokens: length limit of one step; for `tokens`, its length.
        max_steps: after so many steps the answer ends.
        answer_marker: text after which a step completes the answer, such as `\boxed{`.
    """

    model: Model
    step: Literal["answer", "line", "paragraph", "tokens"] = "answer"
    step_tokens: int = 256
    max_steps: int = 40
    answer_marker: str | None = None

    name: ClassVar[str]

    def __post_init__(self) -> None:
        if self.step_tokens < 1 or self.max_steps < 1:
            raise ParameterError(self, "step_tokens/max_steps", (self.step_tokens, self.max_steps), allowed="≥ 1")
        if self.step != "answer":
            self.model.require("prefix", f"text in steps of one {self.step}", "Use step=answer.")

    @property
    def identity(self) -> str:
        """The model's identity and the way of stepping."""
        return f"{self.model.identity}/{self.step}/{self.step_tokens}/{self.max_steps}"

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
        completions = ctx.generate(
            self.model,
            self._prompt(state),
            seeds=ctx.seeds_for(state, slots),
            sampling=whole if self.step == "answer" else self._for_one_step(whole, left, last),
            prefix=self.output(state),
        )
        async with aclosing(completions):
            async for position, completion in completions:
                finish = completion.finish if last else self._finish(state, completion, left)
                ended_by_delimiter = finish is None and self.step in _DELIMITERS and completion.finish == "stop"
                yield state.child(
                    slots[position],
                    completion.text + _DELIMITERS[self.step] if ended_by_delimiter else completion.text,
                    logprob=completion.logprob,
                    n_tokens=completion.n_tokens,
                    payload=completion,
                    finish=finish,
                    error=completion.error,
                )

    async def branch(
        self, states: Sequence[State], ctx: Context, *, most: int
    ) -> AsyncIterator[tuple[State, list[State]]]:
        """The likeliest next tokens as steps. A token that is part of a character cannot be a step and is left out."""
        self.model.require("logprobs", "listing next tokens", "Use a backend that gives alternatives to tokens.")
        self.model.require("prefix", "listing next tokens")

        async def one(state: State) -> AsyncIterator[tuple[State, list[State]]]:
            sampling = replace(ctx.sampling, temperature=1.0, top_p=1.0, max_new_tokens=1, stop=(), logprobs=most)
            drawn = ctx.generate(
                self.model, self._prompt(state), seeds=ctx.seeds_for(state, [0]), sampling=sampling,
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

    def _prompt(self, state: State) -> Prompt:
        instruction = state.meta.get("instruction")
        return instructed(state.problem.prompt, instruction) if instruction else state.problem.prompt

    def _for_one_step(self, whole: Sampling, left: int, last: bool) -> Sampling:
        delimiter = _DELIMITERS.get(self.step)
        stop = whole.stop if last or delimiter is None else (*whole.stop, delimiter)
        return replace(whole, max_new_tokens=left if last else min(left, self.step_tokens), stop=stop)

    def _finish(self, parent: State, completion: Completion, left: int) -> str | None:
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
        if not completion.text.strip():
            known_blank = completion.stop_reason is not None and completion.stop_reason == _DELIMITERS.get(self.step)
            return None if known_blank and parent.step is not None and str(parent.step).strip() else "stop"
        if completion.finish == "length":
            return "length" if completion.n_tokens >= left else None
        return None if completion.stop_reason in (None, _DELIMITERS.get(self.step)) else "stop"

    def horizon(self, problem: Problem) -> int:
        """The most steps that an answer has."""
        return 1 if self.step == "answer" else self.max_steps

    def to_finish(self, state: State, ctx: Context) -> Spend:
        """One completion to the answer's length limit."""
        written = state.total_tokens()
        return ctx.most(self.model, self._prompt(state), ctx.sampling.max_new_tokens - written, written)

    def output(self, state: State) -> str:
        """All steps joined."""
        return "".join(state.steps())
