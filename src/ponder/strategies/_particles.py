"""What particle filters share: potentials, weights, conditional resampling. See `ponder.smc` for the arithmetic.

A run targets p(x) · ∏ Gₜ, where p is the process and the potentials Gₜ come from the verifier. Weights are carried
unnormalised and in log space, so that at any time the mean weight estimates the normalising constant without
bias: resampling a group hands its mean weight to each of its offspring.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from ponder import smc
from ponder.core.context import Context
from ponder.core.level_loop import Level, Next, level_loop
from ponder.core.pool import Floats, Ints
from ponder.core.problem import Problem
from ponder.core.registry import SELECTORS
from ponder.core.search_tree import Score, Search, SearchTree, search_result
from ponder.core.selector import Selector
from ponder.core.state import State
from ponder.core.strategy import Result
from ponder.core.verifier import Verifier
from ponder.errors import ParameterError, VerifierError

PotentialName = Literal["telescope", "odds", "product", "exp"]
FinishedRule = Literal["neutral", "reapply", "freeze"]
Final = Literal["vote", "best", "sample"]

_CLIP = 1e-7

Tempering = Callable[[Floats, int], float]
"""The temperature (≥ 1) at which log-weights of the level with this number are resampled."""


@dataclass
class Filter:
    """One particle filter's rules and, while it runs, its account.

    Args:
        n: particles.
        verifier: gives the step scores.
        potential: how a score r becomes Gₜ: `odds` is r / (1 - r) (exp(r) for a verifier whose scores are not in
            [0, 1]), `product` r, `exp` exp(r); `telescope` divides the odds of this score by those of the one
            before, so that only the last score counts in the end.
        finished: what a finished particle does in later levels: `neutral` (G = 1), `reapply` (its last G again),
            `freeze` (it is left out of resampling).
        scheme: of resampling.
        threshold: resample when the effective sample size is at most this share of the particles; 1 is always, 0
            never.
        temperature: of the potentials, G ** (1 / temperature), by the number of the level.
        tempering: of resampling; None is 1.
        correct: offspring of tempered resampling carry the weights that make up for it.
        on_dead: what happens when no particle has a weight left: `stop`, or `uniform` weights.
    """

    n: int
    verifier: Verifier
    potential: PotentialName = "odds"
    finished: FinishedRule = "reapply"
    scheme: smc.Scheme = "systematic"
    threshold: float = 1.0
    temperature: float | Callable[[int], float] = 1.0
    tempering: Tempering | None = None
    correct: bool = False
    on_dead: Literal["stop", "uniform"] = "stop"
    effective: list[float] = field(default_factory=list)
    resampled: int = 0
    clipped: int = 0
    died_at: int | None = None

    @property
    def _bounded(self) -> bool:
        return self.verifier.range == (0.0, 1.0)

    def _log_f(self, score: float) -> float:
        """The logarithm of f of one score; -inf without a score."""
        if math.isnan(score):
            return -math.inf
        if self.potential == "exp" or (self.potential != "product" and not self._bounded):
            return score
        if not 0 <= score <= 1:
            raise VerifierError(
                f"{self.verifier} gave the score {score:g}; potential={self.potential} needs scores in [0, 1]. "
                "Use potential=exp for other scores."
            )
        if self.potential == "product":
            return math.log(score) if score > 0 else -math.inf
        r = min(max(score, _CLIP), 1 - _CLIP)
        self.clipped += r != score
        return math.log(r) - math.log1p(-r)

    def log_potential(self, tree: SearchTree, state: State, number: int) -> float:
        """Log Gₜ of a state's last step."""
        value = self._log_f(tree.score(state))
        if self.potential == "telescope" and state.parent is not None and state.parent.parent is not None:
            before = self._log_f(tree.score(state.parent))
            value = -math.inf if math.isinf(before) else value - before
        return value / (self.temperature(number) if callable(self.temperature) else self.temperature)

    def weigh(self, level: Level) -> Floats:
        """Log-weights of a level's members, their newest potentials included."""
        log_weights = level.log_weights.copy()
        for i, state in enumerate(level.states):
            again = self.finished == "reapply" and not level.open[i]
            if level.fresh[i] or again:
                log_weights[i] += self.log_potential(level.tree, state, level.number)
        return log_weights

    def resample(
        self,
        log_weights: Floats,
        places: int,
        number: int,
        rng: np.random.Generator,
        *,
        modulation: Floats | None = None,
        fixed: int = 0,
    ) -> tuple[Ints, Floats]:
        """How often each of a group is continued, and the log-weight that each of its offspring carries.

        Args:
            log_weights: of the group.
            places: how many particles the group has afterwards.
            number: of the level.
            rng: source of randomness.
            modulation: added to the log-weights for the choice only (look-ahead).
            fixed: places that the caller fills himself; so many fewer are drawn.
        """
        first = log_weights if modulation is None else log_weights + modulation
        heat = 1.0 if self.tempering is None else self.tempering(first, number)
        chances, _ = smc.normalise(first / heat)
        drawn = smc.resample(chances, places - fixed, self.scheme, rng)
        self.resampled += 1
        if (heat == 1.0 or not self.correct) and modulation is None:
            carried = np.full(len(log_weights), smc.normalise(log_weights)[1] - math.log(places))
        else:
            with np.errstate(divide="ignore"):
                carried = np.where(chances > 0, log_weights - np.log(places * chances), -np.inf)
        return np.bincount(drawn, minlength=len(log_weights)), carried

    def step(self, level: Level, rng: np.random.Generator, modulation: Floats | None = None) -> Next:
        """Decide the next level: resample if the weights are too uneven, else continue each particle once."""
        log_weights = self.weigh(level)
        active = np.ones(len(log_weights), dtype=bool) if self.finished != "freeze" else level.open
        if np.isneginf(log_weights[active]).all():
            if self.on_dead == "stop":
                self.died_at = level.number
                return Next(np.where(level.open, 0, 1), log_weights)
            log_weights = np.where(active, 0.0, log_weights)
        size = smc.effective_sample_size(log_weights[active])
        self.effective.append(size)
        level.tree.note("log_weight", dict(zip(level.states, log_weights.tolist(), strict=True)))
        level.tree.levels[-1]["effective_sample_size"] = size
        counts = np.where(np.isneginf(log_weights) & level.open, 0, 1)
        if size <= self.threshold * active.sum():
            among, carried = self.resample(
                log_weights[active], self.n - int((~active).sum()), level.number, rng,
                modulation=None if modulation is None else modulation[active],
            )  # fmt: skip
            counts[active], log_weights[active] = among, carried
        return Next(counts, log_weights)

    def evidence(self, search: Search) -> float | None:
        """Logarithm of the estimated normalising constant; -inf if all particles died, None if it was cut short."""
        if search.stopped or search.last is None:
            return None
        log_weights = self.weigh(search.last)
        return -math.inf if np.isneginf(log_weights).all() else smc.normalise(log_weights)[1] - math.log(self.n)

    def shares(self, search: Search) -> dict[State, float]:
        """Normalised weights of the finished states of the last level, copies of one state added up."""
        level = search.last
        if level is None:
            return {}
        done = [i for i in range(len(level.states)) if not level.open[i]]
        log_weights = self.weigh(level)[done]
        if not done or np.isneginf(log_weights).all():
            return {}
        out: dict[State, float] = {}
        for i, share in zip(done, smc.normalise(log_weights)[0].tolist(), strict=True):
            out[level.states[i]] = out.get(level.states[i], 0.0) + share
        return out


