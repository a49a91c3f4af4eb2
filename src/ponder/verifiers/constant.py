"""The same score for everything: for processes that carry weights by themselves, and as a control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.core.registry import verifier
from ponder.core.verifier import Scorable, Verifier


@verifier("constant")
@dataclass(frozen=True)
class Constant(Verifier):
    """Gives `value` to every item.

    Args:
        value: in [0, 1]. With `potential=exp` or `product`, particle weights are what the process says alone.
    """

    value: float = 1.0

    async def score(self, problem: Problem, items: Sequence[Scorable], ctx: Context) -> Sequence[float]:
        """The value, for each."""
        return [self.value] * len(items)
