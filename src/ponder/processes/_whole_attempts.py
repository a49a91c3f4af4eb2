"""What simulated processes share whose steps are whole attempts."""

from __future__ import annotations

from typing import Any

from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.core.process import Process
from ponder.core.state import State
from ponder.ledger.spend import Spend


class WholeAttempts(Process):
    """Each step is an output, revises the one it is shown, and costs one function evaluation."""

    def revising(self) -> Process:
        """Itself."""
        return self

    def horizon(self, problem: Problem) -> int:
        """One step is an output."""
        return 1

    def measure(self, state: State) -> tuple[float | None, int]:
        """Of the attempt alone."""
        return state.logprob, state.n_tokens

    def to_finish(self, state: State, ctx: Context) -> Spend:
        """One evaluation."""
        return Spend(function_evaluations=1, model_calls=1)

    def output(self, state: State) -> Any:
        """The attempt; None above the first."""
        return state.step if state.finish == "stop" else None
