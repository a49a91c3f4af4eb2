"""A strategy in turns with a look at the pool in between: what every way of stopping one problem early shares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ponder.core.allocator import samples_of
from ponder.core.context import Context
from ponder.core.growth import Growth
from ponder.core.problem import Problem
from ponder.core.registry import SELECTORS
from ponder.core.strategy import Pipeline, Result, Strategy
from ponder.core.verifier import Verifier
from ponder.errors import ParameterError

Look = Callable[[Growth, int], "str | None"]
"""Given the pool and the samples still allowed: why to stop, or None to go on."""


async def in_turns(
    problem: Problem,
    ctx: Context,
    strategy: Strategy,
    n: int,
    look: Look,
    *,
    start: int = 1,
    batch: int = 1,
    verifier: Verifier | None = None,
) -> Result:
    """Run `strategy` turn by turn until `look` says stop or `n` samples were asked for.

    Args:
        problem: the problem of `ctx`.
        ctx: where everything is drawn.
        strategy: what a turn runs; one that fixes its own number takes that many in each turn.
        n: samples at most; a turn that does not fit in what is left is not begun.
        look: asked after each turn.
        start: samples of the first turn.
        batch: samples of each later one.
        verifier: scores all candidates; its best one is then the choice. Without it the strategy's own selectors
            choose, or else the majority.
    """
    growth = Growth(problem, ctx, verifier)
    asked, stopped = 0, None
    while asked < n and stopped is None and not growth.ended:
        turn = strategy.with_samples(min(batch if asked else start, n - asked))
        if growth.turns and samples_of(turn) > n - asked:
            break
        await growth.turn(turn)
        asked += samples_of(turn)
        stopped = look(growth, max(n - asked, 0))
    details: dict[str, Any] = {"stopped": stopped, "samples": asked}
    result = await growth.result(**details)
    voting = verifier is None and not isinstance(strategy, Pipeline)
    return await ctx.select(result, SELECTORS.build("majority")) if voting else result


class Wrapping(Strategy):
    """What strategies that run another one in turns say about it."""

    strategy: Strategy

    @property
    def requires(self) -> frozenset[str]:
        """What the inner strategy and the verifier need."""
        return super().requires | self.strategy.requires

    @property
    def stepwise(self) -> bool:  # type: ignore[override]
        """Whether the inner strategy works on steps."""
        return self.strategy.stepwise

    def check_whole(self, *names: str) -> None:
        """Refuse numbers below 1."""
        for name in names:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ParameterError(self, name, value, allowed="an integer ≥ 1")

    def check_prior(self) -> None:
        """Refuse a prior that is no Beta distribution."""
        for name in ("alpha", "beta"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ParameterError(self, name, getattr(self, name), allowed="a number > 0")
