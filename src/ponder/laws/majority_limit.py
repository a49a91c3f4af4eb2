"""How often a majority vote is right, at n samples and in the limit.

n draws from known answer probabilities; the most frequent answer wins, ties share the credit. The counts are
independent Poisson numbers given their sum, which makes the exact win probability a small product of
polynomials. As n grows it tends to 1 if the right answer is the single most likely one, and to 0 if it is not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ponder.errors import ParameterError

Floats = npt.NDArray[np.float64]

_EXACT_SAMPLES = 64
_EXACT_ANSWERS = 4
_EXACT_LONG = 400


def majority_accuracy(
    probabilities: Sequence[float] | Floats, n: int, *, right: int = 0, draws: int = 200_000, seed: int = 0
) -> float:
    """Chance that the vote of `n` samples picks answer number `right`; ties share the credit.

    Args:
        probabilities: of each answer; if they sum to less than 1 the rest are samples without an answer, which
            do not vote.
        n: samples, n ≥ 1.
        right: which answer is right.
        draws: of the Monte Carlo estimate, used for more than 64 samples of more than 4 answers (or more than
            400 samples of any).
        seed: of the Monte Carlo estimate.

    >>> round(majority_accuracy([0.7, 0.3], 40), 4)
    0.9957
    """
    p = _checked(probabilities, right)
    if n < 1:
        raise ParameterError("majority_accuracy", "n", n, allowed="an integer ≥ 1")
    invalid = max(0.0, 1.0 - float(p.sum()))
    if invalid < 1e-12:
        p, invalid = p / p.sum(), 0.0
    if n <= _EXACT_SAMPLES or (len(p) <= _EXACT_ANSWERS and n <= _EXACT_LONG):
        return _exact(p, invalid, n, right)
    counts = np.random.default_rng(seed).multinomial(n, [*p, invalid] if invalid else p, size=draws)[:, : len(p)]
    best = counts.max(axis=1)
    tied = (counts == best[:, None]).sum(axis=1)
    wins = (counts[:, right] == best) & (best > 0)
    return float((wins / tied).mean())


def majority_limit(probabilities: Sequence[float] | Floats, *, right: int = 0) -> float:
    """The vote's accuracy for infinitely many samples: 1 for the single mode, a share for a tie, else 0.

    >>> majority_limit([0.4, 0.35, 0.25]), majority_limit([0.3, 0.4, 0.3]), majority_limit([0.5, 0.5])
    (1.0, 0.0, 0.5)
    """
    p = _checked(probabilities, right)
    top = p.max()
    tied = np.isclose(p, top, rtol=1e-12, atol=0.0)
    return float(tied[right] / tied.sum())


def majority_limit_of_pool(groups: npt.NDArray[np.intp], correct: npt.NDArray[np.bool_]) -> float:
    """The limit estimated from saved samples: the share of problems whose most frequent answer is right.

    Args:
        groups: answer groups, shape (P, N), -1 for a sample without an answer.
        correct: whether each sample is right, shape (P, N). Ties share the credit.
    """
    credit = []
    for row, good in zip(groups, correct, strict=True):
        valid = row >= 0
        if not valid.any():
            credit.append(0.0)
            continue
        counts = np.bincount(row[valid])
        modes = np.flatnonzero(counts == counts.max())
        credit.append(float(np.mean([good[valid & (row == g)].any() for g in modes])))
    return float(np.mean(credit)) if credit else math.nan


def _exact(p: Floats, invalid: float, n: int, right: int) -> float:
    """Sum over the right answer's count of the ways in which no other answer gets more."""
    others = np.delete(p, right)
    rates = n * others[others > 0]
    total = 0.0
    last = _poisson(n * invalid, n) if invalid else np.eye(1, n + 1)[0]
    for count in range(1, n + 1):
        own = _poisson(n * p[right], n)[count]
        if own == 0.0:
            continue
        # ways[t, m]: weight of the other answers using m samples, t of them tied with the right one.
        ways = np.zeros((1, n - count + 1))
        ways[0] = last[: n - count + 1]
        for rate in rates:
            term = _poisson(rate, n)[: count + 1]
            below = _convolve(ways, term[:count], n - count)
            tied = np.zeros_like(below)
            if count <= n - count:
                tied[:, count:] = term[count] * ways[:, : n - 2 * count + 1]
            longer = np.zeros((len(below) + 1, n - count + 1))
            longer[:-1] += below
            longer[1:] += tied
            ways = longer
        total += own * float((ways[:, n - count] / np.arange(1, len(ways) + 1)).sum())
    return float(total / _poisson(float(n), n)[n])


def _convolve(ways: Floats, term: Floats, length: int) -> Floats:
    return np.stack([np.asarray(np.convolve(row, term)[: length + 1], dtype=float) for row in ways])


def _poisson(rate: float, most: int) -> Floats:
    """Poisson probabilities of 0, …, most."""
    if rate <= 0:
        return np.asarray(np.eye(1, most + 1)[0])
    counts = np.arange(most + 1)
    logs = np.asarray([math.lgamma(c + 1) for c in counts])
    return np.asarray(np.exp(counts * math.log(rate) - rate - logs))


def _checked(probabilities: Sequence[float] | Floats, right: int) -> Floats:
    p = np.asarray(probabilities, dtype=float)
    if p.ndim != 1 or not len(p) or (p < 0).any() or p.sum() > 1 + 1e-9:
        raise ParameterError("majority", "probabilities", probabilities, allowed="numbers ≥ 0 that sum to at most 1")
    if not 0 <= right < len(p):
        raise ParameterError("majority", "right", right, allowed=f"from 0 to {len(p) - 1}")
    return p
