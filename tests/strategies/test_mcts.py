"""Monte-Carlo tree search: selection against a brute-force replay, limits, back-up, and what bad scores do."""

import asyncio
import math
from collections import Counter
from dataclasses import dataclass

import pytest

import ponder
from ponder.core.context import Context
from ponder.core.process import Process
from ponder.core.registry import PROCESSES, VERIFIERS, verifier
from ponder.core.verifier import Verifier
from ponder.ledger.budget import Budget

GOOD = "sim_tree(survival=[0.8], sharpness=[2], noise=[1], count=400)"
NOISY = "sim_tree(survival=[0.8], sharpness=[0.5], noise=[1.5], count=400)"
SCORE = "verifier=sim_tree_score"


def search(strategy, problem=0, world=GOOD, **options):
    task = ponder.task(world)
    (wanted,) = task.problems(problem + 1)[problem:]
    ctx = Context(wanted, PROCESSES.build("sim_tree"), task=task, **options)
    return asyncio.run(ponder.parse(strategy).run(wanted, ctx)), ctx


@dataclass(frozen=True)
class Bits(Process):
    """Three bits, one after the other; child k of a node is the bit k % 2."""

    name = "bits"

    async def extend(self, states, slots, ctx):
        wanted = [(s, k) for s, own in zip(states, slots, strict=True) for k in own]
        m, _ = await ctx.evaluate(len(wanted), lambda m: None)
        for state, slot in wanted[:m]:
            word = (state.payload or "") + str(slot % 2)
            yield state.child(slot, str(slot % 2), payload=word, n_tokens=1, finish="stop" if len(word) == 3 else None)

    def output(self, state):
        return state.payload

    def horizon(self, problem):
        return 3


@pytest.fixture(scope="module", autouse=True)
def ones():
    @verifier("ones")
    @dataclass(frozen=True)
    class Ones(Verifier):
        """The share of ones, spoiled on demand."""

        add: float = 0.0
        missing: bool = False

        async def score(self, problem, items, ctx):
            if self.missing and any(s.payload.endswith("1") for s in items):
                raise RuntimeError("ones cannot be scored")
            return [s.payload.count("1") / len(s.payload) + self.add for s in items]

    yield
    VERIFIERS._entries.pop("ones")


def bits(text, **options):
    problem = ponder.Problem("bits", "")
    ctx = Context(problem, Bits(), **options)
    return asyncio.run(ponder.parse(text).run(problem, ctx)), ctx


def replayed(result, rule, peaks=False):
    """Expanded nodes in order beside those that the textbook's rule picks, worked out anew from the scores."""
    order, groups = [], {}
    for node in result.tree.nodes:
        if node.parent not in groups:
            order.append(node.parent)
        groups.setdefault(node.parent, []).append(node)
    order = [p for p in order if len(groups[p]) > 1]  # one child: completed at the end
    built, picked = {}, []

    def descendants(node):
        return [node] + [d for c in built.get(node, ()) for d in descendants(c)]

    def closed(node):
        return node.finish is not None or (node in built and all(map(closed, built[node])))

    def bound(parent, child):
        values = [result.tree.score(d) for d in descendants(child)]
        value = max(values) if peaks else sum(values) / len(values)
        above = sum(len(descendants(c)) for c in built[parent]) + (parent.parent is not None)
        if rule == "uct":
            return value + math.sqrt(2) * math.sqrt(math.log(above) / len(values))
        prior = math.exp(result.tree.score(child)) / sum(math.exp(result.tree.score(c)) for c in built[parent])
        return value + prior * (math.log((above + 19653) / 19652) + 1.25) * math.sqrt(above) / (1 + len(values))

    for parent in order:
        node = order[0]
        while node in built:
            node = max((c for c in built[node] if not closed(c)), key=lambda c: bound(node, c))
        picked.append(node)
        built[parent] = groups[parent]
    return order, picked


@pytest.mark.parametrize("backup", ["mean", "max"])
@pytest.mark.parametrize("rule", ["uct", "puct"])
def test_the_node_that_is_extended_is_the_one_that_the_rule_picks(rule, backup):
    options = f"rule={rule}, backup={backup}, prior=score, noise=0"
    for i in range(3):
        result, _ = search(f"mcts(n=12, until=leaf, branch=3, {options}, {SCORE})", i)
        order, picked = replayed(result, rule, backup == "max")
        assert len(order) == 32 and order == picked


