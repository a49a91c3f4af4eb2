"""What first-finish search is worth, from the lengths of right and wrong outputs.

Paper    Agarwal et al. 2025, "First Finish Search" (the integral below is derived here from its assumptions).

n draws, right with probability π and then of a length with density f1, else f0: the first to finish is right
with probability ∫ n π f1(x) S(x)^(n-1) dx, where S(x) = 1 - π F1(x) - (1-π) F0(x) is the chance to be longer.
If right outputs are shorter and the spreads are equal this rises with n. If wrong outputs spread more, they own
the extreme left tail, and it falls again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from ponder.errors import LawFitError, ParameterError
from ponder.laws.calibration import auroc

Floats = npt.NDArray[np.float64]

_NODES = 4000
_REACH = 9.0


@dataclass(frozen=True)
class FirstFinishLaw:
    """First-finish accuracy and length for normally distributed lengths.

    Args:
        accuracy: π, chance that one draw is right, in [0, 1].
        right: mean and standard deviation of the length of right outputs, in tokens.
        wrong: the same of wrong ones.

    >>> law = FirstFinishLaw(0.5, NormalDist(80, 15), NormalDist(110, 15))
    >>> [round(law.predict(n), 3) for n in (1, 2, 4, 8)]
    [0.5, 0.711, 0.874, 0.956]
    """

    accuracy: float
    right: NormalDist
    wrong: NormalDist

    def __post_init__(self) -> None:
        if not 0 <= self.accuracy <= 1:
            raise ParameterError("first_finish law", "accuracy", self.accuracy, allowed="in [0, 1]")
        if not (self.right.stdev > 0 and self.wrong.stdev > 0):
            raise ParameterError(
                "first_finish law", "standard deviation", (self.right.stdev, self.wrong.stdev), allowed="numbers > 0"
            )

    def predict(self, n: int) -> float:
        """Chance that the first of `n` draws to finish is right, by quadrature."""
        _check_n(n)
        x, weights = self._grid()
        density = self.accuracy * _pdf(self.right, x)
        return float((weights * n * density * self._longer(x) ** (n - 1)).sum())

    def sequential_tokens(self, n: int) -> float:
        """Expected length of the shortest of `n` draws."""
        _check_n(n)
        x, weights = self._grid()
        density = self.accuracy * _pdf(self.right, x) + (1 - self.accuracy) * _pdf(self.wrong, x)
        return float((weights * x * n * density * self._longer(x) ** (n - 1)).sum())

    def tokens(self, n: int) -> float:
        """Expected generated tokens when all stop in lock step: n times the shortest length."""
        return n * self.sequential_tokens(n)

    def best_n(self, most: int = 64) -> int:
        """The number of draws, up to `most`, at which the accuracy is highest."""
        return max(range(1, most + 1), key=lambda n: (round(self.predict(n), 12), -n))

    def _longer(self, x: Floats) -> Floats:
        shorter = self.accuracy * _cdf(self.right, x) + (1 - self.accuracy) * _cdf(self.wrong, x)
        return np.clip(1.0 - shorter, 0.0, 1.0)

    def _grid(self) -> tuple[Floats, Floats]:
        """Nodes and weights of the trapezoidal rule, which converges fast for densities that vanish at both ends."""
        lows = [d.mean - _REACH * d.stdev for d in (self.right, self.wrong)]
        highs = [d.mean + _REACH * d.stdev for d in (self.right, self.wrong)]
        # As fine as the narrower density needs.
        nodes = max(_NODES, int(40 * (max(highs) - min(lows)) / min(self.right.stdev, self.wrong.stdev)))
        x = np.linspace(min(lows), max(highs), nodes)
        weights = np.full(nodes, x[1] - x[0])
        weights[[0, -1]] /= 2
        return x, weights


def first_finish_accuracy(lengths: Sequence[int], right: Sequence[bool], n: int) -> float:
    """First-finish accuracy at `n`, estimated from logged traces of one problem (or of alike problems).

    Exact for draws from the logged traces with replacement; draws that finish together win equally often.

    Args:
        lengths: tokens of each trace.
        right: whether it was right.
        n: draws raced.

    >>> first_finish_accuracy([5, 9], [True, False], 2)
    0.75
    """
    values, shares, right_shares = _by_length(lengths, right)
    _check_n(n)
    longer = np.clip(1.0 - np.cumsum(shares), 0.0, 1.0)
    before = np.concatenate([[1.0], longer[:-1]])
    del values
    return float(((before**n - longer**n) * right_shares / shares).sum())


def first_finish_tokens(lengths: Sequence[int], n: int) -> float:
    """Expected length of the shortest of `n` draws from logged traces, with replacement."""
    values, shares, _ = _by_length(lengths, [True] * len(lengths))
    _check_n(n)
    longer = np.clip(1.0 - np.cumsum(shares), 0.0, 1.0)
    before = np.concatenate([[1.0], longer[:-1]])
    return float((values * (before**n - longer**n)).sum())


def shorter_is_right(lengths: Sequence[int], right: Sequence[bool]) -> float:
    """Chance that a right trace is shorter than a wrong one (the area under the ROC curve); ties count half.

    Raises:
        LawFitError: there is no right or no wrong trace.
    """
    good = np.asarray(right, dtype=bool)
    if good.all() or not good.any():
        raise LawFitError("shorter_is_right needs right and wrong traces; one kind is missing. Log more problems")
    return float(auroc(-np.asarray(lengths, dtype=float), good))


@dataclass(frozen=True, slots=True)
class FirstFinishAdvice:
    """Whether to race, from logged traces.

    Attributes:
        recommended: whether racing beats a vote of as many tokens.
        first_finish: estimated accuracy of the race.
        majority: estimated accuracy of a majority vote of `majority_samples` draws, which cost as many tokens.
        majority_samples: draws that the race's tokens pay for, at least 1.
        shorter_is_right: see there; None if a kind of trace is missing.
    """

    recommended: bool
    first_finish: float
    majority: float
    majority_samples: int
    shorter_is_right: float | None


def advise_first_finish(
    problems: Sequence[tuple[Sequence[int], Sequence[bool], Sequence[int]]], n: int
) -> FirstFinishAdvice:
    """Compare a race of `n` with a majority vote at equal tokens, on logged traces of several problems.

    Args:
        problems: per problem the lengths, whether each trace was right, and the number of its answer group
            (-1 for none).
        n: draws raced.

    Raises:
        LawFitError: no problem has any traces.
    """
    from ponder.laws.majority_limit import majority_accuracy

    usable = [p for p in problems if len(p[0])]
    if not usable:
        raise LawFitError("advise_first_finish needs logged traces; none were given")
    race = float(np.mean([first_finish_accuracy(lengths, right, n) for lengths, right, _ in usable]))
    spent = float(np.mean([n * first_finish_tokens(lengths, n) for lengths, _, _ in usable]))
    one = float(np.mean([np.mean(lengths) for lengths, _, _ in usable]))
    samples = max(1, round(spent / one))
    votes = []
    for _, right, groups in usable:
        array = np.asarray(groups)
        shares = np.bincount(array[array >= 0], minlength=1) / len(array)
        correct = {int(g) for g, good in zip(groups, right, strict=True) if good and g >= 0}
        votes.append(sum(majority_accuracy(shares, samples, right=g) for g in correct))
    majority = float(np.mean(votes))
    all_lengths = [x for lengths, _, _ in usable for x in lengths]
    all_right = [x for _, right, _ in usable for x in right]
    mixed = 0 < sum(all_right) < len(all_right)
    auc = shorter_is_right(all_lengths, all_right) if mixed else None
    return FirstFinishAdvice(race > majority, race, majority, samples, auc)


def _by_length(lengths: Sequence[int], right: Sequence[bool]) -> tuple[Floats, Floats, Floats]:
    """Distinct lengths in order, the share of traces at each, and the share of right traces at each."""
    if not len(lengths) or len(lengths) != len(right):
        raise LawFitError(f"lengths and verdicts must be given for the same traces; have {len(lengths)}, {len(right)}")
    values, where = np.unique(np.asarray(lengths, dtype=float), return_inverse=True)
    shares = np.bincount(where) / len(where)
    right_shares = np.bincount(where, weights=np.asarray(right, dtype=float)) / len(where)
    return values, shares, right_shares


def _check_n(n: int) -> None:
    if n < 1:
        raise ParameterError("first_finish law", "n", n, allowed="an integer ≥ 1")


def _pdf(distribution: NormalDist, x: Floats) -> Floats:
    z = (x - distribution.mean) / distribution.stdev
    density: Floats = np.exp(-0.5 * z * z) / (distribution.stdev * math.sqrt(2 * math.pi))
    return density


def _cdf(distribution: NormalDist, x: Floats) -> Floats:
    return np.asarray([distribution.cdf(float(v)) for v in x])
