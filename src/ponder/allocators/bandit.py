"""Bandit: which strategy the next problems get, learnt from how it went on the problems before.

Paper    Thompson 1933; Auer et al. 2002 (UCB1); as a choice of search, Parmar et al. 2025, "PlanGEN" (the bound).
Equal    Thompson sampling from Beta posteriors in which a reward y counts as y successes and 1 - y failures; UCB.
Differs  Problems come in rounds of fixed size and order, so that nothing depends on timing; within a round UCB counts
         the turns just given as turns with the arm's mean reward. A reward can be lowered by what the turn cost.
Needs    A verifier, or selectors whose confidence means something.    Cost: one turn of one arm a problem.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from ponder.allocators.marginal_gain import Cost
from ponder.core.allocator import Allocator, Assignment, Standing
from ponder.core.bandit import upper_bound
from ponder.core.registry import STRATEGIES, allocator
from ponder.core.seeds import generator
from ponder.core.strategy import Result, Strategy
from ponder.core.verifier import Verifier
from ponder.errors import ParameterError


def _arms() -> tuple[Strategy, ...]:
    return tuple(STRATEGIES.build(name) for name in ("best_of_n", "adaptive_consistency"))


@allocator(
    "bandit", aliases=("strategy_bandit",), what="parallel, hybrid", how="search, verification:outcome", where="any"
)
@dataclass(frozen=True)
class Bandit(Allocator):
    """Each problem gets one arm; arms that went well are chosen more often.

    Args:
        n: samples of an arm's turn, unless it fixes its own; None takes the study's sample axis.
        arms: strategies, in quotes with their selectors; two or more.
        rule: `thompson`, `ucb`, or `uniform` (a control that does not learn).
        round: problems of a round, ≥ 1; their rewards are known from the next round on.
        verifier: its score of the chosen candidate is the reward; none takes the selector's confidence. `exact` shows
            the bandit the reference: for studies, not for use.
        low: lowest reward; rewards are scaled to [0, 1] between it and `high`.
        high: highest reward.
        price: what a unit of `cost` takes from the scaled reward, ≥ 0.
        cost: what is paid for.
        exploration: weight of UCB's square root.
    """

    n: int | None = None
    arms: tuple[Strategy, ...] = field(default_factory=_arms)
    rule: Literal["thompson", "ucb", "uniform"] = "thompson"
    round: int = 8
    verifier: Verifier | None = None
    low: float = 0.0
    high: float = 1.0
    price: float = 0.0
    cost: Cost = "samples"
    exploration: float = 1.0

    scores_all: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if len(self.arms) < 2:
            raise ParameterError(self, "arms", len(self.arms), allowed="two strategies or more")
        for name in ("n", "round"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ParameterError(self, name, value, allowed="an integer ≥ 1")
        for name in ("price", "exploration"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ParameterError(self, name, getattr(self, name), allowed="a number ≥ 0")
        if not self.low < self.high:
            raise ParameterError(self, "low", self.low, allowed=f"below high={self.high}")

    @property
    def strategies(self) -> tuple[Strategy, ...]:
        """The arms."""
        return self.arms

    def assign(self, standings: Sequence[Standing], seed: int) -> Sequence[Assignment | None]:
        """An arm for each of the next problems without one."""
        arms = [arm.with_samples(self.n or 1) for arm in self.arms]
        uses, rewards = [0.0] * len(arms), [0.0] * len(arms)
        for standing in standings:
            if standing.turns:
                i = arms.index(standing.turns[0])
                uses[i] += 1
                rewards[i] += self.reward(standing)
        given: list[Assignment | None] = [None] * len(standings)
        waiting = [i for i, s in enumerate(standings) if not s.turns and not s.ended]
        for i in waiting[: self.round]:
            arm = self._choose(uses, rewards, generator(seed, "bandit", standings[i].problem.id))
            given[i] = Assignment(arms[arm])
            if self.rule == "ucb":
                rewards[arm] += rewards[arm] / uses[arm] if uses[arm] else 0.5
                uses[arm] += 1
        return given

    def _choose(self, uses: list[float], rewards: list[float], rng: np.random.Generator) -> int:
        arms = range(len(uses))
        if self.rule == "uniform":
            return int(rng.integers(len(uses)))
        if self.rule == "thompson":
            draws = [rng.beta(0.5 + rewards[i], 0.5 + uses[i] - rewards[i]) for i in arms]
            return max(arms, key=lambda i: (draws[i], -i))
        untried = [i for i in arms if not uses[i]]
        if untried:
            return untried[0]
        total = int(sum(uses))
        bounds = [upper_bound(rewards[i], int(uses[i]), total, exploration=self.exploration) for i in arms]
        return max(arms, key=lambda i: (bounds[i], -i))

    def reward(self, standing: Standing) -> float:
        """What a problem's turn was worth, in [0, 1]; 0 if it has no answer."""
        result = standing.result
        if result is None or result.best is None:
            return 0.0
        value = self._value(result)
        scaled = (value - self.low) / (self.high - self.low)
        spent = standing.samples if self.cost == "samples" else float(getattr(result.total, self.cost))
        return min(1.0, max(0.0, scaled - self.price * spent))

    def _value(self, result: Result) -> float:
        assert result.best is not None
        if self.verifier is not None:
            return result.best.scores.get(self.verifier.name, self.low)
        confidence = result.selection.confidence if result.selection is not None else None
        if confidence is None:  # without votes: how many of the candidates agree with the choice
            same = [c.answer == result.best.answer for c in result.candidates if c.valid]
            confidence = sum(same) / len(same) if same else 0.0
        return confidence
