"""Simulated outputs that are nothing but their score: is it better to draw anew (wider) or to refine (deeper)?

A fresh output scores Normal(root_mean, root_sd²); a refinement scores what the output it is shown scores plus
Normal(step_mean, step_sd²); both are clipped to [0, 1]. `sim_scores` (process) makes them, `exact` reads them off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ponder.core.problem import Grade, Problem, Task
from ponder.core.registry import Registered, task
from ponder.errors import ParameterError


@task("sim_scores")
@dataclass(frozen=True)
class SimScores(Registered, Task):
    """Scores to be raised; the defaults reward depth.

    Args:
        root_mean: mean score of a fresh output.
        root_sd: its standard deviation.
        step_mean: mean gain of a refinement.
        step_sd: its standard deviation.
        goal: an output of this score is right.
        count: problems in all.
    """

    root_mean: float = 0.2
    root_sd: float = 0.1
    step_mean: float = 0.01
    step_sd: float = 0.05
    goal: float = 0.7
    count: int = 200

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ParameterError(self, "count", self.count, allowed="an integer ≥ 1")
        for name in ("root_sd", "step_sd"):
            if not getattr(self, name) >= 0:
                raise ParameterError(self, name, getattr(self, name), allowed="a number ≥ 0")

    def problems(self, limit: int | None = None, *, seed: int = 0) -> Sequence[Problem]:
        """`limit` problems (`count` if None); the seed is part of their ids, and so of every draw."""
        n = self.count if limit is None else min(limit, self.count)
        world = {name: getattr(self, name) for name in ("root_mean", "root_sd", "step_mean", "step_sd")}
        return [Problem(f"scores-{seed}-{i}", f"simulated problem {i}", None, world) for i in range(n)]

    def grade(self, problem: Problem, output: Any) -> Grade:
        """The output is its score."""
        return Grade(output >= self.goal, float(output))
