"""Which leaves of a tree to keep: an integer program over leaves, branches and clusters (scipy's HiGHS)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ponder.core.pool import Bools, Floats, Ints
from ponder.core.state import State
from ponder.errors import MissingExtraError

_EPSILON = 1e-12


@dataclass(frozen=True)
class TreeProgram:
    """Keep leaves that are worth more than the nodes that only they keep alive.

    The value of a choice is the values of its leaves, minus the costs of its leaves and of all their ancestors (each
    once), plus `coverage` times the share of clusters with a leaf in it. At least one leaf is kept.

    Attributes:
        values: (n,) of the leaves.
        parents: (n + m,) each node's parent, the leaves first; -1 for a root.
        costs: (n + m,) of the nodes, ≥ 0.
        clusters: (n,) each leaf's cluster, 0 … K - 1; None for no coverage term.
        coverage: what covering all clusters is worth, ≥ 0.
    """

    values: Floats
    parents: Ints
    costs: Floats
    clusters: Ints | None = None
    coverage: float = 0.0

    @property
    def cluster_values(self) -> Floats:
        """(K,) what each cluster is worth; empty without a coverage term."""
        k = 0 if self.clusters is None or not self.coverage else int(self.clusters.max()) + 1
        return np.full(k, self.coverage / max(k, 1))

    def objective(self, keep: Bools) -> float:
        """The value of keeping the leaves in `keep`, shape (n,)."""
        nodes: set[int] = set()
        for leaf in np.flatnonzero(keep):
            nodes.update(self._path(int(leaf)))
        worth = self.cluster_values
        covered = worth[np.unique(self.clusters[keep])].sum() if self.clusters is not None and len(worth) else 0.0
        return float(self.values[keep].sum() - self.costs[list(nodes)].sum() + covered)

    def greedy(self) -> Bools:
        """Leaves taken one by one, each the one that adds most, until none adds anything; ties to the earlier."""
        keep = np.zeros(len(self.values), dtype=bool)
        alive: set[int] = set()
        open_worth = self.cluster_values
        while not keep.all():
            gains = [-math.inf if k else self._gain(i, alive, open_worth) for i, k in enumerate(keep)]
            best = int(np.argmax(gains))
            if keep.any() and gains[best] <= _EPSILON:
                break
            keep[best] = True
            alive.update(self._path(best))
            if self.clusters is not None and len(open_worth):
                open_worth[self.clusters[best]] = 0.0
        return keep

    def solve(self, node_limit: int = 1000, time_limit_s: float | None = None) -> tuple[Bools, bool]:
        """The leaves to keep, and whether they are proved best.

        At a limit (of branch-and-bound nodes, or of time) before the proof: the better of the solver's incumbent and
        the greedy choice.

        Raises:
            MissingExtraError: scipy is not installed.
        """
        try:
            from scipy.optimize import Bounds, LinearConstraint, milp
            from scipy.sparse import coo_array
        except ImportError as error:
            raise MissingExtraError("ets", "scipy", "laws") from error
        n, nodes, worth = len(self.values), len(self.parents), self.cluster_values
        gain = np.concatenate([-self.costs, worth])
        gain[:n] += self.values
        below = np.flatnonzero(self.parents >= 0)
        rows = [np.arange(len(below))] * 2  # a node needs its parent: y_parent - y_node ≥ 0
        columns, entries = [self.parents[below], below], [np.ones(len(below)), -np.ones(len(below))]
        if self.clusters is not None and len(worth):  # a covered cluster needs a leaf: Σ x - z ≥ 0
            rows += [len(below) + self.clusters, len(below) + np.arange(len(worth))]
            columns += [np.arange(n), nodes + np.arange(len(worth))]
            entries += [np.ones(n), -np.ones(len(worth))]
        last = len(below) + len(worth)
        rows, columns, entries = [*rows, np.full(n, last)], [*columns, np.arange(n)], [*entries, np.ones(n)]
        matrix = coo_array((np.concatenate(entries), (np.concatenate(rows), np.concatenate(columns))))
        least = np.zeros(last + 1)
        least[last] = 1.0
        solved = milp(
            -gain,
            integrality=np.arange(len(gain)) < n,  # with whole leaves, branches and clusters come out whole
            bounds=Bounds(0.0, 1.0),
            constraints=LinearConstraint(matrix.tocsr(), least, np.inf),
            options={"node_limit": node_limit, "time_limit": time_limit_s or np.inf, "mip_rel_gap": 0.0},
        )
        if solved.success:
            return np.asarray(solved.x[:n] > 0.5), True
        choices = [self.greedy()] + ([] if solved.x is None else [np.asarray(solved.x[:n] > 0.5)])
        return max((c for c in choices if c.any()), key=self.objective), False

    def _path(self, node: int) -> list[int]:
        path = []
        while node >= 0:
            path.append(node)
            node = int(self.parents[node])
        return path

    def _gain(self, leaf: int, alive: set[int], open_worth: Floats) -> float:
        cost = sum(float(self.costs[j]) for j in self._path(leaf) if j not in alive)
        covered = open_worth[self.clusters[leaf]] if self.clusters is not None and len(open_worth) else 0.0
        return float(self.values[leaf] - cost + covered)


def tree_of(leaves: Sequence[State], cost: Literal["nodes", "tokens"] = "nodes") -> tuple[Ints, Floats]:
    """Parents and costs of leaves and all their ancestors, as a `TreeProgram` wants them.

    Costs sum to 1: each node the same, or by its tokens (by nodes, if no node has any).
    """
    numbers = {leaf: i for i, leaf in enumerate(leaves)}
    for leaf in leaves:
        for node in leaf.ancestry():
            numbers.setdefault(node, len(numbers))
    parents = np.asarray([-1 if s.parent is None else numbers[s.parent] for s in numbers], dtype=np.int64)
    sizes = np.asarray([s.n_tokens if cost == "tokens" else 1 for s in numbers], dtype=float)
    return parents, sizes / sizes.sum() if sizes.sum() > 0 else np.full(len(sizes), 1 / len(sizes))
