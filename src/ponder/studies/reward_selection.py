"""Which rewards agree with human judgement, category by category, and the weights that follow.

Spearman's correlation of each reward with the judgement is taken within each category. A reward is dropped there if its
correlation is not positive, or if it is worse than the best one by more than chance: a bootstrap over the rows says so.
The kept ones are weighted by their correlations, 1 on average.

Source: Kasaei et al. 2025, "CARINOX", §3.1; the test is ours, theirs is not published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ponder.core.seeds import generator
from ponder.errors import ParameterError
from ponder.verifiers.category_weighted import OVERALL

Floats = npt.NDArray[np.float64]

_FEWEST = 5
_CHUNK = 200


@dataclass(frozen=True)
class Agreement:
    """How one reward agrees with the judgement in one category.

    Attributes:
        correlation: Spearman's, in [-1, 1]; NaN if the reward or the judgement is the same in all rows.
        interval: 95 % bootstrap interval of it.
        behind: 95 % bootstrap interval of (the best reward's correlation - this one's).
        weight: 0 if dropped.
        dropped: why; None if kept.
    """

    correlation: float
    interval: tuple[float, float]
    behind: tuple[float, float]
    weight: float
    dropped: str | None


@dataclass(frozen=True)
class Selection:
    """Agreements by category and reward, with the number of rows of each category.

    Attributes:
        rows: by category; a category of fewer than 5 rows is only here, and weighted as `overall`.
        unread: rows left out because a number was missing.
    """

    agreements: Mapping[str, Mapping[str, Agreement]]
    rows: Mapping[str, int]
    unread: int

    def as_dict(self, keywords: Mapping[str, Sequence[str]] | None = None) -> dict[str, Any]:
        """Plain data: `weights` by category and reward is what `category_weighted` reads."""
        kept = {c: {r: a.weight for r, a in own.items() if a.dropped is None} for c, own in self.agreements.items()}
        names = sorted({r for own in self.agreements.values() for r in own})
        return {
            "weights": kept,
            "dropped": [r for r in names if not any(r in own for own in kept.values())],
            "keywords": dict(keywords or {}),
            "rows": dict(self.rows),
            "unread": self.unread,
            "agreement": {
                c: {
                    r: {
                        "spearman": _plain(a.correlation),
                        "interval": [_plain(v) for v in a.interval],
                        "behind_best": [_plain(v) for v in a.behind],
                        "dropped": a.dropped,
                    }
                    for r, a in own.items()
                }
                for c, own in self.agreements.items()
            },
        }


def select_rewards(
    judgement: Sequence[float],
    rewards: Mapping[str, Sequence[float]],
    categories: Sequence[str] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Selection:
    """Correlate, drop and weigh, in every category and over all rows (`overall`).

    Args:
        judgement: (n,) of people, or of a judge that is to be trusted; larger is better.
        rewards: (n,) of each reward; larger is better. NaN is a missing number: the row is left out.
        categories: (n,); None puts all rows in `overall` alone.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ParameterError: no reward, columns of different lengths, or too few rows.
    """
    columns = np.asarray([judgement, *rewards.values()], dtype=float) if rewards else np.empty((0, 0))
    if columns.ndim != 2 or not rewards:
        raise ParameterError("select_rewards", "rewards", list(rewards), allowed="at least one column of numbers")
    known = np.isfinite(columns).all(axis=0)
    if known.sum() < _FEWEST:
        allowed = f"at least {_FEWEST} rows in which judgement and all rewards are numbers"
        raise ParameterError("select_rewards", "rows", int(known.sum()), allowed=allowed)
    places = {OVERALL: np.flatnonzero(known)}
    if categories is not None:
        names = np.asarray(categories, dtype=object)
        places |= {str(c): np.flatnonzero(known & (names == c)) for c in dict.fromkeys(categories) if c != OVERALL}
    agreements = {
        c: _agreements(list(rewards), columns[:, rows], generator("select_rewards", seed, c), resamples)
        for c, rows in places.items()
        if len(rows) >= _FEWEST
    }
    return Selection(agreements, {c: len(rows) for c, rows in places.items()}, int((~known).sum()))


def _agreements(
    names: Sequence[str], columns: Floats, rng: np.random.Generator, resamples: int
) -> dict[str, Agreement]:
    point = spearman(columns[None])[0]
    draws = [
        spearman(
            columns[:, rng.integers(columns.shape[1], size=(min(_CHUNK, resamples - at), columns.shape[1]))].swapaxes(
                0, 1
            )
        )
        for at in range(0, resamples, _CHUNK)
    ]
    found = np.nan_to_num(np.concatenate(draws), nan=0.0)
    best = int(np.argmax(np.nan_to_num(point, nan=-2.0)))
    why: list[str | None] = []
    intervals, behind = [], []
    for j, correlation in enumerate(point):
        intervals.append(_interval(found[:, j]))
        behind.append(_interval(found[:, best] - found[:, j]))
        if np.isnan(correlation):
            why.append("the same number in all rows")
        elif correlation <= 0:
            why.append("no positive correlation")
        elif j != best and behind[-1][0] > 0:
            why.append(f"worse than {names[best]}")
        else:
            why.append(None)
    kept = [0.0 if w is not None else float(c) for c, w in zip(point, why, strict=True)]
    scale = sum(w is None for w in why) / sum(kept) if sum(kept) else 0.0
    return {
        name: Agreement(float(point[j]), intervals[j], behind[j], kept[j] * scale, why[j])
        for j, name in enumerate(names)
    }


def spearman(columns: Floats) -> Floats:
    """Spearman's correlations (m, J) of columns 1 to J with column 0, of m tables (m, 1 + J, n); NaN of a constant one.

    >>> table = np.asarray([[[1.0, 2.0, 3.0, 4.0], [1.0, 4.0, 9.0, 16.0], [4.0, 3.0, 2.0, 2.0], [1.0, 1.0, 1.0, 1.0]]])
    >>> spearman(table).round(3).tolist()
    [[1.0, -0.949, nan]]
    """
    from scipy.stats import rankdata

    ranks = rankdata(columns, axis=-1)
    ranks = ranks - ranks.mean(axis=-1, keepdims=True)
    norms = np.sqrt(np.square(ranks).sum(axis=-1))
    products = (ranks[:, :1] * ranks[:, 1:]).sum(axis=-1)
    scale = norms[:, :1] * norms[:, 1:]
    return np.asarray(np.divide(products, scale, out=np.full(scale.shape, np.nan), where=scale > 0))


def _interval(values: Floats) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 6)
