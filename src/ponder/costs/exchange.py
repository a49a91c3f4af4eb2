"""More pre-training or more inference: how many times the draws a small model may take instead of a larger one.

Paper    Snell et al. 2024, "Scaling LLM Test-Time Compute Optimally can be More Effective than Scaling Model
         Parameters", §7.
Equal    Pre-training costs 6·P·D_pre, inference 2·P·D_inf. Instead of M times the parameters, the small model may spend
         m = M + 3·(D_pre / D_inf)·(M − 1) times the inference.
Differs  The table counts coverage on draws that were measured, capped there and said so, with paired intervals.
Needs    Parameters, and the ratio D_inf / D_pre.    Cost: milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ponder.errors import ParameterError

if TYPE_CHECKING:
    from ponder.costs.frontier import GradedSamples
    from ponder.laws.intervals import PairedDifference

RATIOS = (0.16, 0.79, 22.0)
"""Inference tokens over pre-training tokens: few, about as many, and many, as the paper has them."""


def exchange_multiplier(size_ratio: float, inference_ratio: float) -> float:
    """How many times the inference of a small model costs as much as a model that is larger from the start.

    Args:
        size_ratio: M, parameters of the large model over those of the small one, M ≥ 1.
        inference_ratio: R = D_inf / D_pre, tokens generated over tokens trained on, above 0; infinite for a model
            whose training is already paid.

    Returns:
        m = M + 3·(M − 1) / R.

    Raises:
        ParameterError: M < 1 or R ≤ 0.

    >>> exchange_multiplier(14, 1.0), exchange_multiplier(14, float("inf")), exchange_multiplier(1, 0.1)
    (53.0, 14.0, 1.0)
    """
    if not (size_ratio >= 1 and math.isfinite(size_ratio)):
        raise ParameterError("exchange_multiplier", "size_ratio", size_ratio, allowed="a number ≥ 1")
    if not inference_ratio > 0:
        raise ParameterError("exchange_multiplier", "inference_ratio", inference_ratio, allowed="above 0")
    return size_ratio + 3.0 * (size_ratio - 1.0) / inference_ratio


@dataclass(frozen=True, slots=True)
class Exchange:
    """One line of the exchange: the small model's draws against one of the large one.

    Attributes:
        inference_ratio: R = D_inf / D_pre.
        multiplier: m.
        trials: draws of the small model, ⌊m⌋ or as many as were measured.
        capped: whether more would have been allowed than were measured.
        small: its coverage: what a verifier that is never wrong reaches.
        large: share of the large model's draws that are right.
        difference: small minus large, paired over problems.
    """

    inference_ratio: float
    multiplier: float
    trials: int
    capped: bool
    small: float
    large: float
    difference: PairedDifference


def exchange_table(
    small: GradedSamples, large: GradedSamples, ratios: Sequence[float] = RATIOS, *, seed: int = 0
) -> list[Exchange]:
    """Compare ⌊m⌋ draws of a small model with one of a large one, at equal training and inference FLOPs.

    Args:
        small: its graded draws.
        large: those of the larger model on the same problems, in the same order.
        ratios: R = D_inf / D_pre.
        seed: of the bootstrap.

    Raises:
        ParameterError: different problems, a "large" model that is smaller, or a ratio ≤ 0.
    """
    from ponder.laws.intervals import paired_difference

    if len(small.correct) != len(large.correct):
        raise ParameterError(
            "exchange_table", "large", f"{len(large.correct)} problems", allowed=f"the same {len(small.correct)}"
        )
    lines = []
    for ratio in ratios:
        m = exchange_multiplier(large.shape.params_active / small.shape.params_active, ratio)
        trials = max(1, min(math.floor(m + 1e-9), small.draws))
        a, b = small.coverage(trials), large.coverage(1)
        gap = paired_difference(a, b, seed=seed)
        lines.append(Exchange(ratio, m, trials, m >= small.draws + 1, float(a.mean()), float(b.mean()), gap))
    return lines
