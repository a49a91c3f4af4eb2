"""Several verifiers as one: the mean of a candidate's ranks among the candidates.

Paper    Ma et al. 2025, "Inference-Time Scaling for Diffusion Models beyond Scaling Denoising Steps", §4 ("Verifier
         Ensemble").
Equal    The unweighted mean of ranks; raw scores, whose scales differ, are never added.
Differs  Ranks are scaled to [0, 1], the best is 1; equal scores share their mean rank; a single candidate has 1. An
         item that a verifier cannot score has its worst rank.
Needs    All candidates in one call: a score says how an item compares with those beside it, and nothing across calls.
Cost     A call to each verifier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

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
    """

    verifiers: tuple[Verifier, ...]

    compares: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.verifiers:
            raise ParameterError(self, "verifiers", self.verifiers, allowed="at least one verifier")
        object.__setattr__(self, "needs", frozenset[str]().union(*(v.needs for v in self.verifiers)))

    async def score(self, problem: Problem, items: Sequence[Scorable], ctx: Context) -> Sequence[float]:
        """One mean rank per item."""
        ranks = [ranks_of(await v.score(problem, items, ctx)) for v in self.verifiers]
        found: list[float] = np.mean(ranks, axis=0).tolist()
        return found


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
