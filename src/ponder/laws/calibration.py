"""Whether confidence means what it says: calibration error, Brier score, log loss, and how well a score ranks.

A confidence of 0.7 is calibrated if answers given with it are right 70 % of the time. A score that is no
probability can still rank right above wrong; the area under the ROC curve measures that alone.

Paper    Zhou et al. 2025 (RPC), §4: expected calibration error with ten bins; Brier 1950; Murphy 1973; Hanley and
         McNeil 1982.
Equal    Bins (lower, upper] of equal width; a tie counts one half in the area; log loss clipped at 1e-6.
Differs  Intervals resample problems, never draws. What a perfectly calibrated predictor would show on as many
         problems is given beside the calibration error, which is never 0 on a finite sample.
Needs    Confidences and verdicts.    Cost: milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ponder.errors import ParameterError
from ponder.laws.intervals import Interval, percentiles, resampling_weights

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

_CLIP = 1e-6
_BLOCK = 1 << 22
"""Weights worked on at once, so that resampling many draws needs little memory."""
_SIMULATED = 200


class BrierScore(NamedTuple):
    """A Brier score and its parts: `score = reliability - resolution + uncertainty + within`.

    Attributes:
        score: mean squared difference of confidence and verdict, in [0, 1]; smaller is better.
        reliability: squared gap of mean confidence and accuracy over the bins; 0 if calibrated.
        resolution: how far the bins' accuracies differ from the overall one; larger is better.
        uncertainty: variance of the verdicts, which no confidence can change.
        within: what the spread of confidences inside bins adds; 0 if each bin holds one confidence only.
    """

    score: Any
    reliability: Any
    resolution: Any
    uncertainty: Any
    within: Any


class Bin(NamedTuple):
    """One bin of a reliability diagram.

    Attributes:
        low: its lower end, not included.
        high: its upper end, included.
        n: predictions in it.
        confidence: their mean confidence.
        accuracy: the share of them that is right.
    """

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """How a set of confidences compares with the verdicts.

    Attributes:
        n: predictions.
        confidence: mean confidence.
        accuracy: share that is right.
        ece: expected calibration error over bins of equal width. It is too large on few predictions, and so are
            the resamples: compare it with `ece_if_calibrated`.
        ece_equal_mass: the same over bins of about equally many predictions.
        ece_if_calibrated: what predictions with these confidences would show on average if they were calibrated.
        brier: mean squared error.
        reliability: see `BrierScore`.
        resolution: see `BrierScore`.
        uncertainty: see `BrierScore`.
        log_loss: in nats.
        auroc: chance that a right prediction has more confidence than a wrong one; None if one kind is missing.
        bins: the bins of equal width that hold predictions.
    """

    n: int
    confidence: float
    accuracy: float
    ece: Interval
    ece_equal_mass: Interval
    ece_if_calibrated: float
    brier: Interval
    reliability: float
    resolution: float
    uncertainty: float
    log_loss: Interval
    auroc: Interval | None
    bins: tuple[Bin, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, numbers rounded to a millionth; an interval is [estimate, low, high]."""
        return {name: _plain(value) for name, value in asdict(self).items()}


def expected_calibration_error(
    confidence: ArrayLike,
    right: ArrayLike,
    *,
    bins: int = 10,
    equal_mass: bool = False,
    weights: ArrayLike | None = None,
) -> Any:
    """Mean gap between confidence and accuracy over bins, weighted by how much is in each.

    Args:
        confidence: shape (n,), in [0, 1].
        right: shape (n,), 1 or 0; a fraction is shared credit.
        bins: how many. They are (lower, upper]; a confidence of 0 lies in the first.
        equal_mass: bins of about equally many predictions instead of equal width; equal confidences stay together.
        weights: shape (..., n), at least 0; None counts every prediction once.

    Returns:
        A float in [0, 1], or an array of the leading shape of `weights`.

    Raises:
        ParameterError: none at all, different lengths, or numbers outside [0, 1].

    Source: Naeini et al. 2015.

    >>> round(expected_calibration_error([0.9, 0.9, 0.2], [1, 0, 0]), 4)
    0.3333
    """
    c, r = _checked("expected_calibration_error", confidence, right)
    mass, in_bin, hits = _binned(c, r, _bins(c, bins, equal_mass), _weights(c, weights))
    return _like(weights, (np.abs(in_bin - hits)).sum(axis=-1) / mass.sum(axis=-1))


