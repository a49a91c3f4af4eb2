"""Soft best-of-N: draw a candidate with probability growing with its score.

Paper    Verdun et al. 2025, "Soft Best-of-n Sampling for Model Alignment".
Equal    Candidate i is picked with probability proportional to exp(beta · score_i).
Differs  With k > 1 different answers are drawn without replacement.
Needs    A score on the candidates.    Cost: nothing beyond samples and scores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.pool import Pool
from ponder.core.problem import Problem
from ponder.core.registry import selector
from ponder.core.seeds import generator
from ponder.core.selector import Ranking, Selection, VotingSelector
from ponder.errors import ParameterError, VerifierError


@selector("soft_best_of_n", aliases=("soft_bon",), how="verification:outcome, aggregation:best_of_n")
@dataclass(frozen=True)
class SoftBestOfN(VotingSelector):
    """A draw in proportion to exp(beta · score); beta = inf is `best_score`, beta = 0 a uniform draw.

    The randomness is fixed by `seed`; within a run also by the study's seed and the problem.

    Args:
        beta: inverse temperature, ≥ 0.
        score: the score's name; None takes the only one there is.
        seed: another number, another draw.
    """

    beta: float = 1.0
    score: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.beta >= 0:
            raise ParameterError(self, "beta", self.beta, allowed="a number ≥ 0 (inf is best-of-N)")

    def rank(self, pool: Pool) -> Ranking:
        """Gumbel noise on top of beta · score: its largest value is a draw from the softmax."""
        scores = np.clip(pool.score(self.score), -np.finfo(float).max, np.finfo(float).max)
        if math.isinf(self.beta):
            keys = scores
        else:
            with np.errstate(over="ignore"):
                scaled = np.clip(self.beta * scores, -np.finfo(float).max, np.finfo(float).max)
            keys = scaled + generator("soft_best_of_n", self.seed, pool.first).gumbel(size=pool.shape)
        weights = pool.group_max(keys)
        blank = np.asarray(pool.valid.any(axis=1) & np.isneginf(weights).all(axis=1))
        error = VerifierError("soft_best_of_n: no candidate has a score")
        return Ranking(
            weights,
            representatives=keys,
            share=False,
            errors=[error if b else None for b in blank] if blank.any() else None,
            excluded=(pool.valid & np.isnan(scores)).sum(axis=1),
        )

    async def choose(self, problem: Problem, candidates: Sequence[Candidate], ctx: Context, k: int = 1) -> Selection:
        """As `select`, with the problem's own randomness."""
        own = replace(self, seed=int(ctx.rng("soft_best_of_n", self.seed).integers(2**31)))
        return own.select(candidates, k, same=ctx.same)
