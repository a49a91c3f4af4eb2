"""Multi-temperature sampling: spread the draws over a grid of temperatures, stop early when all agree.

Paper    Wu et al. 2025, "On the Role of Temperature Sampling in Test-Time Scaling", §4.
Equal    A grid of temperatures shares the budget evenly; a problem is easy, and left early, when each
         temperature agrees with itself (≥ 0.8) and all temperatures agree with each other.
Differs  Temperature 0 is deterministic: it is drawn once, counts as a fully agreeing temperature, and gives the
         rest of its share to the others. Rounds of 4 with the first look after 2 (paper: silent). Without early
         exit each temperature casts one vote, weighted by its agreement.
Needs    A temperature per request, and an answer to extract.    Cost: at most n draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np

from ponder.core.answers import group_answers
from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.core.registry import SELECTORS, strategy
from ponder.core.strategy import Result, Strategy
from ponder.core.two_stage import TwoStageVote, two_stage_vote
from ponder.core.verifier import Verifier
from ponder.errors import BudgetError, ParameterError
from ponder.ledger.spend import Spend

GRID = tuple(round(0.1 * i, 1) for i in range(13))
"""0.0, 0.1, …, 1.2: the paper's grid."""

REDUCED_GRID = (GRID[0], *GRID[4:])
"""Without 0.1, 0.2 and 0.3, which solved nothing more on Qwen3."""


