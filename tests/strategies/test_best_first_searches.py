"""Best-first and A*: order of expansion, exact heuristics, limits, and what bad scores do."""

import asyncio
import math
from collections import Counter
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import pairwise

import pytest

import ponder
from ponder.core.context import Context
from ponder.core.process import Process
from ponder.core.registry import PROCESSES, VERIFIERS, verifier
from ponder.core.verifier import Verifier
from ponder.ledger.budget import Budget

WORLD = "sim_tree(survival=[0.8], sharpness=[2], noise=[1], count=400)"


@dataclass(frozen=True)
class Walk(Process):
    """On a grid from (0, 0): each step goes right or up, all children are tried in turn; ends at five steps."""

    name = "walk"

    async def extend(self, states, slots, ctx):
        wanted = [(s, k) for s, own in zip(states, slots, strict=True) for k in own]
        m, _ = await ctx.evaluate(len(wanted), lambda m: None)
        for state, slot in wanted[:m]:
            x, y = state.payload or (0, 0)
            place = (x + 1, y) if slot % 2 == 0 else (x, y + 1)
            yield state.child(slot, place, payload=place, n_tokens=1, finish="stop" if sum(place) == 5 else None)

    def output(self, state):
        return state.payload

    def horizon(self, problem):
        return 5


@pytest.fixture(scope="module", autouse=True)
def scores():
    @verifier("towards")
    @dataclass(frozen=True)
    class Towards(Verifier):
        """1 on the way to (3, 2), less by a tenth for each step that is not; `shift` spoils the range."""

        shift: float = 0.0
        constant: bool = False

        async def score(self, problem, items, ctx):
            out = []
            for state in items:
                x, y = state.payload
                out.append((1.0 if self.constant else 1.0 - 0.1 * (max(0, x - 3) + max(0, y - 2))) + self.shift)
            return out

    yield
    VERIFIERS._entries.pop("towards")


def run(text, process=None, problem=None, task=None, **options):
    problem = problem or ponder.Problem("walk", "")
    ctx = Context(problem, process or Walk(), task=task, **options)
    return asyncio.run(ponder.parse(text).run(problem, ctx)), ctx


def tree(text, i=0, world=WORLD, **options):
    task = ponder.task(world)
    return run(text, PROCESSES.build("sim_tree"), task.problems(i + 1)[i], task, **options)


@pytest.mark.parametrize("cost", ["drop", "consistent"])
@pytest.mark.parametrize("strategy", ["a_star", "best_first"])
def test_with_an_exact_score_only_nodes_of_an_optimal_path_are_extended(strategy, cost):
    options = f", cost={cost}" if strategy == "a_star" else ""
    result, _ = run(f"{strategy}(n=50, branch=2, verifier=towards{options})")
    assert result.output == (3, 2)
    extended = {node.parent for node in result.tree.nodes}
    path = set(result.best.state.ancestry())
    assert extended <= path and len(extended) == 5


def test_with_an_exact_score_it_finds_an_optimal_goal_and_expands_no_more_than_uniform_cost_search():
    """Costs of a step are what it leads away from the way by: uniform-cost search knows them and has no h."""
    expanded = []
    queue = [(0.0, 0, (0, 0))]
    while sum(queue[0][-1]) < 5:
        spent, _, place = heappop(queue)
        expanded.append(place)
        for x, y in ((place[0] + 1, place[1]), (place[0], place[1] + 1)):
            new = round(spent + 0.1 * (max(0, x - 3) + max(0, y - 2) > 0), 9)
            heappush(queue, (new, len(expanded) * 2 + x, (x, y)))
    exact, _ = run("a_star(n=50, branch=2, verifier=towards)")
    goal = queue[0][-1]
    assert queue[0][0] == 0 == 0.1 * (max(0, goal[0] - 3) + max(0, goal[1] - 2)) and exact.output == goal == (3, 2)
    assert len({node.parent for node in exact.tree.nodes}) <= len(expanded)
    blind, _ = run("a_star(n=50, branch=2, verifier=towards(constant=true))")
    assert len(exact.tree) <= len(blind.tree)


