"""Confidence of a trace from the alternatives to its tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Kind = Literal["mean", "tail", "lowest", "bottom"]

LONGEST_WINDOW = 2048
_BOTTOM = 0.1


def token_confidence(alternatives: Sequence[Mapping[str, float]]) -> Floats:
    """Minus the mean log-probability of each token's likeliest alternatives, in nats, shape (n_tokens,).

    High means a peaked distribution. A token without alternatives is left out.

    Source: Fu et al. 2025, eq. 2.

    >>> token_confidence([{"a": -0.5, "b": -1.5}])
    array([1.])
    """
    return np.asarray([-sum(top.values()) / len(top) for top in alternatives if top], dtype=float)


def window_for(lengths: Sequence[int]) -> int:
    """A window that fits outputs of these lengths: a quarter of the mean, between 16 and 2048 tokens."""
    mean = sum(lengths) / len(lengths) if lengths else 0.0
    return min(LONGEST_WINDOW, max(16, int(mean / 4)))


def trace_confidence(tokens: Floats, kind: Kind, window: int) -> float:
    """One number for a trace; NaN for an empty one.

    Args:
        tokens: token confidences.
        kind: `mean`; `tail`, of the last `window` tokens; `lowest`, of the window with the smallest mean;
            `bottom`, over the lowest tenth (at least one) of the windows.
        window: tokens per window; a trace shorter than that is one window.

    >>> trace_confidence(np.array([1.0, 3.0, 5.0]), "lowest", 2)
    2.0
    """
    if not len(tokens):
        return float("nan")
    if kind == "mean" or len(tokens) <= window:
        return float(tokens.mean())
    if kind == "tail":
        return float(tokens[-window:].mean())
    sums = np.concatenate([[0.0], np.cumsum(tokens)])
    means = (sums[window:] - sums[:-window]) / window
    if kind == "lowest":
        return float(means.min())
    number = max(1, int(_BOTTOM * len(means)))
    return float(np.partition(means, number - 1)[:number].mean())
