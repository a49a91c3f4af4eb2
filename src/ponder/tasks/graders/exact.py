"""Equality of text, trimmed and case folded, white space folded."""

from __future__ import annotations

from dataclasses import dataclass

from ponder.core.problem import Problem
from ponder.tasks.graders.base import Grader, grader


@grader("exact")
@dataclass(frozen=True)
class Exact(Grader):
    """Right if the answer equals the reference as text.

    Args:
        whole: compare the whole output instead of the answer in it.
    """

    whole: bool = False

    def extract(self, output: str) -> str | None:
        """The final answer, or the whole output."""
        return output.strip() or None if self.whole else super().extract(output)

    def score(self, problem: Problem, output: str, answer: str) -> float:
        """0 or 1."""
        return float(_fold(answer) == _fold(str(problem.reference)))


def _fold(text: str) -> str:
    return " ".join(text.split()).casefold()
