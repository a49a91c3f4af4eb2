"""Equality of numbers: commas, currency signs, fractions and per cent understood."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from ponder.core.answers import RELATIVE_TOLERANCE
from ponder.core.problem import Problem
from ponder.errors import GraderError, ParameterError
from ponder.tasks.final_answer import NUMBER, final_answer
from ponder.tasks.graders.base import Grader, grader

_FRAC = re.compile(r"([-+]?)\s?\\[dt]?frac\s?\{\s?([-\d.]+)\s?\}\s?\{\s?([\d.]+)\s?\}")
_POWER_OF_TEN = re.compile(r"(?<=\d)\s*(?:\\times|\\cdot|×|\*)\s*10\s?\^\s?\{?\s?([-+]?\d+)\s?\}?")
_UNIT_POWER = re.compile(r"(?<=[A-Za-z}])\^\{?-?\d+\}?")
_MIXED = re.compile(r"(?<![\d.,/])([-+]?)(\d+)\s+(\d+)/(\d+)(?![\d/])")
_NO_NUMBER = re.compile(r"\\sqrt|\\pi\b|√|π|\^|\*\*")


@grader("numeric")
@dataclass(frozen=True)
class Numeric(Grader):
    """Right if the answer is the reference's number.

    Where only one of the two is stated in per cent, the other may mean per cent or a fraction of one: `40%` equals
    both `40` and `0.4`. Answers are voted on as plain numbers: `$1,234.50` and `1234.5` are one answer.

    Args:
        relative: relative tolerance.
        absolute: absolute tolerance.
    """

    relative: float = RELATIVE_TOLERANCE
    absolute: float = 0.0

    def __post_init__(self) -> None:
        if not min(self.relative, self.absolute) >= 0:
            raise ParameterError(self, "relative/absolute", (self.relative, self.absolute), allowed="≥ 0")

    def extract(self, output: str) -> str | None:
        """The number that the final answer states, written plainly; None if there is none."""
        answer = final_answer(output)
        return None if answer is None else plain_number(answer)

    def score(self, problem: Problem, output: str, answer: str) -> float:
        """0 or 1; an answer without a number is wrong.

        Raises:
            GraderError: the reference holds no number.
        """
        reference = str(problem.reference)
        truth = _read(final_answer(reference) or reference)
        if truth is None:
            raise GraderError(f"numeric: the reference of {problem.id} is no number: {problem.reference!r}")
        given = _read(answer)
        if given is None:
            return 0.0
        if given.per_cent == truth.per_cent:
            return float(self._close(given.value, truth.value))
        return float(self._close(given.fraction, truth.fraction) or self._close(given.value, truth.value))

    def _close(self, value: float, truth: float) -> bool:
        return abs(value - truth) <= max(self.absolute, self.relative * abs(truth))


@dataclass(frozen=True, slots=True)
class _Stated:
    """A number as written: 40 and per cent for `40%`; `digits` where it is a whole one."""

    value: float
    per_cent: bool
    digits: str | None = None

    @property
    def fraction(self) -> float:
        return self.value / 100 if self.per_cent else self.value


def parse_number(text: str) -> float | None:
    r"""The number that a text states, the last if there are several; per cent as a fraction of one.

    Roots, powers other than of ten, and π are no numbers here; the grader `math` reads them.

    >>> parse_number("$1,234.50"), parse_number(r"-\frac{1}{2}"), parse_number("40%"), parse_number("none")
    (1234.5, -0.5, 0.4, None)
    """
    stated = _read(text)
    return None if stated is None else stated.fraction


def plain_number(text: str) -> str | None:
    """The number that a text states without commas, units and fraction bars; None if there is none.

    >>> plain_number("$1,234.50"), plain_number("1/2 cup"), plain_number("40 %")
    ('1234.5', '0.5', '40%')
    """
    stated = _read(text)
    if stated is None:
        return None
    return (stated.digits or f"{stated.value:.15g}") + "%" * stated.per_cent


def _read(text: str) -> _Stated | None:
    plain = text.replace("−", "-").replace("\\%", "%").replace("\\!", "").replace("$", "")
    plain = _FRAC.sub(r" \1\2/\3", plain)
    plain = _UNIT_POWER.sub("", _POWER_OF_TEN.sub(r"e\1", plain))
    if _NO_NUMBER.search(plain):
        return None
    plain = re.sub(r"(?<=\d)\s*/\s*(?=\d)", "/", plain)
    plain = _MIXED.sub(lambda m: _improper(*m.groups()), plain)
    last = None
    for last in NUMBER.finditer(plain):  # noqa: B007
        pass
    if last is None:
        return None
    piece = last.group().replace(",", "")
    per_cent = piece.endswith("%")
    piece = piece.removesuffix("%").strip()
    try:
        value = _quotient(piece) if "/" in piece else float(piece)
        whole = re.fullmatch(r"[-+]?\d+", piece)
        return _Stated(value, per_cent, str(int(piece)) if whole else None)
    except (ValueError, ZeroDivisionError, OverflowError):
        return None


def _quotient(piece: str) -> float:
    above, below = piece.split("/")
    return float(Fraction(above) / Fraction(below))


def _improper(sign: str, whole: str, above: str, below: str) -> str:
    if max(len(whole), len(above), len(below)) > 50:
        return f"{sign}{above}/{below}"
    return f"{sign}{int(whole) * int(below) + int(above)}/{int(below)}"
