"""What a search has built: its nodes in the order they came, their scores, and what the technique notes on them.

The tree itself is the states' parent links. Nothing is ever copied: a fork is another child.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ponder.core.pool import Floats
from ponder.core.registry import SELECTORS
from ponder.core.state import State
from ponder.ledger.spend import Spend

if TYPE_CHECKING:
    from ponder.core.context import Context
    from ponder.core.level_loop import Level
    from ponder.core.problem import Problem
    from ponder.core.selector import Selector
    from ponder.core.strategy import Result
    from ponder.core.verifier import Verifier

Aggregate = Literal["last", "min", "product", "mean", "max"]
"""How the scores of a path's steps become one number."""

Score = Callable[[Sequence[State]], Awaitable[Floats]]
"""Scores new states, all at once; NaN where there is no score."""


def aggregate(scores: Sequence[float], how: Aggregate = "last") -> float:
    """One number for a path; -inf for a path without scores, NaN if any score that counts is missing.

    A product of scores in [0, 1] is taken as the sum of their logarithms, so that long paths do not underflow
    before the last operation.

    >>> [round(aggregate([0.9, 0.5, 0.8], how), 3) for how in ("last", "min", "product", "mean", "max")]
    [0.8, 0.5, 0.36, 0.733, 0.9]
    """
    if not len(scores):
        return -math.inf
    if how == "last":
        return float(scores[-1])
    if any(math.isnan(s) for s in scores):
        return math.nan
    if how == "min":
        return float(min(scores))
    if how == "max":
        return float(max(scores))
    if how == "mean":
        return math.fsum(scores) / len(scores)
    if min(scores) <= 0:
        return math.prod(scores)
    return math.exp(math.fsum(map(math.log, scores)))


class SearchTree:
    """The nodes of one search with their step scores and notes."""

    def __init__(self) -> None:
        self.nodes: list[State] = []
        self.notes: dict[str, dict[State, float]] = {}
        self.levels: list[dict[str, float]] = []
        self._scores: dict[State, float] = {}
        self._alive = 0
        self._members: dict[State, None] = {}
        self._holders: dict[State, int] = {}

    def __len__(self) -> int:
        return len(self.nodes)

    def copy(self) -> SearchTree:
        """A tree of the same nodes that may grow by itself."""
        other = SearchTree()
        other.nodes, other.levels, other._scores = [*self.nodes], [*self.levels], dict(self._scores)
        other.notes = {name: dict(values) for name, values in self.notes.items()}
        return other

    def add(self, states: Sequence[State], scores: Iterable[float]) -> None:
        """Take up new nodes with the scores of their last steps."""
        self.nodes += states
        self._scores.update(zip(states, map(float, scores), strict=True))

    def score(self, state: State) -> float:
        """The score of a state's last step; NaN for a root or a state that was not scored."""
        return self._scores.get(state, math.nan)

    def trail(self, state: State) -> list[float]:
        """Scores of the steps from the first to this one; NaN where there is none."""
        return [self._scores.get(node, math.nan) for node in state.ancestry() if node.parent is not None][::-1]

    def aggregate(self, state: State, how: Aggregate = "last") -> float:
        """The scores on a state's path as one number."""
        return self.score(state) if how == "last" and state.parent is not None else aggregate(self.trail(state), how)

    def note(self, name: str, values: Mapping[State, float]) -> None:
        """Keep numbers about nodes (weights, visits, continuations) under a name; later ones win."""
        self.notes.setdefault(name, {}).update(values)

    def resettle(self, settings: Mapping[State, Mapping[str, Any]]) -> dict[State, State]:
        """The same nodes under further settings for what comes of them; each takes its node's place in the tree."""
        changed = {state: replace(state, meta={**state.meta, **own}) for state, own in settings.items()}
        self.nodes = [changed.get(node, node) for node in self.nodes]
        for values in (self._scores, *self.notes.values()):
            for state, new in changed.items():
                if state in values:
                    values[new] = values.pop(state)
        return changed

    def new_siblings(self) -> float | None:
        """Of the steps drawn beside another one, the share that differs from all earlier siblings; None without any."""
        distinct = len({(node.parent, str(node.step)) for node in self.nodes})
        families = len({node.parent for node in self.nodes})
        beside = len(self.nodes) - families
        return (distinct - families) / beside if beside else None

    def alive_tokens(self, states: Iterable[State]) -> int:
        """Tokens of these states and all their ancestors, each counted once: what a shared cache must hold.

        Asked level after level it only looks at what has come and gone since.
        """
        before, self._members = self._members, dict.fromkeys(states)
        for state in self._members:
            if state not in before:
                self._hold(state, 1)
        for state in before:
            if state not in self._members:
                self._hold(state, -1)
        return self._alive

    def _hold(self, state: State, change: int) -> None:
        """One reason more, or fewer, to keep a state; its parent is kept for as long as it is."""
        for node in state.ancestry():
            holders = self._holders[node] = self._holders.get(node, 0) + change
            if holders == 0:
                del self._holders[node]
            elif change < 0 or holders > 1:
                break  # it stays, or was there
            self._alive += change * node.n_tokens

    def as_dict(self, leaves: Sequence[State] = (), limit: int = 20_000) -> dict[str, Any]:
        """Plain data: one row per node, parents before children, at most about `limit` rows.

        A row holds the parent's row (-1 for a root), slot, step as text, score, log-probability, tokens, why it
        ended, and the notes on it. `leaves` gives the row of each of the given states; they and their paths are
        always there.
        """
        number = self.numbered(leaves, limit)
        rows = []
        for state in number:
            row = {
                "parent": -1 if state.parent is None else number[state.parent],
                "slot": state.slot,
                "step": None if state.step is None else str(state.step),
                "score": _plain(self.score(state)),
                "logprob": state.logprob,
                "tokens": state.n_tokens,
                "finish": state.finish,
                "meta": {k: str(v) for k, v in state.meta.items()},
            }
            rows.append(row | {name: _plain(values[state]) for name, values in self.notes.items() if state in values})
        known = sum(node in number for node in self.nodes) if len(self.nodes) > limit else len(self.nodes)
        return {
            "nodes": rows,
            "levels": self.levels,
            "leaves": [number[leaf] for leaf in leaves],
            "cut": len(self.nodes) - known,
        }

    def numbered(self, leaves: Sequence[State] = (), limit: int = 20_000) -> dict[State, int]:
        """The rows of `as_dict`: parents before children, at most about `limit`, `leaves` and their paths always."""
        number: dict[State, int] = {}
        for node in (*self.nodes[:limit], *leaves):
            path = []
            above: State | None = node
            while above is not None and above not in number:
                path.append(above)
                above = above.parent
            for state in reversed(path):
                number[state] = len(number)
        return number


