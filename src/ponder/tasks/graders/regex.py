"""A pattern that a right output matches."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ponder.core.problem import Problem
from ponder.errors import ParameterError
from ponder.tasks.graders.base import Grader, grader


@grader("regex")
@dataclass(frozen=True)
class Regex(Grader):
    """Right if the pattern is found in the output.

    Args:
        pattern: a regular expression; `{reference}` in it stands for the (escaped) reference. Its first group, if it
            has one, is the answer used for voting.
        ignore_case: whether upper and lower case are the same.
    """

    pattern: str = "{reference}"
    ignore_case: bool = False

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern.replace("{reference}", "x"))
        except re.error as error:
            raise ParameterError(self, "pattern", self.pattern, allowed=f"a regular expression ({error})") from None

    @property
    def needs_reference(self) -> bool:
        """Only where the pattern names it."""
        return "{reference}" in self.pattern

    def extract(self, output: str) -> str | None:
        """The first group of the last match, else the final answer."""
        if "{reference}" not in self.pattern:
            found = list(re.finditer(self.pattern, output, self._flags))
            if found and found[-1].groups():
                return found[-1].group(1)
        return super().extract(output) or output.strip() or None

    def score(self, problem: Problem, output: str, answer: str) -> float:
        """0 or 1."""
        pattern = self.pattern.replace("{reference}", re.escape(str(problem.reference)))
        found = list(re.finditer(pattern, output, self._flags))
        if found and found[-1].groups() and problem.reference is not None and "{reference}" not in self.pattern:
            return float(str(found[-1].group(1)).strip() == str(problem.reference).strip())
        return float(bool(found))

    @property
    def _flags(self) -> int:
        return re.IGNORECASE if self.ignore_case else 0