def test_a_walk_to_an_output_extends_every_node_on_its_way():
    result, _ = search(f"mcts(n=4, {SCORE})")
    extended = list(dict.fromkeys(node.parent for node in result.tree.nodes))
    assert [s.depth for s in extended] == list(range(8))
    assert [s.parent for s in extended[1:]] == extended[:-1]
    assert [c.finish for c in result.candidates] == ["stop"] * 4


@pytest.mark.parametrize(
    "options", ["", ", rule=puct", ", until=leaf", ", batch=3", ", backup=max, until=leaf, batch=2"]
)
def test_a_tree_that_is_searched_through_ends_it_with_every_output_once(options):
    result, ctx = bits(f"mcts(n=1000, branch=2, verifier=ones{options})")
    assert sorted(c.output for c in result.candidates) == sorted(f"{i:03b}" for i in range(8))
    assert ctx.ledger.total.function_evaluations == len(result.tree) == 14
    assert result.tree.notes["visits"][result.tree.nodes[0].parent] == 14


def test_siblings_with_the_same_step_are_one_node_and_scored_once():
    result, ctx = bits("mcts(n=1000, branch=6, verifier=ones)")
    assert sorted(c.output for c in result.candidates) == sorted(f"{i:03b}" for i in range(8))
    assert ctx.ledger.total.function_evaluations == 42 and ctx.ledger.total.verifier_calls == 14


@pytest.mark.parametrize("exponent", [0.3, 0.5, 0.8])
def test_progressive_widening_bounds_the_children_by_the_visits(exponent):
    result, _ = search(f"mcts(n=30, widening={exponent}, {SCORE})")
    children = Counter(node.parent for node in result.tree.nodes)
    visits = result.tree.notes["visits"]
    assert max(children.values()) > 1
    for node, count in children.items():
        open_children = [c for c in result.tree.nodes if c.parent is node and c.finish is None]
        if open_children:
            assert count <= math.ceil(visits[node] ** exponent)


def test_widening_where_only_copies_come_ends_and_has_searched_everything():
    result, _ = bits("mcts(n=1000, widening=0.5, verifier=ones)")
    assert {c.output for c in result.candidates} == {f"{i:03b}" for i in range(8)}


def test_nodes_under_way_count_as_lost_so_that_a_batch_spreads():
    alone, _ = search(f"mcts(n=5, until=leaf, {SCORE})")
    batch, _ = search(f"mcts(n=5, until=leaf, batch=4, {SCORE})")
    second = list(dict.fromkeys(node.parent for node in batch.tree.nodes))[1:5]
    assert [s.depth for s in second] == [1, 1, 1, 1] and len(set(second)) == 4
    roots = [max(r.tree.notes["visits"].values()) for r in (alone, batch)]
    assert roots == [40, 40]


def test_noise_at_the_root_changes_where_puct_looks_and_is_seeded():
    def path(noise, seed):
        result, _ = search(f"mcts(n=6, until=leaf, rule=puct, noise={noise}, {SCORE})", seed=seed)
        return [node.path for node in result.tree.nodes]

    assert path(0.25, 1) == path(0.25, 1)
    assert any(path(0.9, seed) != path(0, seed) for seed in range(4))


def test_rollouts_are_outputs_of_the_search_paid_within_its_steps():
    result, ctx = search(f"mcts(n=16, rollout=1, {SCORE})")
    assert ctx.ledger.total.function_evaluations <= 128 + 8
    assert len(result.candidates) > 8 and all(c.finish == "stop" for c in result.candidates)
    assert len({c.state for c in result.candidates}) == len(result.candidates)
    scored = [node for node in result.tree.nodes if not math.isnan(result.tree.score(node))]
    ends = [s for s in scored if s.depth == 8]
    inner = [s for s in scored if s.depth < 8]
    assert ends and all(any(result.tree.score(s) == result.tree.score(e) for e in ends) for s in inner)


def test_a_value_mixes_the_score_with_that_of_its_rollout():
    plain, _ = bits("mcts(n=2, branch=2, verifier=ones)")
    mixed, _ = bits("mcts(n=2, branch=2, rollout=0.5, verifier=ones)")
    first = mixed.tree.nodes[-1].parent  # rollouts come first in the tree, the node itself after them
    while first.parent is not None:
        first = first.parent
    one = next(n for n in mixed.tree.nodes if n.parent is first and n.step == "1")
    # its rollout takes the children's first slots: 1, 10, 100
    assert mixed.tree.score(one) == pytest.approx(0.5 * 1 + 0.5 / 3)
    assert plain.tree.score(next(n for n in plain.tree.nodes if n.step == "1" and n.depth == 1)) == 1.0


