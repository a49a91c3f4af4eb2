"""Diffusion tree sampling: a tree of partial outputs whose soft values come from finished ones; for denoising and text.

Paper    Jain et al. 2025, "Diffusion Tree Sampling: Scalable inference-time alignment of diffusion models" (DTS, DTS*).
Equal    A walk goes down while nodes are full: by exp(λV) of the children (DTS) or by upper confidence bounds of V
         (`select=uct`: DTS*). Where a node is not full it draws a child, goes on to an output, and keeps every
         node on the way. Only outputs have rewards; a node's value is the log of the mean exp of its children's. A
         node of N visits has at most max(1, factor · N ** widening) children. DTS gives weighted outputs: leaf weights
         are exp(λr) · Π 1 / (number of siblings). DTS* gives the best.
Differs  `explore` of the choices take the least visited child: choosing by values alone leaves a node whose first draw
         was unlucky for good, which biases the root's value at finite compute. Equal siblings are one node that counts
         several times. Values include what the process itself adds to log-weights (`State.log_weight`). The form and
         the constants of the widening are ours: the paper's were not at hand.
         With `batch` walks at once (ours), one that has begun counts as a visit until its reward is known.
Needs    A process with stochastic steps, best 3 to 8 of them (`macro` of denoising); rewards of outputs.
         Cost: as many steps as n outputs have, one score per output; `batch` steps at a time.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self

import numpy as np

from ponder import smc
from ponder.core.context import Context
from ponder.core.level_loop import scorer
from ponder.core.node_loop import node_loop
from ponder.core.pool import Floats
from ponder.core.problem import Problem
from ponder.core.registry import VERIFIERS, strategy
from ponder.core.search_tree import SearchTree
from ponder.core.state import State
from ponder.core.strategy import Result, Strategy
from ponder.core.verifier import Verifier
from ponder.errors import NotStochasticError, ParameterError
from ponder.ledger.spend import Spend
from ponder.strategies._frontier import steps_of
from ponder.strategies._particles import Final, weighted_result
from ponder.strategies._tree import TreeNode

_FREE_WALKS = 20
"""Walks in a row that may end at outputs already known."""


@strategy(
    "diffusion_tree_sampling",
    aliases=("dts_sampling",),
    what="hybrid",
    how="search:mcts",
    where="generation_image, reasoning",
)
@dataclass(frozen=True)
class DiffusionTreeSampling(Strategy):
    """Sample p(x)·exp(λ·reward(x)), or search for the best x, by a tree that is kept.

    Args:
        n: as many steps at most as n outputs have; None takes the number from the study's sample axis.
        verifier: the reward, asked of outputs only.
        strength: λ, the inverse temperature of the reward, > 0.
        select: how a walk chooses among children: `boltzmann` (DTS) or `uct` (DTS*).
        backup: a node's value from its children's: `soft` (log-mean-exp), `mean` (λ → 0) or `max` (λ → ∞).
        factor: of the number of children a node may have, > 0.
        widening: exponent of the visits in it, in (0, 1).
        explore: share of choices that go to the least visited child, in [0, 1]; 0 is the paper's. For `boltzmann`.
        exploration: weight of the bonus for few visits, for `uct`; values are as the rewards are, or in [0, 1] with
            `rescale`.
        rescale: map values to [0, 1] by the lowest and highest reward seen.
        steps: steps that count as one output; none takes the process's limit of steps, else 8.
        batch: walks at once. More are faster on hardware that batches, and know less of each other.
        final: the answer: drawn by weight (`sample`), the best reward (`best`), or the most weight (`vote`). None is
            `sample` for `boltzmann` and `best` for `uct`.
    """

    n: int | None = None
    verifier: Verifier = field(default_factory=lambda: VERIFIERS.build("log_probability"))
    strength: float = 1.0
    select: Literal["boltzmann", "uct"] = "boltzmann"
    backup: Literal["soft", "mean", "max"] = "soft"
    factor: float = 2.0
    widening: float = 0.3
    explore: float = 0.2
    exploration: float = 0.5
    rescale: bool = False
    steps: int | None = None
    batch: int = 1
    final: Final | None = None
    _begun: SearchTree | None = field(default=None, init=False, repr=False, compare=False)

    stepwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("n", "steps", "batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ParameterError(self, name, value, allowed="an integer ≥ 1")
        for name in ("strength", "factor"):
            if not 0 < getattr(self, name) < math.inf:
                raise ParameterError(self, name, getattr(self, name), allowed="a number > 0")
        if not 0 < self.widening < 1:
            raise ParameterError(self, "widening", self.widening, allowed="in (0, 1)", hint="0.3 with factor=2")
        if not 0 <= self.explore <= 1:
            raise ParameterError(self, "explore", self.explore, allowed="in [0, 1]")
        if not self.exploration >= 0:
            raise ParameterError(self, "exploration", self.exploration, allowed="a number ≥ 0")

    def resumed(self, tree: SearchTree) -> Self:
        """This strategy, going on with the tree of an earlier result of the same problem, seed and process.

        `n` and what is drawn under it count from the tree's beginning; a budget only what is added. One longer run
        builds the same tree if `batch` is 1; else the walks at the seam know other visits. A tree can be kept on disk
        by `pickle`.
        """
        going_on = replace(self)
        object.__setattr__(going_on, "_begun", tree)
        return going_on

    def with_samples(self, n: int) -> Self:
        """At `n` outputs."""
        changed = super().with_samples(n)
        return changed if changed is self or self._begun is None else changed.resumed(self._begun)

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Grow the tree until the steps are used up; the answer is by weight or the best."""
        if not ctx.process.stochastic:
            raise NotStochasticError(
                f"{self.name} needs steps that differ: the process {ctx.process.name} takes deterministic ones, so "
                "that all children of a state are the same. Use eta=1, solver=flow_sde or solver=exact, or a search "
                "over the starting noise (zero_order_search)"
            )
        tree = SearchTree() if self._begun is None else self._begun.copy()
        policy = SoftTree(self, ctx, (self.n or 1) * steps_of(ctx, self.steps))
        finished = dict[State, None]()
        if self._begun is not None:
            policy.take_up(tree)
            finished.update(policy.leaves)
        ask = scorer(problem, ctx, self.verifier)

        async def score(states: Sequence[State]) -> Floats:
            new = [s for s in states if ctx.process.complete(s) and not policy.has(s)]
            found = dict(zip(new, await ask(new), strict=True)) if new else {}
            return np.asarray([found.get(s, math.nan) for s in states])

        search = await node_loop(problem, ctx, policy, score=score, batch=self.batch, tree=tree, finished=finished)
        policy.note(tree)
        leaves, log_weights = policy.log_weights()
        shares, dead = dict[State, float](), bool(leaves) and not np.isfinite(log_weights).any()
        if leaves and not dead:
            shares = dict(zip(leaves, smc.normalise(log_weights)[0].tolist(), strict=True))
        reason = "no output has a reward above -inf: every one was judged impossible" if dead else None
        if not leaves and search.stopped == "budget":
            reason = f"the budget ended the first walk; one output takes up to {_cost(ctx)}"
        search = replace(search, finished=tuple(policy.leaves) or search.finished)
        final = self.final or ("sample" if self.select == "boltzmann" else "best")
        value = policy.root.value
        result = await weighted_result(
            problem, ctx, search, self.verifier, shares, final, reason=reason, walks=policy.walks,
            effective_sample_size=round(smc.effective_sample_size(log_weights), 3) if shares else 0.0,
            log_evidence=None if self.backup != "soft" else value,
        )  # fmt: skip
        return replace(result, chosen=(), status="abstain") if dead else result


