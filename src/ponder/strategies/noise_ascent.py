"""Noise ascent: follow the gradient of the reward in the starting noise of a few-step generator, from several seeds.

Paper    Kasaei et al. 2025, "CARINOX"; Eyring et al. 2024, "ReNO" (one seed, one summed reward).
Equal    The gradient of each reward plus the regulariser K, which keeps the norm of the noise where normal noise has
         it, is clipped by itself, then their sum; Nesterov steps; the best output of all iterations and seeds is kept.
         No step after the last evaluation.
Differs  All seeds climb in the same batches. The best is chosen by the weighted total (`select=unweighted`: the
         released code). A gradient that is not finite makes no step and halves the seed's rate; the third one ends the
         seed. Where model, steps or reward give no gradients, two draws at opposite perturbations estimate one (SPSA).
Needs    The process `denoising`; gradients want a deterministic solver, a model with `predict_tensors` and rewards with
         `score_tensors`.    Cost: n outputs and scores; an output with a gradient counts three times its evaluations
         (forward once, backward twice) and two scores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np

from ponder.core.context import Context
from ponder.core.level_loop import scorer, shared_out
from ponder.core.problem import Problem
from ponder.core.registry import VERIFIERS, strategy
from ponder.core.search_tree import Score, Search, SearchTree, scored, search_result
from ponder.core.state import State
from ponder.core.strategy import Result, Strategy
from ponder.core.verifier import Verifier
from ponder.diffusion.gradients import clipped, norm_penalty, require_gradients, reward_gradients, reward_of
from ponder.diffusion.schedule import Floats
from ponder.errors import GradientUnavailableError, ParameterError
from ponder.ledger.spend import Spend
from ponder.processes.denoising import At, Denoising, denoising_of
from ponder.verifiers.category_weighted import CategoryWeighted

_MOST_FAILURES = 3


@strategy(
    "noise_ascent", aliases=("carinox", "reno"), what="hybrid", how="search, verification:outcome",
    where="generation_image",
)  # fmt: skip
@dataclass(frozen=True)
class NoiseAscent(Strategy):
    """Climb the reward in the space of starting noises.

    Args:
        n: outputs in all, over all seeds; None takes the number from the study's sample axis.
        restarts: seeds that climb (the papers: 5; ReNO: 1), each with its share of the outputs.
        lr: learning rate (the papers: 5.0).
        momentum: of the Nesterov steps, in [0, 1).
        clip: most that a gradient's norm may be, of each reward and of their sum.
        regulariser: factor of K, ≥ 0; 0 leaves the norm free.
        gradient: `autograd`; `spsa` (two outputs a step); `auto` takes autograd where it is there.
        radius: size of an SPSA perturbation of each number.
        select: what chooses the output: the `weighted` total, or the plain sum of a `category_weighted` verifier.
        verifier: the reward; a `category_weighted` one is clipped reward by reward.
    """

    n: int | None = None
    restarts: int = 2
    lr: float = 5.0
    momentum: float = 0.9
    clip: float = 0.1
    regulariser: float = 0.01
    gradient: Literal["auto", "autograd", "spsa"] = "auto"
    radius: float = 0.1
    select: Literal["weighted", "unweighted"] = "weighted"
    verifier: Verifier = field(default_factory=lambda: VERIFIERS.build("log_probability"))

    process: ClassVar[str | None] = "denoising"

    def __post_init__(self) -> None:
        for name in ("n", "restarts"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ParameterError(self, name, value, allowed="an integer ≥ 1")
        for name in ("lr", "clip", "radius"):
            if not 0 < getattr(self, name) < math.inf:
                raise ParameterError(self, name, getattr(self, name), allowed="a number > 0")
        if not 0 <= self.momentum < 1:
            raise ParameterError(self, "momentum", self.momentum, allowed="in [0, 1)", hint="0 is plain ascent")
        if not 0 <= self.regulariser < math.inf:
            raise ParameterError(self, "regulariser", self.regulariser, allowed="a number ≥ 0", hint="the papers: 0.01")

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Climb from all seeds at once; the best output of all is the answer."""
        process, n = denoising_of(self, ctx), self.n or 1
        judge = self.verifier
        if self.select == "unweighted" and isinstance(judge, CategoryWeighted):
            judge = judge.unweighted()
        slope, why = self._slope(problem, ctx, process)
        run = _Run(problem, ctx, scorer(problem, ctx, judge))
        shares = [int(share) for share in shared_out(n, range(min(self.restarts, n)), min(self.restarts, n))]
        climbs = [_Climb(first_noise(process, ctx, slot), left) for slot, left in enumerate(shares)]
        rounds = 0
        while going := [climb for climb in climbs if climb.left > 0]:
            done = await (self._exact(run, going, slope) if slope else self._estimated(run, going, rounds))
            rounds += 1
            if not done:
                break
        details: dict[str, Any] = {
            "rounds": rounds,
            "gradient": "autograd" if slope else "spsa",
            "no_autograd": why,
            "norms": [float(np.linalg.norm(c.noise) / math.sqrt(c.noise.size)) for c in climbs],
            "bad_gradients": sum(c.failures for c in climbs),
        }
        search = Search(run.tree, tuple(run.finished))
        return replace(await search_result(problem, ctx, search, judge, **details), tree=run.tree)

    # ------------------------------------------------------------------ slopes

    def _slope(self, problem: Problem, ctx: Context, process: Denoising) -> tuple[_Slope | None, str | None]:
        """What gives exact gradients; else None and why not.

        Raises:
            GradientUnavailableError: there are none, and they were asked for.
        """
        if self.gradient == "spsa":
            return None, None
        terms = self.verifier.terms(problem) if isinstance(self.verifier, CategoryWeighted) else [(1.0, self.verifier)]
        try:
            rewards = [reward_of(reward, problem, ctx) for _, reward in terms]
            slope = _Slope(process, process.condition(problem), np.asarray([factor for factor, _ in terms]), rewards)
            require_gradients(process)
        except GradientUnavailableError as error:
            if self.gradient == "autograd":
                raise
            return None, str(error)
        return (slope, None) if terms else (None, "no reward has a weight for this problem")

    async def _exact(self, run: _Run, going: Sequence[_Climb], slope: _Slope) -> bool:
        """One output for each seed, and a step for those that go on; False ends the run."""
        moving, last = [c for c in going if c.left > 1], [c for c in going if c.left == 1]
        if moving:
            unit = slope.process.to_finish(run.ctx.root(), run.ctx)
            cost = replace(unit.times(3), transitions=unit.transitions, verifier_calls=1)
            noise = np.stack([c.noise for c in moving])
            m, found = await run.ctx.evaluate(len(moving), lambda m: slope(noise[:m]), costs=[cost] * len(moving))
            if m:
                given = [At(x, slope.process.steps, c.noise) for x, c in zip(found[0], moving[:m], strict=True)]
                await run.made(given)
                self._step(moving[:m], -slope.factors[:, None] * found[1].reshape(len(slope.factors), -1))
            if m < len(moving):
                return False
        for c in last:
            c.left = 0
        return not last or len(await run.made([c.noise for c in last])) == len(last)

    async def _estimated(self, run: _Run, going: Sequence[_Climb], rounds: int) -> bool:
        """Two outputs for each seed at opposite perturbations, and a step; a seed's last odd one is where it stands."""
        rng = run.ctx.rng("noise_ascent", rounds)
        signs = [rng.choice([-1.0, 1.0], size=c.noise.shape) for c in going]
        tried = [
            [c.noise] if c.left == 1 else [c.noise + self.radius * s, c.noise - self.radius * s]
            for c, s in zip(going, signs, strict=True)
        ]
        states, values = await run.scores([noise for some in tried for noise in some])
        if len(states) < sum(map(len, tried)):
            return False
        at = 0
        for climb, sign, some in zip(going, signs, tried, strict=True):
            if len(some) == 2:
                slope = -(values[at] - values[at + 1]) / (2.0 * self.radius) * sign
                self._step([climb], slope.reshape(1, 1, -1), outputs=2)
            else:
                climb.left = 0
            at += len(some)
        return True

    def _step(self, climbs: Sequence[_Climb], slopes: Floats, outputs: int = 1) -> None:
        """A Nesterov step down the losses' slopes (J, n, d), each with K's, clipped."""
        noise = np.stack([c.noise for c in climbs])
        slopes = slopes.reshape(len(slopes), *noise.shape)
        _, pull = norm_penalty(noise, self.regulariser)
        total = clipped(np.sum([clipped(g + pull, self.clip) for g in slopes], axis=0), self.clip)
        for climb, g in zip(climbs, total, strict=True):
            climb.left -= outputs
            if not np.isfinite(g).all():
                climb.failures, climb.rate = climb.failures + 1, climb.rate / 2.0
                climb.left = 0 if climb.failures >= _MOST_FAILURES else climb.left
                continue
            climb.speed = self.momentum * climb.speed + g
            climb.noise = climb.noise - climb.rate * self.lr * (g + self.momentum * climb.speed)


