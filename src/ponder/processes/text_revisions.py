"""Text, revised as a whole: each step is a new answer by a model that is shown earlier ones.

An answer drawn from the root sees the prompt alone, so the first answers are those that any other strategy draws. In
a chat, earlier answers stand after the last question; a plain prompt goes on with the answer and what it scored, then
asks for a better one. Where the model's context is too short, the answers shown first are dropped, then comments are
cut; what still does not fit is a lost sample with that reason.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from ponder.core.context import Context
from ponder.core.problem import Prompt, instructed
from ponder.core.process import Process
from ponder.core.registry import process
from ponder.core.revision import Feedback, Shown, feedback_of
from ponder.core.state import State
from ponder.errors import ContextLengthError, ParameterError
from ponder.ledger.spend import Spend
from ponder.processes.text_steps import TextSteps

_SHORTEST = 40
"""Characters of a comment below which cutting it further is of no use."""


@process("text_revisions")
@dataclass(frozen=True)
class TextRevisions(TextSteps):
    """A language model writing whole answers, each knowing what its feedback shows of earlier ones.

    Args:
        model: writes them.
    """

    name: ClassVar[str]

    def __post_init__(self) -> None:
        if self.step != "answer":
            raise ParameterError(self, "step", self.step, allowed="answer", hint="Only whole answers are revised")

    @property
    def identity(self) -> str:
        """The model's identity and that it revises."""
        return f"{self.model.identity}/revisions"

    async def _children(self, state: State, slots: Sequence[int], ctx: Context) -> AsyncIterator[State]:
        try:
            self._prompt(state, ctx)
        except ContextLengthError as error:
            for slot in slots:
                yield state.child(slot, None, finish="error", error=f"ContextLengthError: {error}")
            return
        async for child in super()._children(state, slots, ctx):
            yield child

    def _prompt(self, state: State, ctx: Context) -> Prompt:
        prompt, feedback = super()._prompt(state, ctx), feedback_of(state)
        room, limit = self.model.capabilities.context_tokens, ctx.sampling.max_new_tokens

        def fits(feedback: Feedback) -> bool:
            asked = with_feedback(prompt, feedback)
            return room is None or self.model.count_tokens(asked) + limit <= room

        told = isinstance(state.step, Feedback)  # what does not even fit without feedback is the backend's to say
        return with_feedback(prompt, shortened(feedback, fits)) if told else prompt

    def _prefix(self, state: State) -> str:
        return ""

    def revising(self) -> Process:
        """Itself."""
        return self

    def measure(self, state: State) -> tuple[float | None, int]:
        """Of the answer alone, without those it was made from."""
        return state.logprob, state.n_tokens

    def to_finish(self, state: State, ctx: Context) -> Spend:
        """One completion; nothing where the prompt does not fit."""
        try:
            return ctx.most(self.model, self._prompt(state, ctx), ctx.sampling.max_new_tokens)
        except ContextLengthError:
            return Spend()

    def output(self, state: State) -> str:
        """The answer, without those it was made from; nothing above the first."""
        return state.step if isinstance(state.step, str) else ""


def with_feedback(prompt: Prompt, feedback: Feedback) -> Prompt:
    r"""A prompt that shows earlier answers and asks for a better one.

    >>> print(with_feedback("Q: 2+2?\nA:", Feedback((Shown(" 5", 0.0, "Count again."),))))
    Q: 2+2?
    A: 5
    Score: 0
    Comment: Count again.
    Better answer:
    """
    if not feedback.shown:
        return instructed(prompt, feedback.note) if feedback.note else prompt
    if isinstance(prompt, str):
        told = "\nA:".join(_plain(shown) for shown in feedback.shown)
        note = f"\nNote: {feedback.note}" if feedback.note else ""
        return f"{prompt}{told}{note}\nBetter answer:"
    many = len(feedback.shown) > 1
    parts = [f"Here {'are earlier attempts' if many else 'is an earlier attempt'} at this problem."]
    for number, shown in enumerate(feedback.shown, 1):
        score = "" if shown.score is None else f" (score {shown.score:.3g})"
        comment = f"\nComment on it: {shown.comment}" if shown.comment else ""
        parts.append(f"Attempt {number}{score}:\n{shown.output}{comment}")
    parts += [feedback.note] if feedback.note else []
    parts.append("Now solve the problem again and give a better answer. Do not mention earlier attempts.")
    return instructed(prompt, "\n\n".join(parts))


def _plain(shown: Shown) -> str:
    output = str(shown.output).rstrip()
    score = "" if shown.score is None else f"\nScore: {shown.score:.3g}"
    comment = f"\nComment: {' '.join(shown.comment.split())}" if shown.comment else ""
    return f"{output if output.startswith(' ') else f' {output}'}{score}{comment}"


def shortened(feedback: Feedback, fits: Callable[[Feedback], bool]) -> Feedback:
    """Feedback that fits: all but the last attempt are dropped one by one, then comments and note are halved.

    Raises:
        ContextLengthError: not even that fits.
    """
    while len(feedback.shown) > 1 and not fits(feedback):
        feedback = replace(feedback, shown=feedback.shown[1:])
    while not fits(feedback):
        longest = max((len(feedback.note), *(len(s.comment) for s in feedback.shown)))
        if longest == 0:
            raise ContextLengthError(
                "the prompt with one earlier answer does not fit the model's context, even without comments; use a "
                "model (or context=…) that holds more, or a smaller max_new_tokens"
            )
        keep = longest // 2 if longest > _SHORTEST else 0
        feedback = Feedback(
            tuple(replace(s, comment=s.comment[:keep]) for s in feedback.shown), feedback.note[:keep]
        )  # fmt: skip
    return feedback
