"""Simulated videos: a frame is nothing but its quality, which the next one partly keeps (see the task `sim_frames`)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ponder.core.context import Context
from ponder.core.model import Model
from ponder.core.problem import Problem
from ponder.core.process import Process
from ponder.core.registry import process
from ponder.core.state import State
from ponder.ledger.spend import Spend
from ponder.processes._simulated import drawn, normals, simulated_root


@process("sim_frames")
@dataclass(frozen=True)
class SimFrameChain(Process):
    """Frames of the simulated videos, one function evaluation each.

    Args:
        model: taken so that a study can name it, and never asked.
    """

    model: Model | None = None

    name: ClassVar[str]

    def start(self, problem: Problem, *, label: str = "", meta: Any = None) -> State:
        """A video without frames."""
        return simulated_root(self.name, "rho", problem, label, meta)

    async def extend(
        self, states: Sequence[State], slots: Sequence[Sequence[int]], ctx: Context
    ) -> AsyncIterator[State]:
        """One frame for each slot, drawn from the slot's own seed."""
        for state, slot, new in await drawn(ctx, states, slots, normals):
            world = state.problem.metadata
            quality = world["sd"] * new + (world["rho"] * state.step if state.depth else 0.0)
            finish = "stop" if state.depth + 1 == world["frames"] else None
            yield state.child(slot, quality, n_tokens=1, finish=finish)

    def horizon(self, problem: Problem) -> int:
        """The frames of the problem's video."""
        return int(problem.metadata["frames"])

    def to_finish(self, state: State, ctx: Context) -> Spend:
        """One evaluation for each frame that is left."""
        left = state.problem.metadata["frames"] - state.depth
        return Spend(function_evaluations=left, model_calls=left)

    def output(self, state: State) -> tuple[float, ...]:
        """The qualities of the frames so far."""
        return tuple(state.steps())