async def run_filter(
    problem: Problem,
    ctx: Context,
    rules: Filter,
    score: Score,
    *,
    label: object = "particles",
    tree: SearchTree | None = None,
    modulate: Callable[[Level], Awaitable[Floats]] | None = None,
) -> Search:
    """A particle filter from the root to the end."""

    async def select(level: Level) -> Next:
        modulation = None if modulate is None else await modulate(level)
        return rules.step(level, ctx.rng(label, level.number), modulation)

    return await level_loop(problem, ctx, select, start=[(ctx.root(), rules.n)], score=score, tree=tree)


async def run_conditional(
    problem: Problem, ctx: Context, rules: Filter, score: Score, reference: State, tree: SearchTree, label: object
) -> Search:
    """A conditional particle filter: the reference's path survives every resampling, and n - 1 others compete with it.

    Copies of the reference at a level are continued freely from there. Resampling is multinomial. It leaves the
    target invariant: if the reference comes from the target, so does a particle drawn from the final weights.

    Source: Andrieu, Doucet & Holenstein 2010, "Particle Markov chain Monte Carlo methods".
    """
    path = [node for node in reference.ancestry() if node.parent is not None][::-1]

    async def select(level: Level) -> Next:
        log_weights = rules.weigh(level)
        place = next(i for i in reversed(range(len(level.states))) if level.states[i] in path)
        at = path.index(level.states[place])
        counts = np.where(np.isneginf(log_weights) & level.open, 0, 1)
        counts[place] -= 1
        kept = float(log_weights[place])
        if smc.effective_sample_size(log_weights) <= rules.threshold * len(log_weights):
            counts, log_weights = rules.resample(
                log_weights, rules.n, level.number, ctx.rng(label, level.number), fixed=1
            )
            kept = float(log_weights[place])
        if at + 1 == len(path):
            counts[place] += 1
            return Next(counts, log_weights)
        return Next(counts, log_weights, [(path[at + 1], kept + path[at + 1].log_weight)])

    return await level_loop(
        problem, ctx, select, start=[(ctx.root(), rules.n - 1)], score=score,
        join=[(path[0], path[0].log_weight)], tree=tree,
    )  # fmt: skip


