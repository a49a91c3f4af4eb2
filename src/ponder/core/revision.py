"""Revising whole outputs: what an attempt is shown of earlier ones.

On a revising process a step is a whole new attempt. Feedback is a node of its own: `feedback_node(state, …)` hangs a
`Feedback` below a state without spending anything, and attempts drawn from there see it. Strategies say what is to
be seen; the process (`Process.revising`) says how it is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ponder.core.state import State


@dataclass(frozen=True, slots=True)
class Shown:
    """One earlier attempt as it is shown.

    Attributes:
        state: the attempt.
        score: what it is said to have scored; None says nothing.
        comment: what is said about it.
    """

    state: State
    score: float | None = None
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Feedback:
    """A step that adds no attempt but says something.

    Attributes:
        text: a comment on the attempt above; a note by itself if `shown` is given.
        score: what the attempt above is said to have scored.
        shown: the attempts to show instead of those on the path; None leaves those.
    """

    text: str = ""
    score: float | None = None
    shown: tuple[Shown, ...] | None = None

    def __str__(self) -> str:
        score = [] if self.score is None else [f"score {self.score:.3g}"]
        others = [] if self.shown is None else [f"{len(self.shown)} attempts shown"]
        return "; ".join(["feedback", *score, *others, *([self.text] if self.text else [])])


def feedback_node(state: State, name: str, feedback: Feedback, meta: Mapping[str, Any] | None = None) -> State:
    """A child that carries feedback. Names must differ among a state's children: they are part of every later seed."""
    return state.child(
        name, feedback, payload=state.payload, meta=state.meta if meta is None else {**state.meta, **meta}
    )


def is_attempt(state: State) -> bool:
    """Whether a state is an attempt, and not a root or feedback."""
    return state.parent is not None and not isinstance(state.step, Feedback)


def last_attempt(state: State) -> State | None:
    """The attempt at or above a state; None above the first."""
    return next((node for node in state.ancestry() if is_attempt(node)), None)


def attempts(state: State) -> int:
    """How many attempts lie on the path to a state."""
    return sum(map(is_attempt, state.ancestry()))


def seen_from(state: State, most: int) -> tuple[list[Shown], str]:
    """What an attempt drawn from a state sees: at most `most` earlier attempts, oldest first, and a note.

    The nearest feedback with `shown` decides; without one the attempts on the path are shown with the feedback that
    hangs right below each.
    """
    found: list[Shown] = []
    below: Feedback | None = None
    for node in state.ancestry():
        if isinstance(node.step, Feedback):
            if node.step.shown is not None:
                return [*node.step.shown, *reversed(found)], node.step.text
            below = node.step if below is None else below
        elif node.parent is not None:
            if len(found) < most:
                found.append(Shown(node, *((below.score, below.text) if below else (None, ""))))
            below = None
    return found[::-1], below.text if below is not None else ""
