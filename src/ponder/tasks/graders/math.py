"""Equality of mathematics, by `math-verify`: expressions, sets, intervals, LaTeX."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ponder.core.answers import RELATIVE_TOLERANCE, as_number
from ponder.core.problem import Problem
from ponder.errors import GraderError, MissingExtraError
from ponder.tasks._limited import Limited, LimitExceededError
from ponder.tasks.graders.base import Grader, grader

_LONGEST = 1000
_compare = Limited("ponder.tasks.graders.math:compare", cpu_s=1.0)


@grader("math", aliases=("math_verify",))
@dataclass(frozen=True)
class Math(Grader):
    """Right if the answer and the reference are mathematically equal.

    Expressions are compared in a process of their own: one that needs over a second of processor time is different.
    """

    @property
    def identity(self) -> str:
        """Its text and the version of math-verify."""
        return f"{self}@{_version()}"

    def score(self, problem: Problem, output: str, answer: str) -> float:
        """0 or 1.

        Raises:
            GraderError: the reference cannot be read as mathematics.
        """
        equal = _equal(str(problem.reference), str(answer))
        if equal is None:
            raise GraderError(f"math: the reference of {problem.id} cannot be read: {problem.reference!r}")
        return float(equal)

    def same(self, first: Any, second: Any) -> bool:
        """Mathematical equality of two answers; plain numbers need no algebra."""
        one, other = as_number(first), as_number(second)
        if one is not None and other is not None:
            return math.isclose(one, other, rel_tol=RELATIVE_TOLERANCE)
        return bool(_equal(*sorted((str(first), str(second)))))


@lru_cache(maxsize=1 << 16)
def _equal(truth: str, answer: str) -> bool | None:
    """Whether they are equal; None if `truth` is no mathematics."""
    _version()
    try:
        equal: bool | None = _compare(truth, answer)
    except LimitExceededError:
        return False
    return equal


@lru_cache(maxsize=1)
def _version() -> str:
    try:
        return version("math-verify")
    except PackageNotFoundError:
        raise MissingExtraError("the grader math", "math-verify", "tasks") from None


def compare(truth: str, answer: str) -> bool | None:
    """What `_compare` runs in its process, where the time limit is: math-verify's own works in main threads only."""
    from math_verify import verify

    read = _parse(truth)
    if not read:
        return None
    given = _parse(answer)
    return bool(given) and bool(verify(read, given, timeout_seconds=None))


def prepare() -> None:
    """Load the parsers, so that no comparison's time goes into that."""
    logging.disable(logging.CRITICAL)
    compare(r"\frac{1}{2}", "x+0.5")


def _parse(text: str) -> Any:
    from math_verify import parse

    if len(text) > _LONGEST:
        return []
    return parse(text if "$" in text or "\\boxed" in text else f"${text}$", parsing_timeout=None)
