"""Feynman-Kac steering: particles on a denoising path, resampled by rewards of the data they are expected to become.

Paper    Singhal, Horvitz et al. 2025, "A General Framework for Inference-time Scaling and Steering of Diffusion
         Models".
Equal    Potentials from intermediate rewards r of the expected data: `difference` exp(λ(r - r before)), `max`
         exp(λ · best r so far), `add` exp(λ · sum of r so far); the last potential makes the product exp(λr) of the
         finished output, so that the weighted particles follow p(x)·exp(λr(x)). Rewards are asked for, and particles
         resampled, at every `every`-th level from `first` on, and at the end.
Differs  Weights are carried in log space where a level is not resampled (the public code drops them) and are not
         clamped; resampling is systematic; r before the first is `floor`.
Needs    A process in steps, any verifier of states; a stochastic solver.    Cost: n outputs, and n rewards at each of
         these levels. n = 1 is plain sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from ponder.core.context import Context
from ponder.core.level_loop import Level, Next, scorer
from ponder.core.pool import Floats
from ponder.core.problem import Problem
from ponder.core.registry import VERIFIERS, strategy
from ponder.core.search_tree import SearchTree
from ponder.core.state import State
from ponder.core.strategy import Result, Strategy
from ponder.core.verifier import Verifier
from ponder.errors import ParameterError
from ponder.smc import Scheme
from ponder.strategies._particles import Filter, Final, check_particles, filter_result, run_filter

Steering = Literal["difference", "max", "add"]


@strategy(
    "fk_steering", aliases=("fk",),
    what="hybrid", how="search:particle, verification:process", where="generation_image",
)  # fmt: skip
@dataclass(frozen=True)
class FKSteering(Strategy):
    """Steer `n` particles towards high rewards.

    Args:
        n: particles; None takes the number from the study's sample axis.
        verifier: the reward.
        strength: λ, the inverse temperature of the reward.
        potential: `difference`, `max` or `add`.
        floor: the reward before the first (for `difference` and `max`).
        first: the first level with a reward; level 1 is the draw of noise.
        every: levels from one reward to the next.
        scheme: of resampling.
        threshold: resample when the effective sample size is at most this share of the particles; 1 is always, 0 never
            (importance sampling).
        final: the output with the most weight (`vote`), the best reward (`best`), or one drawn by weight (`sample`).
    """

    n: int | None = None
    verifier: Verifier = field(default_factory=lambda: VERIFIERS.build("log_probability"))
    strength: float = 10.0
    potential: Steering = "max"
    floor: float = 0.0
    first: int = 1
    every: int = 1
    scheme: Scheme = "systematic"
    threshold: float = 0.5
    final: Final = "best"

    stepwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_particles(self, self.n, self.threshold, 1.0)
        for name in ("first", "every"):
            if getattr(self, name) < 1:
                raise ParameterError(self, name, getattr(self, name), allowed="an integer ≥ 1")
        if not self.strength > 0:
            raise ParameterError(self, "strength", self.strength, allowed="a number > 0")

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Filter to the end, then choose."""
        rules = _Rules(
            self.n or 1, self.verifier, "exp", "neutral", self.scheme, self.threshold, on_dead="uniform", steering=self
        )
        reward = scorer(problem, ctx, self.verifier)

        async def score(states: Sequence[State]) -> Floats:
            due = [s for s in states if ctx.process.done(s) or self.due(s.depth)]
            found = dict(zip(due, await reward(due), strict=True)) if due else {}
            return np.asarray([found.get(s, np.nan) for s in states], dtype=float)

        search = await run_filter(problem, ctx, rules, score, label="fk_steering")
        return await filter_result(
            problem, ctx, search, [rules], rules.shares(search), self.final, log_evidence=rules.evidence(search)
        )

    def due(self, level: int) -> bool:
        """Whether a level has rewards."""
        return level >= self.first and (level - self.first) % self.every == 0


@dataclass
class _Rules(Filter):
    """The potentials of steering, on rewards of any sign."""

    steering: FKSteering = field(default_factory=FKSteering)
    given: dict[State, float] = field(default_factory=dict)

    def log_potential(self, tree: SearchTree, state: State, number: int) -> float:
        """Log G of a state's reward; 0 where none was due, -inf where one is missing."""
        known = self.given.get(state)
        if known is None:
            known = self.given[state] = self._log_potential(tree, state)
        return known

    def _log_potential(self, tree: SearchTree, state: State) -> float:
        plan, reward = self.steering, tree.score(state)
        ended = state.finish is not None
        if not ended and not plan.due(state.depth):
            return 0.0
        if np.isnan(reward):
            return -np.inf
        before = [n for n in state.ancestry() if n.parent is not None and n is not state and plan.due(n.depth)]
        rewards = [r for n in before if not np.isnan(r := tree.score(n))]
        if plan.potential == "difference":
            return plan.strength * (reward - (rewards[0] if rewards else plan.floor))
        if ended:
            return plan.strength * reward - sum(self.given.get(n, 0.0) for n in before)
        if plan.potential == "max":
            return plan.strength * max([reward, plan.floor, *rewards])
        return plan.strength * (reward + sum(rewards))

    def step(self, level: Level, rng: np.random.Generator, modulation: Floats | None = None) -> Next:
        """Resample at levels with rewards; go on elsewhere."""
        if any(self.steering.due(s.depth) for s in level.states) or not level.open.all():
            return super().step(level, rng, modulation)
        return Next(np.ones(len(level.states), dtype=np.int64), self.weigh(level))
