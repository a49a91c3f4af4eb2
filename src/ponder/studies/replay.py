"""A strategy run again on the draws of a pool in other orders: what it would have chosen had they come otherwise.

It is the strategy itself that runs, so a rule of stopping is nowhere written twice; every draw and score comes from the
pool, and nothing is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ponder.core.allocator import samples_of
from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.core.strategy import Strategy
from ponder.core.verifier import Verifier


@dataclass(frozen=True)
class Replayed:
    """What a strategy made of a problem in each order of its draws.

    Attributes:
        chosen: shape (orders,): position in the pool of what it chose, -1 for nothing.
        draws: shape (orders,): how many it took.
    """

    chosen: NDArray[np.int64]
    draws: NDArray[np.int64]


async def replay(
    strategy: Strategy,
    problem: Problem,
    pool: Sequence[Candidate],
    orders: NDArray[np.int64],
    context: Callable[[Problem], Context],
    *,
    verifier: Verifier | None = None,
) -> Replayed:
    """Run a strategy on each order of a problem's draws.

    Args:
        strategy: complete; it draws whole outputs with the settings of the pool.
        problem: the pool's.
        pool: finished draws, with their scores by `verifier` under its name.
        orders: shape (orders, draws): positions in the pool.
        context: makes a context that pays for nothing, so that the draws end where the pool does.
        verifier: whose scores are known.
    """
    name = verifier.name if verifier is not None else ""
    rows = []
    for order in orders:
        drawn = [replace(pool[at], index=place) for place, at in enumerate(order[: samples_of(strategy)])]
        ctx = context(problem)
        ctx.reuse(drawn, verifier, [c.scores.get(name, np.nan) for c in drawn])
        try:
            result = await strategy.run(problem, ctx)
        except Exception:  # in a study this problem would have no answer, and the study would go on
            rows.append((-1, 0))
            continue
        best = -1 if result.best is None else int(order[result.best.index])
        rows.append((best, sum(c.error is None for c in result.candidates)))
    return Replayed(*np.array(rows, dtype=np.int64).T)