async def scored(ctx: Context, tree: SearchTree, states: Sequence[State], score: Score) -> tuple[Floats, bool]:
    """Score new states and take them up in the tree; says also whether the budget left some without a score."""
    if not states:
        return np.empty(0), False
    before = len(ctx.shortfalls)
    values = await score(states)
    ctx.release_holds()
    tree.add(states, values)
    return values, len(ctx.shortfalls) > before and bool(np.isnan(values).any())


def once_per_step(score: Score) -> Score:
    """A way of scoring that asks about one of several siblings with the same step, and gives its score to all."""

    async def distinct(states: Sequence[State]) -> Floats:
        places: dict[tuple[State | None, str], int] = {}
        first: list[State] = []
        at = []
        for state in states:
            place = places.setdefault((state.parent, str(state.step)), len(first))
            if place == len(first):
                first.append(state)
            at.append(place)
        return (await score(first))[at]

    return distinct


def set_aside(ctx: Context, states: Iterable[State], finished: Mapping[State, None], hold: Spend) -> Spend | None:
    """Reserve what completing one of the open states can cost, while nothing is finished; None if it is not affordable.

    The caller gives it back by `ctx.meter.settle(reserve, Spend())`.
    """
    if finished or not ctx.meter.limited:
        return Spend()
    nearest = max(states, key=lambda s: s.depth)
    reserve = ctx.process.to_finish(nearest, ctx) + hold
    return ctx.meter.reserve(reserve) if ctx.meter.affordable(reserve) >= 1 else None


