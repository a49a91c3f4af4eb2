"""What reward-balanced searches share: the fields, the shares of a level, and the loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ponder.core.context import Context
from ponder.core.level_loop import Level, Next, level_loop, scorer, top
from ponder.core.pool import Floats, Ints
from ponder.core.problem import Problem
from ponder.core.registry import SELECTORS, VERIFIERS
from ponder.core.search_tree import Aggregate, search_result
from ponder.core.selector import Selector
from ponder.core.state import State
from ponder.core.strategy import Result, Strategy
from ponder.core.verifier import Verifier
from ponder.errors import ParameterError

Allot = Callable[[Sequence[State], Floats, int], Ints]
"""Open states of a level, their scores (n,), the width left → continuations of each (n,)."""


def rebase_counts(scores: Sequence[float] | Floats, width: int, temperature: float = 0.2) -> Ints:
    """Continuations of each node: `width` in all, more for higher scores.

    Args:
        scores: (n,) of the nodes; NaN and -inf get nothing while another has a score.
        width: continuations to share out.
        temperature: small follows the best, large shares evenly.

    >>> rebase_counts([0.9, 0.8, 0.5, 0.1], 16).tolist(), rebase_counts([0.5] * 4, 6).tolist()
    ([10, 5, 1, 0], [2, 2, 1, 1])
    """
    values = np.nan_to_num(np.asarray(scores, dtype=float), nan=-np.inf, neginf=-np.inf)
    counts = np.zeros(len(values), dtype=np.int64)
    if not len(values) or width <= 0:
        return counts
    best = values.max()
    weights = np.ones(len(values)) if np.isneginf(best) else np.exp((values - best) / temperature)
    left, total = width, math.fsum(weights)
    for i in top(values, len(values)):
        if left <= 0 or total <= 0:
            break
        counts[i] = min(left, math.ceil(left * weights[i] / total - 1e-12))
        left -= int(counts[i])
        total -= float(weights[i])
    return counts


@dataclass(frozen=True)
class RewardBalanced(Strategy):
    """The parameters of a reward-balanced search; `rebase` says what they mean."""

    n: int | None = None
    verifier: Verifier = field(default_factory=lambda: VERIFIERS.build("log_probability"))
    temperature: float = 0.2
    how: Aggregate = "last"
    choose: Selector = field(default_factory=lambda: SELECTORS.build("weighted_majority"))

    def __post_init__(self) -> None:
        if self.n is not None and self.n < 1:
            raise ParameterError(self, "n", self.n, allowed="an integer ≥ 1")
        if not self.temperature > 0:
            raise ParameterError(self, "temperature", self.temperature, allowed="a number > 0")


async def run_rebase(
    search_by: RewardBalanced, problem: Problem, ctx: Context, allot: Allot, details: dict[str, Any]
) -> Result:
    """Level by level until the width is used up by finished outputs; `details` is shown as it is at the end."""
    n = search_by.n or 1

    async def select(level: Level) -> Next:
        scores = np.asarray([level.tree.aggregate(s, search_by.how) for s in level.states])
        counts = np.where(level.open, 0, 1)
        width = n - int((~level.open).sum())
        opened = [s for s, o in zip(level.states, level.open, strict=True) if o]
        counts[level.open] = allot(opened, scores[level.open], width)
        return Next(counts)

    score = scorer(problem, ctx, search_by.verifier)
    search = await level_loop(problem, ctx, select, start=[(ctx.root(), n)], score=score)
    return await search_result(
        problem, ctx, search, search_by.verifier, choose=search_by.choose, how=search_by.how, **details
    )
