"""Simulated reasoning: one step call per step, and the truth is known (see the task `sim_tree`)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ponder.core.context import Context
from ponder.core.model import Model
from ponder.core.problem import Problem
from ponder.core.process import Process
from ponder.core.registry import process
from ponder.core.seeds import uniforms
from ponder.core.state import State
from ponder.errors import TaskError
from ponder.ledger.spend import Spend
from ponder.tasks.sim_tree import RIGHT

_WRONG = np.cumsum([0.4, 0.3, 0.2, 0.1])
_NEEDED = ("survival", "trap", "depth", "step_tokens")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a state is: whether every step stayed right, the answer it leads to, whether it looks too good."""

    alive: bool = True
    answer: str = RIGHT
    trapped: bool = False


@process("sim_tree")
@dataclass(frozen=True)
class SimTreeSteps(Process):
    """Steps of the simulated problems of the task `sim_tree`; counts function evaluations.

    Args:
        model: taken so that a study can name it, and never asked.
    """

    model: Model | None = None

    name: ClassVar[str]

    def start(self, problem: Problem, *, label: str = "", meta: Any = None) -> State:
        """A root on which everything is still right."""
        missing = [name for name in _NEEDED if name not in problem.metadata]
        if missing:
            raise TaskError(
                f"the process sim_tree needs problems of the task sim_tree; {problem.id} has no {missing[0]}"
            )
        return State(problem, slot=label or 0, payload=Place(), meta=meta or {})

    async def extend(
        self, states: Sequence[State], slots: Sequence[Sequence[int]], ctx: Context
    ) -> AsyncIterator[State]:
        """One step for each slot, drawn from the slot's own seed."""
        wanted = [(state, slot) for state, own in zip(states, slots, strict=True) for slot in own]
        seeds = [seed for state, own in zip(states, slots, strict=True) for seed in ctx.seeds_for(state, own)]
        m, draws = await ctx.evaluate(len(wanted), lambda m: uniforms(seeds[:m], 4).tolist())
        for (state, slot), (luck, lure, which, wording) in zip(wanted[:m], draws or [], strict=True):
            world, place = state.problem.metadata, state.payload
            if place.alive and luck >= _survival(world, state.meta):
                answer = f"wrong {int(np.searchsorted(_WRONG, which * _WRONG[-1], side='right')) + 1}"
                place = Place(False, answer, lure < world["trap"])
            depth = state.depth + 1
            yield state.child(
                slot,
                f"step {depth}, thought {_thought(ctx, state, world, luck, wording)}",
                payload=place,
                n_tokens=world["step_tokens"],
                finish="stop" if depth == world["depth"] else None,
            )

    def horizon(self, problem: Problem) -> int:
        """The depth of the problem's tree."""
        return int(problem.metadata["depth"])

    def to_finish(self, state: State, ctx: Context) -> Spend:
        """One evaluation for each step that is left."""
        left = state.problem.metadata["depth"] - state.depth
        return Spend(function_evaluations=left, model_calls=left)

    def output(self, state: State) -> str | None:
        """The answer of a finished state; None before."""
        return state.payload.answer if state.finish == "stop" else None


def _survival(world: Mapping[str, Any], meta: Mapping[str, Any]) -> float:
    """The chance that a step stays right, of the state's variant where the problem tells variants apart."""
    own: Mapping[str, float] = world.get("survival_of") or {}
    variant = meta.get("variant", next(iter(own), None))
    if own and variant not in own:
        raise TaskError(f"the simulated problem knows no variant {variant!r}, only {', '.join(own)}")
    return own[variant] if variant in own else float(world["survival"])


def _thought(ctx: Context, parent: State, world: Mapping[str, Any], luck: float, wording: float) -> str:
    """A thought's text: its own, or one of its parent's few paraphrases."""
    ways = world.get("paraphrases", 0)
    if not ways:
        return f"{int(luck * 1e6):06d}"
    (seed,) = ctx.seeds(1, "paraphrase", *parent.path, int(wording * ways))
    return f"{seed:010d}"
