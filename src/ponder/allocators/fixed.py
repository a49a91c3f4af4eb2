"""The same strategy and the same limit for every problem: what each strategy of a study is, as an allocator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ponder.core.allocator import Allocator, Assignment, Standing
from ponder.core.registry import STRATEGIES, allocator
from ponder.core.strategy import Strategy
from ponder.ledger.budget import Budget


@allocator("fixed")
@dataclass(frozen=True)
class Fixed(Allocator):
    """Every problem gets the same, once.

    Args:
        strategy: what is run.
        budget: text form of the limit for one problem; empty is no limit.
        n: samples of a problem; None takes the number from the study's sample axis.
    """

    strategy: Strategy = field(default_factory=lambda: STRATEGIES.build("repeated_sampling"))
    budget: str = ""
    n: int | None = None

    def __post_init__(self) -> None:
        Budget.parse(self.budget)

    @property
    def strategies(self) -> tuple[Strategy, ...]:
        """The one."""
        return (self.strategy,)

    def assign(self, standings: Sequence[Standing], seed: int) -> Sequence[Assignment | None]:
        """The strategy, to every problem that has had no turn."""
        given = Assignment(self.strategy.with_samples(self.n or 1), Budget.parse(self.budget))
        return [None if s.turns or s.ended else given for s in standings]
