"""Best-of-N on scores that the candidates carry: the answer of the best-scored one.

Paper    Cobbe et al. 2021, "Training Verifiers to Solve Math Word Problems", §4.
Equal    Argmax of the score.
Differs  A tie goes to the earliest draw (paper: silent). With k > 1, the k best-scored different answers.
Needs    A score on the candidates, from any verifier.    Cost: nothing beyond samples and scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ponder.core.pool import Pool
from ponder.core.registry import selector
from ponder.core.selector import Ranking, VotingSelector
from ponder.errors import VerifierError


@selector("best_score", aliases=("best_of_n_score",), how="verification:outcome, aggregation:best_of_n")
@dataclass(frozen=True)
class BestScore(VotingSelector):
    """The answer with the highest score; candidates without a score (NaN) are left out and counted.

    Args:
        score: the score's name; None takes the only one there is.
    """

    score: str | None = None

    def rank(self, pool: Pool) -> Ranking:
        """Each group weighs what its best member scores."""
        scores = pool.score(self.score)
        unknown = np.isnan(scores)
        weights = pool.group_max(np.maximum(scores, np.finfo(float).min))
        missing = pool.valid & unknown
        blank = np.asarray(pool.valid.any(axis=1) & np.isneginf(weights).all(axis=1))
        error = VerifierError(f"best_score: no candidate has a score {self.score or next(iter(pool.scores), '')!r}")
        return Ranking(
            weights,
            representatives=np.maximum(scores, np.finfo(float).min),
            share=False,
            errors=[error if b else None for b in blank] if blank.any() else None,
            excluded=missing.sum(axis=1),
        )