@pytest.mark.parametrize("answer", ["most_visited", "best_value"])
def test_the_answer_may_follow_visits_or_values_instead_of_a_vote(answer):
    for i in range(5):
        result, _ = search(f"mcts(n=12, answer={answer}, {SCORE})", i, NOISY)
        numbers = result.tree.notes["visits" if answer == "most_visited" else "value"]
        leaves = {c.state for c in result.candidates}
        bearing = {a for leaf in leaves for a in leaf.ancestry()}
        node = next(a for a in bearing if a.parent is None)
        while node not in leaves:
            node = max((n for n in result.tree.nodes if n.parent is node and n in bearing), key=numbers.get)
        assert result.status == "ok" and result.best.state is node and result.details["answer_by"] == answer


def test_it_is_right_more_often_than_best_of_n_at_the_same_number_of_steps():
    def accuracy(text, world, problems=150):
        task, process = ponder.task(world), PROCESSES.build("sim_tree")

        async def go():
            right = 0
            for problem in task.problems(problems):
                ctx = Context(problem, process, task=task)
                right += (await ponder.parse(text).run(problem, ctx)).output == problem.reference
                assert ctx.ledger.total.function_evaluations == 128
            return right / problems

        return asyncio.run(go())

    assert accuracy(f"mcts(n=16, {SCORE})", GOOD) >= 0.97  # best-of-16: 0.946
    assert accuracy(f"mcts(n=16, {SCORE})", NOISY) >= 0.391 + 0.08  # best-of-16: 0.391


@pytest.mark.parametrize("options", ["", ", rollout=1", ", until=leaf", ", batch=4"])
@pytest.mark.parametrize("limit", [0, 1, 5, 9, 20, 50])
def test_a_budget_is_kept_and_yields_the_best_so_far(limit, options):
    result, ctx = search(f"mcts(n=16, {SCORE}{options})", budget=Budget(function_evaluations=limit))
    assert ctx.ledger.total.function_evaluations <= limit and result.reason
    if limit == 0:
        assert result.status == "failed"
    elif limit >= 9:
        assert result.candidates[0].finish == "stop" and result.output is not None


def test_scores_of_any_range_are_rescaled_and_missing_ones_count_as_the_lowest():
    result, _ = bits("mcts(n=1000, branch=2, verifier=ones(missing=true))")
    assert len(result.candidates) == 8 and result.failures and result.output == "110"
    text = ponder.solve("What is 17+25?", model="sim:strong", strategy="mcts(n=4, verifier=log_probability)")
    assert text.output and text.details["nodes"] > 4
    infinite, _ = bits("mcts(n=1000, branch=2, verifier=minus_infinity, choose=best_score)")
    assert len(infinite.candidates) == 8 and infinite.output == "000"


@pytest.fixture(autouse=True)
def minus_infinity():
    @verifier("minus_infinity")
    @dataclass(frozen=True)
    class MinusInfinity(Verifier):
        """No path with a one is possible."""

        range = (-math.inf, 0.0)

        async def score(self, problem, items, ctx):
            return [-math.inf if "1" in s.payload else -1.0 for s in items]

    yield
    VERIFIERS._entries.pop("minus_infinity")


def test_a_score_outside_its_range_is_an_error_that_names_it():
    with pytest.raises(ponder.errors.VerifierError, match=r"score 1\.5 to the step '1'"):
        bits("mcts(n=4, branch=2, verifier=ones(add=0.5))")


def test_one_sample_of_one_branch_is_a_plain_draw():
    result, ctx = search(f"mcts(n=1, branch=1, {SCORE})")
    plain, _ = search("single")
    assert result.output == plain.output and ctx.ledger.total.function_evaluations == 8


@pytest.mark.parametrize("bad", ["n=0", "branch=0", "widening=1", "rollout=2", "noise=-1", "exploration=-1", "batch=0"])
def test_impossible_numbers_are_refused(bad):
    with pytest.raises(ponder.errors.ParameterError, match="mcts"):
        ponder.parse(f"mcts({bad})")
