"""Who gains, and where the compute goes: a study's strategies by how hard its problems are.

Difficulty is how often a problem's own draws were right, in the study's largest pool. The strategies mostly share these
draws, so that within a level accuracies are not independent of it: read differences, not levels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ponder.laws.intervals import paired_difference
from ponder.studies.measured import Measured, Point
from ponder.studies.protocols import MEASURED_LEVELS, measured_level
from ponder.studies.recommend import largest_pool


@dataclass(frozen=True)
class LevelCell:
    """One strategy on the problems of one level.

    Attributes:
        accuracy: share answered rightly.
        gain: over the baseline, in accuracy.
        low: lower end of its 95 % interval, paired by problem; None for one problem.
        high: upper end.
        tokens: prompt and generated tokens of a problem, mean; None if not stored.
        draws: candidates of a problem, mean; None if not stored.
    """

    accuracy: float
    gain: float
    low: float | None
    high: float | None
    tokens: float | None
    draws: float | None


@dataclass(frozen=True)
class ByDifficulty:
    """A study by difficulty, each strategy at its largest budget.

    Attributes:
        pool: the strategy whose draws say how hard a problem is.
        levels: from hard to easy, only those that have problems.
        problems: in each level.
        baseline: what gains are over.
        rows: per strategy one cell a level.
        adaptive: strategies that do not draw equally often on every problem.
    """

    pool: str
    levels: tuple[str, ...]
    problems: tuple[int, ...]
    baseline: Point
    rows: dict[str, tuple[LevelCell, ...]]
    adaptive: tuple[str, ...]


def by_difficulty(data: Measured) -> ByDifficulty | None:
    """The study by difficulty; None if no problem has two draws or outcomes are not stored."""
    pool, base = largest_pool(data), data.baseline
    if pool is None or base.correct is None:
        return None
    n, right = data.draws[pool[0]]
    if n.size != base.correct.size:
        return None
    shares = [min(int(c), int(k)) / int(k) if k else math.nan for k, c in zip(n, right, strict=True)]
    levels = np.array(["" if math.isnan(s) else measured_level(s) for s in shares])
    used = tuple(level for level in MEASURED_LEVELS if (levels == level).any())
    rows: dict[str, tuple[LevelCell, ...]] = {}
    adaptive = []
    for name in data.strategies:
        point = max((p for p in data.points if p.strategy == name), key=lambda p: p.budget)
        if point.correct is None or point.correct.size != levels.size:
            continue
        cells = [_cell(data, point, base, levels == level) for level in used]
        rows[name] = tuple(cell for cell in cells if cell is not None)
        if len(rows[name]) < len(used):
            del rows[name]
        elif name in data.draws and np.unique(data.draws[name][0]).size > 1:
            adaptive.append(name)
    counts = tuple(int((levels == level).sum()) for level in used)
    return ByDifficulty(pool[0], used, counts, base, rows, tuple(adaptive)) if rows else None


def _cell(data: Measured, point: Point, base: Point, inside: np.ndarray) -> LevelCell | None:
    assert point.correct is not None and base.correct is not None
    known = inside & ~np.isnan(point.correct) & ~np.isnan(base.correct)
    ours, theirs = point.correct[known], base.correct[known]
    if not ours.size:
        return None
    interval = paired_difference(ours, theirs) if ours.size > 1 else None
    tokens = None if point.tokens is None else point.tokens[known]
    draws = data.draws[point.strategy][0][known] if point.strategy in data.draws else None
    return LevelCell(
        float(ours.mean()), float(ours.mean() - theirs.mean()), interval.low if interval else None,
        interval.high if interval else None,
        None if tokens is None or np.isnan(tokens).any() else float(tokens.mean()),
        None if draws is None else float(draws.mean()),
    )  # fmt: skip
