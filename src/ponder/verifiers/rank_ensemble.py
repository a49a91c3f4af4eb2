"""Several verifiers as one: the mean of a candidate's ranks among the candidates.

Paper    Ma et al. 2025, "Inference-Time Scaling for Diffusion Models beyond Scaling Denoising Steps", §4 ("Verifier
         Ensemble").
Equal    The unweighted mean of ranks; raw scores, whose scales differ, are never added.
Differs  Ranks are scaled to [0, 1], the best is 1; equal scores share their mean rank; a single candidate has 1. An
         item that a verifier cannot score has its worst rank.
Needs    All candidates in one call: a score says how an item compares with those beside it, and nothing across calls.
         Searches that compare scores of different calls (evo_search, zero_order_search, trees) need `reference`:
         outputs drawn once beforehand, or data, among which every item is ranked alone (ours).
Cost     A call to each verifier.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.core.registry import verifier
from ponder.core.verifier import Scorable, Verifier
from ponder.errors import ParameterError


@verifier("rank_ensemble", how="verification:outcome")
@dataclass(frozen=True)
class RankEnsemble(Verifier):
    """Mean rank over `verifiers`, in [0, 1].

    Args:
        verifiers: what ranks.
        reference: file of outputs, shape (n, …), as `numpy.save` writes it; a score is then the mean share of them
            that an item is above (half of those it equals), 1 above all. None ranks among the items of a call.
    """

    verifiers: tuple[Verifier, ...]
    reference: str | None = None

    compares: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.verifiers:
            raise ParameterError(self, "verifiers", self.verifiers, allowed="at least one verifier")
        object.__setattr__(self, "needs", frozenset[str]().union(*(v.needs for v in self.verifiers)))

    async def score(self, problem: Problem, items: Sequence[Scorable], ctx: Context) -> Sequence[float]:
        """One mean rank per item."""
        found: list[float]
        if self.reference is not None:
            shares = [
                shares_below(await v.score(problem, items, ctx), known)
                for v, known in zip(self.verifiers, await self._known(problem, self.reference, ctx), strict=True)
            ]
            found = np.mean(shares, axis=0).tolist()
            return found
        ranks = [ranks_of(await v.score(problem, items, ctx)) for v in self.verifiers]
        found = np.mean(ranks, axis=0).tolist()
        return found

    async def _known(self, problem: Problem, path: str, ctx: Context) -> list[Sequence[float]]:
        """Each verifier's scores of the reference, asked for once in a run."""
        place = (str(self), problem.id, "reference")
        if place not in ctx.memo:
            outputs = await asyncio.to_thread(_loaded, self, path)
            items = [Candidate(output, index=i) for i, output in enumerate(outputs)]
            ctx.memo[place] = [await v.score(problem, items, ctx) for v in self.verifiers]
        known: list[Sequence[float]] = ctx.memo[place]
        return known


def _loaded(owner: RankEnsemble, path: str) -> npt.NDArray[np.float64]:
    try:
        outputs = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ParameterError(owner, "reference", path, allowed=f"a file of numpy.save ({error})") from error
    if outputs.ndim < 1 or not len(outputs):
        raise ParameterError(owner, "reference", path, allowed=f"outputs (n, …) with n ≥ 1; it holds {outputs.shape}")
    return np.asarray(outputs)


def shares_below(scores: Sequence[float], known: Sequence[float]) -> npt.NDArray[np.float64]:
    """For each score the share of the known ones below it, half of the equal ones included; 0 for NaN.

    >>> shares_below([5.0, 2.0, float("nan")], [1.0, 2.0, 3.0, 4.0]).tolist()
    [1.0, 0.375, 0.0]
    """
    ordered = np.sort(np.nan_to_num(np.asarray(known, dtype=float), nan=-np.inf))
    values = np.asarray(scores, dtype=float)
    halves = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return np.where(np.isnan(values), 0.0, halves / (2 * len(ordered)))


def ranks_of(scores: Sequence[float]) -> npt.NDArray[np.float64]:
    """Ranks in [0, 1], the highest score has 1; equal scores share their mean; NaN is lower than everything.

    >>> ranks_of([3.0, 1.0, 3.0, float("nan")]).tolist()
    [0.8333333333333334, 0.3333333333333333, 0.8333333333333334, 0.0]
    >>> ranks_of([5.0]).tolist()
    [1.0]
    """
    values = np.nan_to_num(np.asarray(scores, dtype=float), nan=-np.inf, posinf=np.inf, neginf=-np.finfo(float).max)
    if len(values) == 1:
        return np.ones(1)
    below = (values[None] < values[:, None]).sum(axis=1)
    equal = (values[None] == values[:, None]).sum(axis=1) - 1
    return np.asarray((below + 0.5 * equal) / (len(values) - 1))
