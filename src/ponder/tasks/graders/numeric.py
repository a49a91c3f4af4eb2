"""Equality of numbers: commas, currency signs, fractions and per cent understood."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from ponder.core.answers import RELATIVE_TOLERANCE
from ponder.core.problem import Problem
from ponder.errors import GraderError, ParameterError
from ponder.tasks.graders.base import Grader, grader

_FRAC = re.compile(r"(-?)\\d?frac\{([^{}]+)\}\{([^{}]+)\}")
_FOUND = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?:\s*/\s*\d+)?")


@grader("numeric")
@dataclass(frozen=True)
class Numeric(Grader):
    """Right if the answer is the reference's number.

    Args:
        relative: relative tolerance.
        absolute: absolute tolerance.
    """

    relative: float = RELATIVE_TOLERANCE
    absolute: float = 0.0

    def __post_init__(self) -> None:
        if min(self.relative, self.absolute) < 0:
            raise ParameterError(self, "relative/absolute", (self.relative, self.absolute), allowed="≥ 0")

    def score(self, problem: Problem, output: str, answer: str) -> float:
        """0 or 1; an answer without a number is wrong.

        Raises:
            GraderError: the reference holds no number.
        """
        truth = parse_number(str(problem.reference))
        if truth is None:
            raise GraderError(f"numeric: the reference of {problem.id} is no number: {problem.reference!r}")
        value = parse_number(answer)
        return float(value is not None and abs(value - truth) <= max(self.absolute, self.relative * abs(truth)))


def parse_number(text: str) -> float | None:
    r"""The number that a text states, the last if there are several; per cent as a fraction of one.

    >>> parse_number("$1,234.50"), parse_number(r"-\frac{1}{2}"), parse_number("40%"), parse_number("none")
    (1234.5, -0.5, 0.4, None)
    """
    plain = _FRAC.sub(r"\1\2/\3", text.replace("−", "-").replace("\\%", "%").replace("$", "").strip())
    found = list(_FOUND.finditer(plain))
    if not found:
        return None
    piece = found[-1].group().replace(",", "").replace(" ", "")
    try:
        value = float(Fraction(piece)) if "/" in piece else float(piece)
    except (ValueError, ZeroDivisionError, OverflowError):
        return None
    return value / 100 if plain[found[-1].end() :].lstrip().startswith("%") else value
