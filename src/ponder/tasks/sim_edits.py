"""Simulated editing with known truth: bits to be found, drawn blindly or by changing an attempt that is shown.

Bits are written `o` and `i`, so that no vote takes them for a number.

A blind attempt is right in each bit with probability one half. A revision flips each wrong bit of the best attempt it
is shown with probability `toward`, and each right one with probability `away`. The grade is the share of right bits.
`sim_edits` (process) makes the attempts; `noisy_grade(noise=…)` is a verifier that errs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ponder.core.problem import Grade, Problem, Task
from ponder.core.registry import Registered, task
from ponder.core.seeds import generator
from ponder.errors import ParameterError


@task("sim_edits")
@dataclass(frozen=True)
class SimEdits(Registered, Task):
    """Bits to be found. Where a parameter is a list, problem i takes its i-th element (in turn).

    Args:
        bits: of a solution.
        toward: chance that a revision puts a wrong bit right.
        away: chance that it puts a right bit wrong.
        count: problems in all.
    """

    bits: int = 16
    toward: tuple[float, ...] = (0.15,)
    away: tuple[float, ...] = (0.05,)
    count: int = 200

    def __post_init__(self) -> None:
        for name in ("bits", "count"):
            if getattr(self, name) < 1:
                raise ParameterError(self, name, getattr(self, name), allowed="an integer ≥ 1")
        for name in ("toward", "away"):
            values = getattr(self, name)
            if not values or not all(0 <= v <= 1 for v in values):
                raise ParameterError(self, name, values, allowed="numbers in [0, 1]")

    def problems(self, limit: int | None = None, *, seed: int = 0) -> Sequence[Problem]:
        """`limit` problems (`count` if None); the seed is part of their ids, and so of every draw."""
        n = self.count if limit is None else min(limit, self.count)
        return [self._problem(f"edits-{seed}-{i}", i) for i in range(n)]

    def _problem(self, name: str, i: int) -> Problem:
        truth = "".join("oi"[bit] for bit in generator("sim_edits", name).integers(0, 2, self.bits))
        world = {"toward": self.toward[i % len(self.toward)], "away": self.away[i % len(self.away)]}
        return Problem(name, f"simulated problem {i}: {self.bits} bits", truth, world)

    def grade(self, problem: Problem, output: Any) -> Grade:
        """The share of right bits; correct if all are."""
        right = np.mean([a == b for a, b in zip(str(output), problem.reference, strict=True)])
        return Grade(bool(right == 1), float(right))
