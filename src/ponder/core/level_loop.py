"""The level loop: extend all, score all, decide how many continuations each gets.

Beam search, DVTS, REBASE, ETS, breadth-first tree of thoughts, dynamic experts and particle filters are this
loop; what is special about each is its `select`. Both calls of a level are batches.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ponder.core.context import Context
from ponder.core.pool import Bools, Floats, Ints
from ponder.core.problem import Problem
from ponder.core.search_tree import Score, Search, SearchTree, complete_best, scored, set_aside
from ponder.core.state import State
from ponder.core.verifier import Verifier
from ponder.ledger.spend import Spend


@dataclass(frozen=True)
class Level:
    """The population after a round of extending and scoring.

    Members come in the order of their parents, children of one parent in the order they were drawn. A finished
    state stays a member for as long as `select` gives it places, once for each place.

    Attributes:
        number: rounds so far, from 1.
        states: the members.
        scores: (n,) of each member's last step; NaN where there is none.
        log_weights: (n,) carried from `select`, plus what each new step adds by itself (`State.log_weight`).
        parents: (n,) each member's place among the previous level's; -1 for roots and for what joined.
        fresh: (n,) whether the member is new in this level.
        open: (n,) whether it can be extended.
        tree: everything built so far.
    """

    number: int
    states: tuple[State, ...]
    scores: Floats
    log_weights: Floats
    parents: Ints
    fresh: Bools
    open: Bools
    tree: SearchTree


@dataclass(frozen=True)
class Next:
    """What `select` wants.

    Attributes:
        counts: for each member, how many continuations it gets (open), or how many places it keeps (finished).
        log_weights: (n,) carried by what comes of each member; None is 0 for all.
        join: states that are members of the next level without being drawn, with their log-weights.
        settings: (n,) what changes in the settings of each open member before it is extended; None inherits all.
    """

    counts: Sequence[int] | Ints
    log_weights: Floats | None = None
    join: Sequence[tuple[State, float]] = ()
    settings: Sequence[Mapping[str, Any]] | None = None


Select = Callable[[Level], Awaitable[Next]]


async def level_loop(
    problem: Problem,
    ctx: Context,
    select: Select,
    *,
    start: Sequence[tuple[State, int]],
    score: Score,
    join: Sequence[tuple[State, float]] = (),
    tree: SearchTree | None = None,
    hold: Spend = Spend(verifier_calls=1),
) -> Search:
    """Grow a population level by level until nothing is open or `select` lets nothing go on.

    A level for which the budget does not give all continuations goes on with those it gave. If nothing is
    finished by then, only the best open state is completed with what is left.

    Args:
        problem: the problem of `ctx`.
        ctx: where everything is drawn and scored.
        select: how many continuations each member gets.
        start: the first states with their numbers of continuations.
        score: scores new states.
        join: states that are members of the first level without being drawn, with their log-weights.
        tree: a tree to add to; None begins one.
        hold: what scoring a new state will cost: no more are drawn than can be scored.

    Returns:
        The search; its `last` is the last level.
    """
    tree, number, stopped = SearchTree() if tree is None else tree, 0, None
    finished: dict[State, None] = {}
    states = tuple(state for state, _ in start)
    counts: Sequence[int] | Ints = [count for _, count in start]
    weights = np.zeros(len(states))
    joining = join
    level = Level(
        0,
        states,
        np.full(len(states), np.nan),
        weights,
        np.full(len(states), -1),
        np.zeros(len(states), dtype=bool),
        np.asarray([not _done(ctx, s) for s in states], dtype=bool),
        tree,
    )
    rest: tuple[State, ...] | None = None
    while True:
        number += 1
        live = [i for i, state in enumerate(states) if counts[i] > 0 and not _done(ctx, state)]
        wanted = sum(int(counts[i]) for i in live)
        before = len(ctx.shortfalls)
        reserve = set_aside(ctx, (states[i] for i in live), finished, hold) if live else Spend()
        if reserve is None:
            stopped = "budget"
            rest = await complete_best(ctx, tree, states, finished, score)
            break
        try:
            children = await ctx.extend([states[i] for i in live], [int(counts[i]) for i in live], hold=hold)
        finally:
            ctx.meter.settle(reserve, Spend())
        short = sum(map(len, children)) < wanted and len(ctx.shortfalls) > before
        groups = dict(zip(live, children, strict=True))
        level, unscored = await _level(ctx, tree, number, states, counts, weights, groups, joining, score)
        finished.update(dict.fromkeys(s for s in level.states if ctx.process.complete(s)))
        if short or unscored:
            stopped = "budget"
            if not finished:
                rest = await complete_best(ctx, tree, level.states or states, finished, score)
            break
        if not level.open.any():
            break
        chosen = await select(level)
        counts, states, joining = chosen.counts, level.states, chosen.join
        weights = np.zeros(len(states)) if chosen.log_weights is None else chosen.log_weights
        tree.note("continuations", {s: float(c) for s, c in zip(states, counts, strict=True)})
        if chosen.settings is not None:
            members = zip(states, counts, level.open, chosen.settings, strict=True)
            changed = tree.resettle({s: changes for s, c, o, changes in members if c > 0 and o})
            states = tuple(changed.get(s, s) for s in states)
        if not joining and not any(int(c) > 0 and o for c, o in zip(counts, level.open, strict=True)):
            break
    if rest is None:
        rest = tuple(s for s in level.states if not _done(ctx, s))
    still = tuple(s for s in rest if s.parent is not None)
    return Search(tree, tuple(finished), still, stopped, {"levels": number}, level)


async def _level(
    ctx: Context,
    tree: SearchTree,
    number: int,
    before: Sequence[State],
    counts: Sequence[int] | Ints,
    weights: Floats,
    groups: dict[int, list[State]],
    joining: Sequence[tuple[State, float]],
    score: Score,
) -> tuple[Level, bool]:
    states: list[State] = []
    parents: list[int] = []
    log_weights: list[float] = []
    fresh: list[bool] = []
    for i, state in enumerate(before):
        children = groups.get(i)
        if children is not None:
            states += children
            log_weights += [float(weights[i]) + child.log_weight for child in children]
        else:
            children = [state] * int(counts[i])  # finished: it keeps its places
            states += children
            log_weights += [float(weights[i])] * len(children)
        parents += [i] * len(children)
        fresh += [i in groups] * len(children)
    new = [s for s, f in zip(states, fresh, strict=True) if f]
    _, unscored = await scored(ctx, tree, new, score)
    for state, weight in joining:
        states.append(state)
        log_weights.append(weight)
        parents.append(-1)
        fresh.append(True)
    tree.levels.append(
        {
            "members": len(states),
            "new": len(new),
            "finished": sum(_done(ctx, s) for s in states),
            "alive_tokens": tree.alive_tokens(states),
            "distinct_steps": len({(s.parent, str(s.step)) for s in new}) / len(new) if new else 1.0,
        }
    )
    level = Level(
        number,
        tuple(states),
        np.asarray([tree.score(s) for s in states], dtype=float),
        np.asarray(log_weights, dtype=float),
        np.asarray(parents, dtype=np.int64),
        np.asarray(fresh, dtype=bool),
        np.asarray([not _done(ctx, s) for s in states], dtype=bool),
        tree,
    )
    return level, unscored


def _done(ctx: Context, state: State) -> bool:
    return state.error is not None or ctx.process.done(state)


def scorer(problem: Problem, ctx: Context, verifier: Verifier) -> Score:
    """Scores states by a verifier, through the context."""

    async def score(states: Sequence[State]) -> npt.NDArray[np.float64]:
        return await ctx.score(problem, states, verifier)

    return score


def top(scores: Floats, keep: int) -> Ints:
    """Places of the `keep` highest scores, best first; equal scores in order; NaN counts as lowest."""
    return np.argsort(-np.nan_to_num(scores, nan=-np.inf, posinf=np.inf, neginf=-np.inf), kind="stable")[:keep]


def shared_out(total: int, places: Sequence[int] | Ints, n: int) -> Ints:
    """`total` continuations dealt in turn to the members in `places` (of `n`), the first ones get the rest.

    >>> shared_out(7, [2, 0], 3).tolist()
    [3, 0, 4]
    """
    counts = np.zeros(n, dtype=np.int64)
    for turn, place in enumerate(places):
        counts[place] = total // len(places) + (turn < total % len(places))
    return counts
