"""The score of simulated steps: right about the truth up to a known sharpness, noise and over-confidence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.core.registry import verifier
from ponder.core.seeds import derive_seed
from ponder.core.state import State
from ponder.core.verifier import Scorable, Verifier
from ponder.errors import VerifierError

_NORMAL = NormalDist()


@verifier("sim_tree_score", how="verification:process", where="simulation")
@dataclass(frozen=True)
class SimTreeScore(Verifier):
    """sigmoid(sharpness · z + noise · ε) of a state: z is 1 if all is right, -1 if not, 2 while a wrong turn lures.

    Args:
        sharpness: instead of the problem's, in logits.
        noise: instead of the problem's; ε is drawn once for each state.
    """

    sharpness: float | None = None
    noise: float | None = None

    async def score(self, problem: Problem, items: Sequence[Scorable], ctx: Context) -> Sequence[float]:
        """One score per state, in (0, 1); a candidate scores as its last state."""
        world = problem.metadata
        sharpness = world["sharpness"] if self.sharpness is None else self.sharpness
        noise = world["noise"] if self.noise is None else self.noise
        out = []
        for item in items:
            state: State | None = item.state if isinstance(item, Candidate) else item
            if state is None:
                raise VerifierError("sim_tree_score: a candidate without a state in the simulated tree")
            lured = state.payload.trapped and state.depth <= world["trap_depth"]
            z = 1.0 if state.payload.alive else 2.0 if lured else -1.0
            seed = derive_seed(ctx.seed, problem.id, "sim_tree_score", *state.path)
            error = _NORMAL.inv_cdf((seed + 0.5) / 2**31)
            out.append(1.0 / (1.0 + math.exp(-(sharpness * z + noise * error))))
        return out
