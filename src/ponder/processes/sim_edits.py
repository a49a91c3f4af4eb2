"""Simulated attempts and revisions of bits with known truth (see the task `sim_edits`); counts function evaluations."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ponder.core.context import Context
from ponder.core.model import Model
from ponder.core.problem import Problem
from ponder.core.registry import process
from ponder.core.revision import Shown, feedback_of
from ponder.core.seeds import uniforms
from ponder.core.state import State
from ponder.errors import TaskError
from ponder.processes._whole_attempts import WholeAttempts

_OTHER = {"o": "i", "i": "o"}


@process("sim_edits")
@dataclass(frozen=True)
class SimEditing(WholeAttempts):
    """Attempts at the problems of the task `sim_edits`.

    Args:
        model: taken so that a study can name it, and never asked.
    """

    model: Model | None = None

    name: ClassVar[str]

    def start(self, problem: Problem, *, label: str = "", meta: Any = None) -> State:
        """A root."""
        if "toward" not in problem.metadata:
            raise TaskError(f"the process sim_edits needs problems of the task sim_edits; {problem.id} is none")
        return State(problem, slot=label or 0, meta=meta or {})

    async def extend(
        self, states: Sequence[State], slots: Sequence[Sequence[int]], ctx: Context
    ) -> AsyncIterator[State]:
        """One attempt for each slot, drawn from the slot's own seed."""
        wanted = [(state, slot) for state, own in zip(states, slots, strict=True) for slot in own]
        seeds = [seed for state, own in zip(states, slots, strict=True) for seed in ctx.seeds_for(state, own)]
        bits = len(ctx.problem.reference)
        m, draws = await ctx.evaluate(len(wanted), lambda m: uniforms(seeds[:m], bits))
        for (state, slot), luck in zip(wanted[:m], draws if draws is not None else (), strict=True):
            shown = feedback_of(state).shown
            yield state.child(slot, _attempt(state.problem, shown, luck.tolist()), n_tokens=1, finish="stop")


def _attempt(problem: Problem, shown: Sequence[Shown], luck: Sequence[float]) -> str:
    """Blind, or an edit of the attempt with the highest score that is told; of equals, and without any, the last."""
    truth, world = problem.reference, problem.metadata
    if not shown:
        return "".join("i" if u < 0.5 else "o" for u in luck)
    base = max(reversed(shown), key=lambda s: float("-inf") if s.score is None else s.score).output
    return "".join(
        _OTHER[bit] if u < world["away" if bit == right else "toward"] else bit
        for bit, right, u in zip(base, truth, luck, strict=True)
    )
