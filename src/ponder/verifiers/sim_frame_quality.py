"""What can be seen of a simulated video's last frame: its quality, with noise (see the task `sim_frames`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.core.registry import verifier
from ponder.core.verifier import Scorable, Verifier, output_of, place_of
from ponder.errors import ParameterError


@verifier("sim_frame_quality", how="verification:process", where="simulation")
@dataclass(frozen=True)
class SimFrameQuality(Verifier):
    """Quality of the last frame plus `noise` · ε, drawn once for each state.

    Args:
        noise: standard deviation of the error, ≥ 0.
    """

    noise: float = 0.0

    range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)

    def __post_init__(self) -> None:
        if not 0 <= self.noise < math.inf:
            raise ParameterError(self, "noise", self.noise, allowed="a number ≥ 0")

    async def score(self, problem: Problem, items: Sequence[Scorable], ctx: Context) -> Sequence[float]:
        """One number per item."""
        errors = [ctx.rng("sim_frame_quality", *place_of(item)).standard_normal() for item in items]
        return [float(output_of(i, ctx)[-1] + self.noise * e) for i, e in zip(items, errors, strict=True)]
