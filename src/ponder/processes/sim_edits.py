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
from ponder.processes._simulated import drawn, simulated_root
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
        return simulated_root(self.name, "toward", problem, label, meta)

    async def extend(
        self, states: Sequence[State], slots: Sequence[Sequence[int]], ctx: Context
    ) -> AsyncIterator[State]:
        """One attempt for each slot, drawn from the slot's own seed."""
        bits = len(ctx.problem.reference)
        for state, slot, luck in await drawn(ctx, states, slots, lambda seeds: list(uniforms(seeds, bits))):
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