def _cost(ctx: Context) -> str:
    """What completing one output may cost, in words."""
    need = ctx.process.to_finish(ctx.root(), ctx).as_dict()
    kinds = ("function_evaluations", "transitions", "generated_tokens", "model_calls")
    told = [f"{need[kind]:g} {kind}" for kind in kinds if need[kind]]
    return ", ".join(told) or "more than was left"


class Node(TreeNode):
    """A node with its soft value.

    Attributes:
        value: λV in nats: log-mean-exp of what can come of it; None while nothing has.
        copies: how often its step was drawn from its parent.
    """

    __slots__ = ("copies", "value")

    def __init__(self, state: State, parent: Node | None) -> None:
        super().__init__(state, parent)
        self.value: float | None = None
        self.copies = 1


class SoftTree:
    """The policy: which node is extended next, and the values. Costs grow with a path's length and its children.

    Args:
        rules: the parameters.
        ctx: the search's context.
        steps: steps that may be drawn.

    A walk goes down to some node, its beginning, and draws from there to an output. It counts at once as a visit of its
    beginning and of all nodes above, which is taken back when it ends and counts for good, so that walks on their
    way keep others from following them. `_begun` holds the beginnings of the walks that stand at a node.
    """

    def __init__(self, rules: DiffusionTreeSampling, ctx: Context, steps: int) -> None:
        self._rules, self._ctx, self._steps = rules, ctx, steps
        self._drawn = self._shortfalls = 0
        self._begun: dict[Node, list[Node]] = {}
        self._asked: dict[Node, int] = {}
        self._low, self._high = math.inf, -math.inf
        self.walks = 0
        self.root = Node(ctx.root(), None)
        self._nodes = {self.root.state: self.root}
        self.leaves: dict[State, None] = {}

    # ------------------------------------------------------------------ the node loop

    def ask(self, room: int) -> Sequence[tuple[State, int]]:
        """The nodes on the walks under way, and the ends of the ways down of new ones: `room` walks in all."""
        left = self._steps - self._drawn
        if left <= 0:
            return []
        self._shortfalls = len(self._ctx.shortfalls)
        while len(self._standing()) < room and self._may_begin():
            self._begin(self._descend())
        self._asked = Counter(self._standing()[: min(left, room)])
        return [(node.state, count) for node, count in self._asked.items()]

    def _standing(self) -> list[Node]:
        """Where each of the walks under way is."""
        return [node for node, walks in self._begun.items() for _ in walks]

    def _begin(self, node: Node) -> None:
        self._begun.setdefault(node, []).append(node)
        node.asked += 1
        for above in node.path():
            above.visits += 1

    def _may_begin(self) -> bool:
        """Whether something is left for another walk when those under way have ended."""
        standing = self._standing()
        if not standing:
            return self._drawn < self._fair
        deepest = max((leaf.depth for leaf in self.leaves), default=self._steps // (self._rules.n or 1))
        needed = sum(max(deepest - node.state.depth, 1) for node in standing)
        if self._drawn + needed >= min(self._steps, self._fair):
            return False
        if not self._ctx.meter.limited:
            return True
        once = Spend(verifier_calls=1)
        another = self._ctx.process.to_finish(self.root.state, self._ctx) + once
        ends = Spend.total(self._ctx.process.to_finish(node.state, self._ctx) + once for node in standing)
        return self._ctx.meter.affordable(another, ends if self.leaves else ends + another) >= 1

    @property
    def _fair(self) -> float:
        """Steps that as many outputs would take as are asked for, if they were as long as those that were found."""
        deep = sum(leaf.depth for leaf in self.leaves)
        return (self._rules.n or 1) * deep / len(self.leaves) if self.leaves else math.inf

    def tell(self, parent: State, children: Sequence[State], scores: Floats) -> None:
        """Go on from the new nodes; at an output, or where nothing came or nothing new did, a walk ends."""
        node = self._nodes[parent]
        here = self._begun.pop(node)
        walks = here[: self._asked[node]]
        if len(walks) < len(here):
            self._begun[node] = here[len(walks) :]
        short = len(children) < len(walks) and len(self._ctx.shortfalls) > self._shortfalls
        for place, begun in enumerate(walks):
            if place >= len(children):
                if short:  # the budget did not allow it
                    self._forget(node, begun)
                else:
                    self._drawn += 1
                    self._end(node, begun)
                continue
            self._drawn += 1
            state, known = children[place], self._twin(node, children[place])
            if known is not None:
                known.copies += 1
                self._end(known, begun)
                continue
            child = self._grow(node, state)
            if self._ctx.process.complete(state):
                self._reward(child, float(scores[place]))
                self._end(child, begun)
            else:
                child.asked += 1
                self._begun[child] = [begun]

    def _forget(self, node: Node, begun: Node) -> None:
        """Take back what a walk has counted for before it ended."""
        node.asked -= 1
        for above in begun.path():
            above.visits -= 1

    def has(self, state: State) -> bool:
        """Whether an equal sibling is known, so that the state need not be scored."""
        return state.parent is not None and self._twin(self._nodes[state.parent], state) is not None

    # ------------------------------------------------------------------ walks

    def _descend(self) -> Node:
        """The first node on a walk that may have another child.

        Walks that end at known outputs cost nothing and only count; after many in a row, which happens in shallow
        trees, some node on the last one is widened all the same.
        """
        for _ in range(_FREE_WALKS):
            begun = self.walks + sum(map(len, self._begun.values()))
            node, rng = self.root, self._ctx.rng("diffusion_tree_sampling", begun)
            while node.state not in self.leaves:
                known = [child for child in node.children if child.value is not None]
                if not known or node.has_room(self._rules.factor, self._rules.widening):
                    return node
                node = self._pick(node, known, rng)
            self._end(node)
        above = list(node.path())[1:]
        return above[int(rng.integers(len(above)))]

    def _pick(self, node: Node, children: Sequence[Node], rng: np.random.Generator) -> Node:
        rules = self._rules
        if rules.select == "uct":
            width = self._high - self._low if rules.rescale else 1.0
            low = self._low if rules.rescale else 0.0
            log_visits = math.log(max(node.visits, 1))

            def bound(child: Node) -> float:
                value = -math.inf if child.value is None else child.value / rules.strength
                scaled = (value - low) / width if width > 0 else 0.0
                return scaled + rules.exploration * math.sqrt(log_visits / max(child.visits, 1))

            return max(children, key=bound)
        if rules.explore and rng.random() < rules.explore:
            return min(children, key=lambda c: c.visits / c.copies)
        logs = [math.log(c.copies) + c.value for c in children if c.value is not None]
        if max(logs) == -math.inf:
            return children[int(rng.integers(len(children)))]
        return children[int(rng.choice(len(children), p=smc.normalise(logs)[0]))]

    def _end(self, node: Node, begun: Node | None = None) -> None:
        """A walk has come to its end here: count it, not its beginning any more, and renew the values above."""
        self.walks += 1
        for above in begun.path() if begun is not None else ():
            above.visits -= 1
        for above in node.path():
            above.visits += 1
            if above.children:
                above.value = self._backed_up(above)

    def _backed_up(self, node: Node) -> float | None:
        known = [(c.copies, c.value) for c in node.children if c.value is not None]
        if not known:
            return None
        values, total = [value for _, value in known], sum(copies for copies, _ in known)
        top = max(values)
        if self._rules.backup == "max" or top == -math.inf:
            value = top
        elif self._rules.backup == "mean":
            value = math.fsum(copies * v for copies, v in known) / total
        else:
            value = top + math.log(math.fsum(copies * math.exp(v - top) for copies, v in known) / total)
        return value + node.state.log_weight

    def _grow(self, parent: Node, state: State) -> Node:
        child = self._nodes[state] = Node(state, parent)
        parent.children.append(child)
        return child

    def _twin(self, node: Node, state: State) -> Node | None:
        step = str(state.step)
        return next((child for child in node.children if str(child.state.step) == step), None)

    def _reward(self, leaf: Node, reward: float) -> None:
        """A new output; it has no value if it could not be scored, and weight 0 if its reward is not finite."""
        self.leaves[leaf.state] = None
        if math.isnan(reward):
            return
        if math.isfinite(reward):
            self._low, self._high = min(self._low, reward), max(self._high, reward)
            leaf.value = self._rules.strength * reward + leaf.state.log_weight
        else:
            leaf.value = -math.inf

    # ------------------------------------------------------------------ what is handed on

    def log_weights(self) -> tuple[list[State], Floats]:
        """The scored outputs, and the logarithm of exp(λr) · Π (times drawn / siblings drawn), not normalised."""
        leaves = [leaf for leaf in self.leaves if self._nodes[leaf].value is not None]
        drawn: dict[Node, int] = {}
        logs = []
        for leaf in leaves:
            node = self._nodes[leaf]
            log = (node.value or 0.0) - node.state.log_weight
            for above in node.path():
                log += above.state.log_weight
                if (parent := above.parent) is not None:
                    if parent not in drawn:
                        drawn[parent] = sum(c.copies for c in parent.children if c.value is not None)
                    log += math.log(above.copies / drawn[parent])
            logs.append(log)
        return leaves, np.asarray(logs)

    def note(self, tree: SearchTree) -> None:
        """Leave in the tree what is needed to go on with it, and to look at it; walks under way stop where they are."""
        for node, walks in self._begun.items():
            for begun in walks:
                self._forget(node, begun)
        self._begun.clear()
        nodes = self._nodes.values()
        tree.note("visits", {n.state: float(n.visits) for n in nodes})
        tree.note("copies", {n.state: float(n.copies) for n in nodes})
        tree.note("asked", {n.state: float(n.asked) for n in nodes})
        tree.note("value", {n.state: n.value / self._rules.strength for n in nodes if n.value is not None})
        tree.note("walks", {self.root.state: float(self.walks)})

    def take_up(self, tree: SearchTree) -> None:
        """Go on with a noted tree."""
        notes = tree.notes
        if not notes.get("walks"):
            raise ParameterError("resumed", "tree", "a tree without its walks", allowed="that of an earlier result")
        (start,) = notes["walks"]
        self.walks, self.root = int(notes["walks"][start]), Node(start, None)
        self._nodes = {start: self.root}
        for state in tree.nodes:
            if state not in notes["copies"] or state.parent is None:
                continue
            node = self._grow(self._nodes[state.parent], state)
            node.copies = int(notes["copies"][state])
            if self._ctx.process.complete(state):
                self._reward(node, tree.score(state))
        for node in self._nodes.values():
            node.visits, node.asked = int(notes["visits"][node.state]), int(notes["asked"][node.state])
        for node in reversed(self._nodes.values()):
            if node.children:
                node.value = self._backed_up(node)
        drawn = {node.state: node.asked for node in self._nodes.values()}
        self._ctx.take_up(drawn)
        self._drawn = sum(drawn.values())
        for node in list(self._nodes.values()):
            if node.value is None and not node.asked and node.parent is not None and node.state not in self.leaves:
                self._begin(node)
