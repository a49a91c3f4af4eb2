"""Perplexity consistency: add up the model's own probability of each distinct path, per answer.

Paper    Zhou et al. 2025, "A Theoretical Study on Bridging Internal Probability and Self-Consistency for LLM
         Reasoning", §3 (PC).
Equal    Weight of an answer = sum over its distinct paths of their probability; the heaviest wins.
Differs  A tie goes to the answer that appeared first.
Needs    Log-probabilities of the sampled tokens.    Cost: nothing beyond the samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ponder.core.pool import Pool
from ponder.core.registry import selector
from ponder.core.selector import SUMMED, Ranking, VotingSelector
from ponder.selectors._paths import path_errors, path_probability


@selector("perplexity_consistency", aliases=("pc",), how="aggregation:weighted", where="reasoning")
@dataclass(frozen=True)
class PerplexityConsistency(VotingSelector):
    """The answer whose distinct paths are most probable together.

    Args:
        probability: `mean` is the geometric mean of the token probabilities (the released code); `sequence`
            is the whole path's probability (the theory).
    """

    probability: Literal["mean", "sequence"] = "mean"

    needs: ClassVar[frozenset[str]] = frozenset({"logprobs"})

    def rank(self, pool: Pool) -> Ranking:
        """Sum of path probabilities, identical texts counted once."""
        paths = path_probability(pool, self.probability)
        weights = pool.group_sum(np.nan_to_num(paths), where=pool.distinct(pool.valid))
        return Ranking(
            np.where(pool.counts > 0, weights, -np.inf),
            tolerance=SUMMED,
            errors=path_errors(pool, self.probability, self.name),
        )
