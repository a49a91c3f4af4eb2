"""Beam search: its limits, its width, and what a budget or a broken verifier makes of it."""

import asyncio
import math

import pytest

import ponder
from ponder.core.context import Context
from ponder.core.registry import PROCESSES
from ponder.ledger.budget import Budget

WORLD = "sim_tree(survival=[0.8], sharpness=[2], noise=[1], count=400)"
SCORE = "verifier=sim_tree_score"


def search(strategy, problem=0, world=WORLD, **options):
    task = ponder.task(world)
    (wanted,) = task.problems(problem + 1)[problem:]
    ctx = Context(wanted, PROCESSES.build("sim_tree"), task=task, **options)
    return asyncio.run(ponder.parse(strategy).run(wanted, ctx)), ctx


def accuracy(strategy, problems, world=WORLD):
    task = ponder.task(world)
    method, process = ponder.parse(strategy), PROCESSES.build("sim_tree")

    async def run():
        right = 0
        for problem in task.problems(problems):
            result = await method.run(problem, Context(problem, process, task=task))
            right += result.output == problem.reference
        return right / problems

    return asyncio.run(run())


@pytest.mark.parametrize("n", [1, 5, 16])
def test_without_pruning_it_draws_and_chooses_exactly_what_best_of_n_does(n):
    beam, _ = search(f"beam_search(n={n}, branch=1, {SCORE}, choose=best_score)")
    best, _ = search(f"best_of_n(n={n}, {SCORE})")
    assert [c.output for c in beam.candidates] == [c.output for c in best.candidates]
    assert beam.chosen == best.chosen
    assert [c.scores for c in beam.candidates] == [pytest.approx(c.scores) for c in best.candidates]


@pytest.mark.parametrize(("n", "branch"), [(16, 4), (7, 3), (4, 9), (1, 4)])
def test_every_level_draws_its_full_width_the_first_one_too(n, branch):
    result, ctx = search(f"beam_search(n={n}, branch={branch}, {SCORE})")
    assert [level["new"] for level in result.tree.levels] == [n] * 8
    assert ctx.ledger.total.function_evaluations == 8 * n == ctx.ledger.total.verifier_calls
    assert len({c.state for c in result.candidates}) == len(result.candidates) == n


def test_kept_prefixes_are_the_best_scored_of_their_level():
    result, _ = search(f"beam_search(n=12, branch=4, {SCORE})")
    given = result.tree.notes["continuations"]
    for depth in range(1, 8):
        level = [s for s in result.tree.nodes if s.depth == depth]
        kept = sorted((result.tree.score(s) for s in level if given[s] > 0), reverse=True)
        assert kept == sorted((result.tree.score(s) for s in level), reverse=True)[:3]


@pytest.mark.parametrize(
    ("world", "n", "expected"),
    [
        ("survival=[0.8], sharpness=[2], noise=[1]", 4, 0.987),
        ("survival=[0.8], sharpness=[0.5], noise=[1.5]", 16, 0.871),
        ("survival=[0.93], sharpness=[0.3], noise=[2]", 4, 0.667),
    ],
)
def test_it_reaches_the_reference_accuracy_on_the_simulated_tree(world, n, expected):
    problems = 400
    tolerance = 0.013 * 2 + 3 * math.sqrt(expected * (1 - expected) / problems)
    found = accuracy(f"beam_search(n={n}, {SCORE})", problems, f"sim_tree({world}, count={problems})")
    assert found == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("limit", [0, 1, 3, 10, 17, 40, 63])
def test_a_budget_that_ends_it_in_the_middle_is_kept_and_yields_the_best_so_far(limit):
    result, ctx = search(f"beam_search(n=8, {SCORE})", budget=Budget(function_evaluations=limit))
    assert ctx.ledger.total.function_evaluations <= limit
    assert result.reason
    if limit == 0:
        assert result.status == "failed" and result.output is None
    elif limit >= 8:
        assert result.candidates[0].finish == "stop"
    elif limit < 8:
        assert result.candidates[0].finish == "unfinished" and result.output is None


def test_a_budget_on_calls_leaves_room_for_scoring_every_state_that_is_drawn():
    result, ctx = search(f"beam_search(n=8, {SCORE})", budget=Budget(calls=40))
    total = ctx.ledger.total
    assert total.model_calls + total.verifier_calls <= 40
    assert total.verifier_calls <= total.model_calls <= total.verifier_calls + 5
    assert result.output is not None and result.candidates[0].finish == "stop"
    assert len(result.tree.nodes) == total.model_calls


def test_states_without_a_score_are_pruned_first_and_their_failures_are_told(monkeypatch):
    scored = ponder.verifier("sim_tree_score")

    async def some(self, problem, items, ctx):
        values = await original(self, problem, items, ctx)
        return [math.nan if s.slot in (0, 1) and s.depth == 1 else v for v, s in zip(values, items, strict=True)]

    original = type(scored).score
    monkeypatch.setattr(type(scored), "score", some)
    result, _ = search(f"beam_search(n=8, branch=2, {SCORE})")
    first = [s for s in result.tree.nodes if s.depth == 1]
    assert [result.tree.notes["continuations"][s] for s in first if s.slot in (0, 1)] == [0, 0]
    assert len(result.failures) == 2 and result.status == "ok"


def test_a_verifier_that_always_fails_leaves_a_vote_by_counts(monkeypatch):
    async def broken(self, problem, items, ctx):
        raise RuntimeError("no scores today")

    monkeypatch.setattr(type(ponder.verifier("sim_tree_score")), "score", broken)
    result, _ = search(f"beam_search(n=4, {SCORE})")
    assert result.status == "ok" and "majority decides" in result.reason
    assert any("no scores today" in f.message for f in result.failures)


@pytest.mark.parametrize("bad", ["n=0", "n=4, branch=0", "n=4, keep=5", "n=4, keep=0"])
def test_impossible_widths_are_refused(bad):
    with pytest.raises(ponder.errors.ParameterError, match="beam_search"):
        ponder.parse(f"beam_search({bad})")