def brier_score(
    confidence: ArrayLike, right: ArrayLike, *, bins: int = 10, weights: ArrayLike | None = None
) -> BrierScore:
    """Mean squared difference of confidence and verdict, with its parts over bins of equal width.

    Args:
        confidence: shape (n,), in [0, 1].
        right: shape (n,), 1 or 0; a fraction is shared credit.
        bins: for the parts.
        weights: shape (..., n); see `expected_calibration_error`.

    Raises:
        ParameterError: none at all, different lengths, or numbers outside [0, 1].

    Source: Brier 1950; Murphy 1973; the part within bins from Stephenson et al. 2008.

    >>> [round(x, 4) for x in brier_score([0.8, 0.8, 0.2, 0.2], [1, 1, 1, 0])]
    [0.19, 0.065, 0.0625, 0.1875, 0.0]
    """
    c, r = _checked("brier_score", confidence, right)
    w = _weights(c, weights)
    mass, in_bin, hits = _binned(c, r, _bins(c, bins, False), w)
    total = w.sum(axis=-1)
    share, safe = mass / total[..., None], np.maximum(mass, 1e-300)
    mean, accuracy = in_bin / safe, hits / safe
    overall = (w @ r) / total
    score = (w @ (c - r) ** 2) / total
    reliability = (share * (mean - accuracy) ** 2).sum(axis=-1)
    resolution = (share * (accuracy - overall[..., None]) ** 2).sum(axis=-1)
    uncertainty = overall * (1 - overall)
    parts = (score, reliability, resolution, uncertainty, score - reliability + resolution - uncertainty)
    return BrierScore(*(_like(weights, part) for part in parts))


def log_loss(confidence: ArrayLike, right: ArrayLike, *, clip: float = _CLIP, weights: ArrayLike | None = None) -> Any:
    """Mean negative log-probability of the verdicts, in nats.

    Args:
        confidence: shape (n,), in [0, 1].
        right: shape (n,), 1 or 0; a fraction is shared credit.
        clip: confidences are kept this far from 0 and 1, so that one sure mistake is not infinitely bad.
        weights: shape (..., n); see `expected_calibration_error`.

    Raises:
        ParameterError: none at all, different lengths, or numbers outside [0, 1].

    >>> round(log_loss([0.5, 0.5], [1, 0]), 4)
    0.6931
    """
    c, r = _checked("log_loss", confidence, right)
    w, safe = _weights(c, weights), np.clip(c, clip, 1 - clip)
    return _like(weights, -(w @ (r * np.log(safe) + (1 - r) * np.log1p(-safe))) / w.sum(axis=-1))


