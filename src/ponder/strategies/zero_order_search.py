"""Zero-order search: improve the starting noise step by step, judged by the finished output it leads to.

Paper    Ma et al. 2025, "Inference-Time Scaling for Diffusion Models beyond Scaling Denoising Steps", §3 (ZO-N).
Equal    A pivot noise; `neighbours` noises at a fixed cosine similarity to it are denoised to the end; the best of all
         becomes the pivot. (Their random search is `best_of_n`.)
Differs  Neighbours keep the pivot's norm and its cosine exactly. A round without a better neighbour keeps the pivot
         (`otherwise=stay`, the paper) or draws a fresh one (`restart`, as in public code). Ties keep the pivot. The
         best output ever seen is chosen, not the last pivot's. n counts outputs, the first pivot's included.
Needs    The process `denoising`, best with a deterministic solver (`solver=heun`): with a stochastic one a noise has no
         single output, and each is judged by one draw.    Cost: n outputs and n scores; one round after another.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from ponder.core.context import Context
from ponder.core.level_loop import scorer
from ponder.core.problem import Problem
from ponder.core.registry import VERIFIERS, strategy
from ponder.core.search_tree import Search, SearchTree, scored, search_result
from ponder.core.state import State
from ponder.core.strategy import Result, Strategy
from ponder.core.verifier import Verifier
from ponder.errors import ParameterError
from ponder.ledger.spend import Spend
from ponder.processes.denoising import denoising_of


@strategy(
    "zero_order_search", aliases=("zo",),
    what="hybrid", how="search:evolutionary, verification:outcome", where="generation_image",
)  # fmt: skip
@dataclass(frozen=True)
class ZeroOrderSearch(Strategy):
    """Move the starting noise to the best of its neighbours, round after round.

    Args:
        n: outputs in all; None takes the number from the study's sample axis.
        neighbours: noises tried in a round (the paper's N).
        cosine: similarity of a neighbour to the pivot, in (-1, 1).
        otherwise: when no neighbour is better than the pivot: `stay`, or `restart` from fresh noise.
        verifier: scores finished outputs.
    """

    n: int | None = None
    neighbours: int = 4
    cosine: float = 0.95
    otherwise: Literal["stay", "restart"] = "stay"
    verifier: Verifier = field(default_factory=lambda: VERIFIERS.build("log_probability"))

    process: ClassVar[str | None] = "denoising"

    def __post_init__(self) -> None:
        for name in ("n", "neighbours"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ParameterError(self, name, value, allowed="an integer ≥ 1")
        if not -1 < self.cosine < 1:
            raise ParameterError(self, "cosine", self.cosine, allowed="in (-1, 1)", hint="0.95 is the paper's code's")

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Search round by round; the best output of all is the answer."""
        process = denoising_of(self, ctx)
        tree, finished, left, rounds = SearchTree(), dict[State, None](), self.n or 1, 0
        score = scorer(problem, ctx, self.verifier)
        pivot: npt.NDArray[np.float64] | None = None
        best = -np.inf
        while left > 0:
            noises: list[Any] = [None]
            if pivot is not None:
                rng = ctx.rng("zero_order_search", rounds)
                noises = [neighbour(pivot, self.cosine, rng) for _ in range(min(self.neighbours, left))]
            (ends,) = await ctx.extend(
                [ctx.root()], [len(noises)], given=[noises], to_end=True, hold=Spend(verifier_calls=1)
            )
            values, _ = await scored(ctx, tree, ends, score)
            finished.update(dict.fromkeys(ends))
            rounds, left = rounds + 1, left - len(noises)
            if len(ends) < len(noises):
                break
            top = int(np.argmax(np.nan_to_num(values, nan=-np.inf)))
            if pivot is None or values[top] > best:
                pivot, best = ends[top].payload.noise, float(np.nan_to_num(values[top], nan=-np.inf))
            elif self.otherwise == "restart":
                pivot, best = None, -np.inf
        search = Search(tree, tuple(finished))
        result = await search_result(problem, ctx, search, self.verifier, rounds=rounds, stochastic=process.stochastic)
        return replace(result, tree=tree)


def neighbour(pivot: npt.NDArray[np.float64], cosine: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """A random array of the pivot's norm at exactly this cosine to it.

    >>> p = np.asarray([3.0, 4.0])
    >>> q = neighbour(p, 0.5, np.random.default_rng(0))
    >>> round(float(np.linalg.norm(q)), 9), round(float(p @ q) / 25, 9)
    (5.0, 0.5)
    """
    flat = np.asarray(pivot, dtype=np.float64).ravel()
    norm = np.linalg.norm(flat)
    if norm == 0 or flat.size < 2:
        return rng.standard_normal(pivot.shape)
    u = flat / norm
    across = rng.standard_normal(flat.size)
    across -= (across @ u) * u
    w = across / np.linalg.norm(across)
    return np.asarray(norm * (cosine * u + np.sqrt(1.0 - cosine**2) * w)).reshape(pivot.shape)
