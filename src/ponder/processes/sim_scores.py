"""Simulated outputs and refinements that are nothing but their score (see the task `sim_scores`)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ponder.core.context import Context
from ponder.core.model import Model
from ponder.core.problem import Problem
from ponder.core.registry import process
from ponder.core.revision import feedback_of
from ponder.core.state import State
from ponder.processes._simulated import drawn, normals, simulated_root
from ponder.processes._whole_attempts import WholeAttempts


@process("sim_scores")
@dataclass(frozen=True)
class SimScoring(WholeAttempts):
    """Outputs for the problems of the task `sim_scores`; a refinement goes on from the last output it is shown.

    Args:
        model: taken so that a study can name it, and never asked.
    """

    model: Model | None = None

    name: ClassVar[str]

    def start(self, problem: Problem, *, label: str = "", meta: Any = None) -> State:
        """A root."""
        return simulated_root(self.name, "step_mean", problem, label, meta)

    async def extend(
        self, states: Sequence[State], slots: Sequence[Sequence[int]], ctx: Context
    ) -> AsyncIterator[State]:
        """One output for each slot, drawn from the slot's own seed."""
        for state, slot, error in await drawn(ctx, states, slots, normals):
            world, shown = state.problem.metadata, feedback_of(state).shown
            start, kind = (float(shown[-1].output), "step") if shown else (0.0, "root")
            score = start + world[f"{kind}_mean"] + world[f"{kind}_sd"] * error
            yield state.child(slot, min(1.0, max(0.0, score)), n_tokens=1, finish="stop")
