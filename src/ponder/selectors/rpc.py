"""RPC: perplexity consistency after pruning paths that the model itself finds improbable.

Paper    Zhou et al. 2025, "A Theoretical Study on Bridging Internal Probability and Self-Consistency for LLM
         Reasoning", §3 (reasoning-pruning perplexity consistency).
Equal    A mixture of two Weibull distributions is fitted to the path probabilities; paths of the low component are
         pruned unless they are at or above the mean; probabilities of the distinct paths left are added
         per answer.
Differs  The same likelihood, start and bounds, but all problems are fitted at once, by expectation-maximisation and
         Newton steps instead of L-BFGS-B; shapes end at 200. Fewer than 8 paths, equal probabilities or a failed fit
         use the mean rule alone (n ≥ 4) or no pruning, and the selection says so. Samples without an answer take
         part in the fit only if their length limit cut them.
Needs    Log-probabilities of the sampled tokens.    Cost: nothing beyond the samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ponder.core.pool import Bools, Floats, Pool
from ponder.core.registry import selector
from ponder.core.selector import SUMMED, Ranking, VotingSelector
from ponder.selectors._paths import path_errors, path_probability
from ponder.selectors._weibull import Starts, fit_weibull_mixtures

_FEW_FOR_MIXTURE = 8
_FEW_FOR_MEAN = 4
_EQUAL = 1e-9
_SEPARATION = 0.5


@selector("rpc", aliases=("reasoning_pruning_perplexity_consistency",), how="aggregation:weighted", where="reasoning")
@dataclass(frozen=True)
class RPC(VotingSelector):
    """The answer whose distinct, unpruned paths are most probable together.

    Args:
        variant: `rpc`; `pc` is without pruning; `ppl` takes the single most probable path; `sc` counts samples.
        probability: `mean` is the geometric mean of the token probabilities; `sequence` the whole path's.
        drop_truncated: leave samples that were cut by their length limit out of the fit.
        separation_guard: do not prune if the components' means differ by less than half their pooled
            standard deviation, as when probabilities say nothing about correctness.
        starts: `published` fits the mixture from the released start; `several` also from three splits of the
            values, and takes the most likely fit.
    """

    variant: Literal["rpc", "pc", "ppl", "sc"] = "rpc"
    probability: Literal["mean", "sequence"] = "mean"
    drop_truncated: bool = False
    separation_guard: bool = False
    starts: Starts = "published"

    needs: ClassVar[frozenset[str]] = frozenset({"logprobs"})

    def rank(self, pool: Pool) -> Ranking:
        """Sums of path probabilities over what pruning leaves."""
        counts = pool.counts
        if self.variant == "sc":
            return Ranking(np.where(counts > 0, counts, -np.inf))
        paths = path_probability(pool, self.probability)
        errors = path_errors(pool, self.probability, self.name)
        if self.variant == "ppl":
            return Ranking(pool.group_max(paths), representatives=paths, share=False, errors=errors)
        fallback: list[str | None] | None = None
        usable = pool.valid
        if self.variant == "rpc":
            kept, notes = self._prune(pool, paths)
            fallback = notes if any(notes) else None
            usable = usable & kept
        weights = pool.group_sum(np.nan_to_num(paths), where=pool.distinct(usable))
        alive = pool.group_count(usable) > 0
        return Ranking(np.where(alive, weights, -np.inf), fallback=fallback, tolerance=SUMMED, errors=errors)

    def _prune(self, pool: Pool, paths: Floats) -> tuple[Bools, list[str | None]]:
        """Which samples stay, shape (P, N), and per problem why the mixture was not used."""
        fitted = pool.valid if pool.truncated is None or self.drop_truncated else pool.valid | pool.truncated
        fitted = fitted & ~np.isnan(paths)
        kept, notes = prune(paths, fitted, separation_guard=self.separation_guard, starts=self.starts)
        kept |= ~fitted
        for p in np.flatnonzero(pool.valid.any(axis=1) & ~(pool.valid & kept).any(axis=1)):
            kept[p], notes[p] = True, "no_pruning: every answer would have been pruned"
        return kept, notes


def prune(
    p: Floats, where: Bools, *, separation_guard: bool = False, starts: Starts = "published"
) -> tuple[Bools, list[str | None]]:
    """Which path probabilities stay, and per problem why the mixture was not used, if it was not.

    Args:
        p: shape (P, N), in [0, 1] where they count.
        where: which count, shape (P, N).
        separation_guard: keep everything if the fitted components are hardly apart.
        starts: where the fit of the mixture starts from.

    Returns:
        Shape (P, N), a part of `where`; and P notes, None where the mixture decided or nothing counts.
    """
    n = where.sum(axis=1)
    p = np.where(where, p, 0.0)
    mean = p.sum(axis=1) / np.maximum(n, 1)
    above = where & (p >= mean[:, None] * (1.0 - _EQUAL))
    spread = np.max(p, axis=1, initial=-np.inf, where=where) - np.min(p, axis=1, initial=np.inf, where=where)
    everything = np.zeros(len(p), dtype=bool)
    notes: list[str | None] = [None] * len(p)

    def note(rows: Bools, why: str) -> None:
        for row in np.flatnonzero(rows):
            notes[row] = why

    few, equal = n < _FEW_FOR_MEAN, spread <= _EQUAL
    note(few & (n > 0), "no_pruning: fewer than 4 paths")
    note(~few & equal, "no_pruning: all paths are equally probable")
    everything |= few | equal
    note(~everything & (n < _FEW_FOR_MIXTURE), "mean_rule: fewer than 8 paths")
    rows = np.flatnonzero(~everything & (n >= _FEW_FOR_MIXTURE))
    kept = above
    if rows.size:
        mixtures = fit_weibull_mixtures(p[rows], where[rows], starts)
        high = where[rows] & (mixtures.posterior_high(p[rows]) >= 0.5)
        kept[rows] |= high & mixtures.fitted[:, None]
        missing = np.zeros(len(p), dtype=bool)
        missing[rows] = ~mixtures.fitted
        note(missing, "mean_rule: the mixture could not be fitted")
        if separation_guard:
            together = np.zeros(len(p), dtype=bool)
            together[rows] = mixtures.fitted & ~(mixtures.separation >= _SEPARATION)
            note(together, "no_pruning: the two components are hardly apart")
            everything |= together
    return np.where(everything[:, None], where, kept), notes
