"""The node loop: ask which nodes come next, extend and score them, tell what came.

Best-first search, A*, MCTS and AB-MCTS are this loop; what is special about each is its policy. A policy keeps
its statistics in dictionaries by state; the tree is the states' parent links and is never copied.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol

from ponder.core.context import Context
from ponder.core.pool import Floats
from ponder.core.problem import Problem
from ponder.core.search_tree import Score, Search, SearchTree, complete_best, scored, set_aside
from ponder.core.state import State
from ponder.ledger.spend import Spend

Asked = Sequence[tuple[State, int]]
"""Different states, each with its number of children."""


class Policy(Protocol):
    """Which node next."""

    def ask(self, room: int) -> Asked | Awaitable[Asked]:
        """Up to `room` different states to extend, each with its number of children; empty when it is done.

        A coroutine if the policy must spend compute to decide (critiques, choices by a model).
        """

    def tell(self, parent: State, children: Sequence[State], scores: Floats) -> None:
        """The children of one state that was asked for, with their scores (NaN where there is none).

        Fewer children than asked may come, even none; each asked state is told exactly once.
        """


async def node_loop(
    problem: Problem,
    ctx: Context,
    policy: Policy,
    *,
    score: Score,
    expansions: int | None = None,
    batch: int = 1,
    tree: SearchTree | None = None,
    finished: dict[State, None] | None = None,
    hold: Spend = Spend(verifier_calls=1),
) -> Search:
    """Extend what a policy asks for until it is done, `expansions` are made, or the budget ends it.

    If nothing is finished by then, the best open state alone is completed.

    Args:
        problem: the problem of `ctx`.
        ctx: where everything is drawn and scored.
        policy: says which nodes come next.
        score: scores new states.
        expansions: nodes to extend at most; None for no limit.
        batch: nodes extended together; 1 asks again after each.
        tree: a tree to add to; None begins one.
        finished: where finished outputs are kept; a policy that finds some by itself adds them.
        hold: what scoring a new state will cost: no more are drawn than can be scored.
    """
    tree, stopped, made = SearchTree() if tree is None else tree, None, 0
    finished = {} if finished is None else finished
    opened: dict[State, None] = {}
    while expansions is None or made < expansions:
        wanted = policy.ask(batch if expansions is None else min(batch, expansions - made))
        asked = await wanted if isinstance(wanted, Awaitable) else wanted
        if not asked:
            break
        made += len(asked)
        opened.update(dict.fromkeys(state for state, _ in asked))  # until they have children
        before = len(ctx.shortfalls)
        reserve = set_aside(ctx, (state for state, _ in asked), finished, hold)
        if reserve is None:
            stopped = "budget"
            break
        try:
            groups = await ctx.extend([state for state, _ in asked], [count for _, count in asked], hold=hold)
        finally:
            ctx.meter.settle(reserve, Spend())
        children = [child for group in groups for child in group]
        short = len(children) < sum(count for _, count in asked) and len(ctx.shortfalls) > before
        scores, unscored = await scored(ctx, tree, children, score)
        at = 0
        for (state, _), group in zip(asked, groups, strict=True):
            if group:
                opened.pop(state, None)
            elif short:
                opened[state] = None
            own = scores[at : at + len(group)]
            at += len(group)
            for child in group:
                if ctx.process.complete(child):
                    finished[child] = None
                if not ctx.process.done(child):
                    opened[child] = None
            policy.tell(state, group, own)
        if short or unscored:
            stopped = "budget"
            break
    else:
        stopped = "expansions"
    if not finished:
        opened = dict.fromkeys(await complete_best(ctx, tree, opened, finished, score))
    still = tuple(state for state in opened if state.parent is not None)
    return Search(tree, tuple(finished), still, stopped, {"expansions": made})
