"""Weighted self-consistency: a vote in which each sample counts as much as its weight.

Paper    Li et al. 2023, "Making Language Models Better Reasoners with Step-Aware Verifier" (weighted voting);
         Wang et al. 2022, "Self-Consistency Improves Chain of Thought Reasoning", table 1 (probability weights).
Equal    The answer with the largest sum (or mean, or maximum) of its samples' weights.
Differs  Which transform turns scores into weights is said, never guessed, except exp for log-probabilities. If
         all weights are 0 the plain majority decides, and the selection says so.
Needs    Scores or log-probabilities on the candidates.    Cost: nothing beyond them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ponder.core.pool import Bools, Floats, Pool
from ponder.core.registry import selector
from ponder.core.selector import SUMMED, Ranking, VotingSelector
from ponder.errors import ParameterError
from ponder.selectors._paths import path_errors, path_probability

_LOG_SCORES = ("log_probability",)
_LARGEST = 1e300
"""Infinite scores are taken as this, so that sums and ratios stay numbers."""


@selector(
    "weighted_majority", aliases=("weighted_self_consistency",),
    how="verification:outcome, aggregation:weighted:majority",
)  # fmt: skip
@dataclass(frozen=True)
class WeightedMajority(VotingSelector):
    """The answer with the heaviest samples.

    Args:
        weight: `score`; `probability` (exp of the mean token log-probability); `sequence_probability` (of the
            whole sample, relative to the pool's most probable one); `auto` takes the score if there is
            exactly one, else the probability if it is known, else counts.
        score: the score's name; None takes the only one there is.
        transform: applied to scores: none, `exp`, `sigmoid`, `min_max` or `softmax` over the pool; `auto` is exp
            for `log_probability` and none for others.
        aggregate: `sum`, `mean` or `max` over an answer's samples.
    """

    weight: Literal["auto", "score", "probability", "sequence_probability"] = "auto"
    score: str | None = None
    transform: Literal["auto", "exp", "sigmoid", "min_max", "softmax"] | None = "auto"
    aggregate: Literal["sum", "mean", "max"] = "sum"

    def rank(self, pool: Pool) -> Ranking:
        """Aggregated weights; the counts where all weights of a problem are 0."""
        kind = self._kind(pool)
        errors = None
        if kind == "score":
            raw, fallback_reason = self._from_scores(pool), "zero_weights"
        elif kind == "count":
            raw, fallback_reason = np.zeros(pool.shape), "no_weights"
        else:
            how: Literal["mean", "sequence"] = "mean" if kind == "probability" else "sequence"
            raw, fallback_reason = path_probability(pool, how), "zero_weights"
            errors = path_errors(pool, how, str(self))
        known = pool.valid & ~np.isnan(raw)
        raw = np.where(known, raw, 0.0)
        weights = self._aggregate(pool, raw, known)
        zero = np.asarray(~((raw > 0) & known).any(axis=1))
        weights = np.where(zero[:, None], pool.counts, weights)
        return Ranking(
            np.where(pool.counts > 0, weights, -np.inf),
            fallback=[fallback_reason if z else None for z in zero] if zero.any() else None,
            tolerance=SUMMED,
            errors=errors,
            excluded=(pool.valid & ~known).sum(axis=1) if kind != "count" else None,
        )

    def _kind(self, pool: Pool) -> str:
        if self.weight != "auto":
            return self.weight
        if self.score is not None or pool.scores:
            return "score"
        return "probability" if not np.isnan(pool.mean_logprob[pool.valid]).all() else "count"

    def _aggregate(self, pool: Pool, raw: Floats, known: Bools) -> Floats:
        if self.aggregate == "max":
            return np.maximum(pool.group_max(raw, where=known), 0.0)
        total = pool.group_sum(raw)
        return total / np.maximum(pool.group_count(known), 1) if self.aggregate == "mean" else total

    def _from_scores(self, pool: Pool) -> Floats:
        scores = pool.score(self.score)
        name = self.score or next(iter(pool.scores))
        how = ("exp" if name in _LOG_SCORES else None) if self.transform == "auto" else self.transform
        usable = np.where(pool.valid, np.clip(scores, -_LARGEST, _LARGEST), np.nan)
        if how is None:
            if (usable < 0).any():
                worst = float(np.nanmin(usable))
                raise ParameterError(
                    self, "transform", None, allowed=f"set when scores can be negative ({name} goes down to {worst:g})",
                    hint="Use transform=sigmoid for logits, exp for log-probabilities, min_max or softmax for rewards",
                )  # fmt: skip
            return usable
        return _transformed(usable, how)


def _transformed(scores: Floats, how: str) -> Floats:
    """Weights ≥ 0 from scores of shape (P, N); NaN stays NaN."""
    with np.errstate(over="ignore", invalid="ignore"):
        if how == "sigmoid":
            return np.asarray(0.5 * (1.0 + np.tanh(0.5 * scores)))
        top = np.where(np.isnan(scores), -np.inf, scores).max(axis=1, keepdims=True, initial=-np.inf)
        if how == "min_max":
            low = np.where(np.isnan(scores), np.inf, scores).min(axis=1, keepdims=True, initial=np.inf)
            return np.where(top > low, (scores - low) / (top - low), np.where(np.isnan(scores), np.nan, 1.0))
        if how == "exp":
            # exp(x) itself where that is finite; else relative to the largest, which ranks the same.
            shift = np.where(top > 700.0, top, 0.0)
            return np.where(scores == shift, 1.0, np.exp(scores - shift))
        top = np.where(np.isneginf(top), 0.0, top)
        weights = np.where(scores == top, 1.0, np.exp(scores - top))
        return np.asarray(weights / np.nansum(weights, axis=1, keepdims=True))