def auroc(score: ArrayLike, right: ArrayLike, *, weights: ArrayLike | None = None) -> Any:
    """Chance that a right one scores above a wrong one, the area under the ROC curve; ties count one half.

    Args:
        score: shape (n,), larger is better; any numbers but NaN.
        right: shape (n,), 1 or 0; a fraction is shared credit.
        weights: shape (..., n); see `expected_calibration_error`.

    Returns:
        A number in [0, 1], NaN where one kind is missing; 0.5 is what a score without information has.

    Raises:
        ParameterError: none at all, different lengths, or NaN.

    >>> auroc([3, 2, 2, 1], [1, 1, 0, 0])
    0.875
    """
    s, r = np.asarray(score, dtype=np.float64), np.asarray(right, dtype=np.float64)
    if s.ndim != 1 or s.shape != r.shape or not s.size:
        raise ParameterError("auroc", "right", r.shape, allowed=f"one verdict a score, {s.shape}, one or more")
    if np.isnan(s).any() or not ((r >= 0) & (r <= 1)).all():
        raise ParameterError("auroc", "score/right", "NaN or a verdict outside [0, 1]", allowed="numbers, and 0 to 1")
    w = _weights(s, weights)
    order = np.argsort(s, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], np.diff(s[order]) != 0]) if s.size > 1 else [True])
    good = np.add.reduceat((w * r)[..., order], starts, axis=-1)
    bad = np.add.reduceat((w * (1 - r))[..., order], starts, axis=-1)
    below = np.cumsum(bad, axis=-1) - bad
    with np.errstate(invalid="ignore", divide="ignore"):
        area = (good * (below + 0.5 * bad)).sum(axis=-1) / (good.sum(axis=-1) * bad.sum(axis=-1))
    return _like(weights, area)


def ordered_pairs(score: ArrayLike, right: ArrayLike) -> tuple[float, int]:
    """How many pairs of a right and a wrong one a score puts in order, and how many there are.

    Args:
        score: shape (n,), larger is better; those with NaN are left out.
        right: shape (n,), true or false.

    >>> ordered_pairs([3, 2, 2, 1], [True, True, False, False])
    (3.5, 4)
    """
    s, r = np.asarray(score, dtype=np.float64), np.asarray(right, dtype=bool)
    s, r = s[~np.isnan(s)], r[~np.isnan(s)]
    pairs = int(r.sum()) * int((~r).sum())
    return (float(auroc(s, r)) * pairs, pairs) if pairs else (0.0, 0)


