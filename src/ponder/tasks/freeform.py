"""The task behind a bare question: it knows how to read an answer, and nothing of the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ponder.core.answers import fingerprint
from ponder.core.problem import Grade, Problem, Task
from ponder.core.registry import Registered, task
from ponder.errors import TaskError
from ponder.tasks.final_answer import final_answer


@task("freeform")
@dataclass(frozen=True)
class Freeform(Registered, Task):
    """Reads the final answer of free text; cannot grade. Of other outputs (arrays), each different one is an answer."""

    def problems(self, limit: int | None = None, *, seed: int = 0) -> Sequence[Problem]:
        """There are none.

        Raises:
            TaskError: always.
        """
        raise TaskError("freeform has no problems; it reads the answers of a prompt that you give")

    def grade(self, problem: Problem, output: Any) -> Grade:
        """There is no truth to grade by.

        Raises:
            TaskError: always.
        """
        raise TaskError("a bare prompt has no reference, so there is nothing to grade by; use a task with a grader")

    def extract(self, output: Any) -> str | None:
        """The final answer, or None; the fingerprint of an array."""
        return fingerprint(output) if isinstance(output, np.ndarray) else final_answer(str(output))
