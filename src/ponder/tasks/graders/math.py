"""Equality of mathematics, by `math-verify`: expressions, sets, intervals, LaTeX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ponder.core.problem import Problem
from ponder.errors import GraderError, MissingExtraError
from ponder.tasks.graders.base import Grader, grader


@grader("math", aliases=("math_verify",))
@dataclass(frozen=True)
class Math(Grader):
    """Right if the answer and the reference are mathematically equal."""

    def score(self, problem: Problem, output: str, answer: str) -> float:
        """0 or 1.

        Raises:
            GraderError: the reference cannot be read as mathematics.
        """
        truth = _parse(str(problem.reference))
        if not truth:
            raise GraderError(f"math: the reference of {problem.id} cannot be read: {problem.reference!r}")
        return float(_equal(truth, _parse(answer)))

    def same(self, first: Any, second: Any) -> bool:
        """Mathematical equality of two answers."""
        return _equal(_parse(str(first)), _parse(str(second)))


def _parse(text: str) -> Any:
    """What math-verify reads; its own alarms are off, since they work in a process's main thread only."""
    try:
        from math_verify import parse
    except ImportError:
        raise MissingExtraError("the grader math", "math-verify", "tasks") from None
    if len(text) > 1000:
        return []
    return parse(text if "$" in text or "\\boxed" in text else f"${text}$", parsing_timeout=None)


def _equal(truth: Any, answer: Any) -> bool:
    from math_verify import verify

    return bool(truth) and bool(answer) and bool(verify(truth, answer, timeout_seconds=None))