def auroc_within(
    ordered: ArrayLike, pairs: ArrayLike, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Interval | None:
    """Chance that a score puts a right draw above a wrong one of the same problem.

    This is what choosing among a problem's draws needs. Over draws of all problems together a score can have a
    large area by knowing which problems are easy, which helps no choice.

    Args:
        ordered: shape (problems,), as from `ordered_pairs`.
        pairs: shape (problems,).
        level: of the interval, from a bootstrap over problems.
        resamples: bootstrap samples.
        seed: of the resampling.

    Returns:
        None if no problem has a right and a wrong draw.

    >>> auroc_within([3.5, 1.0], [4, 1]).estimate
    0.9
    """
    won, of = np.asarray(ordered, dtype=np.float64), np.asarray(pairs, dtype=np.float64)
    if not of.sum() > 0:
        return None
    won, of = won[of > 0], of[of > 0]
    weights = resampling_weights(of.size, resamples=resamples, seed=seed)
    return Interval(float(won.sum() / of.sum()), *percentiles((weights @ won) / (weights @ of), level))


class BinnedCalibration(NamedTuple):
    """What sums over bins say about calibration.

    Attributes:
        n: predictions.
        confidence: mean confidence.
        accuracy: share that is right.
        ece: expected calibration error over bins of equal width.
        brier: mean squared error.
    """

    n: int
    confidence: float
    accuracy: float
    ece: Interval
    brier: Interval


def bin_sums(confidence: ArrayLike, right: ArrayLike, *, bins: int = 10) -> Floats:
    """One problem's predictions: per bin how many, and the sums of confidence, verdict and squared error.

    Args:
        confidence: shape (n,), in [0, 1].
        right: shape (n,), 1 or 0.
        bins: of equal width.

    Returns:
        Shape (bins, 4).

    Raises:
        ParameterError: none at all, different lengths, or numbers outside [0, 1].

    >>> bin_sums([0.9, 0.9], [1, 0], bins=2).round(2).tolist()
    [[0.0, 0.0, 0.0, 0.0], [2.0, 1.8, 1.0, 0.82]]
    """
    c, r = _checked("bin_sums", confidence, right)
    out = np.zeros((bins, 4))
    np.add.at(out, _bins(c, bins, False), np.stack([np.ones(c.size), c, r, (c - r) ** 2], axis=1))
    return out


def binned_calibration(
    sums: ArrayLike, *, level: float = 0.95, resamples: int = 500, seed: int = 0
) -> BinnedCalibration:
    """Calibration error and Brier score of many problems' predictions, with bootstrap intervals over problems.

    Args:
        sums: shape (problems, bins, 4), as from `bin_sums`.
        level: of the intervals.
        resamples: bootstrap samples.
        seed: of the resampling.

    Raises:
        ParameterError: no predictions at all.
    """
    table = np.asarray(sums, dtype=np.float64)
    if table.ndim != 3 or table.shape[2] != 4 or not table[:, :, 0].sum() > 0:
        raise ParameterError("binned_calibration", "sums", table.shape, allowed="(problems, bins, 4), not all empty")
    table = table[table[:, :, 0].sum(axis=1) > 0]
    weights = resampling_weights(len(table), resamples=resamples, seed=seed)
    drawn = np.einsum("sp,pbk->sbk", np.concatenate([np.ones((1, len(table))), weights]), table)
    total = drawn[:, :, 0].sum(axis=1)
    error = np.abs(drawn[:, :, 1] - drawn[:, :, 2]).sum(axis=1) / total
    brier = drawn[:, :, 3].sum(axis=1) / total
    n, confidence, right = drawn[0, :, :3].sum(axis=0)
    return BinnedCalibration(
        int(n), float(confidence / n), float(right / n), Interval(float(error[0]), *percentiles(error[1:], level)),
        Interval(float(brier[0]), *percentiles(brier[1:], level)),
    )  # fmt: skip


def measure_calibration(
    confidence: ArrayLike,
    right: ArrayLike,
    *,
    problem: ArrayLike | None = None,
    bins: int = 10,
    level: float = 0.95,
    resamples: int = 500,
    seed: int = 0,
) -> Calibration:
    """Everything here about one set of confidences, with bootstrap intervals over problems.

    Args:
        confidence: shape (n,), in [0, 1].
        right: shape (n,), 1 or 0; a fraction is shared credit.
        problem: shape (n,), what is resampled together; None takes each prediction as a problem of its own.
        bins: how many.
        level: of the intervals.
        resamples: bootstrap samples.
        seed: of the resampling and of `ece_if_calibrated`.

    Raises:
        ParameterError: none at all, different lengths, or numbers outside [0, 1].

    >>> found = measure_calibration([0.9, 0.8, 0.7, 0.6], [1, 1, 0, 1])
    >>> found.accuracy, round(found.brier.estimate, 4), round(found.auroc.estimate, 4)
    (0.75, 0.175, 0.6667)
    """
    c, r = _checked("measure_calibration", confidence, right)
    of = np.arange(c.size) if problem is None else np.unique(np.asarray(problem), return_inverse=True)[1].ravel()
    if of.shape != c.shape:
        raise ParameterError("calibration", "problem", of.shape, allowed=f"one a prediction, {c.shape}")
    weights = resampling_weights(int(of.max()) + 1, resamples=resamples, seed=seed)

    def interval(measure: Callable[[Floats], Any]) -> Interval:
        draws = np.concatenate([np.atleast_1d(measure(block)) for block in _blocks(weights, of)])
        return Interval(float(measure(np.ones(c.size))), *percentiles(draws, level))

    parts = brier_score(c, r, bins=bins)
    mixed = 0 < r.sum() < r.size
    return Calibration(
        n=c.size,
        confidence=float(c.mean()),
        accuracy=float(r.mean()),
        ece=interval(lambda w: expected_calibration_error(c, r, bins=bins, weights=w)),
        ece_equal_mass=interval(lambda w: expected_calibration_error(c, r, bins=bins, equal_mass=True, weights=w)),
        ece_if_calibrated=_noise(c, bins, seed),
        brier=interval(lambda w: w @ (c - r) ** 2 / w.sum(axis=-1)),
        reliability=parts.reliability,
        resolution=parts.resolution,
        uncertainty=parts.uncertainty,
        log_loss=interval(lambda w: log_loss(c, r, weights=w)),
        auroc=interval(lambda w: auroc(c, r, weights=w)) if mixed else None,
        bins=_diagram(c, r, bins),
    )


def _noise(c: Floats, bins: int, seed: int) -> float:
    """The mean calibration error of verdicts drawn with these very confidences."""
    rng = np.random.default_rng(seed)
    at, ones = _bins(c, bins, False), np.ones(c.size)
    gaps = []
    for _ in range(_SIMULATED):
        _, in_bin, hits = _binned(c, (rng.random(c.size) < c).astype(np.float64), at, ones)
        gaps.append(np.abs(in_bin - hits).sum() / c.size)
    return float(np.mean(gaps))


def _diagram(c: Floats, r: Floats, bins: int) -> tuple[Bin, ...]:
    mass, in_bin, hits = _binned(c, r, _bins(c, bins, False), np.ones(c.size))
    return tuple(
        Bin(i / bins, (i + 1) / bins, int(mass[i]), float(in_bin[i] / mass[i]), float(hits[i] / mass[i]))
        for i in np.flatnonzero(mass).tolist()
    )


def _bins(c: Floats, bins: int, equal_mass: bool) -> Ints:
    """The bin of each confidence, from 0."""
    if bins < 1:
        raise ParameterError("calibration", "bins", bins, allowed="a whole number ≥ 1")
    if not equal_mass:
        return np.clip(np.ceil(c * bins - 1e-9).astype(np.intp) - 1, 0, bins - 1)
    ordered = np.sort(c)
    edges = ordered[np.ceil(np.arange(1, bins) * c.size / bins).astype(np.intp) - 1]
    return np.asarray(np.searchsorted(edges, c, side="left"))


def _binned(c: Floats, r: Floats, at: Ints, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """Weight, summed confidence and summed verdicts of each bin, shape (..., bins)."""
    member = np.zeros((c.size, int(at.max()) + 1))
    member[np.arange(c.size), at] = 1.0
    return weights @ member, weights @ (member * c[:, None]), weights @ (member * r[:, None])


def _blocks(weights: Floats, of: Ints) -> Iterator[Floats]:
    """Weights of predictions from weights of problems, some resamples at a time."""
    step = max(1, _BLOCK // of.size)
    for at in range(0, len(weights), step):
        yield weights[at : at + step, of]


def _weights(c: Floats, weights: ArrayLike | None) -> Floats:
    if weights is None:
        return np.ones(c.size)
    w = np.asarray(weights, dtype=np.float64)
    if w.ndim < 1 or w.shape[-1] != c.size or not (w >= 0).all():
        raise ParameterError("calibration", "weights", w.shape, allowed=f"numbers ≥ 0, the last axis {c.size} long")
    return w


def _like(weights: ArrayLike | None, values: Any) -> Any:
    """A float for one set of weights, else an array."""
    return float(values) if weights is None or np.ndim(weights) == 1 else np.asarray(values)


def _checked(owner: str, confidence: ArrayLike, right: ArrayLike) -> tuple[Floats, Floats]:
    c, r = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=np.float64)
    if c.ndim != 1 or c.shape != r.shape or not c.size:
        raise ParameterError(owner, "right", r.shape, allowed=f"one verdict a confidence, {c.shape}, one or more")
    for name, values in (("confidence", c), ("right", r)):
        bad = ~((values >= 0) & (values <= 1))
        if bad.any():
            raise ParameterError(
                owner, name, float(values[bad][0]), allowed="between 0 and 1",
                hint="a score that is no probability can be ranked: auroc",
            )  # fmt: skip
    return c, r


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
