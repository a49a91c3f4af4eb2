"""The same strategy and the same limit for every problem: what each row of a study is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ponder.core.allocator import Allocator, Assignment
from ponder.core.problem import Problem
from ponder.core.registry import allocator
from ponder.core.strategy import Strategy
from ponder.ledger.budget import Budget


@allocator("fixed", what="budget", how="uniform")
@dataclass(frozen=True)
class Fixed(Allocator):
    """Every problem gets the same.

    Args:
        strategy: complete with its number of samples.
        budget: text form of the limit for one problem; empty is no limit.
    """

    strategy: Strategy
    budget: str = ""

    def __post_init__(self) -> None:
        Budget.parse(self.budget)

    def assign(self, problem: Problem, remaining: Sequence[Problem]) -> Assignment:
        """The fixed assignment."""
        return Assignment(self.strategy, Budget.parse(self.budget))