def test_with_consistent_costs_f_never_falls_from_one_expansion_to_the_next():
    for i in range(12):
        result, _ = tree("a_star(n=16, cost=consistent, verifier=sim_tree_score)", i)

        def f(state, tree=result.tree):
            scores = [0.5, *tree.trail(state)]
            return (1 - scores[-1]) + sum(max(0.0, b - a) for a, b in pairwise(scores))

        expanded = Counter(node.parent for node in result.tree.nodes if node.parent.parent is not None)
        order = [state for state, children in expanded.items() if children == 4]  # one child: completed at the end
        values = [f(state) for state in order]
        assert all(b >= a - 1e-9 for a, b in pairwise(values))


def test_it_reaches_the_reference_accuracy_with_fewer_steps_than_best_of_n():
    task, process = ponder.task(WORLD), PROCESSES.build("sim_tree")

    async def go(text):
        right = steps = 0
        for problem in task.problems(300):
            ctx = Context(problem, process, task=task)
            right += (await ponder.parse(text).run(problem, ctx)).output == problem.reference
            steps += ctx.ledger.total.function_evaluations
        return right / 300, steps / 300

    star, steps = asyncio.run(go("a_star(n=16, verifier=sim_tree_score)"))
    assert star == pytest.approx(0.991, abs=0.03) and steps == pytest.approx(77.6, rel=0.2)
    best, all_steps = asyncio.run(go("best_of_n(n=16, verifier=sim_tree_score)"))
    assert star > best and all_steps == 128


@pytest.mark.parametrize("strategy", ["a_star", "best_first"])
@pytest.mark.parametrize("limit", [0, 1, 5, 9, 20, 50])
def test_a_budget_is_kept_and_the_best_open_node_completed_where_it_allows_it(strategy, limit):
    result, ctx = tree(f"{strategy}(n=16, verifier=sim_tree_score)", budget=Budget(function_evaluations=limit))
    assert ctx.ledger.total.function_evaluations <= limit
    if limit >= 9:
        assert result.candidates and result.candidates[0].finish == "stop"


def test_when_the_expansions_run_out_the_best_node_is_completed():
    result, _ = tree("best_first(n=1, verifier=sim_tree_score)")
    assert result.details["stopped"] == "expansions" and result.output is not None


def test_a_score_outside_its_range_is_an_error_that_names_it():
    result = None
    with pytest.raises(ponder.errors.VerifierError, match=r"1\.5.*best_first"):
        result, _ = run("a_star(n=4, verifier=towards(shift=0.5))")
    assert result is None


def test_siblings_with_the_same_step_are_one_node_and_missing_scores_come_last(monkeypatch):
    result, _ = run("a_star(n=50, branch=6, verifier=towards)")
    extended = [node.parent for node in result.tree.nodes]
    assert len({(s.parent, str(s.step)) for s in extended}) == len(set(extended))
    assert result.total.model_calls == 30 and result.total.verifier_calls == 10  # of six siblings two differ
    cls = type(ponder.verifier("towards"))
    original = cls.score

    async def some(self, problem, items, ctx):
        return [
            math.nan if s.slot % 2 == 0 else v
            for s, v in zip(items, await original(self, problem, items, ctx), strict=True)
        ]

    monkeypatch.setattr(cls, "score", some)
    blind, _ = run("best_first(n=50, branch=2, verifier=towards)")
    assert blind.output == (0, 5) and blind.failures


def test_a_capped_frontier_and_a_batch_still_find_the_goal():
    assert run("a_star(n=50, branch=2, verifier=towards, frontier=2, batch=3)")[0].output == (3, 2)


@pytest.mark.parametrize("bad", ["a_star(branch=0)", "a_star(start=2)", "best_first(n=0)", "a_star(frontier=0)"])
def test_impossible_numbers_are_refused(bad):
    with pytest.raises(ponder.errors.ParameterError):
        ponder.parse(bad)
