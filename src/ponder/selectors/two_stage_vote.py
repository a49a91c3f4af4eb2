"""Two-stage vote: each temperature elects an answer, then the temperatures vote.

Paper    Wu et al. 2025, "On the Role of Temperature Sampling in Test-Time Scaling" (multi-temperature voting).
Equal    Votes inside each temperature first, then across temperatures.
Differs  A temperature's vote counts as much as the share of its samples that agree; ties go to the answer with
         more samples over all temperatures, then to the earlier one.
Needs    Samples at several temperatures (`multi_temperature`).    Cost: nothing beyond the samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ponder.core.pool import Pool
from ponder.core.registry import selector
from ponder.core.selector import SUMMED, Ranking, VotingSelector


@selector("two_stage_vote", how="aggregation:majority")
@dataclass(frozen=True)
class TwoStageVote(VotingSelector):
    """One vote per temperature; samples of unknown temperature vote together.

    Args:
        weighted: weigh a temperature's vote by the agreement inside it; otherwise each counts 1.
        pooled: one vote per sample instead, which is the plain majority.
    """

    weighted: bool = True
    pooled: bool = False

    def rank(self, pool: Pool) -> Ranking:
        """The temperatures' votes, shape (P, G)."""
        counts = pool.counts
        if self.pooled or pool.temperature is None:
            return Ranking(np.where(counts > 0, counts, -np.inf))
        heat = np.where(np.isnan(pool.temperature), np.inf, pool.temperature)
        weights = np.zeros_like(counts)
        rows = np.arange(pool.shape[0])
        for value in np.unique(heat[pool.valid]):
            votes = pool.group_count(pool.valid & (heat == value))
            leading = votes == votes.max(axis=1, keepdims=True)
            winner = np.where(leading, counts, -1.0).argmax(axis=1)
            total = votes.sum(axis=1)
            share = votes[rows, winner] / np.maximum(total, 1) if self.weighted else np.ones(len(rows))
            weights[rows, winner] += np.where(total > 0, share, 0.0)
        return Ranking(np.where(counts > 0, weights, -np.inf), tiebreak=counts, tolerance=SUMMED)
