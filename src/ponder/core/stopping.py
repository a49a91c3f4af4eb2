"""When enough samples agree: pure rules on the counts of the answers so far."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ponder.core.answers import Same, group_answers
from ponder.core.candidate import Candidate


def answer_counts(candidates: Sequence[Candidate], same: Same | None = None) -> list[int]:
    """How often each distinct answer was given, largest first; invalid answers are left out.

    >>> answer_counts([Candidate("", a) for a in ("1", "2", "2.0", None)])
    [2, 1]
    """
    groups = [g for g in group_answers([c.answer if c.error is None else None for c in candidates], same) if g >= 0]
    return sorted(np.bincount(groups).tolist(), reverse=True) if groups else []


def leader_doubt(first: int, second: int) -> float:
    """Chance that the leader of two answers is not the more likely one: P(X ≤ 1/2), X ~ Beta(v1+1, v2+1).

    With integer parameters this Beta tail is a binomial tail, summed exactly.

    Args:
        first: votes of the leading answer, v1 ≥ 0.
        second: votes of the runner-up, v2 ≥ 0.

    Returns:
        A number in (0, 1); 1/2 for equal counts.

    Source: Aggarwal et al. 2023, "Let's Sample Step by Step", §3 (the Beta stopping criterion).

    >>> 1 - leader_doubt(4, 0)
    0.96875
    """
    trials = first + second + 1
    tail = sum(math.comb(trials, j) for j in range(first + 1, trials + 1))
    return float(tail / (1 << trials))


def normalised_entropy(counts: Sequence[int]) -> float:
    """Entropy of the answer shares over the logarithm of their number, in [0, 1].

    A single answer is paired with an imaginary one that was given once, so that one sample is not certainty.

    >>> round(normalised_entropy([4]), 4), normalised_entropy([3, 3])
    (0.7219, 1.0)
    """
    padded = np.asarray(counts if len(counts) > 1 else [*counts, 1], dtype=float)
    shares = padded / padded.sum()
    return float(-(shares * np.log2(shares)).sum() / math.log2(len(padded)))


def leader_probability(counts: Sequence[int], *, top: int = 5, draws: int = 20_000) -> float:
    """Chance that the leader's share is the largest, under Dirichlet(v + 1) over the `top` most frequent answers.

    By Monte Carlo with a fixed seed; fewer than three answers use the exact Beta tail.

    Args:
        counts: votes per answer, largest first.
        top: answers that are looked at.
        draws: Monte Carlo draws.
    """
    if len(counts) < 3:
        return 1.0 - leader_doubt(counts[0] if counts else 0, counts[1] if len(counts) > 1 else 0)
    alphas = np.asarray(counts[:top], dtype=float) + 1.0
    shares = np.random.default_rng(0).standard_gamma(alphas, size=(draws, len(alphas)))
    return float((shares.argmax(axis=1) == 0).mean())
