"""What a grader is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from ponder.core.problem import Problem
from ponder.core.registry import REGISTRY_OF, Registered, Registry
from ponder.tasks.final_answer import final_answer

GRADERS = Registry("grader", "ponder.tasks.graders")
grader = GRADERS.register


class Grader(Registered, ABC):
    """Says whether an output answers a problem, as a number in [0, 1] (1 is right)."""

    @property
    def identity(self) -> str:
        """Text that changes whenever the grader's judgement would."""
        return str(self)

    @property
    def needs_reference(self) -> bool:
        """Whether it can judge only problems that have a reference."""
        return True

    def extract(self, output: str) -> str | None:
        """The answer in an output; None if there is none."""
        return final_answer(output)

    @abstractmethod
    def score(self, problem: Problem, output: str, answer: str) -> float:
        """The credit, in [0, 1], of an output with the extracted `answer`. May raise."""

    def same(self, first: Any, second: Any) -> bool:
        """Whether two answers mean the same although neither text nor number is equal."""
        return False


REGISTRY_OF[Grader] = GRADERS
