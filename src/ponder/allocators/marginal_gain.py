"""Marginal gain: a budget for all problems together, and each round it goes to those that gain most from more draws.

Paper    Muralidharan et al. 2025, "Scaling over Scaling" (gain of the next unit under a Beta posterior); the look-ahead
         of a vote is the knowledge gradient per draw of Frazier & Powell 2010, KG(*).
Equal    Posteriors after each round, most gain per cost first, nothing beyond the total.
Differs  With a verifier the prior Beta(α, β) is fitted to all problems of the row, and a solved problem gains nothing
         more. Problems that will hardly ever be solved can be abandoned. Decisions are made in rounds, so that nothing
         depends on which problem is finished first.
Needs    Answers to vote on, or a verifier.    Cost: at most n draws times the number of problems.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from ponder.core.allocator import Allocator, Assignment, Standing
from ponder.core.growth import accepted, answer_votes
from ponder.core.posteriors import chance_solved, next_success, vote_gain
from ponder.core.registry import STRATEGIES, allocator
from ponder.core.strategy import Strategy
from ponder.core.verifier import Verifier
from ponder.errors import LawFitError, ParameterError

Cost = Literal["samples", "generated_tokens", "tokens", "calls", "function_evaluations", "cost_usd"]


@allocator("marginal_gain", what="parallel", how="aggregation, verification:outcome", where="any")
@dataclass(frozen=True)
class MarginalGain(Allocator):
    """Draw where it gains most.

    Args:
        n: samples per problem on average; the total is never passed. None takes the study's sample axis.
        strategy: what draws; in quotes with its selectors. It should leave its own number of samples open.
        start: samples that every problem gets first, ≥ 1.
        batch: samples of a further turn, ≥ 1.
        share: of the problems, how many get a turn in one round, in (0, 1]; smaller is greedier and takes more rounds.
        most: samples of one problem at most; None is 4 n.
        verifier: says which candidates are solutions; none judges by the votes.
        accept: least score of a solution.
        cost: gains are divided by a problem's mean cost per sample in this.
        abandon: with a verifier, problems whose chance of being solved with what they could still get is below it
            get nothing more; 0 abandons none.
    """

    n: int | None = None
    strategy: Strategy = field(default_factory=lambda: STRATEGIES.build("repeated_sampling"))
    start: int = 4
    batch: int = 2
    share: float = 0.25
    most: int | None = None
    verifier: Verifier | None = None
    accept: float = 0.5
    cost: Cost = "samples"
    abandon: float = 0.0

    def __post_init__(self) -> None:
        for name in ("n", "start", "batch", "most"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ParameterError(self, name, value, allowed="an integer ≥ 1")
        if not 0 < self.share <= 1:
            raise ParameterError(self, "share", self.share, allowed="in (0, 1]")
        if not 0 <= self.abandon < 1:
            raise ParameterError(self, "abandon", self.abandon, allowed="in [0, 1)", hint="0 abandons nothing")
        if self.abandon and self.verifier is None:
            raise ParameterError(
                self, "abandon", self.abandon, allowed="0 without a verifier", hint="votes do not say what is solved"
            )
        if not self.strategy.takes_samples:
            raise ParameterError(
                self, "strategy", str(self.strategy), allowed="one without its own number of samples",
                hint="leave its n out: the turns decide it",
            )  # fmt: skip

    @property
    def strategies(self) -> tuple[Strategy, ...]:
        """The one that draws."""
        return (self.strategy,)

    def assign(self, standings: Sequence[Standing], seed: int) -> Sequence[Assignment | None]:
        """First `start` samples for all; then `batch` more for those with the most gain per cost."""
        n = self.n or 1
        left = n * len(standings) - sum(s.samples for s in standings)
        if not any(s.turns for s in standings):
            return [Assignment(self.strategy.with_samples(min(self.start, n))) for _ in standings]
        gains = self.gains(standings, left)
        order = sorted((i for i, gain in enumerate(gains) if gain > 0), key=lambda i: (-gains[i], i))
        given: list[Assignment | None] = [None] * len(standings)
        for i in order[: max(1, round(self.share * len(standings)))]:
            ask = min(self.batch, left, self._cap - standings[i].samples)
            if ask >= 1:
                given[i] = Assignment(self.strategy.with_samples(ask))
                left -= ask
        return given

    @property
    def _cap(self) -> int:
        return self.most or 4 * (self.n or 1)

    def gains(self, standings: Sequence[Standing], left: int) -> list[float]:
        """Expected gain per cost of each problem's next draw; 0 where nothing more is to be given."""
        if left < 1:
            return [0.0] * len(standings)
        counts = [accepted(s.result.candidates if s.result else (), self.verifier, self.accept) for s in standings]
        alpha, beta = fitted_prior(counts) if self.verifier is not None else (0.5, 0.5)
        gains = []
        for standing, (scored, solved) in zip(standings, counts, strict=True):
            room = min(self._cap - standing.samples, left)
            if standing.ended or standing.result is None or room < 1:
                gains.append(0.0)
                continue
            if self.verifier is None:
                gain = self._vote_gain(standing)
            else:
                gain = next_success(scored, solved, alpha=alpha, beta=beta)
                if self.abandon and chance_solved(scored, solved, room, alpha=alpha, beta=beta) < self.abandon:
                    gain = 0.0
            gains.append(gain / self._cost(standing))
        return gains

    def _vote_gain(self, standing: Standing) -> float:
        assert standing.result is not None
        counts, invalid = answer_votes(standing.result.candidates, None)
        first, second = sorted((*counts, 0, 0), reverse=True)[:2]
        drawn = sum(counts) + invalid
        return vote_gain(first, second) * ((first + second + 1) / (drawn + 1))

    def _cost(self, standing: Standing) -> float:
        if self.cost == "samples" or standing.result is None:
            return 1.0
        spent = float(getattr(standing.result.total, self.cost))
        return spent / standing.samples if spent > 0 else 1.0


def fitted_prior(counts: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """α and β of the problems' chances of success, from (draws, successes); Beta(½, ½) where they do not say.

    Stopping at a success does not disturb it: the likelihood is the same.
    """
    from ponder.laws.beta_binomial import BetaBinomialLaw

    known = [(n, c) for n, c in counts if n]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # equally hard problems are no mistake here
        try:
            law = BetaBinomialLaw.fit([n for n, _ in known], [c for _, c in known])
        except (LawFitError, ParameterError):
            return 0.5, 0.5
    return law.alpha, law.beta
