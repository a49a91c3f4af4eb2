"""Handwritten digits on demand: the prompt is a digit, the grade comes from a judge that no search may use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ponder.core.answers import fingerprint
from ponder.core.problem import Grade, Problem, Task
from ponder.core.registry import Registered, task
from ponder.errors import ParameterError, TaskError


@task("digits")
@dataclass(frozen=True)
class Digits(Registered, Task):
    """Asks for digits 0 to 9 in turn; right if the held-out judge reads the picture as the digit asked for.

    The score is the judge's probability of it. Every different picture is an answer of its own.

    Args:
        count: problems in all.
    """

    count: int = 100

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ParameterError(self, "count", self.count, allowed="an integer ≥ 1")

    def problems(self, limit: int | None = None, *, seed: int = 0) -> Sequence[Problem]:
        """`limit` problems (`count` if None); the seed is part of their ids, and so of every draw."""
        n = self.count if limit is None else min(limit, self.count)
        return [Problem(f"digit-{seed}-{i}", str(i % 10), str(i % 10)) for i in range(n)]

    def grade(self, problem: Problem, output: Any) -> Grade:
        """The judge's reading.

        Raises:
            TaskError: the output is not a picture of 8 × 8.
        """
        from ponder.diffusion import digits

        if getattr(output, "size", 0) != digits.SIDE**2:
            raise TaskError("the judge of the task digits reads pictures of 8 x 8; use the model diffusers:digits")
        chances = digits.log_probabilities(digits.judge(), np.ravel(output)[None] * 2.0 - 1.0)[0]
        asked = int(problem.reference)
        return Grade(int(chances.argmax()) == asked, float(np.exp(chances[asked])))

    def extract(self, output: Any) -> str | None:
        """A fingerprint of the picture; None if there is none."""
        return fingerprint(output) if isinstance(output, np.ndarray) else None