@dataclass
class _Climb:
    """One seed on its way: where it is, how many outputs it still has, its speed and rate."""

    noise: Floats
    left: int
    speed: Floats | float = 0.0
    rate: float = 1.0
    failures: int = 0


@dataclass(frozen=True)
class _Slope:
    """Latents, and the gradients of all rewards, of starting noises."""

    process: Denoising
    condition: Any
    factors: Floats
    rewards: Sequence[Any]

    def __call__(self, noise: Floats) -> tuple[Floats, Floats]:
        latents, _, gradients = reward_gradients(self.process, self.condition, noise, self.rewards)
        return latents, gradients


@dataclass
class _Run:
    """What was made so far."""

    problem: Problem
    ctx: Context
    score: Score
    tree: SearchTree = field(default_factory=SearchTree)
    finished: dict[State, None] = field(default_factory=dict)

    async def scores(self, given: Sequence[Any]) -> tuple[list[State], Floats]:
        """Finished states of these noises (or latents), and their scores."""
        hold = Spend(verifier_calls=1)
        (ends,) = await self.ctx.extend([self.ctx.root()], [len(given)], given=[given], to_end=True, hold=hold)
        values, _ = await scored(self.ctx, self.tree, ends, self.score)
        self.finished.update(dict.fromkeys(ends))
        return ends, values

    async def made(self, given: Sequence[Any]) -> list[State]:
        """The same without the scores."""
        return (await self.scores(given))[0]


def first_noise(process: Denoising, ctx: Context, slot: int) -> Floats:
    """The starting noise that the draw at this slot of the root has."""
    return ctx.rng("denoising", slot).standard_normal(process.denoiser.start_shape)
