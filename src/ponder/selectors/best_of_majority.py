"""Best-of-majority: among the answers given often enough, the k with the highest reward.

Paper    Di et al. 2025, "Best-of-Majority: Minimax-Optimal Strategy for Pass@k Inference Scaling", algorithm 1.
Equal    Keep the answers whose share of all samples is at least alpha, then submit the k best-rewarded ones.
Differs  An answer's reward is the mean over its samples (or the best, or the earliest one's); reward ties go to
         the more frequent answer, then the earlier. Without alpha the gate is max(2, 1% of N) samples, and
         none for N < 20 if fewer than two answers repeat. If nothing passes, the most frequent answers are
         submitted, and the selection says so.
Needs    Answers and a score from any verifier.    Cost: nothing beyond samples and scores; with `verifier`, scores
         only for samples that pass the gate (one per answer with reward=earliest).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.pool import Bools, Floats, Pool
from ponder.core.problem import Problem
from ponder.core.registry import selector
from ponder.core.selector import SUMMED, Ranking, Selection, VotingSelector
from ponder.core.verifier import Verifier
from ponder.errors import ParameterError, VerifierError

_SMALL_POOL = 20
_DEFAULT_SHARE = 0.01


@selector("best_of_majority", aliases=("bom",), how="aggregation:majority:best_of_n, verification:outcome")
@dataclass(frozen=True)
class BestOfMajority(VotingSelector):
    """The best-rewarded of the frequent answers.

    Args:
        alpha: least share of the samples, in [0, 1]; none chooses the gate by the number of samples.
        score: the score's name; None takes the only one there is.
        reward: of an answer, from its samples' scores: `mean`, `max`, or that of the `earliest` sample.
        fill: `frequency` fills up to k with the most frequent of the other answers; none submits fewer.
        valid_only: count shares among valid samples instead of all.
        verifier: scores the samples that pass the gate, and no others; None uses scores they carry.
    """

    alpha: float | None = None
    score: str | None = None
    reward: Literal["mean", "max", "earliest"] = "mean"
    fill: Literal["frequency"] | None = None
    valid_only: bool = False
    verifier: Verifier | None = None

    def __post_init__(self) -> None:
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise ParameterError(self, "alpha", self.alpha, allowed="in [0, 1], or none for the default gate")

    def rank(self, pool: Pool) -> Ranking:
        """Rewards of the answers that pass the gate."""
        counts = pool.counts
        kept, fallback = self._gate(pool)
        rewards = self._rewards(pool)
        unrewarded = kept & np.isnan(rewards)
        errors: list[VerifierError | None] | None = None
        if unrewarded.any():
            name = self.score or next(iter(pool.scores))
            errors = [
                VerifierError(f"best_of_majority: no sample of answer group {int(row.argmax())} has a score {name!r}")
                if row.any()
                else None
                for row in unrewarded
            ]
        lowest = np.finfo(float).min
        weights = np.where(kept, np.clip(np.nan_to_num(rewards, nan=lowest), lowest, -lowest), -np.inf)
        if self.fill:
            # Below every reward, by frequency: the gate's losers follow its winners.
            floor = np.where(kept, weights, np.inf).min(axis=1, keepdims=True)
            floor = np.where(np.isfinite(floor), floor, 0.0)
            below = floor - (1.0 + np.abs(floor)) * (2.0 - counts / (counts.max(axis=1, keepdims=True) + 1.0))
            weights = np.where(~kept & (counts > 0), below, weights)
        return Ranking(
            weights,
            fallback=fallback,
            share=False,
            tiebreak=np.where(counts > 0, counts, -np.inf),
            tolerance=SUMMED if self.reward == "mean" else 0.0,
            errors=errors,
            excluded=(pool.valid & np.isnan(pool.score(self.score))).sum(axis=1),
        )

    def _gate(self, pool: Pool) -> tuple[Bools, list[str | None] | None]:
        """Which groups may be submitted, shape (P, G), and what had to be changed to have any."""
        counts = pool.counts
        size = (pool.valid if self.valid_only else pool.present).sum(axis=1)
        if self.alpha is not None:
            least = np.ceil(self.alpha * size - 1e-9)
        else:
            repeating = (counts >= 2).sum(axis=1)
            least = np.maximum(2, np.ceil(_DEFAULT_SHARE * size - 1e-9))
            least = np.where((size < _SMALL_POOL) & (repeating < 2), 0, least)
        kept = (counts >= least[:, None]) & (counts > 0)
        empty = ~kept.any(axis=1) & pool.valid.any(axis=1)
        if not empty.any():
            return kept, None
        alone = empty & (counts.max(axis=1) == 1) & (pool.valid.sum(axis=1) > 1)
        if alone.any():
            warnings.warn(
                f"best_of_majority: in {int(alone.sum())} of {len(alone)} problems all answers are distinct, so the "
                "frequency gate (alpha) is meaningless and was left out there; is the answer extracted?",
                stacklevel=2,
            )
        modes = (counts == counts.max(axis=1, keepdims=True)) & (counts > 0)
        kept = np.where(empty[:, None], modes, kept)
        why = np.where(alone, "all_answers_distinct", np.where(empty, "no_frequent_answer", ""))
        return kept, [str(w) or None for w in why]

    def _rewards(self, pool: Pool) -> Floats:
        """Each answer's reward, NaN where no sample of it has a score, shape (P, G)."""
        scores = pool.score(self.score)
        known = pool.valid & ~np.isnan(scores)
        if self.reward == "max":
            best = pool.group_max(np.maximum(scores, np.finfo(float).min))
            return np.where(np.isneginf(best), np.nan, best)
        if self.reward == "earliest":
            position = np.minimum(pool.earliest, pool.shape[1] - 1)
            return np.where(pool.counts > 0, np.take_along_axis(scores, position, axis=1), np.nan)
        number = pool.group_count(known)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(number > 0, pool.group_sum(scores, where=known) / number, np.nan)

    async def choose(self, problem: Problem, candidates: Sequence[Candidate], ctx: Context, k: int = 1) -> Selection:
        """As `select`; with `verifier`, what passes the gate is scored first."""
        if self.verifier is None or not candidates:
            return self.select(candidates, k, same=ctx.same)
        pool = Pool.of(candidates, ctx.same)
        kept = np.flatnonzero(self._gate(pool)[0][0])
        asked = [i for i in range(len(candidates)) if pool.groups[0, i] in kept]
        if self.reward == "earliest":
            asked = [int(pool.earliest[0, g]) for g in kept]
        values = dict.fromkeys(range(len(candidates)), float("nan"))
        values.update(zip(asked, await ctx.score(problem, [candidates[i] for i in asked], self.verifier), strict=True))
        scored = [replace(c, scores={self.verifier.name: float(values[i])}) for i, c in enumerate(candidates)]
        return replace(self, score=self.verifier.name).select(scored, k, same=ctx.same)