@strategy(
    "multi_temperature", aliases=("temperature_scaling",),
    what="parallel", how="stimulation:decode:repetition, aggregation:majority",
)  # fmt: skip
@dataclass(frozen=True)
class MultiTemperature(Strategy):
    """Draw `n` outputs over a grid of temperatures.

    Args:
        n: outputs to draw at most; at least one per temperature. None takes the number from the study's sample
            axis; a grid with more temperatures than that is then thinned evenly.
        temperatures: the grid, distinct numbers ≥ 0.
        per_round: draws per temperature and round.
        first_look: rounds before the first look at agreement.
        early_exit: whether an agreed problem is left early.
        tau_intra: share of a temperature's valid answers that makes it agree with itself, in (0, 1].
        tau_cross: share of the temperatures that must have the same majority, in (0, 1].
        vote: `two_stage` (one vote per temperature) or `pooled` (one per sample).
        verifier: chooses the best-scored output instead of a vote; none votes.
        accept: score from which an output counts as verified in the report, for `verifier`.
    """

    n: int | None = None
    temperatures: tuple[float, ...] = GRID
    per_round: int = 4
    first_look: int = 2
    early_exit: bool = True
    tau_intra: float = 0.8
    tau_cross: float = 1.0
    vote: Literal["two_stage", "pooled"] = "two_stage"
    verifier: Verifier | None = None
    accept: float = 0.5

    def __post_init__(self) -> None:
        grid = self.temperatures
        if not grid or len(set(grid)) < len(grid) or not all(t >= 0 and math.isfinite(t) for t in grid):
            raise ParameterError(self, "temperatures", grid, allowed="a list of distinct numbers ≥ 0")
        for name in ("per_round", "first_look"):
            if getattr(self, name) < 1:
                raise ParameterError(self, name, getattr(self, name), allowed="an integer ≥ 1")
        for name in ("tau_intra", "tau_cross"):
            if not 0 < getattr(self, name) <= 1:
                raise ParameterError(self, name, getattr(self, name), allowed="in (0, 1]")
        if self.vote not in ("two_stage", "pooled"):
            raise ParameterError(self, "vote", self.vote, allowed="two_stage or pooled")
        if self.n is not None and self.n < len(grid):
            fits = list(thinned(grid, self.n)) if self.n > 0 else "none"
            raise BudgetError(
                f"multi_temperature: n={self.n} draws do not cover {len(grid)} temperatures. Draw at least "
                f"{len(grid)}, or take a smaller grid such as temperatures={fits}."
            )

    def with_samples(self, n: int) -> Self:
        """At `n` samples, on a grid of at most `n` temperatures."""
        return replace(self, n=n, temperatures=thinned(self.temperatures, n)) if self.n is None else self

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Draw round by round; leave early if all agree, else let the verifier or the vote choose."""
        left = split_evenly(self.n or len(self.temperatures), self.temperatures)
        candidates: list[Candidate] = []
        hold = Spend(verifier_calls=1) if self.verifier else Spend()
        rounds, easy, vote = 0, False, TwoStageVote()
        while any(left.values()):
            wanted = {t: min(self.per_round, count) for t, count in left.items() if count}
            parts = [({"temperature": t}, count) for t, count in wanted.items()]
            drawn = await ctx.draw(problem, 0, parts=parts, hold=hold)
            candidates += drawn
            left = {t: count - wanted.get(t, 0) for t, count in left.items()}
            rounds += 1
            vote = self._vote(candidates, ctx)
            easy = self.early_exit and rounds >= self.first_look and self.agreed(vote)
            if easy or len(drawn) < sum(wanted.values()):
                break
        scores = None
        if self.verifier is not None and candidates:
            scores = await ctx.score(problem, candidates, self.verifier)
        by_score = scores is not None and not easy and not np.isnan(scores).all()
        best = int(np.nanargmax(scores)) if by_score and scores is not None else None
        details: dict[str, Any] = {
            "rounds": rounds,
            "stopped": "temperatures agree" if easy else None,
            "consensus": vote.consensus,
            "tie": vote.tie and not by_score,
            "difficulty": self._difficulty(candidates, scores, easy),
            "temperatures": self._report(candidates, vote, scores, ctx),
        }
        result = ctx.result(candidates, best, scores=scores, verifier=self.verifier, **details)
        selector = SELECTORS.build("two_stage_vote(pooled=true)" if self.vote == "pooled" else "two_stage_vote")
        return result if by_score else await ctx.select(result, selector)

    def agreed(self, vote: TwoStageVote) -> bool:
        """Whether every temperature agrees with itself and enough of them with each other.

        It says that the samples agree, never that they are right.
        """
        confident = all(s.valid and s.agreement >= self.tau_intra - 1e-12 for s in vote.strata.values())
        return bool(vote.strata) and confident and vote.consensus >= self.tau_cross - 1e-12

    def _vote(self, candidates: Sequence[Candidate], ctx: Context) -> TwoStageVote:
        return two_stage_vote(_groups(candidates, ctx), [c.meta.get("temperature") for c in candidates])

    def _difficulty(self, candidates: Sequence[Candidate], scores: Any, easy: bool) -> str | None:
        """`easy`; with a verifier also `medium`, `hard`, `unsolved`; None if nobody can tell."""
        if easy:
            return "easy"
        if scores is None or np.isnan(scores).all():
            return None
        drawn = {c.meta.get("temperature") for c in candidates}
        solved = {c.meta.get("temperature") for c, s in zip(candidates, scores, strict=True) if s >= self.accept}
        return "unsolved" if not solved else "medium" if solved == drawn else "hard"

    def _report(
        self, candidates: Sequence[Candidate], vote: TwoStageVote, scores: Any, ctx: Context
    ) -> Mapping[float, Mapping[str, Any]]:
        """Per temperature: draws, valid ones, agreement, majority answer; with a verifier, accepted draws."""
        report: dict[float, dict[str, Any]] = {}
        groups = _groups(candidates, ctx)
        for temperature, said in vote.strata.items():
            at = [i for i, c in enumerate(candidates) if c.meta.get("temperature") == temperature]
            row: dict[str, Any] = {"n": said.drawn, "valid": said.valid, "agreement": said.agreement}
            row["answer"] = None if said.group is None else candidates[groups.index(said.group)].answer
            if scores is not None:
                row["accepted"] = sum(bool(scores[i] >= self.accept) for i in at)
            report[temperature] = row  # type: ignore[index]
        return report


def _groups(candidates: Sequence[Candidate], ctx: Context) -> list[int]:
    return group_answers([c.answer if c.error is None else None for c in candidates], ctx.same)


def thinned(grid: Sequence[float], n: int) -> tuple[float, ...]:
    """At most `n` temperatures of a grid, evenly spread; one is taken from the middle.

    >>> thinned(GRID, 4), thinned(GRID, 1)
    ((0.0, 0.4, 0.8, 1.2), (0.6,))
    """
    if n >= len(grid) or n < 1:
        return tuple(grid)
    if n == 1:
        return (grid[len(grid) // 2],)
    return tuple(grid[round(i * (len(grid) - 1) / (n - 1))] for i in range(n))


def split_evenly(n: int, grid: Sequence[float]) -> dict[float, int]:
    """How many of `n` draws each temperature gets, in the grid's order.

    Temperature 0 gets one; the others share the rest evenly, and what does not divide goes to those nearest
    the middle of the grid. A grid of nothing but 0 gets all (identical) draws.

    >>> split_evenly(10, (0.0, 0.4, 0.8, 1.2))
    {0.0: 1, 0.4: 3, 0.8: 3, 1.2: 3}
    """
    random = [t for t in grid if t > 0]
    if not random:
        return dict.fromkeys(grid, n)
    share, rest = divmod(n - (len(grid) - len(random)), len(random))
    middle = (min(grid) + max(grid)) / 2
    extra = set(sorted(random, key=lambda t: (abs(t - middle), t))[:rest])
    return {t: share + (t in extra) if t > 0 else 1 for t in grid}
