"""Particle Gibbs: several particle filters in turn, each conditioned on a particle of the one before.

Paper    Puri et al. 2025, "A Probabilistic Inference Approach to Inference-Time Scaling of LLMs using
         Particle-Based Monte Carlo Methods", §3.3; Andrieu, Doucet & Holenstein 2010, "Particle Markov chain
         Monte Carlo methods".
Equal    The first sweep is a particle filter; each later one keeps a reference, drawn by weight from the sweep
         before, through all its resampling, where it competes with its score at the same step.
Differs  The outputs of all sweeps are candidates, each with its weight averaged over sweeps (paper: silent). One
         reference; no ancestor sampling. Resampling is multinomial, under which the conditional filter is exact.
Needs    A process in steps and a verifier of partial outputs.    Cost: n outputs in all, less one per sweep after the
         first.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

from ponder.core.context import Context
from ponder.core.level_loop import scorer
from ponder.core.problem import Problem
from ponder.core.registry import VERIFIERS, strategy
from ponder.core.search_tree import Search, SearchTree
from ponder.core.state import State
from ponder.core.strategy import Result, Strategy
from ponder.core.verifier import Verifier
from ponder.errors import ParameterError
from ponder.strategies._particles import (
    Filter,
    Final,
    FinishedRule,
    PotentialName,
    check_particles,
    drawn_from,
    filter_result,
    run_conditional,
    run_filter,
)


@strategy("particle_gibbs", aliases=("pg",), what="hybrid", how="search:particle, verification:process")
@dataclass(frozen=True)
class ParticleGibbs(Strategy):
    """`sweeps` conditional particle filters of n / sweeps particles each.

    Args:
        n: outputs in all, a multiple of `sweeps`, at least two particles per sweep; None takes the number from the
            study's sample axis.
        sweeps: filters in turn; 1 is a particle filter.
        verifier: scores partial outputs.
        potential: as in `particle_filter`.
        finished: as in `particle_filter`, `neutral` or `reapply`.
        threshold: resample when the effective sample size is at most this share of the particles.
        final: `vote`, `best` or `sample`, as in `particle_filter`.
    """

    n: int | None = None
    sweeps: int = 2
    verifier: Verifier = field(default_factory=lambda: VERIFIERS.build("log_probability"))
    potential: PotentialName = "odds"
    finished: FinishedRule = "reapply"
    threshold: float = 1.0
    final: Final = "vote"

    stepwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_particles(self, self.n, self.threshold, 1.0)
        if self.sweeps < 1:
            raise ParameterError(self, "sweeps", self.sweeps, allowed="an integer ≥ 1")
        if self.finished == "freeze":
            raise ParameterError(self, "finished", self.finished, allowed="neutral or reapply")
        if self.n is not None and self.sweeps > 1 and (self.n % self.sweeps or self.n < 2 * self.sweeps):
            below = max(self.n // self.sweeps, 2) * self.sweeps
            raise ParameterError(
                self, "n", self.n, allowed=f"a multiple of sweeps={self.sweeps} with two particles or more in each",
                hint=f"the nearest are n={below} and n={below + self.sweeps}",
            )  # fmt: skip

    def with_samples(self, n: int) -> Self:
        """At `n` outputs, with as many of the sweeps as n can be divided into."""
        if self.n is not None:
            return self
        sweeps = next(s for s in range(self.sweeps, 0, -1) if s == 1 or (n % s == 0 and n >= 2 * s))
        return replace(self, n=n, sweeps=sweeps)

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Sweep after sweep, then choose by weight over all of them."""
        size = (self.n or 1) // self.sweeps or 1
        score = scorer(problem, ctx, self.verifier)
        tree = SearchTree()
        finished: dict[State, None] = {}
        shares: dict[State, float] = {}
        rules: list[Filter] = []
        search, reference, sweeps = Search(tree, ()), None, 0
        for sweep in range(self.sweeps):
            rule = Filter(size, self.verifier, self.potential, self.finished, "multinomial", self.threshold)
            rules.append(rule)
            label = ("gibbs", sweep)
            if reference is None:
                search = await run_filter(problem, ctx, rule, score, label=label)
                tree = search.tree
            else:
                search = await run_conditional(problem, ctx, rule, score, reference, tree, label)
            own = rule.shares(search)
            finished.update(dict.fromkeys(search.finished))
            if not own or search.stopped:
                break
            sweeps += 1
            for state, share in own.items():
                shares[state] = shares.get(state, 0.0) + share
            reference = drawn_from(own, ctx.rng(*label, "reference"))
        shares = {state: share / max(sweeps, 1) for state, share in shares.items()}
        whole = Search(tree, tuple(finished), search.open, search.stopped, {"sweeps": sweeps}, search.last)
        return await filter_result(problem, ctx, whole, rules, shares, self.final)
