"""Quality of the best of k, and of a vote of k, estimated from one pool of n ≥ k draws.

Paper    Brown et al. 2024, "Large Language Monkeys", §4 (verifiers); Singhi et al. 2025, "When To Solve, When To
         Verify", App. (the rank estimator).
Equal    Best-of-k: Σ_i q_(i) · C(n-i-1, k-1) / C(n, k) over the draws ranked by score. Vote: mean over k-subsets.
Differs  Tied scores share their ranks' weight, which is the mean over all shuffles and needs none of them.
Needs    Counts and scores of stored draws; no model.    Cost: a sort; `subsets` votes.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ponder.errors import ParameterError

Floats = NDArray[np.float64]


def rank_weights(n: int, k: int) -> Floats:
    """Chance that the draw of rank i (0 is the best) is the best of a random k-subset of n.

    Args:
        n: draws, n ≥ 1.
        k: size of the subset, 1 ≤ k ≤ n.

    Returns:
        Shape (n,), falling, sums to 1; 0 for the last k - 1 ranks.

    Raises:
        ParameterError: k outside 1..n.

    >>> rank_weights(4, 2).round(4).tolist()
    [0.5, 0.3333, 0.1667, 0.0]
    """
    if not 1 <= k <= n:
        raise ParameterError("best_of_k", "k", k, allowed=f"between 1 and the number of draws, n={n}")
    # w_0 = k / n and w_{i+1} = w_i · (n - k - i) / (n - i - 1): no binomial coefficient is formed.
    i = np.arange(n - 1)
    ratios = np.maximum(n - k - i, 0) / (n - 1 - i)
    return np.concatenate([[k / n], k / n * np.cumprod(ratios)])


def best_of_k(scores: ArrayLike, quality: ArrayLike, k: int) -> float:
    """Expected quality of the highest-scored of k draws, from n draws of one problem, without bias.

    Args:
        scores: shape (n,), larger is better. NaN ranks below every number, as a draw whose verifier failed.
        quality: shape (n,): what the draw is worth, for example 1.0 if right.
        k: draws to choose from, 1 ≤ k ≤ n.

    Returns:
        A number between the least and the greatest quality. Draws with equal scores count as equally likely
        to be taken.

    Raises:
        ParameterError: lengths differ, no draws, or k outside 1..n.

    Source: Brown et al. 2024, §4; ties by symmetry.

    >>> best_of_k([0.9, 0.1, 0.5], [1, 0, 0], k=2)
    0.6666666666666666
    """
    score, worth = np.asarray(scores, dtype=np.float64), np.asarray(quality, dtype=np.float64)
    if score.ndim != 1 or score.shape != worth.shape:
        raise ParameterError("best_of_k", "quality", worth.shape, allowed=f"as many values as scores, {score.shape}")
    weights = rank_weights(score.size, k)
    score = np.where(np.isnan(score), -np.inf, score)
    order = np.argsort(-score, kind="stable")
    # One run of equal scores shares the sum of its ranks' weights evenly.
    ranked = score[order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    sizes = np.diff(np.append(starts, ranked.size))
    mass = np.add.reduceat(weights, starts)
    means = np.add.reduceat(worth[order], starts) / sizes
    return float(mass @ means)


def majority_at_k(
    answers: Sequence[Hashable | None],
    correct: Sequence[Hashable] | Hashable,
    k: int,
    *,
    subsets: int = 25,
    seed: int = 0,
) -> float:
    """Accuracy of a majority vote of k draws, averaged over random k-subsets of one problem's n draws.

    Args:
        answers: of the n draws, equal if they are the same answer; None is a draw without one and never votes.
        correct: the right answer, or a set, list or tuple of answers that count as right.
        k: draws that vote, 1 ≤ k ≤ n.
        subsets: random subsets, drawn without replacement within each; one suffices when k = n.
        seed: of the subsets.

    Returns:
        A number in [0, 1]. A tie gives the share of tied answers that are right; a subset without any answer
        gives 0.

    Raises:
        ParameterError: k outside 1..n, subsets < 1.

    Source: the protocol of Brown et al. 2024, §4, with fractional ties.

    >>> majority_at_k(["a", "b", "a", None], "a", k=4), majority_at_k(["a", "b"], "a", k=2)
    (1.0, 0.5)
    """
    n = len(answers)
    if not 1 <= k <= n:
        raise ParameterError("majority_at_k", "k", k, allowed=f"between 1 and the number of draws, n={n}")
    if subsets < 1:
        raise ParameterError("majority_at_k", "subsets", subsets, allowed="a whole number ≥ 1")
    groups: dict[Hashable, int] = {}
    codes = np.array([-1 if a is None else groups.setdefault(a, len(groups)) for a in answers])
    accepted = set(correct) if isinstance(correct, (set, frozenset, list, tuple)) else {correct}
    right = np.array([answer in accepted for answer in groups], dtype=bool)
    if not groups:
        return 0.0
    if k == n:
        chosen = codes[None, :]
    elif k == 1:
        # The mean over all subsets of one is known; there is nothing to sample.
        return float(np.mean([code >= 0 and bool(right[code]) for code in codes]))
    else:
        rng = np.random.default_rng(seed)
        chosen = codes[np.argsort(rng.random((subsets, n)), axis=1)[:, :k]]
    counts = np.stack([(chosen == group).sum(axis=1) for group in range(len(groups))], axis=1)
    best = counts.max(axis=1)
    tied = (counts == best[:, None]) & (best > 0)[:, None]
    return float(np.mean((tied & right).sum(axis=1) / np.maximum(tied.sum(axis=1), 1)))
