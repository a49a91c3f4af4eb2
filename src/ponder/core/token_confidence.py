"""How sure a model was of its own words: token confidences and the ways to sum up a trace of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ponder.core.state import State

Floats = npt.NDArray[np.float64]


def token_confidence(logprob: float | None, alternatives: Mapping[str, float] | None, top: int = 20) -> float | None:
    """One token's confidence: -(1/K) Σ ln p_j over its K most likely alternatives. A peaked distribution is high.

    With fewer than two alternatives the definition says nothing about the peak; the token's own
    log-probability (≤ 0, larger is surer) stands in, so that one backend's confidences compare with each other
    but not with another's.

    Args:
        logprob: of the token that was drawn, in nats.
        alternatives: token to log-probability; None if the backend gave none.
        top: K, how many alternatives to use at most.

    Source: Fu et al. 2025, "Deep Think with Confidence", §2.

    >>> token_confidence(-0.1, {"a": -0.1, "b": -3.9}), token_confidence(-0.1, None)
    (2.0, -0.1)
    """
    if alternatives is not None and len(alternatives) > 1:
        values = sorted((v for v in alternatives.values() if math.isfinite(v)), reverse=True)[:top]
        if values:
            return -math.fsum(values) / len(values)
    return logprob


def confidences(
    logprobs: Sequence[float] | None, alternatives: Sequence[Mapping[str, float]] | None, top: int = 20
) -> list[float]:
    """Confidences of a piece of text; empty if the backend gave nothing to compute them from."""
    n = max(len(logprobs or ()), len(alternatives or ()))
    values = (
        token_confidence(
            logprobs[i] if logprobs is not None and i < len(logprobs) else None,
            alternatives[i] if alternatives is not None and i < len(alternatives) else None,
            top,
        )
        for i in range(n)
    )
    return [v for v in values if v is not None]


def trace_confidences(leaf: State | None, top: int = 20) -> list[float]:
    """Confidences of all tokens from the root to `leaf`, read off the completions that its steps carry."""
    pieces = [node.payload for node in leaf.ancestry()] if leaf is not None else []
    return [
        value
        for completion in reversed(pieces)
        for value in confidences(_of(completion, "token_logprobs"), _of(completion, "top_logprobs"), top)
    ]


def window_means(values: Iterable[float], window: int) -> Floats:
    """Sliding means over `window` values; a shorter trace has one window, its overall mean.

    >>> window_means([1.0, 2.0, 3.0], 2).tolist(), window_means([1.0, 2.0], 5).tolist()
    ([1.5, 2.5], [1.5])
    """
    array = np.asarray(list(values), dtype=float)
    if len(array) <= window:
        return np.asarray([array.mean()]) if len(array) else np.empty(0)
    sums = np.cumsum(np.concatenate([[0.0], array]))
    means: Floats = (sums[window:] - sums[:-window]) / window
    return means


def trace_confidence(values: Sequence[float], measure: str = "lowest_group", window: int = 2048) -> float:
    """One number for a trace; NaN for an empty one.

    Args:
        values: token confidences in order.
        measure: `mean`; `tail` (mean of the last `window` tokens); `lowest_group` (the least sliding mean);
            `bottom_10` (mean of the lowest tenth of the sliding means, at least one).
        window: tokens of a group.

    Source: Fu et al. 2025, §3.1.
    """
    if not len(values):
        return math.nan
    if measure == "mean":
        return float(np.mean(values))
    if measure == "tail":
        return float(np.mean(values[-window:]))
    means = window_means(values, window)
    if measure == "lowest_group":
        return float(means.min())
    return float(np.sort(means)[: max(1, len(means) // 10)].mean())


def _of(completion: Any, name: str) -> Any:
    return getattr(completion, name, None)
