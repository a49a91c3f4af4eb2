"""Simulated videos with known truth: each frame's quality follows from the one before it, and the last one is graded.

q₁ = sd · ε and q_{d+1} = rho · q_d + sd · ε: with a large rho early errors persist, at rho = 0 they are forgotten. The
process `sim_frames` draws the frames; the verifier `sim_frame_quality` sees the quality with noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ponder.core.problem import Grade, Problem, Task
from ponder.core.registry import Registered, task
from ponder.errors import ParameterError


@task("sim_frames")
@dataclass(frozen=True)
class SimFrames(Registered, Task):
    """Videos of `frames` frames.

    Args:
        frames: units of a video.
        rho: how much of a frame's quality the next one keeps, ≥ 0.
        sd: of what is new in each frame.
        goal: a last frame of this quality is right.
        count: problems in all.
    """

    frames: int = 8
    rho: float = 0.9
    sd: float = 1.0
    goal: float = 1.0
    count: int = 200

    def __post_init__(self) -> None:
        for name in ("frames", "count"):
            if getattr(self, name) < 1:
                raise ParameterError(self, name, getattr(self, name), allowed="an integer ≥ 1")
        for name in ("rho", "sd"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ParameterError(self, name, getattr(self, name), allowed="a number ≥ 0")

    def problems(self, limit: int | None = None, *, seed: int = 0) -> Sequence[Problem]:
        """`limit` problems (`count` if None); the seed is part of their ids, and so of every draw."""
        n = self.count if limit is None else min(limit, self.count)
        world = {"frames": self.frames, "rho": self.rho, "sd": self.sd}
        return [Problem(f"frames-{seed}-{i}", f"simulated video {i}", None, world) for i in range(n)]

    def grade(self, problem: Problem, output: Any) -> Grade:
        """The last frame's quality against the goal; the score is its sigmoid."""
        quality = float(output[-1])
        return Grade(quality >= self.goal, 0.5 * (1.0 + math.tanh(quality / 2.0)))
