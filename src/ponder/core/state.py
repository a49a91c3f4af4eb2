"""One node of the tree that a run is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ponder.core.problem import Problem

Slot = int | str


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """An immutable node: what one step added to its parent.

    Args:
        problem: what is being solved.
        parent: the node this one extends; None for a root.
        slot: which child of its parent it is; with the parents' slots this makes the `path`.
        step: what this node adds (a piece of text, a vector, a tactic); None for a root.
        logprob: log-probability of the step given the parent, in nats; None if unknown.
        n_tokens: tokens (or other units of sequential work) of this step.
        log_weight: what the step adds to a particle's log-weight beyond the verifier's potential.
        payload: what the process needs to go on (never changed in place).
        meta: settings of this node; children inherit them and may override.
        finish: set when the node cannot be extended: why it ended.
        error: set if the step failed for good.
    """

    problem: Problem
    parent: State | None = None
    slot: Slot = 0
    step: Any = None
    logprob: float | None = None
    n_tokens: int = 0
    log_weight: float = 0.0
    payload: Any = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    finish: str | None = None
    error: str | None = None
    depth: int = 0
    _path: tuple[Slot, ...] | None = field(default=None, init=False, repr=False)

    @property
    def path(self) -> tuple[Slot, ...]:
        """Slots from the root to here; with seed and problem id it names every draw. Worked out once."""
        if self._path is None:
            slots: list[Slot] = []
            node: State | None = self
            while node is not None and node._path is None:
                if node.parent is not None or node.slot != 0:
                    slots.append(node.slot)
                node = node.parent
            known = None if node is None else node._path
            object.__setattr__(self, "_path", (*(known or ()), *reversed(slots)))
        return self._path or ()

    def ancestry(self) -> Iterator[State]:
        """This node, its parent, and so on up to the root."""
        node: State | None = self
        while node is not None:
            yield node
            node = node.parent

    def steps(self) -> list[Any]:
        """What was added from the root to here, in order; the root's None is left out."""
        found: list[Any] = []
        node, parent = self, self.parent
        while parent is not None:
            found.append(node.step)
            node, parent = parent, parent.parent
        found.reverse()
        return found

    def total_logprob(self) -> float | None:
        """Sum of the steps' log-probabilities; None if any is unknown."""
        total = 0.0
        node, parent = self, self.parent
        while parent is not None:
            if node.logprob is None:
                return None
            total += node.logprob
            node, parent = parent, parent.parent
        return total

    def total_tokens(self) -> int:
        """Sum of the steps' tokens."""
        total = 0
        node: State | None = self
        while node is not None:
            total += node.n_tokens
            node = node.parent
        return total

    def child(self, slot: Slot, step: Any, **changes: Any) -> State:
        """A node that adds `step`; `meta` is inherited unless given."""
        changes.setdefault("meta", self.meta)
        return State(self.problem, self, slot, step, depth=self.depth + 1, **changes)


def root(problem: Problem, *, label: str = "", payload: Any = None, meta: Mapping[str, Any] | None = None) -> State:
    """A tree's first node. Roots of one problem that differ in `meta` need different labels."""
    return State(problem, slot=label or 0, payload=payload, meta=meta or {})