def drawn_from(shares: dict[State, float], rng: np.random.Generator) -> State:
    """One of the states, by its share."""
    states = list(shares)
    return states[int(smc.resample(list(shares.values()), 1, "multinomial", rng)[0])]


async def filter_result(
    problem: Problem,
    ctx: Context,
    search: Search,
    rules: Sequence[Filter],
    shares: dict[State, float],
    final: Final,
    **details: Any,
) -> Result:
    """The finished particles as candidates with their weights, and the choice among them."""
    first = rules[0]
    died = next((r.died_at for r in rules if r.died_at is not None), None)
    reason = None
    if died is not None:
        reason = f"all {first.n} particles died at step {died}: no weight above zero was left"
    return await weighted_result(
        problem, ctx, search, first.verifier, shares, final, reason=reason,
        effective_sample_size=[round(e, 3) for r in rules for e in r.effective],
        resampled=sum(r.resampled for r in rules), clipped_scores=sum(r.clipped for r in rules), **details,
    )  # fmt: skip


async def weighted_result(
    problem: Problem,
    ctx: Context,
    search: Search,
    verifier: Verifier,
    shares: dict[State, float],
    final: Final,
    **details: Any,
) -> Result:
    """Weighted outputs as candidates, each with its share as the score `weight`, and the choice among them."""
    best = final == "best" and any(not math.isnan(search.tree.score(state)) for state in search.finished)
    name, selector = (verifier.name, "best_score") if best else ("weight", "weighted_majority")
    choose: Selector | None = None if final == "sample" else SELECTORS.build(f"{selector}(score={name})")
    result = await search_result(problem, ctx, search, verifier, choose=choose, extra={"weight": shares}, **details)
    if final != "sample" or not shares:
        return result
    picked = drawn_from(shares, ctx.rng("particles", "final"))
    return replace(result, chosen=(search.finished.index(picked),), status="ok")


def check_particles(owner: object, n: int | None, threshold: float, temperature: float) -> None:
    """Refuse numbers that no particle filter can have."""
    if n is not None and n < 1:
        raise ParameterError(owner, "n", n, allowed="an integer ≥ 1")
    if not 0 <= threshold <= 1:
        raise ParameterError(owner, "threshold", threshold, allowed="in [0, 1]")
    if not temperature > 0:
        raise ParameterError(owner, "score_temperature", temperature, allowed="a number > 0")
