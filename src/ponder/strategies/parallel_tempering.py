"""Parallel tempering: chains of conditional particle filters at several temperatures that exchange their references.

Paper    Puri et al. 2025, "A Probabilistic Inference Approach to Inference-Time Scaling of LLMs using
         Particle-Based Monte Carlo Methods" (parallel tempering of particle Gibbs).
Equal    Chain l targets p(x) · G(x) ** (1 / T_l); after each round neighbours swap references with probability
         min(1, exp((1/T_l - 1/T_m) · (log G(x_m) - log G(x_l)))), in even and odd pairs by turns. The coldest
         chain is reported.
Differs  Outputs of hotter chains are candidates too, with weight 0, so that coverage and other selectors see them.
Needs    A process in steps and a verifier of partial outputs.    Cost: n outputs in all over chains and rounds.
"""

from __future__ import annotations

import math
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
    PotentialName,
    check_particles,
    drawn_from,
    filter_result,
    run_conditional,
    run_filter,
)


@strategy("parallel_tempering", aliases=("pt",), what="hybrid", how="search:particle, verification:process")
@dataclass(frozen=True)
class ParallelTempering(Strategy):
    """Particle Gibbs at several temperatures, with exchanges between neighbours.

    Args:
        n: outputs in all: chains x rounds x particles, with two particles or more; None takes the number from the
            study's sample axis.
        temperatures: of the chains, rising from 1.
        rounds: sweeps of each chain.
        verifier: scores partial outputs.
        potential: as in `particle_filter`.
        threshold: resample when the effective sample size is at most this share of the particles.
        final: `vote`, `best` or `sample`, as in `particle_filter`.
    """

    n: int | None = None
    temperatures: tuple[float, ...] = (1.0, 2.0)
    rounds: int = 2
    verifier: Verifier = field(default_factory=lambda: VERIFIERS.build("log_probability"))
    potential: PotentialName = "odds"
    threshold: float = 1.0
    final: Final = "vote"

    stepwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_particles(self, self.n, self.threshold, 1.0)
        heats = self.temperatures
        if not heats or heats[0] != 1.0 or list(heats) != sorted(set(heats)):
            raise ParameterError(self, "temperatures", heats, allowed="rising numbers, the first one 1")
        if self.rounds < 1:
            raise ParameterError(self, "rounds", self.rounds, allowed="an integer ≥ 1")
        unit = len(heats) * self.rounds
        if self.n is not None and unit > 1 and (self.n % unit or self.n < 2 * unit):
            below = max(self.n // unit, 2) * unit
            raise ParameterError(
                self, "n", self.n, allowed=f"a multiple of chains x rounds = {unit}, at least {2 * unit}",
                hint=f"the nearest are n={below} and n={below + unit}",
            )  # fmt: skip

    def with_samples(self, n: int) -> Self:
        """At `n` outputs, with as many of the rounds, then of the chains, as n can be divided into."""
        if self.n is not None:
            return self
        shapes = [(c, r) for c in range(len(self.temperatures), 0, -1) for r in range(self.rounds, 0, -1)]
        chains, rounds = next((c, r) for c, r in shapes if c * r == 1 or (n % (c * r) == 0 and n >= 2 * c * r))
        return replace(self, n=n, temperatures=self.temperatures[:chains], rounds=rounds)

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Rounds of sweeps and swaps; the coldest chain's weights choose."""
        heats = self.temperatures
        size = (self.n or 1) // (len(heats) * self.rounds) or 1
        score = scorer(problem, ctx, self.verifier)
        tree = SearchTree()
        finished: dict[State, None] = {}
        shares: dict[State, float] = {}
        references: list[State | None] = [None] * len(heats)
        rules: list[Filter] = []
        search, rounds, proposed, swapped = Search(tree, ()), 0, 0, 0
        for turn in range(self.rounds):
            for chain, heat in enumerate(heats):
                rule = Filter(
                    size,
                    self.verifier,
                    self.potential,
                    scheme="multinomial",
                    threshold=self.threshold,
                    temperature=heat,
                )
                rules.append(rule)
                label, reference = ("tempering", turn, chain), references[chain]
                if reference is None:
                    search = await run_filter(problem, ctx, rule, score, label=label, tree=tree)
                else:
                    search = await run_conditional(problem, ctx, rule, score, reference, tree, label)
                own = rule.shares(search)
                finished.update(dict.fromkeys(search.finished))
                if not own or search.stopped:
                    break
                references[chain] = drawn_from(own, ctx.rng(*label, "reference"))
                if chain == 0:
                    rounds += 1
                    for state, share in own.items():
                        shares[state] = shares.get(state, 0.0) + share
            if search.stopped or None in references:
                break
            for low in range(turn % 2, len(heats) - 1, 2):
                proposed += 1
                a, b = references[low], references[low + 1]
                assert a is not None and b is not None
                gain = (1 / heats[low] - 1 / heats[low + 1]) * (self._log_g(tree, b) - self._log_g(tree, a))
                if math.log(max(ctx.rng("tempering", turn, "swap", low).random(), 1e-300)) < gain:
                    references[low], references[low + 1] = b, a
                    swapped += 1
        shares = {state: share / max(rounds, 1) for state, share in shares.items()}
        whole = Search(
            tree, tuple(finished), search.open, search.stopped,
            {"rounds": rounds, "swaps": swapped, "swaps_proposed": proposed}, search.last,
        )  # fmt: skip
        return await filter_result(problem, ctx, whole, rules, shares, self.final)

    def _log_g(self, tree: SearchTree, leaf: State) -> float:
        """Log G of a whole path, at temperature 1."""
        rule = Filter(1, self.verifier, self.potential)
        path = [node for node in leaf.ancestry() if node.parent is not None]
        return math.fsum(rule.log_potential(tree, node, node.depth) for node in path)
