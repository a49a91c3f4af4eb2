"""REBASE: share the width among the nodes of a level in proportion to exp(score / temperature).

Paper    Wu et al. 2024, "Inference Scaling Laws: An Empirical Analysis of Compute-Optimal Inference for Problem-Solving
         with Language Models".
Equal    Nodes by falling score; each takes ⌈W · e_i / S⌉ of the width W that is left, S being what the rest weighs; a
         finished output takes one place of the width for good.
Differs  Scores are shifted by their maximum before exp, and the last division cannot be 0 / 0. Equal scores: the
         earlier first (reference code: the later).
Needs    A process in steps and a verifier of partial outputs.    Cost: at most n steps and n scores per level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from ponder.core.context import Context
from ponder.core.level_loop import Level, Next, level_loop, scorer, top
from ponder.core.pool import Floats, Ints
from ponder.core.problem import Problem
from ponder.core.registry import SELECTORS, VERIFIERS, strategy
from ponder.core.search_tree import Aggregate, search_result
from ponder.core.selector import Selector
from ponder.core.strategy import Result, Strategy
from ponder.core.verifier import Verifier
from ponder.errors import ParameterError


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


@strategy("rebase", aliases=("reward_balanced_search",), what="search", how="verifier")
@dataclass(frozen=True)
class Rebase(Strategy):
    """A tree of width `n` in which better-scored nodes get more children.

    Args:
        n: width; None takes the number from the study's sample axis.
        verifier: scores prefixes.
        temperature: of the scores, > 0.
        how: how the scores of a prefix's steps become one number.
        choose: chooses among the finished outputs.
    """

    n: int | None = None
    verifier: Verifier = field(default_factory=lambda: VERIFIERS.build("log_probability"))
    temperature: float = 0.2
    how: Aggregate = "last"
    choose: Selector = field(default_factory=lambda: SELECTORS.build("weighted_majority"))

    stepwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.n is not None and self.n < 1:
            raise ParameterError(self, "n", self.n, allowed="an integer ≥ 1")
        if not self.temperature > 0:
            raise ParameterError(self, "temperature", self.temperature, allowed="a number > 0")

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Level by level until the width is used up by finished outputs."""
        n = self.n or 1

        async def select(level: Level) -> Next:
            scores = np.asarray([level.tree.aggregate(s, self.how) for s in level.states])
            counts = np.where(level.open, 0, 1)
            width = n - int((~level.open).sum())
            counts[level.open] = rebase_counts(scores[level.open], width, self.temperature)
            return Next(counts)

        search = await level_loop(
            problem, ctx, select, start=[(ctx.root(), n)], score=scorer(problem, ctx, self.verifier)
        )
        return await search_result(problem, ctx, search, self.verifier, choose=self.choose, how=self.how)
