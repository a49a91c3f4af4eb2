"""The first valid answer: what one sample would have given, and the baseline of every selector.

Equal    A single draw, if that draw has an answer.
Differs  Draws without an answer are passed over.
Needs    Nothing.    Cost: nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ponder.core.pool import Pool
from ponder.core.registry import selector
from ponder.core.selector import Ranking, VotingSelector


@selector("first", how="aggregation")
@dataclass(frozen=True)
class First(VotingSelector):
    """The earliest draw that has an answer; with k > 1 the first k different answers."""

    def rank(self, pool: Pool) -> Ranking:
        """The group that appeared first weighs 1, the others 0."""
        weights = np.where(pool.counts > 0, 0.0, -np.inf)
        weights[:, 0] = np.where(pool.counts[:, 0] > 0, 1.0, -np.inf)
        earliest_stands = np.zeros(pool.shape)
        return Ranking(weights, representatives=earliest_stands, share=False)
