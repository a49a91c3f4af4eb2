"""AB-MCTS: at every node choose between a new answer (wider) and refining one that is there (deeper).

Paper    Inoue et al. 2025, "Wider or Deeper? Scaling LLM Inference-Time Compute with Adaptive Branching Tree Search".
Equal    Every node has a virtual child GEN, "make a new answer from here". Variant a: Thompson sampling between GEN and
         CONT, then among the children, with normal or Beta posteriors; variant m: a mixed model of the children's
         sub-trees, GEN being a group not yet seen. A score is backed up to all ancestors.
Differs  Variant m draws from a grid with the group means integrated out, not by MCMC. Scores that are not in [0, 1] are
         rescaled by the lowest and highest seen; a missing score counts as the lowest. Actions are settings
         (temperature, instruction) of one model.
Needs    A process whose outputs can be revised, and any outcome verifier.    Cost: n outputs and n scores, `batch` at a
         time. A choice costs as much as the path is long; the tree is never copied.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.node_loop import node_loop
from ponder.core.pool import Floats
from ponder.core.problem import Problem
from ponder.core.refine import score_with_errors
from ponder.core.registry import VERIFIERS, strategy
from ponder.core.revision import Feedback, Shown, attempts, feedback_node, told
from ponder.core.selector import Selector
from ponder.core.state import State
from ponder.core.strategy import Result, Strategy
from ponder.core.verifier import Verifier
from ponder.errors import ParameterError, VerifierError
from ponder.strategies._posteriors import Sums, draw_beta, draw_mixed, draw_normal, largest, rescaled

_PRUNE_FROM, _PRUNE_SHARE = 4, 0.75
"""Variant m leaves a sub-tree of so many nodes of which such a share score the same."""


@strategy(
    "ab_mcts", aliases=("adaptive_branching_mcts",),
    what="hybrid", how="search:mcts, stimulation:prompt, verification:outcome",
)  # fmt: skip
@dataclass(frozen=True)
class ABMCTS(Strategy):
    """Search a tree of whole answers, wider or deeper as the scores suggest.

    Args:
        n: answers in all; None takes the number from the study's sample axis.
        verifier: scores answers.
        variant: `a`: aggregated nodes; `m`: the mixed model.
        posterior: of variant a: `normal`, or `beta` for scores in [0, 1].
        batch: answers drawn together, each by a choice of its own.
        max_depth: answers on a path at most; none has no limit, 1 is repeated sampling.
        scores: whether a refinement sees what the answer scored.
        temperatures: to choose from; none is the study's.
        instructions: to choose from, each added to the prompt; none adds nothing.
        action: how one of these settings is chosen for a new answer: `thompson` or `ucb` over all scores it brought.
        choose: chooses among the answers; none takes the highest score.
    """

    n: int | None = None
    verifier: Verifier = field(default_factory=lambda: VERIFIERS.build("log_probability"))
    variant: Literal["a", "m"] = "a"
    posterior: Literal["normal", "beta"] = "normal"
    batch: int = 1
    max_depth: int | None = None
    scores: bool = True
    temperatures: tuple[float, ...] = ()
    instructions: tuple[str, ...] = ()
    action: Literal["thompson", "ucb"] = "thompson"
    choose: Selector | None = None

    def __post_init__(self) -> None:
        for name in ("n", "batch", "max_depth"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ParameterError(self, name, value, allowed="an integer ≥ 1")
        if not all(0 <= t < math.inf for t in self.temperatures):
            raise ParameterError(self, "temperatures", self.temperatures, allowed="numbers ≥ 0")

    def settings(self) -> list[Mapping[str, Any] | None]:
        """The actions: every temperature with every instruction."""
        warm: list[dict[str, Any]] = [{"temperature": t} for t in self.temperatures] or [{}]
        asked: list[dict[str, Any]] = [{"instruction": i} for i in self.instructions] or [{}]
        return [{**a, **b} or None for a in warm for b in asked]

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Search until the answers are used up, then choose."""
        inner = ctx.child(problem, process=ctx.process.revising())
        policy = AdaptiveBranching(self, inner, self.n or 1)

        async def score(states: Sequence[State]) -> Floats:
            made = [inner.candidate(state) for state in states]
            scores, errors = await score_with_errors(problem, inner, made, self.verifier)
            for candidate, value in zip(made, scores, strict=True):
                said = errors.get(candidate.index, "") or inner.remark_on(candidate)
                policy.made(candidate, value, said)
            return np.asarray(scores)

        search = await node_loop(problem, inner, policy, score=score, batch=self.batch)
        search.tree.note("below", policy.sizes())
        scores = [search.tree.score(state) for state in policy.candidates]
        best = None if np.isnan(scores).all() else int(np.nanargmax(scores))
        reason = None if best is not None or not scores else f"no answer could be scored by {self.verifier}"
        result = inner.result(
            list(policy.candidates.values()), best, scores=scores, verifier=self.verifier, reason=reason,
            nodes=len(search.tree), stopped=search.stopped, **policy.shape(),
        )  # fmt: skip
        result = replace(result, tree=search.tree)
        return result if self.choose is None or not scores else await inner.select(result, self.choose)


