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


def key_of(item: Scorable) -> object:
    """What an item is known by: its state where there is one."""
    state = item.state if isinstance(item, Candidate) else item
    return item.index if state is None and isinstance(item, Candidate) else state


class Verifier(Registered, ABC):
    """Scores outputs; larger is better.

    `needs` names model capabilities without which it cannot work. `range` says what its scores mean. One that
    `compares` gives a score that depends on the items beside it. `by_output` says that a score depends on prompt,
    reference and output alone: then a study stores the scores of pictures.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    compares: ClassVar[bool] = False
    by_output: ClassVar[bool] = False

    @abstractmethod
    async def score(self, problem: Problem, items: Sequence[Scorable], ctx: Context) -> Sequence[float]:
        """One score per item, in order. Model calls go through `ctx.generate`.

        An exception (or a NaN) concerns all items of the call; `Context.score` then asks again one by
        one, so that the failure is recorded on the sample that caused it and on no other.
        """


class NextStepVerifier(Verifier):
    """Scores all possible next steps of a state in one call (a multifurcation reward model)."""

    @abstractmethod
    async def score_next(
        self, problem: Problem, states: Sequence[State], steps: Sequence[Sequence[Any]], ctx: Context
    ) -> Sequence[Sequence[float]]:
        """For each state a score for each of its next steps; -inf forbids a step. One call per state."""

    async def score(self, problem: Problem, items: Sequence[Scorable], ctx: Context) -> Sequence[float]:
        """Scores of states by their last step, asked of their parents."""
        states = [item if isinstance(item, State) else item.state for item in items]
        known = [s for s in states if s is not None and s.parent is not None]
        parents = list(dict.fromkeys(s.parent for s in known if s.parent is not None))
        steps = [[s.step for s in known if s.parent is parent] for parent in parents]
        given = await self.score_next(problem, parents, steps, ctx)
        found = {
            s: v
            for parent, values in zip(parents, given, strict=True)
            for s, v in zip([s for s in known if s.parent is parent], values, strict=True)
        }
        return [found.get(s, float("nan")) if s is not None else float("nan") for s in states]


REGISTRY_OF[Verifier] = VERIFIERS
