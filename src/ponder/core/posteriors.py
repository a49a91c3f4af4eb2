"""What further draws may change, by exact posteriors over answers and over the chance of success."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ponder.core.stopping import leader_doubt

Floats = npt.NDArray[np.float64]


def chance_leader_stays(counts: Sequence[int], remaining: int, *, unseen: float = 1.0, invalid: int = 0) -> float:
    """Lower bound of the chance that the leading answer still leads after `remaining` more draws.

    The draws follow a Dirichlet process: the next one repeats an answer in proportion to its votes, and brings one
    that was not seen with mass `unseen`. A tie goes to the answer that appeared first, as in a majority. For each
    rival the chance to overtake is summed exactly; the bound is 1 minus their sum (all unseen answers count as one
    rival), so it is exact for two answers and no unseen mass.

    Args:
        counts: votes of each answer, in order of appearance.
        remaining: draws still to come, ≥ 0.
        unseen: prior mass of answers that were not given yet, ≥ 0.
        invalid: draws without an answer; they go on in proportion.

    Returns:
        In [0, 1]; 1 if nothing can change the leader, 0 if nobody leads yet and draws remain.

    >>> chance_leader_stays([3], 2), round(chance_leader_stays([2, 1], 1, unseen=0), 4)
    (1.0, 1.0)
    >>> round(chance_leader_stays([1, 1], 1, unseen=0), 4)
    0.5
    """
    if remaining <= 0:
        return 1.0
    if not counts:
        return 0.0
    first = max(range(len(counts)), key=lambda i: (counts[i], -i))
    mass = sum(counts) + unseen + invalid
    rivals = Counter((float(v), v, i < first) for i, v in enumerate(counts) if i != first)
    rivals[(unseen, 0, False)] += 1
    doubt = 0.0
    for (weight, votes, earlier), times in rivals.items():
        doubt += times * _overtakes(counts[first], weight, votes, mass, remaining, earlier)
    return max(0.0, 1.0 - doubt)


@lru_cache(maxsize=65536)
def _overtakes(lead: int, weight: float, votes: int, mass: float, remaining: int, earlier: bool) -> float:
    """Chance that a rival of this mass and so many votes passes the leader within the remaining draws."""
    needed = lead - votes + (0 if earlier else 1)  # more votes than the leader gains
    if needed > remaining or weight <= 0:
        return 0.0
    rest = max(mass - lead - weight, 0.0)
    m, j = np.meshgrid(np.arange(remaining + 1), np.arange(remaining + 1), indexing="ij")
    inside = j <= m
    both = np.where(inside, m, 0), np.where(inside, j, 0)
    pair = _beta_binomial(remaining, lead + weight, rest)[both[0]]
    rising = _rising(float(lead), remaining), _rising(weight, remaining), _rising(lead + weight, remaining)
    log_split = rising[0][both[1]] + rising[1][both[0] - both[1]] - rising[2][both[0]] + _log_choose(*both)
    passes = inside & (both[0] - both[1] - both[1] >= needed)
    return float((pair * np.exp(log_split))[passes].sum())


def _beta_binomial(n: int, a: float, b: float) -> Floats:
    """P(k) of k successes in n draws of a Pólya urn, k = 0 … n; a > 0, b ≥ 0."""
    k = np.arange(n + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_p = _rising(a, n)[k] + _rising(b, n)[n - k] - _rising(a + b, n)[n] + _log_choose(np.full(n + 1, n), k)
    return np.asarray(np.exp(log_p))


def _rising(a: float, n: int) -> Floats:
    """Logarithms of a(a+1)…(a+k-1) for k = 0 … n."""
    with np.errstate(divide="ignore"):
        return np.concatenate([[0.0], np.cumsum(np.log(a + np.arange(n)))])


def _log_choose(n: npt.NDArray[np.int64], k: npt.NDArray[np.int64]) -> Floats:
    log_factorial = _rising(1.0, int(n.max(initial=0)))
    return np.asarray(log_factorial[n] - log_factorial[k] - log_factorial[n - k])


def chance_solved(draws: int, solved: int, remaining: int, *, alpha: float = 0.5, beta: float = 0.5) -> float:
    """Chance that a problem is ever solved, with `remaining` more draws, under p ~ Beta(alpha, beta).

    1 if a draw solved it already; else 1 - B(α, β + n + r) / B(α, β + n).

    >>> chance_solved(3, 1, 0), chance_solved(3, 0, 0), round(chance_solved(1, 0, 1), 4)
    (1.0, 0.0, 0.25)
    """
    if solved:
        return 1.0
    log_fail = float(_rising(beta + draws, remaining)[-1] - _rising(alpha + beta + draws, remaining)[-1])
    return 0.0 - math.expm1(log_fail)


def next_success(draws: int, solved: int, *, alpha: float = 0.5, beta: float = 0.5) -> float:
    """Chance that the next draw is the first success: 0 once solved, else α / (α + β + n)."""
    return 0.0 if solved else alpha / (alpha + beta + draws)


def saturated_gain(draws: int, leading: int, *, alpha: float = 0.5, beta: float = 0.5) -> float:
    """Posterior mean of p (1 - p)^n, the gain of unit n + 1 in geometric saturation, where p is the leader's share.

    Args:
        draws: n, ≥ 0.
        leading: votes of the leading answer.
        alpha: of the prior of p.
        beta: of the prior of p.

    >>> round(saturated_gain(1, 1, alpha=1, beta=1), 4)
    0.1667
    """
    a, b = alpha + leading, beta + draws - leading
    return float(a * np.exp(_rising(b, draws)[-1] - _rising(a + b, draws + 1)[-1]))


@lru_cache(maxsize=65536)
def vote_gain(first: int, second: int, most: int = 16) -> float:
    """Largest gain per draw in the chance that the vote's leader is the more likely answer, looking `most` draws ahead.

    Of the two leading answers, under Beta(v1 + 1, v2 + 1). One draw alone can never change a leader that is two
    ahead, so a look ahead of one would say that such a problem gains nothing.

    >>> vote_gain(4, 4) > vote_gain(6, 2) > vote_gain(8, 0) > 0
    True
    """
    now = 1.0 - leader_doubt(first, second)
    best = 0.0
    for m in range(1, most + 1):
        chances = _beta_binomial(m, first + 1, second + 1)
        doubts = [leader_doubt(first + j, second + m - j) for j in range(m + 1)]
        after = sum(p * max(d, 1 - d) for p, d in zip(chances.tolist(), doubts, strict=True))
        best = max(best, (after - now) / m)
    return max(best, 0.0)
