"""EvoSearch: a population that moves along the denoising path; noises and half-denoised states mutate and compete.

Paper    He et al. 2025, "Scaling Image and Video Generation via Test-Time Evolutionary Search".
Equal    Noises are denoised to the end. At each scheduled timestep the states that passed it compete by the rewards of
         the outputs they became: the best are kept as elites, others become parents by tournament and are mutated
         (noises to √(1 - β²) z + β ε, states to x + σ ε with the σ of the sampler's step), and are denoised to the
         end. A state inherits its output's reward, so that every later timestep has parents from all runs so far.
Differs  The rule of mutation goes by the state's noise level, and states are those before the step (public code: by the
         number of the generation, and after it). Elites are not drawn again: their outputs and rewards stand, and
         their evaluations are saved. The best output ever seen is chosen.
Needs    The process `denoising` with stochastic steps; rewards of outputs only.
         Cost: n outputs' worth of timesteps, shared out over generations (`fit_schedule`); a score for each output.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import ClassVar, Self

import numpy as np

from ponder.core.context import Context
from ponder.core.level_loop import scorer, top
from ponder.core.pool import Floats
from ponder.core.population import Proposal, population_loop
from ponder.core.problem import Problem
from ponder.core.registry import VERIFIERS, strategy
from ponder.core.search_tree import search_result
from ponder.core.state import State
from ponder.core.strategy import Result, Strategy
from ponder.core.verifier import Verifier
from ponder.diffusion.measures import mean_pairwise_distance
from ponder.errors import NotStochasticError, ParameterError
from ponder.processes.denoising import At, Denoising, denoising_of

_SHARES = (0.0, 0.4, 0.6, 0.8)
"""Of the timesteps, where the evolution schedule is not given: that of the paper's Stable Diffusion runs."""


