"""Revising whole outputs: what an attempt is shown of earlier ones.

On a process that revises (`Process.revising`) a step is a whole new attempt, and a state's children are attempts
that were made knowing what the state says. `feedback_node` hangs a `Feedback` below an attempt without spending
anything; attempts drawn from there see it. Strategies say what is to be seen, the process says how it is told.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ponder.core.state import State


@dataclass(frozen=True, slots=True)
class Shown:
    """One earlier attempt as it is shown.

    Attributes:
        output: the attempt.
        score: what it is said to have scored; None says nothing.
        comment: what is said about it.
    """

    output: Any
    score: float | None = None
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Feedback:
    """A step that adds no attempt but says what the next ones see.

    Attributes:
        shown: earlier attempts; the last is the most important, the first is left out first where room is short.
        note: what is said beside them.
    """

    shown: tuple[Shown, ...] = ()
    note: str = ""

    def __str__(self) -> str:
        scores = ", ".join("?" if s.score is None else f"{s.score:.3g}" for s in self.shown)
        return "; ".join(part for part in (f"shown: {scores}" if scores else "", self.note) if part) or "feedback"


def feedback_node(state: State, name: str, feedback: Feedback, meta: Mapping[str, Any] | None = None) -> State:
    """A child that carries feedback; `meta` is added to the state's.

    Names must differ among a state's children: they are part of every later seed.
    """
    return state.child(
        name, feedback, payload=state.payload, meta=state.meta if meta is None else {**state.meta, **meta}
    )


def feedback_of(state: State) -> Feedback:
    """What attempts drawn from a state see; nothing below a root."""
    return state.step if isinstance(state.step, Feedback) else Feedback()


def is_attempt(state: State) -> bool:
    """Whether a state is an attempt, and not a root or feedback."""
    return state.parent is not None and not isinstance(state.step, Feedback)


def attempts(state: State) -> int:
    """How many attempts lie on the path to a state."""
    return sum(map(is_attempt, state.ancestry()))


def told(score: float) -> float | None:
    """A score as it is shown: None where there is none."""
    return score if math.isfinite(score) else None
