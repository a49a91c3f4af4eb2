"""How compute is split over the problems of a study's row, in rounds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

from ponder.core.problem import Problem
from ponder.core.registry import ALLOCATORS, REGISTRY_OF, Registered
from ponder.core.strategy import Result, Strategy
from ponder.core.verifier import Verifier
from ponder.ledger.budget import Budget


@dataclass(frozen=True, slots=True)
class Assignment:
    """A strategy, complete with its number of samples, and the limit that this turn may not pass."""

    strategy: Strategy
    budget: Budget = field(default_factory=Budget)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one problem is after the rounds so far.

    Attributes:
        problem: the problem.
        turns: what was run on it, in order.
        result: of all turns together; None before the first.
        ended: it can get no more: its last turn brought nothing, or failed.
    """

    problem: Problem
    turns: tuple[Strategy, ...] = ()
    result: Result | None = None
    ended: bool = False

    @property
    def samples(self) -> int:
        """Samples that were asked for."""
        return sum(samples_of(strategy) for strategy in self.turns)


class Allocator(Registered, ABC):
    """Splits compute over problems.

    A row of a study asks `assign` before each round, about all problems at once, and runs what it says on as many
    problems side by side as the study wants. What a round learns is known in the next one and not before, so the
    outcome depends on nothing but the seed. Turns of one problem go on where the last one stopped, on one ledger, and
    their candidates form one pool.
    """

    name: ClassVar[str]
    scores_all: ClassVar[bool] = True
    """Whether its verifier scores every candidate, or only the chosen one of each turn."""

    n: int | None
    verifier: Verifier | None = None

    @property
    @abstractmethod
    def strategies(self) -> tuple[Strategy, ...]:
        """Everything that it may assign."""

    @abstractmethod
    def assign(self, standings: Sequence[Standing], seed: int) -> Sequence[Assignment | None]:
        """What each problem gets in this round; None is nothing, and all None ends the row.

        A function of its arguments alone. Problems that have ended must get nothing.
        """

    def with_samples(self, n: int) -> Self:
        """This allocator at `n` samples a problem, unless it fixes its own number."""
        return replace(self, n=n) if self.takes_samples else self  # type: ignore[type-var]

    @property
    def takes_samples(self) -> bool:
        """Whether its number of samples is still open."""
        return getattr(self, "n", 0) is None


def samples_of(strategy: Strategy) -> int:
    """The number of samples that a strategy is complete with; 1 if it has no such number.

    >>> from ponder.core.strategy import parse_strategy
    >>> samples_of(parse_strategy("best_of_n(n=4) | majority")), samples_of(parse_strategy("single"))
    (4, 1)
    """
    inner = getattr(strategy, "strategy", strategy)
    own = getattr(strategy, "n", None) or getattr(inner, "n", None)
    return int(own or 1)


REGISTRY_OF[Allocator] = ALLOCATORS