async def complete_best(
    ctx: Context, tree: SearchTree, states: Iterable[State], finished: dict[State, None], score: Score
) -> tuple[State, ...]:
    """Nothing is finished and the budget is short: spend what is left on the best open state that fits.

    Only the finished output is scored, not the steps that lead to it. Returns what is still open: the state as far as
    it came, or nothing.
    """
    unfinished = [s for s in states if not ctx.process.done(s) and s.error is None]
    if not unfinished:
        return ()
    fitting = [s for s in unfinished if ctx.meter.affordable(ctx.process.to_finish(s, ctx)) >= 1]
    state = max(fitting or unfinished, key=lambda s: (_or_lowest(tree.score(s)), s.depth))
    while not ctx.process.complete(state):
        (children,) = await ctx.extend([state], [1], to_end=True)
        if not children:
            return (state,)
        state = children[0]
        if not ctx.process.complete(state):
            tree.add(children, [math.nan])
    await scored(ctx, tree, [state], score)
    finished[state] = None
    return ()


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value


@dataclass(frozen=True)
class Search:
    """How a search ended.

    Attributes:
        tree: everything it has built.
        finished: complete outputs, each once, in the order they were finished.
        open: states that could still be extended when it ended.
        stopped: why it ended before it was done (`budget`, …); None if it was done.
        details: numbers to show.
        last: the last level, of a search that goes by levels.
    """

    tree: SearchTree
    finished: tuple[State, ...]
    open: tuple[State, ...] = ()
    stopped: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    last: Level | None = None


async def search_result(
    problem: Problem,
    ctx: Context,
    search: Search,
    verifier: Verifier | None,
    *,
    choose: Selector | None = None,
    how: Aggregate = "last",
    extra: Mapping[str, Mapping[State, float]] | None = None,
    reason: str | None = None,
    **details: Any,
) -> Result:
    """The result of a search: its finished outputs as candidates, with a path's score and the choice among them.

    A search that was ended before anything was finished gives the best of its open states instead, marked
    `finish="unfinished"`.

    Args:
        problem: what was being solved.
        ctx: the search's context.
        search: how it ended.
        verifier: whose scores the tree holds.
        choose: who makes the choice; None takes the highest score.
        how: how a path's step scores become the candidate's score.
        extra: further scores of finished states, by name.
        reason: why it fell short.
        details: numbers to show.
    """
    leaves, finished = search.finished, search.finished
    if not finished and search.open:
        leaves = (max(search.open, key=lambda s: (_or_lowest(search.tree.aggregate(s, how)), s.depth)),)
        finished = (replace(leaves[0], finish="unfinished"),)
        reason = reason or "the budget ended the search before any output was finished; this is the best partial one"
    candidates = [ctx.candidate(state) for state in finished]
    scores = np.asarray([search.tree.aggregate(state, how) for state in leaves])
    label = verifier.name if verifier is not None else "score"
    given = {name: [values.get(state, 0.0) for state in leaves] for name, values in (extra or {}).items()}
    for name, values in ((label, scores.tolist()), *given.items()):
        candidates = [
            c if math.isnan(s) or s == -math.inf else replace(c, scores={**c.scores, name: s})
            for c, s in zip(candidates, values, strict=True)
        ]
    if choose is not None and candidates and not any(c.scores for c in candidates):
        choose, reason = SELECTORS.build("majority"), reason or "no output has a score; the majority decides"
    best_index = None if not len(scores) or np.isnan(scores).all() else int(np.nanargmax(scores))
    steps = [node.n_tokens for node in search.tree.nodes]
    details = {
        "nodes": len(search.tree),
        "depth": max((node.depth for node in search.tree.nodes), default=0),
        "mean_step_tokens": sum(steps) / len(steps) if steps else 0.0,
        "distinct_steps": _distinct_share(search.tree.nodes),
        "stopped": search.stopped,
        **_alive_tokens(search.tree),
        **search.details,
        **details,
    }
    result = replace(ctx.result(candidates, best_index, reason=reason, **details), tree=search.tree)
    return result if choose is None or not candidates else await ctx.select(result, choose)


def _or_lowest(score: float) -> float:
    return -math.inf if math.isnan(score) else score


def _alive_tokens(tree: SearchTree) -> dict[str, float]:
    """Tokens a shared cache had to hold, over the levels; nothing for a search that does not go by levels."""
    alive = [level["alive_tokens"] for level in tree.levels]
    return {"alive_tokens": sum(alive), "mean_alive_tokens": sum(alive) / len(alive)} if alive else {}


def _distinct_share(nodes: Sequence[State]) -> float | None:
    """Of siblings' steps, the share that differs from all earlier siblings; low means that sampling repeats itself."""
    seen = {(node.parent, str(node.step)) for node in nodes}
    return len(seen) / len(nodes) if nodes else None