@strategy(
    "evo_search",
    aliases=("evosearch",),
    what="hybrid",
    how="search:evolutionary",
    where="generation_image, generation_video",
)
@dataclass(frozen=True)
class EvoSearch(Strategy):
    """Evolve noises, then the states on the way to the data.

    Args:
        n: outputs whose timesteps may be spent; None takes the number from the study's sample axis. It says nothing
            where `population` is given.
        verifier: the reward, asked of finished outputs only.
        schedule: the timesteps at which the population evolves, rising, multiples of the process's `macro`; none takes
            0, 0.4, 0.6 and 0.8 of all.
        population: the number of first noises, then of elites and children after each scheduled timestep; none shares
            n outputs' timesteps out evenly (`fit_schedule`).
        elites: best states that stay as they are.
        mutation: β, the share of new noise in a mutated one, in (0, 1].
        tournament: share of the pool that meets in a tournament, in (0, 1]. At the paper's 0.9 the best of all wins
            nine of ten; 0.5 or less keeps more variety.
    """

    n: int | None = None
    verifier: Verifier = field(default_factory=lambda: VERIFIERS.build("log_probability"))
    schedule: tuple[int, ...] | None = None
    population: tuple[int, ...] | None = None
    elites: int = 3
    mutation: float = 0.2
    tournament: float = 0.9

    process: ClassVar[str | None] = "denoising"

    def __post_init__(self) -> None:
        if self.n is not None and self.n < 1:
            raise ParameterError(self, "n", self.n, allowed="an integer ≥ 1")
        if self.elites < 0:
            raise ParameterError(self, "elites", self.elites, allowed="an integer ≥ 0")
        for name in ("mutation", "tournament"):
            if not 0 < getattr(self, name) <= 1:
                raise ParameterError(self, name, getattr(self, name), allowed="in (0, 1]")
        if self.schedule is not None and (
            not self.schedule or self.schedule[0] < 0 or any(a >= b for a, b in pairwise(self.schedule))
        ):
            raise ParameterError(self, "schedule", self.schedule, allowed="rising timesteps ≥ 0, at least one")
        if self.population is None:
            return
        if self.schedule is not None and len(self.population) != len(self.schedule) + 1:
            allowed = f"{len(self.schedule) + 1} numbers: one more than the schedule has"
            raise ParameterError(self, "population", self.population, allowed=allowed)
        if self.population[0] < 1 or min(self.population[1:], default=self.elites + 1) <= self.elites:
            allowed = f"a first number ≥ 1 and later ones > elites={self.elites}"
            raise ParameterError(self, "population", self.population, allowed=allowed)

    def fit_schedule(self, transitions: int, steps: int, macro: int = 1) -> Self:
        """This strategy with schedule and populations that spend at most so many timesteps.

        All populations are equal, and what is left goes to the first noises, then to the generations in turn. Where
        that leaves a generation no child, the last generations are left out.

        Args:
            transitions: timesteps in all; at least `steps`, less is taken for it.
            steps: timesteps from noise to data.
            macro: timesteps of one step of the process.
        """
        points = self.schedule
        if points is None:
            points = tuple(dict.fromkeys(int(share * steps) // macro * macro for share in _SHARES))
        for index in points:
            if index >= steps or index % macro:
                allowed = f"multiples of macro={macro} below the {steps} timesteps of the process"
                raise ParameterError(self, "schedule", self.schedule, allowed=allowed)
        if self.population is not None:
            if len(self.population) > len(points) + 1:
                allowed = f"at most {len(points) + 1} numbers for evolution at the timesteps {points}"
                raise ParameterError(self, "population", self.population, allowed=allowed)
            return replace(self, schedule=points[: len(self.population) - 1] or None)
        while points:
            later = [steps - index for index in points]
            size = (transitions + self.elites * sum(later)) // (steps + sum(later))
            if size > self.elites:
                break
            points = points[:-1]
        if not points:
            return replace(self, schedule=None, population=(max(transitions // steps, 1),))
        sizes = [size] * (len(points) + 1)
        left = transitions - size * steps - (size - self.elites) * sum(later)
        for place, cost in enumerate([steps, *later]):
            sizes[place] += left // cost
            left %= cost
        return replace(self, schedule=points, population=tuple(sizes))

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Evolve along the schedule; the best output of all is the answer."""
        process = denoising_of(self, ctx)
        if not process.stochastic:
            raise NotStochasticError(
                f"evo_search lets states on the way mutate and end differently, but {process} takes deterministic "
                "steps. Use eta=1, solver=flow_sde or solver=exact, or a search over the starting noise "
                "(zero_order_search)"
            )
        plan = self.fit_schedule((self.n or 1) * process.steps, process.steps, process.macro)
        archive = _Evolution(plan, ctx, process)
        search = await population_loop(problem, ctx, archive, score=scorer(problem, ctx, self.verifier))
        last = [process.output(leaf) for leaf in archive.population]
        return await search_result(
            problem, ctx, search, self.verifier, schedule=plan.schedule or (), population=plan.population,
            diversity=mean_pairwise_distance(np.stack([np.ravel(x) for x in last])) if last else 0.0,
        )  # fmt: skip


@dataclass(frozen=True)
class _Entry:
    """A state at a scheduled timestep, and what it became."""

    state: State
    leaf: State
    score: float


class _Evolution:
    """The archive: for each scheduled timestep, all states that passed it.

    Attributes:
        population: the outputs of the present population, elites first.
    """

    def __init__(self, plan: EvoSearch, ctx: Context, process: Denoising) -> None:
        self._plan, self._process, self._root = plan, process, ctx.root()
        self._schedule = plan.schedule or ()
        self._sizes = plan.population or (1,)
        self._pools: list[list[_Entry]] = [[] for _ in self._schedule]
        self._elites: list[State] = []
        self._turn = 0
        self.population: list[State] = []

    def propose(self, rng: np.random.Generator) -> Sequence[Proposal]:
        """First noises, then the mutated parents at each scheduled timestep."""
        turn, self._turn = self._turn, self._turn + 1
        if turn == 0:
            return [Proposal(self._root)] * self._sizes[0]
        if turn >= len(self._sizes) or not self._pools[turn - 1]:
            return []
        pool, index = self._pools[turn - 1], self._schedule[turn - 1]
        scores = np.asarray([entry.score for entry in pool])
        ranked = top(scores, len(pool))
        self._elites = [pool[i].leaf for i in ranked[: self._plan.elites]]
        wanted = self._sizes[turn] - min(self._plan.elites, len(pool))
        place = {int(i): rank for rank, i in enumerate(ranked)}
        met = max(1, math.floor(self._plan.tournament * len(pool)))
        parents = [min(rng.choice(len(pool), met, replace=False), key=lambda i: place[int(i)]) for _ in range(wanted)]
        return [self._mutated(pool[int(i)].state, index, rng) for i in parents]

    def keep(self, members: Sequence[State], scores: Floats) -> None:
        """Let the states on each path inherit the reward, at all timesteps that are still to come."""
        self.population = [*self._elites, *members]
        for leaf, score in zip(members, scores.tolist(), strict=True):
            for at in range(self._turn - 1, len(self._schedule)):
                index = self._schedule[at]
                state = next(s for s in leaf.ancestry() if s.payload is not None and s.payload.index == index)
                self._pools[at].append(_Entry(state, leaf, score))

    def _mutated(self, state: State, index: int, rng: np.random.Generator) -> Proposal:
        latent, beta = state.payload, self._plan.mutation
        if index == 0:
            fresh = rng.standard_normal(np.shape(latent.noise))
            return Proposal(self._root, math.sqrt(1 - beta**2) * latent.noise + beta * fresh)
        noise = self._process.step_deviation(index) * rng.standard_normal(np.shape(latent.x))
        return Proposal(state, At(latent.x + noise, index), self._process.cost_from(index))
