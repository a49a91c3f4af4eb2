"""Upper confidence bounds, shared by what chooses among arms."""

from __future__ import annotations

import math


def upper_bound(
    reward: float,
    uses: int,
    total: int,
    *,
    prior: float = 0.0,
    diversity: float = 0.0,
    recovery: float = 0.0,
    exploration: float = 1.0,
) -> float:
    """An arm's upper confidence bound: R/N + sqrt(2 ln(T+1) / N) + prior + α/(N+1) + recovery.

    Args:
        reward: sum of the arm's rewards, each in [0, 1].
        uses: how often it was used, ≥ 1.
        total: trials of all arms.
        prior: its weighted prior.
        diversity: α_div.
        recovery: its weighted share of recoveries.
        exploration: weight of the square root.

    >>> round(upper_bound(1, 2, 5, diversity=0.1), 6)
    1.8719
    """
    root = math.sqrt(2 * math.log(total + 1) / uses)
    return reward / uses + exploration * root + prior + diversity / (uses + 1) + recovery
