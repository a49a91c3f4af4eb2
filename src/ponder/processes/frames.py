"""Videos frame by frame, with a model of single pictures: each next frame is the last one, partly noised and denoised.

Nothing is trained for it: the forward process takes a frame back to where a share `motion` of the steps is still to be
done, and the model denoises it from there, so frames resemble each other the more, the smaller `motion` is. A child is
a whole frame, conditioned on the path's history; prefixes are shared by all their continuations.

`Spend.function_evaluations` counts the model's predictions; a first frame needs `steps`, another that share.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from ponder.core.answers import fingerprint
from ponder.core.arrays import pack_output, unpack_output
from ponder.core.cache import whole_draw_key
from ponder.core.context import Context
from ponder.core.model import Model
from ponder.core.problem import Problem
from ponder.core.process import Process
from ponder.core.registry import canonical, process
from ponder.core.state import Slot, State
from ponder.diffusion import solvers
from ponder.diffusion.schedule import Floats
from ponder.errors import ParameterError
from ponder.ledger.spend import Spend
from ponder.processes.denoising import Denoising


@dataclass(frozen=True, slots=True)
class Frame:
    """What a state carries: its own frame's latents, and the picture; None if they are not finite."""

    x: Floats
    output: Any


@process("frames")
@dataclass(frozen=True)
class Frames(Process):
    """Autoregressive videos.

    Args:
        model: of single pictures: `diffusers:digits`, …; not a combined one.
        frames: pictures of a video.
        steps: timesteps of a first frame.
        motion: share of the steps that a further frame repeats, in (0, 1]; 1 forgets the frame before.
    """

    model: Model
    frames: int = 8
    steps: int = 10
    motion: float = 0.5
    _pictures: Denoising = field(init=False, repr=False, compare=False)

    name: ClassVar[str]

    def __post_init__(self) -> None:
        for name in ("frames", "steps"):
            if getattr(self, name) < 1:
                raise ParameterError(self, name, getattr(self, name), allowed="an integer ≥ 1")
        if not 0 < self.motion <= 1 or round(self.motion * self.steps) < 1:
            raise ParameterError(self, "motion", self.motion, allowed="in (0, 1], and at least one of the steps")
        object.__setattr__(self, "_pictures", Denoising(self.model, steps=self.steps, solver="ddim"))

    def __str__(self) -> str:
        return canonical(self)

    @property
    def identity(self) -> str:
        """Its settings and the model's identity."""
        return f"{self} {self.model.identity}"

    async def extend(
        self, states: Sequence[State], slots: Sequence[Sequence[int]], ctx: Context
    ) -> AsyncIterator[State]:
        """One frame for each slot; all frames that start at the same level in the same batches."""
        wanted = [(state, slot) for state, own in zip(states, slots, strict=True) for slot in own]
        made = await ctx.evaluate_once(
            [self._key(state, slot, ctx) if ctx.storing else None for state, slot in wanted],
            lambda fresh: self._made([wanted[i] for i in fresh], ctx),
            costs=[self._cost(state) for state, _ in wanted],
            pack=lambda frame: pack_output(frame.x, frame.output),
            unpack=lambda _, data: Frame(*unpack_output(data)[:2]),
        )
        for (state, slot), frame in zip(wanted, made, strict=False):
            if frame.output is None:
                error = f"the denoiser gave numbers that are not finite in frame {state.depth + 1} of {self.frames}"
                yield state.child(slot, None, finish="error", error=error)
                continue
            finish = "stop" if state.depth + 1 == self.frames else None
            label = f"{state.depth + 1}/{self.frames} {fingerprint(frame.x)}"
            yield state.child(slot, label, payload=frame, n_tokens=1, finish=finish)

    def _key(self, state: State, slot: Slot, ctx: Context) -> bytes:
        """What decides a frame: nothing is ever given to a path, so its place does."""
        return whole_draw_key(self.identity, state.problem, ctx.seeds_for(state, [slot])[0])

    def _first(self, state: State) -> int:
        """The index of the schedule from which the next frame is denoised."""
        return self._pictures.schedule.index_of(self.motion) if state.depth else 0

    def _cost(self, state: State) -> Spend:
        steps = self.steps - self._first(state)
        calls = steps * self._pictures.denoiser.denoiser_calls
        return Spend(function_evaluations=steps, model_calls=calls, transitions=steps)

    def _made(self, wanted: Sequence[tuple[State, Slot]], ctx: Context) -> list[Frame]:
        pictures, made = self._pictures, dict[int, Frame]()
        schedule, model, condition = pictures.schedule, pictures.denoiser, pictures.condition(wanted[0][0].problem)
        for first in dict.fromkeys(self._first(state) for state, _ in wanted):
            own = [i for i, (state, _) in enumerate(wanted) if self._first(state) == first]
            rngs = [ctx.rng("frames", *wanted[i][0].path, wanted[i][1]) for i in own]
            if first == 0:
                noise = np.stack([rng.standard_normal(model.start_shape) for rng in rngs])
                x = model.start(noise, schedule)
            else:
                noise = np.stack([rng.standard_normal(model.latent_shape) for rng in rngs])
                before = np.stack([wanted[i][0].payload.x for i in own])
                x = solvers.renoise(before, pictures.level(self.steps), pictures.level(first), noise)
            for index in range(first, self.steps):
                a, s, t = (np.full(len(x), v[index]) for v in (schedule.a, schedule.s, schedule.t))
                found = model.predict(x, a, s, t, condition)
                now, then = pictures.level(index), pictures.level(index + 1)
                fresh = np.stack([rng.standard_normal(model.latent_shape) for rng in rngs])
                x = solvers.ddim(found.x0, found.eps, now, then, 1.0, fresh)
            for i, frame in zip(own, x, strict=True):
                made[i] = Frame(frame, model.decode(frame) if np.isfinite(frame).all() else None)
        return [made[i] for i in range(len(wanted))]

    def horizon(self, problem: Problem) -> int:
        """The frames of a video."""
        return self.frames

    def to_finish(self, state: State, ctx: Context) -> Spend:
        """What the frames that are left need."""
        left = self.frames - state.depth
        further = self._cost(state.child("next", None))
        return (self._cost(state) + further.times(left - 1)) if left else Spend()

    def output(self, state: State) -> Floats:
        """The frames so far, (d, …)."""
        path = [node.payload.output for node in state.ancestry() if node.parent is not None][::-1]
        return np.stack(path) if path else np.empty((0,))