class Node:
    """What the search knows of one answer (or of the root, where there is none yet)."""

    __slots__ = ("children", "common", "cont", "depth", "gen", "generators", "parent", "place", "rounded", "shown",
                 "size", "state", "subtrees")  # fmt: skip

    def __init__(self, state: State, parent: Node | None, shown: Shown | None) -> None:
        self.state, self.parent, self.shown = state, parent, shown
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.children: list[Node] = []
        self.subtrees = Sums()  # scores below each child, the child's own among them
        self.gen, self.cont = Sums(1), Sums(1)  # what new answers from here, and what going on below, have brought
        self.generators: dict[int, State] = {}  # from where each action draws
        self.place = 0  # among the parent's children
        self.size = 0  # scored nodes below and at it
        self.rounded: Counter[float] = Counter()
        self.common = 0  # how many of them share the commonest score

    def path(self) -> Iterator[Node]:
        """This node and its ancestors."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent


class AdaptiveBranching:
    """The policy: where the next answers are made from, and what their scores teach.

    Args:
        rules: the parameters.
        ctx: the search's context.
        n: answers that may be drawn.
    """

    def __init__(self, rules: ABMCTS, ctx: Context, n: int) -> None:
        self._rules, self._ctx, self._left = rules, ctx, n
        self._unit = rules.verifier.range == (0.0, 1.0)
        self._low, self._high = (0.0, 1.0) if self._unit else (math.inf, -math.inf)
        self._beta = rules.posterior == "beta" and rules.variant == "a"
        self._rng = ctx.rng("ab_mcts")
        self._settings = rules.settings()
        self._actions = Sums(len(self._settings))
        self._root = Node(ctx.root(), None, None)
        self._asked: dict[State, tuple[Node, int]] = {}
        self._said: dict[State, str] = {}
        self.candidates: dict[State, Candidate] = {}
        self._nodes: list[Node] = []

    def ask(self, room: int) -> Sequence[tuple[State, int]]:
        """Up to `room` new answers, each from the node that a choice of its own leads to."""
        wanted: Counter[State] = Counter()
        for _ in range(min(room, self._left)):
            wanted[self._generator(self._descend(), self._action())] += 1
        self._left -= wanted.total()
        return list(wanted.items())

    def made(self, candidate: Candidate, score: float, said: str) -> None:
        """A new answer, its score (NaN if there is none), and what was said about it."""
        assert candidate.state is not None
        self.candidates[candidate.state] = candidate
        self._said[candidate.state] = said
        if self._beta and self._unit and (score < 0 or score > 1):
            raise VerifierError(f"ab_mcts(posterior=beta) needs scores in [0, 1]; {self._rules.verifier} gave {score}")
        if math.isfinite(score) and not self._unit:
            self._low, self._high = min(self._low, score), max(self._high, score)

    def tell(self, parent: State, children: Sequence[State], scores: Floats) -> None:
        """Take up new answers and back up their scores."""
        node, action = self._asked[parent]
        for state, score in zip(children, scores.tolist(), strict=True):
            value = score if math.isfinite(score) else self._low if math.isfinite(self._low) else 0.0
            candidate = self.candidates[state]
            shown = Shown(candidate.output, told(score) if self._rules.scores else None, self._said.pop(state))
            child = Node(state, node, shown)
            child.place = node.subtrees.new()
            node.children.append(child)
            node.gen.add(0, value)
            self._actions.add(action, value)
            self._nodes.append(child)
            rounded = round(value, 2)
            for below in child.path():
                below.size += 1
                below.rounded[rounded] += 1
                below.common = max(below.common, below.rounded[rounded])
                if below.parent is not None:
                    below.parent.subtrees.add(below.place, value)
                    if below is not child:
                        below.parent.cont.add(0, value)

    def sizes(self) -> dict[State, float]:
        """Answers at and below each answer."""
        return {node.state: float(node.size) for node in self._nodes}

    def shape(self) -> dict[str, Any]:
        """Numbers to show: how wide and how deep it went, and how often each action was taken."""
        taken = self._actions.rows[:, 0].astype(int).tolist()
        return {
            "width": len(self._root.children),
            "depth": max((attempts(state) for state in self.candidates), default=0),
            "actions": taken,
        }

    def _descend(self) -> Node:
        node = self._root
        while (place := self._choice(node)) is not None:
            node = node.children[place]
        return node

    def _choice(self, node: Node) -> int | None:
        """The child to go on with; None makes a new answer here."""
        if not node.children or node.depth + 1 == self._rules.max_depth:
            return None
        if self._rules.variant == "m":
            return self._mixed(node)
        new, old = self._draw(np.concatenate([node.gen.rows, node.cont.rows]))
        return None if new >= old else largest(self._draw(node.subtrees.rows))

    def _mixed(self, node: Node) -> int | None:
        alive = [i for i, child in enumerate(node.children) if not _pruned(child)]
        drawn = draw_mixed(self._scaled(node.subtrees.rows), self._rng)
        best = largest([*drawn[alive], drawn[-1]])
        return None if best == len(alive) else alive[best]

    def _action(self) -> int:
        if len(self._settings) == 1:
            return 0
        if self._rules.action == "thompson":
            return largest(self._draw(self._actions.rows))
        n, total, _ = self._scaled(self._actions.rows).T
        if (n == 0).any():
            return int(np.argmin(n))
        return largest(total / n + np.sqrt(2.0 * np.log(n.sum()) / n))

    def _draw(self, rows: Floats) -> Floats:
        scaled = self._scaled(rows)
        return draw_beta(scaled, self._rng) if self._beta else draw_normal(scaled, self._rng)

    def _scaled(self, rows: Floats) -> Floats:
        return rows if self._unit or self._high == -math.inf else rescaled(rows, self._low, self._high)

    def _generator(self, node: Node, action: int) -> State:
        """From where an action draws at a node; made when it is first wanted."""
        found = node.generators.get(action)
        if found is None:
            settings = self._settings[action]
            if node.shown is None:
                found = self._ctx.root(settings)
            else:
                found = feedback_node(node.state, f"refine{action}", Feedback((node.shown,)), settings)
            node.generators[action] = found
            self._asked[found] = (node, action)
        return found


def _pruned(child: Node) -> bool:
    return child.size >= _PRUNE_FROM and child.common >= _PRUNE_SHARE * child.size
