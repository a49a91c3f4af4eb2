"""Denoising: from noise to data by the steps of a sampler, as a tree like any other process.

A child of the root is a draw of pure noise; every further step goes `macro` timesteps towards the data. Each state
that is not finished carries the model's prediction, so that all its children share one evaluation and verifiers see
the data it expects (`output` of an unfinished state). Randomness belongs to the edge: the noise of a child depends on
the seed, the problem and the child's place, and is kept with it, so that a run can be replayed or varied by giving
noise (`ctx.extend(…, given=…)`).

`Spend.function_evaluations` counts predictions, `Spend.transitions` timesteps taken (what papers call NFE), and
`Spend.model_calls` the network evaluations behind the predictions (two for each with guidance).

Finished outputs are stored, `batch` of them at a time, under what decides them; unfinished states are not: a search
that is ended in the middle of a problem begins it anew, its finished outputs apart.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any, ClassVar, Literal

import numpy as np

from ponder.core.answers import fingerprint
from ponder.core.arrays import pack_output, unpack_output
from ponder.core.cache import content_key, prompt_key, whole_draw_key
from ponder.core.context import Context
from ponder.core.model import Model
from ponder.core.problem import Problem
from ponder.core.process import Process
from ponder.core.registry import canonical, process
from ponder.core.state import Slot, State
from ponder.diffusion import solvers
from ponder.diffusion.model import DiffusionModel, Prediction
from ponder.diffusion.schedule import Floats, Schedule
from ponder.diffusion.stepping import Stepper
from ponder.errors import CapabilityError, NotStochasticError, ParameterError
from ponder.ledger.spend import Spend

Solver = Literal["auto", "ddim", "euler", "heun", "flow_sde", "exact", "corrected"]


@dataclass(frozen=True, slots=True)
class Latent:
    """What a state of a denoising process carries. Arrays are never changed in place.

    Attributes:
        x: the latents.
        index: where they are in the schedule: 0 is pure noise, `steps` the data.
        noise: standard normal numbers that made it: of the start (also of a whole draw), or (timesteps, …) of its
            steps; None where there were none.
        prediction: the model's, of n = 1; None for a finished state.
        output: of a finished state; else None.
    """

    x: Floats
    index: int
    noise: Floats | None
    prediction: Prediction | None
    output: Any = None

    @property
    def x0(self) -> Floats:
        """The data it expects; its own latents once it is finished."""
        expected: Floats = self.x if self.prediction is None else self.prediction.x0[0]
        return expected


@dataclass(frozen=True, slots=True)
class At:
    """Given to `ctx.extend` in place of a step: a child with these latents at this index, made from this noise."""

    x: Floats
    index: int
    noise: Floats | None = None


@dataclass
class _Move:
    """One child on its way."""

    parent: State
    slot: Slot
    end: int
    latent: Latent
    noises: Floats | None = None
    log_weight: float = 0.0
    starts: bool = False
    finite: bool = True
    drawn: bool = False
    """Whether it is drawn from pure noise by its own seed, so that its place decides it."""


@process("denoising")
@dataclass(frozen=True)
class Denoising(Process):
    """Noise to data, `macro` timesteps at a time.

    Args:
        model: predicts; `diffusers:digits`, `gmm:ring`, a `ponder.diffusion.model.FunctionModel`, ….
        steps: timesteps from noise to data.
        macro: timesteps of one step of the tree; searches over trees want 3 to 8 steps in all.
        solver: `ddim`; `euler` (the ODE, `ddim` with eta=0); `heun` (second order, two evaluations a step); `flow_sde`
            (for flow matching); `exact` (the true reverse kernel, where the model knows it); `corrected` (the guided
            SDE of a combined model, with weights). `auto` takes `corrected` or `exact` where the model has them,
            else `ddim`.
        eta: noise of `ddim`, from 0 (deterministic) to 1 (ancestral sampling).
        nu: noise of `corrected`, > 0.
        batch: most states in one call of the model.
    """

    model: Model
    steps: int = 20
    macro: int = 1
    solver: Solver = "auto"
    eta: float = 1.0
    nu: float = 1.0
    batch: int = 256
    _conditions: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    name: ClassVar[str]
    takes_given: ClassVar[bool] = True
    draws_whole: ClassVar[bool] = True
    autoregressive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        model = self.model
        if not isinstance(model, DiffusionModel):
            raise CapabilityError(f"the process denoising needs a diffusion model; {model} writes text")
        for name in ("steps", "macro", "batch"):
            if getattr(self, name) < 1:
                raise ParameterError(self, name, getattr(self, name), allowed="an integer ≥ 1")
        if not 0 <= self.eta <= 1:
            raise ParameterError(self, "eta", self.eta, allowed="in [0, 1]")
        if self.nu <= 0:
            raise ParameterError(self, "nu", self.nu, allowed="a number > 0", hint="0 would make copies identical")
        if self.method == "exact" and not model.exact:
            raise CapabilityError(f"{self}: {model} does not know its exact reverse kernel; use solver=ddim")
        if (self.method == "corrected") != model.corrected:
            raise CapabilityError(
                f"{self}: solver=corrected is for combined models, and they need it; {model} is given"
            )
        if self.method == "flow_sde" and not self.schedule.is_flow:
            raise CapabilityError(f"{self}: {model} is not a flow-matching model; use solver=ddim(eta=1)")

    def __str__(self) -> str:
        return canonical(self)

    @property
    def identity(self) -> str:
        """Its settings and the model's identity."""
        return f"{self} {self.model.identity}"

    # ------------------------------------------------------------------ what others may ask

    @property
    def denoiser(self) -> DiffusionModel:
        """The model, known to predict."""
        assert isinstance(self.model, DiffusionModel)
        return self.model

    @property
    def method(self) -> str:
        """The solver in use."""
        if self.solver != "auto":
            return self.solver
        return "corrected" if self.denoiser.corrected else "exact" if self.denoiser.exact else "ddim"

    @property
    def stochastic(self) -> bool:
        """Whether a step may have different children."""
        return self.method not in ("euler", "heun") and not (self.method == "ddim" and self.eta == 0)

    @cached_property
    def schedule(self) -> Schedule:
        """The tables in use."""
        return self.denoiser.schedule(self.steps)

    def level(self, index: int) -> tuple[float, float]:
        """Factor of the data and standard deviation of the noise, (a, s), at an index."""
        schedule = self.schedule
        return float(schedule.a[index]), float(schedule.s[index])

    def step_deviation(self, index: int) -> float:
        """Standard deviation of the noise that an ancestral step adds to a state at this index.

        That of the state one step on, given this one and the data, times `eta` for the solver `ddim`; 0 at the last.
        """
        (a, s), (a2, s2) = self.level(index), self.level(index + 1)
        between = s**2 - (a / a2) ** 2 * s2**2
        return (self.eta if self.method == "ddim" else 1.0) * s2 / s * float(np.sqrt(max(between, 0.0)))

    def cost_from(self, index: int) -> Spend:
        """Of a state that is placed at an index (`At`) and finished."""
        return self._spend(index, self.steps, extra=1)

    def renoised(self, state: State, index: int, noise: Floats) -> At:
        """A state taken back to a noisier index by the forward process; `noise` is standard normal, of its shape.

        Raises:
            ParameterError: the index is not noisier than the state's.
        """
        latent: Latent = state.payload
        if not 0 <= index < latent.index:
            raise ParameterError(
                self, "index", index, allowed=f"at least 0 and noisier than the state's {latent.index}"
            )
        return At(solvers.renoise(latent.x, self.level(latent.index), self.level(index), noise), index)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the standard normal noise of one timestep."""
        return self.denoiser.start_shape if self.method == "exact" else self.denoiser.latent_shape

    def condition(self, problem: Problem) -> Any:
        """What the model takes for the problem's prompt."""
        key = f"{problem.id}\x1f{problem.prompt}"
        if key not in self._conditions:
            self._conditions[key] = self.denoiser.encode(problem.prompt)
        return self._conditions[key]

    # ------------------------------------------------------------------ the process

    async def extend(
        self, states: Sequence[State], slots: Sequence[Sequence[int]], ctx: Context
    ) -> AsyncIterator[State]:
        """One child for each slot, all children of all states in the same batches."""
        moves = [
            self._move(state, slot, ctx, len(own)) for state, own in zip(states, slots, strict=True) for slot in own
        ]
        self._start([move for move in moves if move.starts])
        for first in range(0, len(moves), self.batch):
            part = moves[first : first + self.batch]
            done = await self._done(part, ctx)
            for move in done:
                yield self._child(move)
            if len(done) < len(part):  # the budget is used up
                return

    async def _done(self, moves: list[_Move], ctx: Context) -> list[_Move]:
        """The first children that the budget allows, at their ends: computed, or as they were stored."""

        def restored(i: int, data: bytes) -> _Move:
            x, output, log_weight = unpack_output(data)
            latent = replace(moves[i].latent, x=x, index=self.steps, output=output)
            return replace(moves[i], latent=latent, log_weight=log_weight)

        price = cache(self._spend)
        return await ctx.evaluate_once(
            [self._key(move, ctx) if ctx.storing else None for move in moves],
            lambda fresh: self._advance([moves[i] for i in fresh]),
            costs=[price(move.latent.index, move.end, self._unseen(move.latent)) for move in moves],
            pack=lambda move: pack_output(move.latent.x, move.latent.output, move.log_weight),
            unpack=restored,
        )

    def _key(self, move: _Move, ctx: Context) -> bytes | None:
        """What decides a finished output; None for a child that will not be finished, or is so already."""
        latent, problem = move.latent, move.parent.problem
        if move.end < self.steps or latent.index == self.steps:
            return None
        if move.drawn:
            return whole_draw_key(self.identity, problem, ctx.seeds_for(move.parent, [move.slot])[0])
        noises = b"" if move.noises is None else move.noises.tobytes()
        return content_key(
            "output", self.identity, prompt_key(problem.prompt), str(latent.index), latent.x.tobytes(), noises
        )

    def done(self, state: State) -> bool:
        """Whether it is data (or failed)."""
        return state.finish is not None

    def horizon(self, problem: Problem) -> int:
        """The draw of noise and the steps after it."""
        return 1 + -(-self.steps // self.macro)

    def to_finish(self, state: State, ctx: Context) -> Spend:
        """The evaluations and timesteps that are left."""
        if state.payload is None:
            return self._spend(0, self.steps, extra=1)
        return self._spend(state.payload.index, self.steps)

    def output(self, state: State) -> Any:
        """The output; for an unfinished state what the model expects it to become; None for a root."""
        latent: Latent | None = state.payload
        if latent is None or latent.output is not None:
            return latent and latent.output
        return self.denoiser.decode(latent.x0)

    # ------------------------------------------------------------------ steps

    def _move(self, state: State, slot: Slot, ctx: Context, siblings: int) -> _Move:
        given, at = ctx.given.get((state, slot)), state.payload
        if isinstance(given, At):
            x = np.asarray(given.x, dtype=float)
            if x.shape != self.denoiser.latent_shape or not 0 <= given.index <= self.steps:
                allowed = f"latents {self.denoiser.latent_shape} at an index from 0 to {self.steps}"
                raise ParameterError(self, "given", (x.shape, given.index), allowed=allowed)
            return _Move(state, slot, given.index, Latent(x, given.index, given.noise, None))
        if at is None:
            rng = ctx.rng("denoising", *state.path, slot)
            noise = self._noise(given, self.denoiser.start_shape, rng)
            end = self.steps if ctx.to_end else 0
            noises = self._noise(None, (end, *self.noise_shape), rng) if self.stochastic else None
            latent = Latent(noise, 0, noise, None)
            return _Move(state, slot, end, latent, noises, starts=True, drawn=given is None)
        if siblings > 1 and not self.stochastic and given is None:
            raise NotStochasticError(
                f"{self} takes deterministic steps, so the {siblings} children asked of one state would be the same. "
                "Use eta=1, solver=flow_sde or solver=exact, or a search over the starting noise (best_of_n, "
                "zero_order_search)"
            )
        end = self.steps if ctx.to_end else min(at.index + self.macro, self.steps)
        shape = (end - at.index, *self.noise_shape)
        noises = self._noise(given, shape, ctx.rng("denoising", *state.path, slot)) if self.stochastic else None
        return _Move(state, slot, end, replace(at, noise=noises), noises)

    def _noise(self, given: Any, shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
        if given is None:
            return rng.standard_normal(shape)
        noise = np.asarray(given, dtype=float)
        if noise.shape != shape:
            raise ParameterError(
                self, "given noise", noise.shape, allowed=f"of shape {shape}, or latents: At(x, index)"
            )
        return noise

    def _start(self, moves: Sequence[_Move]) -> None:
        """Make latents of the noise of new draws."""
        if not moves:
            return
        x = self.denoiser.start(np.stack([move.latent.x for move in moves]), self.schedule)
        weights = self.denoiser.start_log_weight(x, self.schedule)
        for move, own, weight in zip(moves, x, weights.tolist(), strict=True):
            move.latent, move.log_weight = Latent(own, 0, move.latent.noise, None), weight

    def _unseen(self, latent: Latent) -> bool:
        """Whether the model has yet to predict for it."""
        return latent.prediction is None and latent.index < self.steps

    def _spend(self, start: int, end: int, extra: int = 0) -> Spend:
        """Of one child: predictions at every index on its way that is not the last, and `extra` at the first."""
        inner = max(min(end, self.steps - 1) - start, 0)
        evaluations = inner * (2 if self.method == "heun" else 1) + extra
        return Spend(
            function_evaluations=evaluations,
            model_calls=evaluations * self.denoiser.denoiser_calls,
            transitions=end - start,
        )

    def _advance(self, moves: list[_Move]) -> list[_Move]:
        """Take all children to their ends, one timestep of all of them at a time."""
        condition = self.condition(moves[0].parent.problem)
        stepper = Stepper(self.denoiser, self.schedule, self.method, self.eta, self.nu, self.batch, condition)
        at = stepper.walk(
            np.stack([move.latent.x for move in moves]),
            np.asarray([move.latent.index for move in moves]),
            np.asarray([move.end for move in moves]),
            [move.latent.prediction for move in moves],
            [move.noises for move in moves],
        )
        for i, (move, index, gained, finite) in enumerate(
            zip(moves, at.index.tolist(), at.gained.tolist(), at.finite.tolist(), strict=True)
        ):
            prediction = at.predictions.rows(slice(i, i + 1)) if index < self.steps else None
            output = self.denoiser.decode(at.x[i]) if index == self.steps and finite else None
            move.latent = Latent(at.x[i], index, move.latent.noise, prediction, output)
            move.log_weight, move.finite = move.log_weight + gained, finite
        return moves

    def _child(self, move: _Move) -> State:
        latent, before = move.latent, move.parent.payload
        if not move.finite:
            error = f"the denoiser gave numbers that are not finite at step {latent.index} of {self.steps}"
            return move.parent.child(move.slot, None, payload=latent, finish="error", error=error)
        taken = latent.index - (0 if before is None else before.index)
        return move.parent.child(
            move.slot,
            f"{latent.index}/{self.steps} {fingerprint(latent.x)}",
            payload=latent,
            n_tokens=max(taken, 1),
            log_weight=move.log_weight,
            finish="stop" if latent.index == self.steps else None,
        )


def denoising_of(owner: object, ctx: Context) -> Denoising:
    """The context's process, for strategies that only make sense on noise.

    Raises:
        CapabilityError: it is another kind of process.
    """
    found = ctx.process
    if not isinstance(found, Denoising):
        name = getattr(owner, "name", owner)
        raise CapabilityError(f"{name} searches over noise: it needs the process denoising, not {found.name}")
    return found
