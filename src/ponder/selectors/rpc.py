"""RPC: perplexity consistency after pruning paths that the model itself finds improbable.

Paper    Zhou et al. 2025, "A Theoretical Study on Bridging Internal Probability and Self-Consistency for LLM
         Reasoning", §3 (reasoning-pruning perplexity consistency).
Equal    A mixture of two Weibull distributions is fitted to the path probabilities; paths of the low component are
         pruned unless they are at or above the mean; probabilities of the distinct paths left are added
         per answer.
Differs  The fit has an exact gradient and shapes end at 200. Fewer than 8 paths, equal probabilities or a failed fit
         use the mean rule alone (n ≥ 4) or no pruning, and the selection says so. Samples without an answer take
         part in the fit only if their length limit cut them.
Needs    Log-probabilities of the sampled tokens; scipy.    Cost: nothing beyond the samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ponder.core.pool import Bools, Floats, Pool
from ponder.core.registry import selector
from ponder.core.selector import SUMMED, Ranking, VotingSelector
from ponder.selectors._paths import path_errors, path_probability
from ponder.selectors._weibull import fit_weibull_mixture

_FEW_FOR_MIXTURE = 8
_FEW_FOR_MEAN = 4
_EQUAL = 1e-9
_SEPARATION = 0.5


@selector("rpc", aliases=("reasoning_pruning_perplexity_consistency",), what="parallel", how="aggregation")
@dataclass(frozen=True)
class RPC(VotingSelector):
    """The answer whose distinct, unpruned paths are most probable together.

    Args:
        variant: `rpc`; `pc` is without pruning; `ppl` takes the single most probable path; `sc` counts samples.
        probability: `mean` is the geometric mean of the token probabilities; `sequence` the whole path's.
        drop_truncated: leave samples that were cut by their length limit out of the fit.
        separation_guard: do not prune if the components' means differ by less than half their pooled
            standard deviation, as when probabilities say nothing about correctness.
    """

    variant: Literal["rpc", "pc", "ppl", "sc"] = "rpc"
    probability: Literal["mean", "sequence"] = "mean"
    drop_truncated: bool = False
    separation_guard: bool = False

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
        kept, notes = np.ones(pool.shape, dtype=bool), []
        for p in range(pool.shape[0]):
            among = fitted[p]
            keep, note = prune(paths[p, among], self.separation_guard)
            row = kept[p]
            row[among] = keep
            if pool.valid[p].any() and not (pool.valid[p] & row).any():
                row[:], note = True, "no_pruning: every answer would have been pruned"
            notes.append(note)
        return kept, notes


def prune(p: Floats, separation_guard: bool = False) -> tuple[Bools, str | None]:
    """Which path probabilities stay, and why the mixture was not used, if it was not.

    Args:
        p: shape (n,), in [0, 1].
        separation_guard: keep everything if the fitted components are hardly apart.
    """
    n = len(p)
    everything = np.ones(n, dtype=bool)
    if n < _FEW_FOR_MEAN:
        return everything, "no_pruning: fewer than 4 paths" if n else None
    above = p >= p.mean() * (1.0 - _EQUAL)
    if np.ptp(p) <= _EQUAL:
        return everything, "no_pruning: all paths are equally probable"
    if n < _FEW_FOR_MIXTURE:
        return above, "mean_rule: fewer than 8 paths"
    mixture = fit_weibull_mixture(p)
    if mixture is None:
        return above, "mean_rule: the mixture could not be fitted"
    if separation_guard and (not math.isfinite(mixture.separation) or mixture.separation < _SEPARATION):
        return everything, "no_pruning: the two components are hardly apart"
    return above | (mixture.posterior_high(p) >= 0.5), None
