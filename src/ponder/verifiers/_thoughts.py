"""What verifiers of a tree's thoughts share: their settings, and which texts are worth a question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ponder.core.candidate import Candidate, is_valid
from ponder.core.context import Context
from ponder.core.model import Model
from ponder.core.verifier import Scorable, Verifier, output_of
from ponder.errors import ParameterError


@dataclass(frozen=True)
class ThoughtVerifier(Verifier):
    """Settings; `thought_value` and `thought_vote` say what they mean."""

    votes: int = 3
    model: Model | None = None
    temperature: float = 0.7
    max_new_tokens: int = 256

    def __post_init__(self) -> None:
        if self.votes < 1:
            raise ParameterError(self, "votes", self.votes, allowed="an integer ≥ 1")
        if self.max_new_tokens < 1:
            raise ParameterError(self, "max_new_tokens", self.max_new_tokens, allowed="an integer ≥ 1")


def worth_asking(items: Sequence[Scorable], ctx: Context) -> list[str | None]:
    """Each item's text; None for a copy of an earlier item's text, and for a finished one without an answer."""
    seen: set[str] = set()
    texts: list[str | None] = []
    for item in items:
        text = str(output_of(item, ctx))
        texts.append(None if text in seen or _answerless(item, ctx) else text)
        seen.add(text)
    return texts


def _answerless(item: Scorable, ctx: Context) -> bool:
    if isinstance(item, Candidate):
        return not item.valid
    if ctx.task is None or not ctx.process.done(item):
        return False
    try:
        return not is_valid(ctx.task.extract(ctx.process.output(item)))
    except Exception:  # the failure itself is recorded when the state becomes a candidate
        return True
