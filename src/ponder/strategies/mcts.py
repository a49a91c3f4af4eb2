"""Monte-Carlo tree search: extend where the value so far is high or the visits are few, and back up what comes.

Paper    Kocsis & Szepesvári 2006, "Bandit Based Monte-Carlo Planning" (UCT); Silver et al. 2017, "Mastering the Game of
         Go without Human Knowledge" (PUCT, root noise); as search over a model's steps in Liu et al. 2025, "Can 1B LLM
         Surpass 405B LLM?".
Equal    Select by UCT or PUCT down to a node without children, extend it `branch` times, evaluate the children, back up
         along the path. PUCT's constants are AlphaZero's. Finished nodes and what is searched through are not
         entered again.
Differs  Every child is evaluated at once, and each evaluation is a visit. Siblings with the same step are one node.
         `widening` adds children one by one instead (progressive widening). Scores that are not in [0, 1] are
         rescaled by the lowest and highest seen; a missing score counts as the lowest.
Needs    A process in steps and a verifier of partial outputs.    Cost: as many steps as n samples have, rollouts
         included, and a score for each step and rollout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np

from ponder.core.context import Context
from ponder.core.level_loop import scorer
from ponder.core.node_loop import node_loop
from ponder.core.pool import Floats
from ponder.core.problem import Problem
from ponder.core.registry import SELECTORS, VERIFIERS, strategy
from ponder.core.search_tree import SearchTree, once_per_step, search_result
from ponder.core.selector import Selector
from ponder.core.state import State
from ponder.core.strategy import Result, Strategy
from ponder.core.verifier import Verifier
from ponder.errors import ParameterError, VerifierError
from ponder.ledger.spend import Spend
from ponder.strategies._frontier import steps_of
from ponder.strategies._tree import TreeNode

_BASE, _INIT = 19652.0, 1.25
"""PUCT's constants."""
_CONCENTRATION = 0.3
"""Of the root noise."""


