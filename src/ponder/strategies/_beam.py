"""What beam searches share: the fields, and the rule of which prefixes go on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ponder.core.context import Context
from ponder.core.level_loop import Level, Next, level_loop, shared_out, top
from ponder.core.pool import Floats, Ints
from ponder.core.problem import Problem
from ponder.core.registry import SELECTORS, VERIFIERS
from ponder.core.search_tree import Aggregate, Search, search_result
from ponder.core.selector import Selector
from ponder.core.state import State
from ponder.core.strategy import Result, Strategy
from ponder.core.verifier import Verifier
from ponder.errors import ParameterError

Scoring = Callable[[Problem, Context, Sequence[State]], Awaitable[Floats]]
Settings = Callable[[Level], Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class Beam(Strategy):
    """The parameters of a beam; `beam_search` says what they mean."""

    n: int | None = None
    branch: int = 4
    keep: int | None = None
    verifier: Verifier = field(default_factory=lambda: VERIFIERS.build("log_probability"))
    how: Aggregate = "last"
    finished: Literal["retire", "shrink", "compete"] = "retire"
    choose: Selector = field(default_factory=lambda: SELECTORS.build("weighted_majority"))

    def __post_init__(self) -> None:
        if self.n is not None and self.n < 1:
            raise ParameterError(self, "n", self.n, allowed="an integer ≥ 1")
        if self.branch < 1:
            raise ParameterError(self, "branch", self.branch, allowed="an integer ≥ 1")
        if self.keep is not None and not 1 <= self.keep <= (self.n or self.keep):
            raise ParameterError(self, "keep", self.keep, allowed="an integer from 1 to n")


async def run_beam(
    beam: Beam,
    problem: Problem,
    ctx: Context,
    scoring: Scoring,
    *,
    start: Sequence[tuple[State, int]] | None = None,
    settings: Settings | None = None,
    details: Callable[[Search], Mapping[str, Any]] = lambda _: {},
) -> Result:
    """Search level by level, then choose among what was finished.

    Args:
        beam: the parameters.
        problem: the problem of `ctx`.
        ctx: where everything is drawn and scored.
        scoring: scores new prefixes.
        start: the first states with their numbers of continuations; None is one root with all n.
        settings: what changes in the settings of the states that go on; None: they are inherited.
        details: numbers to show, read off the search.
    """
    n = beam.n or 1
    keep = beam.keep or max(1, n // beam.branch)

    async def select(level: Level) -> Next:
        counts = continuations(level)
        return Next(counts, settings=None if settings is None else settings(level))

    def continuations(level: Level) -> Ints:
        scores = np.asarray([level.tree.aggregate(s, beam.how) for s in level.states])
        counts = np.zeros(len(level.states), dtype=np.int64)
        done = len(set(level.states[i] for i in np.flatnonzero(~level.open)))
        if beam.finished == "compete":
            best = top(scores, keep)
            counts[best] = 1
            kept = [int(i) for i in best if level.open[i]]
            return counts + shared_out(len(kept) * n // keep - len(kept), kept, len(counts)) if kept else counts
        counts[~level.open] = 1
        room = keep - (done if beam.finished == "shrink" else 0)
        if room <= 0 or done >= n:
            return np.where(level.open, 0, counts)
        kept = [int(i) for i in top(np.where(level.open, scores, -np.inf), room) if level.open[i]]
        return counts + shared_out(n * room // keep, kept, len(counts))

    async def score(states: Sequence[State]) -> Floats:
        return await scoring(problem, ctx, states)

    search = await level_loop(problem, ctx, select, start=start or [(ctx.root(), n)], score=score)
    shown = details(search)
    return await search_result(problem, ctx, search, beam.verifier, choose=beam.choose, how=beam.how, **shown)
