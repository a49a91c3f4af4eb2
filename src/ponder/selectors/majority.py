"""Self-consistency: the answer that most samples give.

Paper    Wang et al. 2022, "Self-Consistency Improves Chain of Thought Reasoning in Language Models", §2.
Equal    Plurality vote over the extracted answers.
Differs  A tie goes to the answer that appeared first (paper: silent). Samples without an answer do not vote.
Needs    Text and an answer to extract.    Cost: nothing beyond the samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ponder.core.pool import Pool
from ponder.core.registry import selector
from ponder.core.selector import Ranking, VotingSelector


@selector("majority", aliases=("self_consistency",), how="aggregation:majority")
@dataclass(frozen=True)
class Majority(VotingSelector):
    """The most frequent answer; its confidence is its share of the valid samples."""

    def rank(self, pool: Pool) -> Ranking:
        """Each group weighs as many as its members."""
        counts = pool.counts
        return Ranking(np.where(counts > 0, counts, -np.inf))
