"""Search over paths: take good paths back to more noise, draw other ways from there, and keep the best.

Paper    Ma et al. 2025, "Inference-Time Scaling for Diffusion Models beyond Scaling Denoising Steps", §3 (Paths-N).
Equal    N noises are denoised to a start level. Each state is renoised M times, forward by Δf, and denoised by Δb > Δf;
         of the N·M the N with the best scores of what they are expected to become go on, until the data are reached;
         the best finished output is chosen.
Differs  Levels are shares of the timesteps; the paper's numbers were not at hand. N follows from n. Where the budget
         does not bear another round and the ends of all paths, the paths are finished.
Needs    The process `denoising`, best with a deterministic solver; a verifier of unfinished states.
         Cost: n outputs' worth of timesteps; a score for each path of each round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from ponder.core.context import Context
from ponder.core.level_loop import scorer, top
from ponder.core.pool import Floats
from ponder.core.problem import Problem
from ponder.core.registry import VERIFIERS, strategy
from ponder.core.search_tree import Search, SearchTree, scored, search_result
from ponder.core.state import State
from ponder.core.strategy import Result, Strategy
from ponder.core.verifier import Verifier
from ponder.errors import ParameterError
from ponder.ledger.spend import Spend
from ponder.processes.denoising import Denoising, denoising_of


@strategy(
    "search_over_paths",
    aliases=("paths",),
    what="hybrid",
    how="search:beam",
    where="generation_image, generation_video",
)
@dataclass(frozen=True)
class SearchOverPaths(Strategy):
    """Renoise and denoise again, keeping the best paths.

    Args:
        n: outputs whose timesteps may be spent; None takes the number from the study's sample axis. Too few for one
            path with its rounds still make one.
        noises: ways tried from each path in a round (M).
        start: share of the timesteps, from the noise, after which the search begins, in (0, 1).
        forward: share of the timesteps that a path is taken back (Δf).
        back: share that it is denoised again (Δb), more than `forward`.
        verifier: scores what unfinished states are expected to become, and outputs.
    """

    n: int | None = None
    noises: int = 4
    start: float = 0.4
    forward: float = 0.15
    back: float = 0.3
    verifier: Verifier = field(default_factory=lambda: VERIFIERS.build("log_probability"))

    process: ClassVar[str | None] = "denoising"

    def __post_init__(self) -> None:
        for name in ("n", "noises"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ParameterError(self, name, value, allowed="an integer ≥ 1")
        if not 0 < self.start < 1:
            raise ParameterError(self, "start", self.start, allowed="in (0, 1)")
        if not 0 < self.forward < self.back:
            raise ParameterError(
                self, "back", self.back, allowed=f"more than forward={self.forward}, which is > 0",
                hint="otherwise the search does not advance",
            )  # fmt: skip

    def plan(self, steps: int, macro: int) -> tuple[list[int], int, int]:
        """The timesteps at which rounds begin, and how far a round goes forward and back, in multiples of `macro`."""
        forward = max(1, round(self.forward * steps / macro)) * macro
        back = max(forward + macro, round(self.back * steps / macro) * macro)
        first = max(forward, round(self.start * steps / macro) * macro)
        return list(range(first, steps - (back - forward) + 1, back - forward)), forward, back

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Round after round; the best finished path is the answer."""
        process = denoising_of(self, ctx)
        begins, forward, back = self.plan(process.steps, process.macro)
        tree, score, rounds = SearchTree(), scorer(problem, ctx, self.verifier), 0
        round_cost = process.cost_from(process.steps - back)  # of one way: its placing and `back` timesteps
        unit = process.steps + len(begins) * self.noises * back
        paths = max(1, (self.n or 1) * process.steps // unit)
        whole = process.to_finish(ctx.root(), ctx) + Spend(verifier_calls=1)
        paths = int(min(paths, ctx.meter.affordable(whole)))
        if paths < 1:
            await ctx.extend([ctx.root()], [1], to_end=True)  # says what it would have taken
        (states,) = await ctx.extend([ctx.root()], [paths])
        tree.add(states, [np.nan] * len(states))
        for begin in begins if states else []:
            if begin > states[0].payload.index:
                states = await _denoised(ctx, tree, states, begin)
                tree.add(states, [np.nan] * len(states))
            if not states:
                break
            ways = len(states) * self.noises
            ends = process.to_finish(states[0], ctx) + Spend(verifier_calls=1)
            if ctx.meter.affordable((round_cost + Spend(verifier_calls=1)).times(ways) + ends.times(len(states))) < 1:
                ctx.shortfalls.append(f"the budget ended the search after {rounds} of {len(begins)} rounds")
                break
            rng = ctx.rng("search_over_paths", rounds)
            given = [
                [process.renoised(s, begin - forward, _noise(process, rng)) for _ in range(self.noises)] for s in states
            ]
            groups = await ctx.extend(states, [self.noises] * len(states), given=given)
            placed = [state for group in groups for state in group]
            tree.add(placed, [np.nan] * len(placed))
            placed = await _denoised(ctx, tree, placed, begin - forward + back)
            values, _ = await scored(ctx, tree, placed, score)
            states = [placed[i] for i in top(values, len(states))]
            rounds += 1
        finished = [s for s in states if process.done(s)]
        going = await _denoised(ctx, tree, [s for s in states if not process.done(s)], process.steps)
        await scored(ctx, tree, going, score)
        search = Search(tree, tuple(dict.fromkeys([*finished, *going])), tuple(states), details={"rounds": rounds})
        return await search_result(problem, ctx, search, self.verifier, paths=paths)


async def _denoised(ctx: Context, tree: SearchTree, states: Sequence[State], index: int) -> list[State]:
    """States taken on to a later timestep, all together, and what is between in the tree; without those that failed."""
    going = list(states)
    while going and going[0].payload.index < index:
        if going[0] not in states:
            tree.add(going, [np.nan] * len(going))
        groups = await ctx.extend(going, [1] * len(going))
        going = [state for group in groups for state in group]
    return going


def _noise(process: Denoising, rng: np.random.Generator) -> Floats:
    return rng.standard_normal(process.denoiser.latent_shape)
