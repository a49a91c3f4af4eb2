"""ETS: REBASE on the leaves that are worth the cache they keep alive.

Paper    Hooper et al. 2025, "ETS: Efficient Tree Search for Inference-Time Scaling".
Equal    Per level an integer program keeps leaves: their REBASE shares, minus `penalty` times the share of the tree's
         nodes that stay alive, plus `coverage` times the share of clusters of steps with a leaf left; then REBASE on
         what is kept. Clusters: average linkage, cosine distance 0.05, of the last steps.
Differs  Embeddings are TF-IDF of character n-grams (paper: a sentence encoder): no model, but only near-copies are
         alike. `penalty=0` is REBASE itself (reference code: a bonus per node). `cost=tokens` prices nodes by their
         length (the authors' next step). A program that is not solved within `node_limit` falls back to a greedy
         choice, counted; a limit of time would make runs of one seed differ, and is off.
Needs    A process in steps, a verifier of partial outputs, scipy; a backend that shares prefixes, to turn the smaller
         cache into speed.    Cost: at most n steps and n scores per level, one integer program per level.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from ponder.core.context import Context
from ponder.core.pool import Bools, Floats, Ints
from ponder.core.problem import Problem
from ponder.core.registry import strategy
from ponder.core.state import State
from ponder.core.strategy import Result
from ponder.errors import MissingExtraError, ParameterError
from ponder.strategies._rebase import RewardBalanced, rebase_counts, run_rebase
from ponder.strategies._tree_program import TreeProgram, tree_of

_NGRAMS = (2, 3, 4)
"""Lengths of the character n-grams by which steps are compared."""


def text_clusters(texts: Sequence[str], distance: float = 0.05) -> Ints:
    """A cluster number (from 0) for each text: average linkage at a cosine distance of TF-IDF n-grams.

    Equal texts always share a cluster; a text without any n-gram shares one with its equals only.

    Raises:
        MissingExtraError: scipy is not installed.

    >>> text_clusters(["x = 3 + 4", "So x = 7.", "x = 3 + 4"]).tolist()
    [0, 1, 0]
    """
    distinct = list(dict.fromkeys(texts))
    at = np.asarray([distinct.index(text) for text in texts], dtype=np.int64)
    if len(distinct) < 2:
        return at
    try:
        from scipy.cluster.hierarchy import fcluster, linkage
        from scipy.sparse import csr_array
        from scipy.spatial.distance import squareform
    except ImportError as error:
        raise MissingExtraError("ets", "scipy", "laws") from error
    # Every text counts in the linkage, copies too: they weigh in an average.
    counts = [Counter(t[i : i + k] for k in _NGRAMS for i in range(len(t) - k + 1)) for t in distinct]
    columns = {gram: j for j, gram in enumerate(dict.fromkeys(g for c in counts for g in c))}
    entries = [(i, columns[g], times) for i, c in enumerate(counts) for g, times in c.items()]
    if not entries:
        return at
    rows, grams, times = (np.asarray(part) for part in zip(*entries, strict=True))
    known_in = np.bincount(grams, weights=np.bincount(at)[rows], minlength=len(columns))
    weights = times * (np.log((1 + len(texts)) / (1 + known_in)) + 1)[grams]
    norms = np.sqrt(np.bincount(rows, weights=weights**2, minlength=len(distinct)))
    vectors = csr_array((weights / norms[rows], (rows, grams)), shape=(len(distinct), len(columns)))
    apart = np.clip(1 - (vectors @ vectors.T).toarray(), 0, 2)
    np.fill_diagonal(apart, 0)
    apart = apart[np.ix_(at, at)]
    found = fcluster(linkage(squareform(apart, checks=False), "average"), distance, "distance")
    order = {label: k for k, label in enumerate(dict.fromkeys(found.tolist()))}
    return np.asarray([order[label] for label in found.tolist()], dtype=np.int64)


def one_per_cluster(counts: Ints, kept: Bools, clusters: Ints, scores: Floats) -> Ints:
    """Counts in which each cluster with a kept leaf has at least 1, taken from the leaf with the most (if > 1)."""
    counts = counts.copy()
    ranked = np.nan_to_num(scores, nan=-np.inf, neginf=-np.inf)
    for cluster in dict.fromkeys(clusters[kept].tolist()):
        own = np.flatnonzero(kept & (clusters == cluster))
        donor = int(np.argmax(counts))
        if not counts[own].any() and counts[donor] > 1:
            counts[donor] -= 1
            counts[own[np.argmax(ranked[own])]] = 1
    return counts


@strategy("ets", aliases=("efficient_tree_search",), what="hybrid", how="search:beam, verification:process")
@dataclass(frozen=True)
class ETS(RewardBalanced):
    """REBASE that drops leaves whose own path costs more cache than they are worth.

    Args:
        n: width; None takes the number from the study's sample axis.
        verifier: scores prefixes.
        temperature: of the scores, > 0.
        how: how the scores of a prefix's steps become one number.
        choose: chooses among the finished outputs.
        penalty: price of keeping the whole tree alive, ≥ 0; 0 is REBASE (λ_b in the paper).
        coverage: worth of keeping a leaf in every cluster of steps, ≥ 0 (λ_d in the paper).
        distance: cosine distance up to which steps are alike, in [0, 1].
        cost: what a node costs: `nodes` (all the same) or `tokens`.
        min_one: whether each cluster that is kept gets at least one continuation.
        node_limit: branch-and-bound nodes of one integer program, ≥ 1.
        time_limit_s: of one integer program; none for no limit, as what is found in time depends on the machine.
    """

    penalty: float = 1.0
    coverage: float = 1.5
    distance: float = 0.05
    cost: Literal["nodes", "tokens"] = "nodes"
    min_one: bool = False
    node_limit: int = 1000
    time_limit_s: float | None = None

    stepwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("penalty", "coverage"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ParameterError(self, name, getattr(self, name), allowed="a finite number ≥ 0")
        if not 0 <= self.distance <= 1:
            raise ParameterError(self, "distance", self.distance, allowed="a number in [0, 1]")
        if self.cost not in ("nodes", "tokens"):
            raise ParameterError(self, "cost", self.cost, allowed="nodes or tokens")
        if self.node_limit < 1:
            raise ParameterError(self, "node_limit", self.node_limit, allowed="an integer ≥ 1")
        if self.time_limit_s is not None and not self.time_limit_s > 0:
            raise ParameterError(self, "time_limit_s", self.time_limit_s, allowed="a number > 0, or none")

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Level by level until the width is used up by finished outputs."""
        details: dict[str, Any] = {"programs": 0, "greedy_programs": 0, "leaves": 0, "kept_leaves": 0}

        def allot(leaves: Sequence[State], scores: Floats, width: int) -> Ints:
            counts = rebase_counts(scores, width, self.temperature)
            if not self.penalty or len(leaves) < 2 or width <= 0:
                return counts
            texts = [str(leaf.step) for leaf in leaves]
            clusters = text_clusters(texts, self.distance) if self.coverage else None
            parents, costs = tree_of(leaves, self.cost)
            program = TreeProgram(counts / width, parents, self.penalty * costs, clusters, self.coverage)
            kept, proved = program.solve(self.node_limit, self.time_limit_s)
            counts = np.zeros(len(leaves), dtype=np.int64)
            counts[kept] = rebase_counts(scores[kept], width, self.temperature)
            details["programs"] += 1
            details["greedy_programs"] += not proved
            details["leaves"] += len(leaves)
            details["kept_leaves"] += int(kept.sum())
            return one_per_cluster(counts, kept, clusters, scores) if self.min_one and clusters is not None else counts

        return await run_rebase(self, problem, ctx, allot, details)
