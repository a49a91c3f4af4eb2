"""Beam search guided by a verifier: keep the best prefixes of each level, continue each several times.

Paper    Snell et al. 2024, "Scaling LLM Test-Time Compute Optimally can be More Effective than Scaling Model
         Parameters", §5.2.
Equal    n first steps; the best n / branch are kept and continued `branch` times each, to the end; the choice
         is a vote weighted by the last step's score.
Differs  Finished outputs leave the beam and wait for the choice (`finished=compete` and `shrink` are the other
         conventions in use). If n is not a multiple of `branch`, n continuations are dealt in turn to the
         kept, the best first. Equal scores: the earlier stays.
Needs    A process in steps, and a verifier of partial outputs (`log_probability` makes it a plain beam
         search).    Cost: n steps and n scores per level.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from ponder.core.context import Context
from ponder.core.level_loop import Level, Next, level_loop, scorer, shared_out, top
from ponder.core.problem import Problem
from ponder.core.registry import SELECTORS, VERIFIERS, strategy
from ponder.core.search_tree import Aggregate, search_result
from ponder.core.selector import Selector
from ponder.core.strategy import Result, Strategy
from ponder.core.verifier import Verifier
from ponder.errors import ParameterError


@strategy("beam_search", aliases=("beam",), what="search", how="verifier")
@dataclass(frozen=True)
class BeamSearch(Strategy):
    """Keep the best `keep` prefixes of `n` at every level.

    Args:
        n: prefixes at a level (the papers' N); None takes the number from the study's sample axis.
        branch: continuations of each kept prefix (the papers' M); at most n.
        keep: prefixes kept at a level; None is max(1, n // branch).
        verifier: scores prefixes.
        how: how the scores of a prefix's steps become one number.
        finished: what a finished output does: `retire` (leave; the beam stays as wide, and ends with n of them),
            `shrink` (leave, and the beam gets narrower), `compete` (keep its place while it is among the best).
        choose: chooses among the finished outputs.
    """

    n: int | None = None
    branch: int = 4
    keep: int | None = None
    verifier: Verifier = field(default_factory=lambda: VERIFIERS.build("log_probability"))
    how: Aggregate = "last"
    finished: Literal["retire", "shrink", "compete"] = "retire"
    choose: Selector = field(default_factory=lambda: SELECTORS.build("weighted_majority"))

    stepwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.n is not None and self.n < 1:
            raise ParameterError(self, "n", self.n, allowed="an integer ≥ 1")
        if self.branch < 1:
            raise ParameterError(self, "branch", self.branch, allowed="an integer ≥ 1")
        if self.keep is not None and not 1 <= self.keep <= (self.n or self.keep):
            raise ParameterError(self, "keep", self.keep, allowed="an integer from 1 to n")

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Search level by level, then choose among what was finished."""
        n = self.n or 1
        keep = self.keep or max(1, n // self.branch)

        async def select(level: Level) -> Next:
            scores = np.asarray([level.tree.aggregate(s, self.how) for s in level.states])
            counts = np.zeros(len(level.states), dtype=np.int64)
            done = len(set(level.states[i] for i in np.flatnonzero(~level.open)))
            if self.finished == "compete":
                best = top(scores, keep)
                counts[best] = 1
                kept = [int(i) for i in best if level.open[i]]
                return Next(counts + shared_out(len(kept) * (n // keep - 1), kept, len(counts)) if kept else counts)
            counts[~level.open] = 1
            room = keep - (done if self.finished == "shrink" else 0)
            if room <= 0 or done >= n:
                return Next(np.where(level.open, 0, counts))
            kept = [int(i) for i in top(np.where(level.open, scores, -np.inf), room) if level.open[i]]
            return Next(counts + shared_out(n * room // keep, kept, len(counts)))

        search = await level_loop(
            problem, ctx, select, start=[(ctx.root(), n)], score=scorer(problem, ctx, self.verifier)
        )
        return await search_result(problem, ctx, search, self.verifier, choose=self.choose, how=self.how)
