"""What simulated processes share: roots of their own task's problems, and numbers drawn from the seeds of slots."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import Any, TypeVar

from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.core.seeds import SEED_BITS
from ponder.core.state import State
from ponder.errors import TaskError

T = TypeVar("T")
_NORMAL = NormalDist()


def simulated_root(name: str, key: str, problem: Problem, label: str, meta: Mapping[str, Any] | None) -> State:
    """A root.

    Raises:
        TaskError: the problem's metadata lack `key`, so it is none of the task `name`.
    """
    if key not in problem.metadata:
        raise TaskError(f"the process {name} needs problems of the task {name}; {problem.id} is none")
    return State(problem, slot=label or 0, meta=meta or {})


async def drawn(
    ctx: Context, states: Sequence[State], slots: Sequence[Sequence[int]], numbers: Callable[[list[int]], Sequence[T]]
) -> Iterator[tuple[State, int, T]]:
    """For each slot that the budget allows: its state, itself, and what `numbers` makes of its own seed."""
    wanted = [(state, slot) for state, own in zip(states, slots, strict=True) for slot in own]
    seeds = [seed for state, own in zip(states, slots, strict=True) for seed in ctx.seeds_for(state, own)]
    m, found = await ctx.evaluate(len(wanted), lambda m: numbers(seeds[:m]))
    return ((state, slot, x) for (state, slot), x in zip(wanted[:m], found if m else (), strict=True))


def normals(seeds: Sequence[int]) -> list[float]:
    """A standard normal number from each seed."""
    return [_NORMAL.inv_cdf((seed + 0.5) / (1 << SEED_BITS)) for seed in seeds]