@strategy("mcts", aliases=("uct", "monte_carlo_tree_search"), what="hybrid", how="search:mcts, verification:process")
@dataclass(frozen=True)
class MCTS(Strategy):
    """Search a tree of steps by upper confidence bounds.

    Args:
        n: as many steps at most as n samples have; None takes the number from the study's sample axis.
        branch: children of each extended node.
        steps: steps that count as one sample; none takes the process's limit of steps, else 8.
        verifier: scores prefixes, and the ends of rollouts.
        rule: how a child is chosen on the way down: `uct` or `puct`.
        exploration: weight of the bonus for few visits; UCT's √2 is for values spread over [0, 1].
        prior: what PUCT takes for likely: a step's `likelihood` (per token; all alike where it is unknown) or its
            `score`.
        noise: share of Dirichlet noise in PUCT's priors at the root, in [0, 1].
        widening: exponent of progressive widening, in (0, 1): a node of v visits has at most v ** widening children;
            none extends each node once, by `branch`.
        until: how far one walk from the root goes: to an `output`, extending every node on its way, or to the first
            `leaf`, which alone is extended.
        rollout: share of a rollout's score in a node's value, in [0, 1]; 0 makes none.
        backup: what a node's value is: the mean of the evaluations below it, or their maximum.
        batch: nodes extended together; those under way count as visited without success (virtual loss).
        answer: `vote` lets `choose` decide among all finished outputs; `most_visited` and `best_value` follow visits
            or values from the root to one.
        choose: chooses among the finished outputs, for `answer=vote`.
    """

    n: int | None = None
    branch: int = 4
    steps: int | None = None
    verifier: Verifier = field(default_factory=lambda: VERIFIERS.build("log_probability"))
    rule: Literal["uct", "puct"] = "uct"
    exploration: float | None = None
    prior: Literal["likelihood", "score"] = "likelihood"
    noise: float = 0.25
    widening: float | None = None
    until: Literal["output", "leaf"] = "output"
    rollout: float = 0.0
    backup: Literal["mean", "max"] = "mean"
    batch: int = 1
    answer: Literal["vote", "most_visited", "best_value"] = "vote"
    choose: Selector = field(default_factory=lambda: SELECTORS.build("weighted_majority"))

    stepwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("n", "branch", "steps", "batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ParameterError(self, name, value, allowed="an integer ≥ 1")
        for name in ("noise", "rollout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ParameterError(self, name, getattr(self, name), allowed="in [0, 1]")
        if self.widening is not None and not 0 < self.widening < 1:
            raise ParameterError(self, "widening", self.widening, allowed="in (0, 1), or none", hint="0.5 is usual")
        if self.exploration is not None and not self.exploration >= 0:
            raise ParameterError(self, "exploration", self.exploration, allowed="a number ≥ 0, or none")

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Search until the steps are used up or there is nothing left to extend, then choose."""
        tree, finished = SearchTree(), dict[State, None]()
        policy = TreePolicy(self, ctx, (self.n or 1) * steps_of(ctx, self.steps))
        verify = scorer(problem, ctx, self.verifier)

        async def evaluate(states: Sequence[State]) -> Floats:
            if not self.rollout:
                return await verify(states)
            ends = await _roll_out(states, ctx, tree, policy)
            judged = [s for s in states if s not in ends or self.rollout < 1] + list(ends.values())
            score = dict(zip(judged, await verify(judged), strict=True))
            tree.add(list(ends.values()), [score[end] for end in ends.values()])
            values = []
            for state in states:
                own, end = score.get(state, math.nan), ends.get(state)
                if end is not None:
                    policy.rolled_out(state, end, score[end])
                    finished[end] = None
                    own = (
                        score[end] if math.isnan(own) else own if math.isnan(score[end]) else self._mix(own, score[end])
                    )
                values.append(own)
            return np.asarray(values)

        search = await node_loop(
            problem, ctx, policy, score=once_per_step(evaluate), batch=self.batch, tree=tree, finished=finished
        )
        search = replace(search, finished=tuple(policy.outputs) or search.finished)
        for name, values in policy.notes().items():
            tree.note(name, values)
        choose = self.choose if self.answer == "vote" else None
        result = await search_result(problem, ctx, search, self.verifier, choose=choose, answer_by=self.answer)
        leaf = None if self.answer == "vote" else policy.followed(self.answer)
        return result if leaf is None else replace(result, chosen=(search.finished.index(leaf),), status="ok")

    def _mix(self, own: float, rolled: float) -> float:
        return (1 - self.rollout) * own + self.rollout * rolled


async def _roll_out(states: Sequence[State], ctx: Context, tree: SearchTree, policy: TreePolicy) -> dict[State, State]:
    """The finished outputs that open states lead to, by state; what the budget cannot bring to its end is missing."""
    ends: dict[State, State] = {}
    going = {state: state for state in states if not ctx.process.done(state)}
    if ctx.meter.limited and going:
        fitting = ctx.meter.affordable(ctx.process.to_finish(next(iter(going)), ctx) + Spend(verifier_calls=1))
        going = dict(list(going.items())[: int(min(fitting, len(going)))])
    while going:
        policy.used(len(going))
        groups = await ctx.extend(list(going.values()), [1] * len(going), to_end=True)
        further = {start: group[0] for start, group in zip(going, groups, strict=True) if group}
        going = {start: at for start, at in further.items() if not ctx.process.done(at)}
        tree.add(list(going.values()), [math.nan] * len(going))
        ends |= {start: at for start, at in further.items() if start not in going}
    return ends


class Node(TreeNode):
    """What the search knows of one state."""

    __slots__ = (
        "bears", "best", "busy", "closed", "ends", "flying", "noise", "noises", "total", "weight", "weights",
    )  # fmt: skip

    def __init__(self, state: State, parent: Node | None) -> None:
        super().__init__(state, parent)
        self.flying = 0
        self.total, self.best = 0.0, -math.inf
        self.weight = self.noise = 0.0  # prior and its noise, to be divided by their sums over the siblings
        self.weights = self.noises = 0.0  # these sums, over the children
        self.busy = self.closed = self.bears = False  # under way; nothing left to search; leads to an output
        self.ends: list[tuple[State, float]] = []  # outputs: the state itself, or of its rollout


class TreePolicy:
    """Selection and back-up. A step costs as much as the path is long and the nodes on it have children.

    Args:
        rules: the parameters.
        ctx: the search's context.
        steps: steps that may be drawn.
    """

    def __init__(self, rules: MCTS, ctx: Context, steps: int) -> None:
        self._rules, self._process, self._left = rules, ctx.process, steps
        self._depth = steps_of(ctx, rules.steps)
        self._bounded = rules.verifier.range == (0.0, 1.0)
        self._low, self._high = (0.0, 1.0) if self._bounded else (math.inf, -math.inf)
        default = math.sqrt(2.0) if rules.rule == "uct" else 1.0
        self._weight = default if rules.exploration is None else rules.exploration
        self._rng = ctx.rng("mcts")
        self._root = Node(ctx.root(), None)
        self._nodes = {self._root.state: self._root}
        self._walking: list[Node] = []
        self._rolled: dict[State, tuple[State, float]] = {}
        self.outputs: dict[State, None] = {}

    def used(self, steps: int) -> None:
        """Steps were drawn beside those that were asked for."""
        self._left -= steps

    def rolled_out(self, state: State, end: State, score: float) -> None:
        """A rollout from a state that `tell` is about to see has come to an output."""
        self._rolled[state] = (end, score)

    def ask(self, room: int) -> Sequence[tuple[State, int]]:
        """Up to `room` nodes to extend; fewer if the search would meet one that is under way."""
        asked: list[tuple[State, int]] = []
        while len(asked) < room and (node := self._next()) is not None:
            rollout = max(0, self._depth - node.state.depth - 1) if self._rules.rollout else 0
            count = min(self._left // (1 + rollout), self._rules.branch if self._rules.widening is None else 1)
            if count < 1:
                break
            self._left -= count
            node.busy = True
            for above in node.path():
                above.flying += 1
            asked.append((node.state, count))
        return asked

    def tell(self, parent: State, children: Sequence[State], scores: Floats) -> None:
        """Take up new children and back up their values."""
        node = self._nodes[parent]
        node.busy = False
        node.asked += len(children)
        known = {str(child.state.step) for child in node.children}
        values = []
        for state, score in zip(children, scores.tolist(), strict=True):
            step = str(state.step)
            if step not in known:
                known.add(step)
                values.append(self._value(state, score))
                self._grow(node, state, score, values[-1])
        total, best = math.fsum(values), max(values, default=-math.inf)
        for above in node.path():
            above.flying -= 1
            above.visits += len(values)
            above.total += total
            above.best = max(above.best, best)
        if self._rules.until == "output" and values:
            self._walking.append(node)
        exhausted = self._rules.widening is None or not values
        for above in node.path():
            if not exhausted or not all(child.closed for child in above.children):
                break
            above.closed = True
            exhausted = self._rules.widening is None

    def notes(self) -> dict[str, dict[State, float]]:
        """Visits and values of all nodes."""
        found = [node for node in self._nodes.values() if node.visits]
        return {
            "visits": {node.state: float(node.visits) for node in found},
            "value": {node.state: self._raw(node) for node in found},
        }

    def followed(self, rule: Literal["most_visited", "best_value"]) -> State | None:
        """The output at the end of the most visited, or best, path from the root; None if there is no output."""
        node = self._root
        while bearing := [child for child in node.children if child.bears]:
            node = max(bearing, key=lambda c: c.visits if rule == "most_visited" else self._raw(c))
        ends = node.ends
        return max(ends, key=lambda end: -math.inf if math.isnan(end[1]) else end[1])[0] if ends else None

    def _grow(self, node: Node, state: State, score: float, value: float) -> None:
        child = self._nodes[state] = Node(state, node)
        node.children.append(child)
        child.visits, child.total, child.best = 1, value, value
        child.closed = self._process.done(state)
        if state in self._rolled:
            child.ends.append(self._rolled.pop(state))
        elif self._process.complete(state):
            child.ends.append((state, score))
        for end, _ in child.ends:
            self.outputs[end] = None
            for above in child.path():
                if above.bears:
                    break
                above.bears = True
        if self._rules.rule == "puct":
            child.weight = self._likely(state, value)
            node.weights += child.weight
            if node.parent is None and self._rules.noise:
                child.noise = float(self._rng.gamma(_CONCENTRATION))
                node.noises += child.noise

    def _likely(self, state: State, value: float) -> float:
        if self._rules.prior == "score":
            return math.exp(min(value, 700.0))
        return (
            1.0
            if state.logprob is None or math.isnan(state.logprob)
            else math.exp(min(0.0, state.logprob) / max(state.n_tokens, 1))
        )

    def _value(self, state: State, score: float) -> float:
        if self._bounded:
            if math.isnan(score):
                return 0.0
            if not 0 <= score <= 1:
                raise VerifierError(
                    f"{self._rules.verifier} gave the score {score:g} to the step {str(state.step)[:60]!r}, but its "
                    "range is [0, 1]; mcts cannot weigh it. Use another verifier."
                )
            return score
        if math.isfinite(score):
            self._low, self._high = min(self._low, score), max(self._high, score)
            return score
        bound = self._high if score == math.inf else self._low
        return bound if math.isfinite(bound) else 0.0

    def _raw(self, node: Node) -> float:
        return node.best if self._rules.backup == "max" else node.total / node.visits

    def _next(self) -> Node | None:
        """The node to extend next: where a walk goes on, or else at the end of a new one."""
        while self._walking:
            child = self._pick(self._walking.pop(), closed=True)
            if child is not None and not child.closed and (node := self._descend(child)) is not None:
                return node
        return self._descend(self._root)

    def _descend(self, node: Node) -> Node | None:
        """The node to extend, from a node downwards; None if there is none, or if it is under way already."""
        widening = self._rules.widening
        while not node.closed:
            if widening is None:
                wanted = not node.children
            else:
                wanted = node.has_room(1.0, widening) or all(c.closed for c in node.children)
            if wanted and not node.busy:
                return node
            chosen = self._pick(node)
            if chosen is None:
                return None
            node = chosen
        return None

    def _pick(self, node: Node, *, closed: bool = False) -> Node | None:
        """The open child (any child if `closed`) with the highest bound; the oldest of equals."""
        low, width = self._low, self._high - self._low
        peaks, puct = self._rules.backup == "max", self._rules.rule == "puct"
        visits = max(1, node.visits + node.flying)
        if puct:
            share = self._rules.noise if node.noises > 0 else 0.0
            bonus = self._weight * (math.log((visits + _BASE + 1) / _BASE) + _INIT) * math.sqrt(visits)
        else:
            share, bonus = 0.0, self._weight * math.sqrt(math.log(visits))
        best, found = -math.inf, None
        for child in node.children:
            if child.closed and not closed:
                continue
            n = child.visits + child.flying
            value = child.best if peaks else child.total / child.visits
            bound = ((value - low) / width if width > 0 else 0.5) * (child.visits / n)
            if puct:
                prior = child.weight / node.weights if node.weights > 0 else 1.0 / len(node.children)
                if share:
                    prior = (1 - share) * prior + share * child.noise / node.noises
                bound += bonus * prior / (1 + n)
            else:
                bound += bonus / math.sqrt(n)
            if bound > best:
                best, found = bound, child
        return found
