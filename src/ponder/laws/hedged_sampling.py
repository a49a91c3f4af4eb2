"""What a hedged pool gains and risks: hope and risk, estimated without replacement from a larger pool.

Paper    Khairi et al. 2025, "When Life Gives You Samples" (hope and risk, §3). The exact formulation is partly from
         memory: relative change of the expected best (worst) of the pool against the greedy output.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ponder.errors import ParameterError


class PoolDiagnostics(NamedTuple):
    """Attributes: expected best, mean and worst quality of the pool; hope and risk, relative to greedy."""

    best: float
    mean: float
    worst: float
    hope: float
    risk: float


def pool_diagnostics(sampled: Sequence[float], greedy: float, n: int, *, hedged: bool = True) -> PoolDiagnostics:
    """Expected best and worst of a pool of `n`, and how they compare with the greedy output.

    Args:
        sampled: qualities of a larger pool of sampled outputs; subsets of it are averaged over, exactly.
        greedy: quality of the greedy output, not 0 (hope and risk are relative to it).
        n: outputs in the pool.
        hedged: whether one of them is the greedy one.

    >>> [round(x, 3) for x in pool_diagnostics([0.2, 0.4, 0.9], 0.5, 2)]
    [0.633, 0.5, 0.367, 0.267, -0.267]
    """
    drawn = n - 1 if hedged else n
    if n < 1 or drawn > len(sampled):
        raise ParameterError("pool_diagnostics", "n", n, allowed=f"from 1 to {len(sampled) + hedged}")
    if greedy == 0:
        raise ParameterError("pool_diagnostics", "greedy", greedy, allowed="a quality other than 0")
    values = np.sort(np.asarray(sampled, dtype=float))
    if drawn == 0:
        best = worst = mean = greedy
    else:
        weights = _top_weights(len(values), drawn)
        high = np.maximum(values, greedy) if hedged else values
        low = np.minimum(values, greedy) if hedged else values
        best = float(weights @ high)
        worst = float(weights[::-1] @ low)
        mean = (drawn * float(values.mean()) + (greedy if hedged else 0.0)) / n
    return PoolDiagnostics(best, mean, worst, (best - greedy) / abs(greedy), (worst - greedy) / abs(greedy))


def _top_weights(n: int, k: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Chance that the i-th smallest of n is the largest of a random k-subset: C(i, k-1)/C(n, k)."""
    weights = np.zeros(n)
    weight = k / n
    for i in range(n - 1, k - 2, -1):
        weights[i] = weight
        weight *= (i - k + 1) / i if i else 0.0
    return weights
