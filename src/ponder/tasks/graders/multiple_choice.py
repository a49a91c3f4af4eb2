"""A letter among options."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ponder.core.problem import Problem
from ponder.errors import GraderError
from ponder.tasks.final_answer import last_boxed
from ponder.tasks.graders.base import Grader, grader

_STATED = re.compile(r"(?:answer|option|choice)(?:\s+is)?\s*[:=]?\s*\**\(?([A-Za-z])\b\)?", re.IGNORECASE)
_MARKED = re.compile(r"\(([A-Za-z])\)|(?:^|\n)\s*\**([A-Za-z])\s*[.):]", re.MULTILINE)
_LONE = re.compile(r"(?<![\w'])([A-Z])(?![\w'])")


@grader("multiple_choice")
@dataclass(frozen=True)
class MultipleChoice(Grader):
    """Right if the chosen letter is the reference (a letter, or the text of an option in the metadata `options`)."""

    def extract(self, output: str) -> str | None:
        """The chosen letter in upper case; None if there is none."""
        boxed = last_boxed(output)
        if boxed is not None and len(boxed.strip(" ()")) == 1:
            return boxed.strip(" ()").upper()
        whole = output.strip().strip("().:* ")
        if len(whole) == 1 and whole.isalpha():
            return whole.upper()
        for pattern in (_STATED, _MARKED, _LONE):
            found = pattern.findall(output)
            if found:
                last = found[-1]
                return (last if isinstance(last, str) else next(g for g in last if g)).upper()
        return None

    def score(self, problem: Problem, output: str, answer: str) -> float:
        """0 or 1.

        Raises:
            GraderError: the reference is neither a letter nor one of the options.
        """
        truth = str(problem.reference).strip().strip("().")
        if len(truth) != 1:
            options = [str(o).strip().casefold() for o in problem.metadata.get("options", [])]
            if truth.casefold() not in options:
                raise GraderError(f"multiple_choice: the reference of {problem.id} is neither a letter nor an option")
            truth = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[options.index(truth.casefold())]
        return float(answer.upper() == truth.upper())
