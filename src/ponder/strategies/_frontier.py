"""The open nodes of best-first searches, best first."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from heapq import heappop, heappush, nsmallest

from ponder.core.context import Context
from ponder.core.pool import Floats
from ponder.core.state import State

_STEPS = 8
"""Steps of an output where the process does not say."""


def steps_of(ctx: Context, steps: int | None) -> int:
    """Steps that count as one sample: the given number, else the process's limit."""
    return steps or ctx.process.horizon(ctx.problem) or _STEPS


def expansions_for(ctx: Context, n: int, branch: int, steps: int | None) -> int:
    """Expansions of `branch` children each that draw as many steps as `n` samples of `steps` steps do."""
    return max(1, n * steps_of(ctx, steps) // branch)


class Frontier:
    """Open and finished nodes by rank; the policy of best-first searches.

    Args:
        ctx: the search's context.
        branch: children of each expanded node.
        rank: a new node's rank by the node and its score; larger comes first, NaN last. Equal ranks: the
            deeper first, then the older.
        stop_at_first: done as soon as a finished node comes first; else finished ones are passed over.
        most: keep only so many open nodes; None keeps all.
    """

    def __init__(
        self,
        ctx: Context,
        branch: int,
        rank: Callable[[State, float], float],
        *,
        stop_at_first: bool = True,
        most: int | None = None,
    ) -> None:
        self._done, self._branch, self._rank = ctx.process.done, branch, rank
        self._stop, self._most = stop_at_first, most
        self._heap: list[tuple[float, int, int, State]] = [(-math.inf, 0, 0, ctx.root())]
        self._pushed = 1
        self.goal: State | None = None

    def ask(self, room: int) -> Sequence[tuple[State, int]]:
        """The best open nodes; nothing once a finished one comes first."""
        wanted: list[tuple[State, int]] = []
        while self._heap and len(wanted) < room:
            state = self._heap[0][-1]
            if not self._done(state):
                wanted.append((heappop(self._heap)[-1], self._branch))
            elif not self._stop:
                heappop(self._heap)
            elif wanted:
                break
            else:
                self.goal = state
                return []
        return wanted

    def tell(self, parent: State, children: Sequence[State], scores: Floats) -> None:
        """Put new nodes in their place; a sibling with the same step as an earlier one is left out."""
        seen = set()
        for child, score in zip(children, scores, strict=True):
            step = str(child.step)
            if step in seen:
                continue
            seen.add(step)
            rank = self._rank(child, float(score))
            heappush(self._heap, (math.inf if math.isnan(rank) else -rank, -child.depth, self._pushed, child))
            self._pushed += 1
        if self._most is not None and len(self._heap) > 2 * self._most:
            self._heap = nsmallest(self._most, self._heap)  # sorted, so it is a heap
