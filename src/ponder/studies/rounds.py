"""Runs an allocator's row: rounds of turns, side by side within a round, each problem on one ledger of its own.

Budgets stay hard and results do not depend on timing: before a round, what is left of the row's limits (a problem's
limit times the number of problems) is split evenly over the round's turns, and what they do not use comes back.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ponder.core.allocator import Allocator, Assignment, Standing
from ponder.core.context import Context
from ponder.core.growth import Growth
from ponder.core.problem import Problem
from ponder.core.strategy import Result
from ponder.ledger.budget import Budget, Meter
from ponder.ledger.spend import Spend

_SPLIT = ("tokens", "generated_tokens", "calls", "function_evaluations", "cost_usd")


@dataclass
class Seat:
    """One problem in the row: where it stands, and its run."""

    standing: Standing
    ctx: Context
    growth: Growth
    error: Exception | None = None


@dataclass
class Rounds:
    """What an allocator's row needs to run.

    Args:
        allocator: complete with its number of samples.
        seed: the study's.
        limit: a problem's limit; the row's is that times the number of problems.
        concurrency: turns under way at once.
        context: makes a problem's context.
        concerns_all: whether an error must end the study and not only the problem.
    """

    allocator: Allocator
    seed: int
    limit: Budget
    concurrency: int
    context: Callable[[Problem], Context]
    concerns_all: Callable[[Exception], bool]
    seats: list[Seat] = field(default_factory=list)

    async def run(self, problems: Sequence[Problem]) -> list[Seat]:
        """All rounds; the problems' seats in order."""
        for problem in problems:
            ctx = self.context(problem)
            growth = Growth(problem, ctx, self.allocator.verifier, scores_all=self.allocator.scores_all)
            self.seats.append(Seat(Standing(problem), ctx, growth))
        side_by_side = asyncio.Semaphore(self.concurrency)
        while True:
            shares = self.allocator.assign([seat.standing for seat in self.seats], self.seed)
            turns = [
                (seat, share)
                for seat, share in zip(self.seats, shares, strict=True)
                if share is not None and not seat.standing.ended
            ]
            if not turns:
                return self.seats
            allowance = self._allowance(len(turns))
            async with asyncio.TaskGroup() as group:
                for seat, share in turns:
                    group.create_task(self._turn(seat, share, allowance, side_by_side))

    async def _turn(self, seat: Seat, share: Assignment, allowance: Budget, free: asyncio.Semaphore) -> None:
        async with free:
            seat.ctx.meter = Meter(_tighter(allowance, share.budget), seat.ctx.runtime.meter)
            try:
                await seat.growth.turn(share.strategy)
                result: Result | None = await seat.growth.result()
            except Exception as error:
                if self.concerns_all(error):
                    raise
                seat.error, result = error, seat.standing.result
            turns = (*seat.standing.turns, share.strategy)
            ended = seat.growth.ended or seat.error is not None
            seat.standing = Standing(seat.standing.problem, turns, result, ended)

    def _allowance(self, turns: int) -> Budget:
        """What one of so many turns may spend: an even part of what the row has left."""
        spent = sum((seat.ctx.ledger.total for seat in self.seats), Spend())
        limits: dict[str, float] = {}
        for name in _SPLIT:
            each = getattr(self.limit, name)
            if each is not None:
                limits[name] = max(0.0, each * len(self.seats) - float(getattr(spent, name))) / turns
        return Budget(**limits, seconds=self.limit.seconds)


def _tighter(first: Budget, second: Budget) -> Budget:
    """The smaller of each limit."""
    limits = {}
    for f in dataclasses.fields(Budget):
        known = [v for v in (getattr(first, f.name), getattr(second, f.name)) if v is not None]
        limits[f.name] = min(known) if known else None
    return Budget(**limits)
