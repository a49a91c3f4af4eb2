"""DeepConf, offline: keep the most confident traces and let them vote by their confidence.

Paper    Fu et al. 2025, "Deep Think with Confidence", §3 (offline thinking).
Equal    Token confidence is minus the mean log-probability of the K likeliest tokens; a trace's is its mean, that
         of its tail, of its lowest window, or of its lowest tenth of windows; traces at or above a
         percentile vote, weighted by their confidence.
Differs  Windows shrink for short outputs: min(2048, max(16, mean length / 4)). Without alternatives to the
         sampled tokens, exp(mean log-probability) stands in, and the selection says so.
Needs    Log-probabilities, best with alternatives (`logprobs=20`).    Cost: nothing beyond the samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ponder.core.candidate import Candidate
from ponder.core.pool import Bools, Floats, Pool
from ponder.core.registry import selector
from ponder.core.selector import SUMMED, Ranking, VotingSelector
from ponder.core.token_confidence import Kind, token_confidence, trace_confidence, window_for
from ponder.errors import ParameterError
from ponder.selectors._paths import path_errors, path_probability


@selector(
    "confidence_vote", aliases=("deep_conf_vote",),
    how="verification:process:self_evaluation, aggregation:weighted", where="reasoning",
)  # fmt: skip
@dataclass(frozen=True)
class ConfidenceVote(VotingSelector):
    """A vote of the confident traces.

    Args:
        confidence: how a trace's token confidences become one number: `mean`, `tail` (the last tokens),
            `lowest` (its weakest window) or `bottom` (mean of its weakest tenth of windows).
        keep: share of the traces that vote, in (0, 1]: 0.1 is strict, 0.9 permissive, 1 keeps all.
        weighted: weigh votes by confidence.
        window: tokens per window and tail; none fits it to the outputs' length, up to 2048.
        score: a score on the candidates that holds the confidence already; none computes it from the draws.
    """

    confidence: Literal["mean", "tail", "lowest", "bottom"] = "lowest"
    keep: float = 1.0
    weighted: bool = True
    window: int | None = None
    score: str | None = None

    needs: ClassVar[frozenset[str]] = frozenset({"logprobs"})

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ParameterError(self, "keep", self.keep, allowed="in (0, 1]; 0.1 keeps the top tenth")
        if self.window is not None and self.window < 1:
            raise ParameterError(self, "window", self.window, allowed="an integer ≥ 1 or none")

    def rank(self, pool: Pool) -> Ranking:
        """Confidence per answer, of the traces that pass the percentile."""
        values, errors = self._confidences(pool), None
        fallback: list[str | None] | None = None
        if values is None:
            values = path_probability(pool, "mean")
            fallback = ["mean_logprob_as_confidence"] * pool.shape[0]
            errors = path_errors(pool, "mean", self.name)
        known = pool.valid & ~np.isnan(values)
        votes = known if self.keep >= 1 else known & (values >= percentile(values, known, 1.0 - self.keep))
        usable = np.maximum(np.where(votes, values, 0.0), 0.0)
        weights = pool.group_sum(usable) if self.weighted else pool.group_count(votes)
        zero = np.asarray(~(weights > 0).any(axis=1))
        if zero.any():
            weights = np.where(zero[:, None], pool.counts, weights)
            given = fallback or [None] * len(zero)
            fallback = ["zero_weights" if z else f for z, f in zip(zero, given, strict=True)]
        choosable = (pool.group_count(votes) > 0) | (zero[:, None] & (pool.counts > 0))
        return Ranking(
            np.where(choosable, weights, -np.inf),
            fallback=fallback,
            tolerance=SUMMED,
            errors=errors,
            excluded=(pool.valid & ~known).sum(axis=1),
        )

    def _confidences(self, pool: Pool) -> Floats | None:
        """Trace confidences, shape (P, N); None if nothing is known of alternatives."""
        if self.score is not None:
            return pool.score(self.score)
        if pool.samples is None:
            return None
        out = np.full(pool.shape, np.nan)
        for p, candidates in enumerate(pool.samples):
            traces = [_trace(c) for c in candidates]
            lengths = [len(t) for t in traces if t is not None]
            window = self.window or window_for(lengths)
            for i, trace in enumerate(traces):
                if trace is not None:
                    out[p, i] = trace_confidence(trace, self._kind, window)
        return None if np.isnan(out[pool.valid]).all() else out

    @property
    def _kind(self) -> Kind:
        return self.confidence


def _trace(candidate: Candidate) -> Floats | None:
    """A candidate's token confidences, if its draws recorded alternatives."""
    if candidate.state is None:
        return None
    steps: list[Floats] = []
    for node in reversed(list(candidate.state.ancestry())):
        alternatives = getattr(node.payload, "top_logprobs", None)
        if node.parent is not None and not alternatives:
            return None
        if alternatives:
            steps.append(token_confidence(alternatives))
    return np.concatenate(steps) if steps else None


def percentile(values: Floats, known: Bools, q: float) -> Floats:
    """The q-quantile (linear interpolation) of each problem's known values, shape (P, 1); inf without any."""
    ordered = np.sort(np.where(known, values, np.inf), axis=1)
    last = np.maximum(known.sum(axis=1) - 1, 0)
    at = q * last
    low = np.floor(at).astype(np.intp)
    high = np.minimum(low + 1, last)
    below = np.take_along_axis(ordered, low[:, None], axis=1)
    above = np.take_along_axis(ordered, high[:, None], axis=1)
    share = (at - low)[:, None]
    gap = np.where(np.isfinite(above), above, 0.0) - np.where(np.isfinite(above), below, 0.0)
    return np.asarray(below + gap * share)


def confidences(candidates: Sequence[Candidate], kind: Kind = "lowest", window: int | None = None) -> Floats:
    """Trace confidences of drawn candidates, NaN where the draws recorded no alternatives, shape (N,)."""
    traces = [_trace(c) for c in candidates]
    size = window or window_for([len(t) for t in traces if t is not None])
    return np.asarray([np.nan if t is None else trace_confidence(t, kind, size) for t in traces], dtype=float)
