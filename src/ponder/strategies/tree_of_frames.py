"""Tree of frames: grow an output unit by unit, choose each unit among a few, and prune whole branches at some stages.

Paper    Liu et al. 2025, "Video-T1: Test-Time Scaling for Video Generation", §3.3 (their linear search is `best_of_n`).
Equal    `branch` children a node by depth, each the best of `candidates` draws; branches are pruned at the stages by
         the median (`pct`: ties stay, so equal scores all stay) or by full marks (`pf`: else scores above 0, else the
         best one); all others go on. The best-scored full output is chosen.
Differs  Works on every process with steps. Candidates are compared when their unit is finished, not while it is
         denoised. States are scored only where something is decided. Questions by stage, and the prompt's split into
         stages by a model, are the verifier's (`staged_questions`).
Needs    An autoregressive process and a verifier of unfinished outputs.    Cost: Σ over depths of live nodes · branch ·
         candidates units.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from ponder.core.context import Context
from ponder.core.level_loop import Level, Next, level_loop
from ponder.core.pool import Bools, Floats
from ponder.core.problem import Problem
from ponder.core.registry import VERIFIERS, strategy
from ponder.core.search_tree import search_result
from ponder.core.state import State
from ponder.core.strategy import Result, Strategy
from ponder.core.verifier import Verifier
from ponder.errors import NotAutoregressiveError, ParameterError

Keep = Literal["pct", "pf"]


@strategy(
    "tree_of_frames", aliases=("tof", "branch_and_prune"), what="hybrid", how="search:beam, verification:process",
    where="any",
)  # fmt: skip
@dataclass(frozen=True)
class TreeOfFrames(Strategy):
    """Branch, choose, prune.

    Args:
        n: first units; None takes the number from the study's sample axis.
        branch: children of a node at depths 1, 2, …; 1 beyond the list's end.
        candidates: draws for each new unit at depths 0, 1, …, of which the best-scored stays; 1 beyond the list's end.
        prune: depths (units of an output) at which branches are pruned.
        keep: `pct` keeps scores from the median on; `pf` those of 1 or more, else those above 0, else the best.
        verifier: scores unfinished and finished outputs.
    """

    n: int | None = None
    branch: tuple[int, ...] = ()
    candidates: tuple[int, ...] = ()
    prune: tuple[int, ...] = ()
    keep: Keep = "pct"
    verifier: Verifier = field(default_factory=lambda: VERIFIERS.build("log_probability"))

    stepwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.n is not None and self.n < 1:
            raise ParameterError(self, "n", self.n, allowed="an integer ≥ 1")
        for name in ("branch", "candidates", "prune"):
            if min(getattr(self, name), default=1) < 1:
                raise ParameterError(self, name, getattr(self, name), allowed="integers ≥ 1")

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Grow the tree level by level; the best-scored output is the answer."""
        self._check(ctx, ctx.process.horizon(problem))

        async def score(states: Sequence[State]) -> Floats:
            due = [i for i, state in enumerate(states) if self._due(ctx, state)]
            values = np.full(len(states), np.nan)
            if due:
                values[due] = await ctx.score(problem, [states[i] for i in due], self.verifier)
            return values

        async def select(level: Level) -> Next:
            depth = level.number
            alive = chosen_units(level, _at(self.candidates, depth - 1))
            if depth in self.prune:
                alive &= kept(np.where(alive & level.open, level.scores, np.nan), self.keep)
            going = alive & level.open
            if level.open.any() and not going.any():  # nothing could be scored: the first goes on
                going[int(np.argmax(level.open))] = True
            return Next(going * (_at(self.branch, depth - 1) * _at(self.candidates, depth)))

        start = [(ctx.root(), (self.n or 1) * _at(self.candidates, 0))]
        search = await level_loop(problem, ctx, select, start=start, score=score)
        return await search_result(problem, ctx, search, self.verifier, units=len(search.tree))

    def _due(self, ctx: Context, state: State) -> bool:
        return state.depth in self.prune or _at(self.candidates, state.depth - 1) > 1 or ctx.process.complete(state)

    def _check(self, ctx: Context, units: int | None) -> None:
        """Refuse a process or stages that make no sense together.

        Raises:
            NotAutoregressiveError: the process makes its output in one piece, or all parts of it at once.
            ParameterError: a stage that no unfinished output reaches.
        """
        if not ctx.process.autoregressive or units == 1:
            raise NotAutoregressiveError(
                f"tree_of_frames grows outputs part by part, and the process {ctx.process.name} makes all parts at "
                "once. Use best_of_n (linear search), or a process with parts, such as frames or text_steps"
            )
        if units is None:
            return
        if max(self.prune, default=0) >= units:
            allowed = f"depths from 1 to {units - 1}, for outputs of {units} units"
            raise ParameterError(self, "prune", self.prune, allowed=allowed)
        if self.branch and len(self.branch) < units - 1:
            warnings.warn(
                f"tree_of_frames: branch={list(self.branch)} ends at depth {len(self.branch)} of {units - 1}; "
                "every node beyond it has 1 child",
                stacklevel=2,
            )


def chosen_units(level: Level, candidates: int) -> Bools:
    """(n,) whether a member is the best of its group of `candidates` siblings; the first of equals."""
    alive = np.ones(len(level.states), dtype=bool)
    if candidates == 1:
        return alive
    groups: dict[tuple[int, int], list[int]] = {}
    seen: dict[int, int] = {}
    for i, parent in enumerate(level.parents.tolist()):
        if level.fresh[i]:
            place = seen[parent] = seen.get(parent, -1) + 1
            groups.setdefault((parent, place // candidates), []).append(i)
    for members in groups.values():
        values = [-math.inf if math.isnan(level.scores[i]) else level.scores[i] for i in members]
        alive[members] = False
        alive[members[int(np.argmax(values))]] = True
    return alive


def kept(scores: Floats, keep: Keep = "pct") -> Bools:
    """(n,) which scores stay; NaN goes, unless all are.

    >>> kept(np.asarray([0.1, 0.9, 0.5, 0.5])).tolist(), kept(np.asarray([0.2, 0.2])).tolist()
    ([False, True, True, True], [True, True])
    >>> kept(np.asarray([1.0, 0.5, 1.0]), "pf").tolist(), kept(np.asarray([0.5, -1.0]), "pf").tolist()
    ([True, False, True], [True, False])
    >>> kept(np.asarray([-1.0, -0.5, -0.5]), "pf").tolist()
    [False, True, False]
    """
    known = ~np.isnan(scores)
    if not known.any():
        return np.ones(len(scores), dtype=bool)
    values = np.where(known, scores, -np.inf)
    if keep == "pct":
        return np.asarray(values >= np.median(scores[known]))
    for limit in (values >= 1.0, values > 0.0):
        if limit.any():
            return np.asarray(limit)
    return np.asarray(np.arange(len(values)) == int(np.argmax(values)))


def _at(schedule: Sequence[int], depth: int) -> int:
    return schedule[depth] if depth < len(schedule) else 1
