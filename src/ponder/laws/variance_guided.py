"""Where repeated measurements are worth their cost: more of them in cells whose quality or cost varies.

Paper    "ARISE", 2025 (adaptive sampling of its cells).
Equal    At least 3 draws; on while CV(quality) + CV(cost) > 0.5, up to 10; or a fixed total split by the initial CV.
Differs  Probe draws are used again and left-over draws handed out (the released code draws probes anew and drops
         left-overs). `rule="wilson"` stops by the half-width of Wilson's interval instead: the CV explodes for rare
         successes and is 0 when all are wrong, however few.
Needs    Repeats of the same cell with different seeds.    Cost: that of the repeats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ponder.errors import ParameterError
from ponder.laws.intervals import wilson_interval

Rule = Literal["cv", "wilson"]


@dataclass(frozen=True)
class Cell:
    """Repeats of one problem at one level.

    Attributes:
        quality: of each repeat.
        cost: of each repeat.
        converged: whether they are steady, rather than stopped at the most allowed.
    """

    quality: tuple[float, ...]
    cost: tuple[float, ...]
    converged: bool


def combined_variation(quality: Sequence[float], cost: Sequence[float]) -> float:
    """CV(quality) + CV(cost), each the population standard deviation over mean + 1e-8.

    >>> combined_variation([0, 0, 0], [10, 10, 10])
    0.0
    """
    if not len(quality) or len(quality) != len(cost):
        raise ParameterError(
            "combined_variation", "cost", len(cost), allowed=f"as many as quality, {len(quality)}, ≥ 1"
        )
    return float(sum(np.std(x) / (abs(np.mean(x)) + 1e-8) for x in (quality, cost)))


def sample_until_steady(
    draw: Callable[[int], tuple[float, float]], *, least: int = 3, most: int = 10, threshold: float = 0.5,
    rule: Rule = "cv", half_width: float = 0.2,
) -> Cell:  # fmt: skip
    """Repeat one cell until it is steady.

    Args:
        draw: from the number of the repeat, 0 for the first, to its quality and cost.
        least: repeats made in any case.
        most: repeats never passed.
        threshold: of the combined variation, for `cv`.
        rule: `cv`, the published one, or `wilson`.
        half_width: of Wilson's 95 % interval around the mean quality, for `wilson`.
    """
    if not 1 <= least <= most:
        raise ParameterError("sample_until_steady", "least", least, allowed=f"from 1 to most={most}")
    if rule not in ("cv", "wilson"):
        raise ParameterError("sample_until_steady", "rule", rule, allowed="'cv' or 'wilson'")
    quality: list[float] = []
    cost: list[float] = []

    def steady() -> bool:
        if rule == "cv":
            return combined_variation(quality, cost) <= threshold
        _, low, high = wilson_interval(sum(quality), len(quality))
        return (high - low) / 2 <= half_width

    while len(quality) < least or (len(quality) < most and not steady()):
        q, c = draw(len(quality))
        quality.append(float(q))
        cost.append(float(c))
    return Cell(tuple(quality), tuple(cost), steady())


def variance_guided_repeats(variation: ArrayLike, total: int, *, least: int = 3, most: int = 10) -> NDArray[np.int64]:
    """Repeats of each cell, probes included, for a fixed total.

    Args:
        variation: combined variation of each cell after `least` probes, shape (cells,), ≥ 0.
        total: draws to spend, probes included.
        least: probes of each cell; what every cell has in any case, also if the total is too small for it.
        most: of one cell.

    Returns:
        Whole numbers in [least, most]. They sum to the total unless every cell that varies is full, or the total
        does not pay for the probes.

    >>> variance_guided_repeats([1.0, 0.0, 0.5], 18).tolist()
    [9, 3, 6]
    """
    spread = np.asarray(variation, dtype=np.float64)
    if spread.ndim != 1 or not spread.size or not np.all(np.isfinite(spread) & (spread >= 0)):
        raise ParameterError("variance_guided_repeats", "variation", variation, allowed="numbers ≥ 0, one a cell")
    if not 1 <= least <= most:
        raise ParameterError("variance_guided_repeats", "least", least, allowed=f"from 1 to most={most}")
    repeats: NDArray[np.int64] = np.full(spread.size, least, dtype=np.int64)
    left = int(total) - least * spread.size
    if left <= 0 or not spread.any():
        return repeats
    repeats = np.minimum(most, repeats + np.floor(left * spread / spread.sum()).astype(np.int64))
    left = int(total) - int(repeats.sum())
    while left > 0:
        open_cells = [i for i in np.argsort(-spread, kind="stable") if spread[i] > 0 and repeats[i] < most]
        if not open_cells:
            break
        for i in open_cells[:left]:
            repeats[i] += 1
        left -= min(left, len(open_cells))
    return np.asarray(repeats, dtype=np.int64)
