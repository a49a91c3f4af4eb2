"""Tree of thoughts: breadth first keeps the best states of a level; depth first goes down the best one and turns back.

Paper    Yao et al. 2023, "Tree of Thoughts: Deliberate Problem Solving with Large Language Models", algorithms 1 and 2.
Equal    Thoughts are drawn independently or listed in one call (`generate`); judged by `thought_value`, `thought_vote`
         or any verifier; BFS keeps the b = n / branch best, or draws b by value; the answer is the first of the final
         b. DFS tries a state's best children in turn (at most `max_per_state`), not those worth at most `prune`.
Differs  The first level has n thoughts like every other (paper: `branch`). Finished outputs keep their place among the
         b while they are worth it. Values that are all 0 draw evenly (reference code: 0 / 0). DFS judges siblings
         together when they are drawn, not each when it is entered; it may end at the first output worth `accept`.
Needs    A process in steps; chat, for the default verifier.    Cost: n thoughts and n values per level; DFS at most as
         many thoughts as n samples have steps, or `nodes` states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np

from ponder.core.context import Context
from ponder.core.level_loop import Level, Next, level_loop, scorer, shared_out, top
from ponder.core.node_loop import node_loop
from ponder.core.pool import Floats, Ints
from ponder.core.problem import Problem
from ponder.core.registry import SELECTORS, VERIFIERS, strategy
from ponder.core.search_tree import search_result
from ponder.core.selector import Selector
from ponder.core.state import State
from ponder.core.strategy import Result, Strategy
from ponder.core.verifier import Verifier
from ponder.errors import CapabilityError, ParameterError
from ponder.strategies._frontier import expansions_for


@strategy("tree_of_thoughts", aliases=("tot",), what="hybrid", how="search:tree, verification:process")
@dataclass(frozen=True)
class TreeOfThoughts(Strategy):
    """Search over thoughts that are judged before they are continued.

    Args:
        n: thoughts of a level (the paper's b · k); None takes the number from the study's sample axis.
        branch: thoughts of one state (k); at most n.
        keep: states that go on from a level (b); None is max(1, n // branch).
        verifier: says what a state is worth.
        search: `bfs` or `dfs`.
        generate: `sample` draws thoughts one by one, `propose` has them listed in one call per state.
        select: BFS keeps the `greedy` best, or a `sample` of the level, with replacement, by value.
        max_per_state: DFS: children that are tried of a state.
        prune: DFS: a state worth this or less is not entered; none enters all.
        nodes: DFS: states entered at most; none: as many as draw n samples' steps.
        accept: DFS: a finished output worth this or more ends the search; none goes on to the limit.
        choose: chooses among the finished outputs; `first` is the rule of the paper's DFS.
    """

    n: int | None = None
    branch: int = 5
    keep: int | None = None
    verifier: Verifier = field(default_factory=lambda: VERIFIERS.build("thought_value"))
    search: Literal["bfs", "dfs"] = "bfs"
    generate: Literal["sample", "propose"] = "sample"
    select: Literal["greedy", "sample"] = "greedy"
    max_per_state: int = 3
    prune: float | None = 0.001
    nodes: int | None = None
    accept: float | None = None
    choose: Selector = field(default_factory=lambda: SELECTORS.build("best_score"))

    stepwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("n", "branch", "keep", "max_per_state", "nodes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ParameterError(self, name, value, allowed="an integer ≥ 1")
        if self.keep is not None and self.n is not None and self.keep > self.n:
            raise ParameterError(self, "keep", self.keep, allowed="an integer from 1 to n")
        for name, words in (("search", "bfs, dfs"), ("generate", "sample, propose"), ("select", "greedy, sample")):
            if getattr(self, name) not in words.split(", "):
                raise ParameterError(self, name, getattr(self, name), allowed=f"one of {words}")
        low, high = self.verifier.range
        if self.search == "bfs" and self.select == "sample" and low < 0:
            raise ParameterError(
                self, "select", self.select, allowed="greedy for a verifier whose scores can be negative"
            )
        if self.search == "dfs" and self.prune is not None and self.prune >= high:
            raise ParameterError(
                self, "prune", self.prune, allowed=f"below {high}, the best score of {self.verifier}, or none"
            )

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Search, then choose among what was finished."""
        if self.generate == "propose" and not ctx.process.proposes:
            raise CapabilityError(
                f"tree_of_thoughts(generate=propose): {ctx.process.identity} cannot list next steps in one call; use "
                "generate=sample, or a process of lines or paragraphs"
            )
        root = ctx.root({"propose": True} if self.generate == "propose" else None)
        search = self._breadth_first if self.search == "bfs" else self._depth_first
        return await search(problem, ctx, root)

    async def _breadth_first(self, problem: Problem, ctx: Context, root: State) -> Result:
        n = self.n or 1
        keep = self.keep or max(1, n // self.branch)

        async def select(level: Level) -> Next:
            kept = self._kept(level, keep, ctx)
            opened = [int(i) for i in kept if level.open[i]]
            counts = np.zeros(len(level.states), dtype=np.int64)
            shares = shared_out(n * len(opened) // len(kept), range(len(opened)), len(opened))
            np.add.at(counts, opened, shares)
            counts[[i for i in kept if not level.open[i]]] = 1
            return Next(counts)

        search = await level_loop(problem, ctx, select, start=[(root, n)], score=scorer(problem, ctx, self.verifier))
        worth = np.asarray([search.tree.score(s) for s in search.finished])
        final = replace(search, finished=tuple(search.finished[i] for i in sorted(top(worth, keep))))
        return await search_result(problem, ctx, final, self.verifier, choose=self.choose, keep=keep)

    def _kept(self, level: Level, keep: int, ctx: Context) -> Ints:
        """Places of the states that go on, one for each share of the next level's thoughts."""
        if self.select == "greedy":
            return top(level.scores, keep)
        worth = np.maximum(np.nan_to_num(level.scores, nan=0.0), 0.0)
        chances = worth / worth.sum() if worth.sum() > 0 else np.full(len(worth), 1 / len(worth))
        return np.sort(ctx.rng("tree_of_thoughts", level.number).choice(len(worth), keep, p=chances))

    async def _depth_first(self, problem: Problem, ctx: Context, root: State) -> Result:
        policy = _DepthFirst(self, ctx, root)
        limit = self.nodes or expansions_for(ctx, self.n or 1, self.branch, None)
        search = await node_loop(problem, ctx, policy, score=scorer(problem, ctx, self.verifier), expansions=limit)
        return await search_result(
            problem, ctx, search, self.verifier, choose=self.choose, pruned=policy.pruned, backtracks=policy.backtracks
        )


class _DepthFirst:
    """The policy of depth-first search: a stack, the best child on top.

    Attributes:
        pruned: states that were not entered because of their value.
        backtracks: how often the next state was not a child of the last.
    """

    def __init__(self, rules: TreeOfThoughts, ctx: Context, root: State) -> None:
        self._rules, self._done, self._complete = rules, ctx.process.done, ctx.process.complete
        self._stack, self._last = [root], root
        self.pruned = self.backtracks = 0

    def ask(self, room: int) -> Sequence[tuple[State, int]]:
        """The state on top."""
        if not self._stack:
            return []
        state = self._stack.pop()
        self.backtracks += state.parent is not None and state.parent is not self._last
        self._last = state
        return [(state, self._rules.branch)]

    def tell(self, parent: State, children: Sequence[State], scores: Floats) -> None:
        """Put the children worth entering on the stack."""
        rules = self._rules
        worth = dict(zip(children, scores.tolist(), strict=True))
        if rules.accept is not None and any(self._complete(s) and v >= rules.accept for s, v in worth.items()):
            self._stack.clear()
            return
        ranked = [children[i] for i in top(scores, len(children)) if not self._done(children[i])]
        entered = [s for s in ranked if rules.prune is None or not worth[s] <= rules.prune]
        self.pruned += len(ranked) - len(entered)
        self._stack += reversed(entered[: rules.max_per_state])
