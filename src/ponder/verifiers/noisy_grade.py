"""The task's own grade plus noise: how well does a method stand a verifier that is roughly right?

Needs    A task with graded scores (partial credit).    Cost: none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar

from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.core.registry import verifier
from ponder.core.seeds import SEED_BITS, derive_seed
from ponder.core.verifier import Scorable, Verifier, output_of, place_of
from ponder.errors import ParameterError

_NORMAL = NormalDist()


@verifier("noisy_grade", how="verification:outcome:rule", where="simulation, optimisation")
@dataclass(frozen=True)
class NoisyGrade(Verifier):
    """Grade + Normal(0, noise²), not clipped; an output's error is drawn once, by its place.

    Args:
        noise: standard deviation of a score's error.
    """

    noise: float = 0.1

    range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)

    def __post_init__(self) -> None:
        if not 0 <= self.noise < math.inf:
            raise ParameterError(self, "noise", self.noise, allowed="a finite number ≥ 0")

    async def score(self, problem: Problem, items: Sequence[Scorable], ctx: Context) -> Sequence[float]:
        """One score per item; looks at the reference, so it is for studies."""
        if ctx.task is None:
            raise ParameterError(self, "task", None, allowed="a task with a grader", hint="a bare prompt has no truth")
        return [ctx.task.grade(problem, output_of(item, ctx)).score + self._error(problem, item, ctx) for item in items]

    def _error(self, problem: Problem, item: Scorable, ctx: Context) -> float:
        state = item.state if isinstance(item, Candidate) else item
        place = place_of(item) if state is None else state.path
        seed = derive_seed(ctx.seed, problem.id, "noisy_grade", *place)
        return self.noise * _NORMAL.inv_cdf((seed + 0.5) / (1 << SEED_BITS))
