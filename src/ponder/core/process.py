"""Anything that builds an output step by step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ponder.core.problem import Problem
from ponder.core.registry import PROCESSES, REGISTRY_OF
from ponder.core.state import State, root
from ponder.errors import CapabilityError
from ponder.ledger.spend import Spend

if TYPE_CHECKING:
    from ponder.core.context import Context


class Process(ABC):
    """Turns a problem into a tree of states.

    A strategy never calls a process itself: it asks its `Context`, which passes itself along, so
    that whatever the process spends (model calls through `ctx.generate`, function evaluations
    through `ctx.evaluate`) is counted, limited, cached and seeded.
    """

    name: ClassVar[str] = ""
    takes_given: ClassVar[bool] = False
    """Whether `extend` takes what `ctx.given` holds for `(state, slot)` instead of drawing it."""
    autoregressive: ClassVar[bool] = True
    """Whether a step adds a part to the output, and does not work on all of it."""
    draws_whole: ClassVar[bool] = False
    """Whether a plain draw asks for the whole output in one step (`ctx.to_end`): a budget buys whole outputs."""

    def start(self, problem: Problem, *, label: str = "", meta: Mapping[str, Any] | None = None) -> State:
        """The root of a problem's tree; `label` tells roots with different `meta` apart."""
        return root(problem, label=label, meta=meta)

    @abstractmethod
    def extend(self, states: Sequence[State], slots: Sequence[Sequence[int]], ctx: Context) -> AsyncIterator[State]:
        """Yield children as they are ready: for `states[i]`, one child for each slot in `slots[i]`.

        All states are given at once so that a backend can batch them. A child that failed for good
        is yielded with `finish="error"` and `error` set. What a budget does not allow is left out.
        """

    def branch(self, states: Sequence[State], ctx: Context, *, most: int) -> AsyncIterator[tuple[State, list[State]]]:
        """Yield each state with its likeliest next steps as children, likeliest first, all from one call per state.

        Children carry the log-probability of their step and slots by rank; at most `most` each.

        Raises:
            CapabilityError: the process cannot list its next steps.
        """
        raise CapabilityError(
            f"the process {self.name or type(self).__name__} cannot list its next steps, only draw them"
        )

    @property
    def proposes(self) -> bool:
        """Whether it lists all children of a state in one call, when the state's settings say `propose`."""
        return False

    @property
    def stochastic(self) -> bool:
        """Whether a state may have different children."""
        return True

    def done(self, state: State) -> bool:
        """Whether a state cannot be extended."""
        return state.finish is not None

    def horizon(self, problem: Problem) -> int | None:
        """The most steps that an output can have; None if there is no limit."""
        return None

    def to_finish(self, state: State, ctx: Context) -> Spend:
        """The most that finishing this state in one stretch can cost, for searches that keep it in reserve.

        The default says nothing is known, so nothing is kept.
        """
        return Spend()

    def complete(self, state: State) -> bool:
        """Whether a state is an output that may be chosen; processes that revise whole outputs say so before the end.

        The default is `done`.
        """
        return self.done(state)

    def revising(self) -> Process:
        """The process whose steps are whole new attempts at the same problem, for strategies that revise outputs.

        What such a step is shown of earlier ones is in `ponder.core.revision`.

        Raises:
            CapabilityError: whole outputs of this process cannot be revised.
        """
        raise CapabilityError(
            f"the process {self.name or type(self).__name__} cannot revise whole outputs. Use text_steps with a "
            "language model, a process with a revising form, or a strategy that works on its steps."
        )

    def measure(self, state: State) -> tuple[float | None, int]:
        """Log-probability (nats, None if unknown) and tokens of what `output` gives; by default those of all steps."""
        return state.total_logprob(), state.total_tokens()

    @abstractmethod
    def output(self, state: State) -> Any:
        """The finished output that a leaf stands for."""

    @property
    def identity(self) -> str:
        """Text that changes whenever the same seed could build something else."""
        return self.name


REGISTRY_OF[Process] = PROCESSES
