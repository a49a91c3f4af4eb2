"""Which strategy a problem gets, and how much budget."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ponder.core.problem import Problem
from ponder.core.registry import ALLOCATORS, REGISTRY_OF, Registered
from ponder.core.strategy import Result, Strategy
from ponder.ledger.budget import Budget


@dataclass(frozen=True, slots=True)
class Assignment:
    """A strategy, complete with its number of samples, and the limit it may not pass."""

    strategy: Strategy
    budget: Budget


class Allocator(Registered, ABC):
    """Splits compute over problems.

    The study asks `assign` before a problem starts and tells `observe` when it has ended, so an
    allocator may learn from what came; one that does neither is a fixed plan.
    """

    name: ClassVar[str]

    @abstractmethod
    def assign(self, problem: Problem, remaining: Sequence[Problem]) -> Assignment:
        """What `problem` gets, given the problems that come after it."""

    def observe(self, problem: Problem, result: Result) -> None:
        """Take note of a finished problem."""
        return None


REGISTRY_OF[Allocator] = ALLOCATORS
