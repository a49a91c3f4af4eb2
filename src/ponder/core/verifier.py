"""Anything that scores states or finished candidates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ponder.core.candidate import Candidate
from ponder.core.problem import Problem
from ponder.core.registry import REGISTRY_OF, VERIFIERS, Registered
from ponder.core.state import State

if TYPE_CHECKING:
    from ponder.core.context import Context

Scorable = State | Candidate


def output_of(item: Scorable, ctx: Context) -> Any:
    """What is to be scored: a candidate's output, or what a state has built so far."""
    return item.output if isinstance(item, Candidate) else ctx.process.output(item)


def place_of(item: Scorable) -> tuple[object, ...]:
    """Names the item within its problem, for seeds that do not depend on what else is scored."""
    return (item.index, *item.meta.items()) if isinstance(item, Candidate) else item.path


class Verifier(Registered, ABC):
    """Scores outputs; larger is better.

    `needs` names model capabilities without which it cannot work. `range` says what its scores mean.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    @abstractmethod
    async def score(self, problem: Problem, items: Sequence[Scorable], ctx: Context) -> Sequence[float]:
        """One score per item, in order. Model calls go through `ctx.generate`.

        An exception (or a NaN) concerns all items of the call; `Context.score` then asks again one by
        one, so that the failure is recorded on the sample that caused it and on no other.
        """


REGISTRY_OF[Verifier] = VERIFIERS
