"""REBASE and DVTS: the shares, the sub-trees, the reference accuracies."""

import asyncio
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ponder
from ponder.core.context import Context
from ponder.core.registry import PROCESSES
from ponder.ledger.budget import Budget
from ponder.strategies.rebase import rebase_counts

NOISY = "sim_tree(survival=[0.8], sharpness=[0.5], noise=[1.5], count=2000)"


def search(text, problem=0, world=NOISY, **options):
    task = ponder.task(world)
    wanted = task.problems(problem + 1)[problem]
    ctx = Context(wanted, PROCESSES.build("sim_tree"), task=task, **options)
    return asyncio.run(ponder.parse(text).run(wanted, ctx)), ctx


def accuracy(text, problems, world=NOISY):
    task, process, method = ponder.task(world), PROCESSES.build("sim_tree"), ponder.parse(text)

    async def go():
        return [
            (await method.run(p, Context(p, process, task=task))).output == p.reference for p in task.problems(problems)
        ]

    return float(np.mean(asyncio.run(go())))


@pytest.mark.parametrize(
    ("scores", "width", "counts"),
    [
        ([0.9, 0.8, 0.5, 0.1], 16, [10, 5, 1, 0]), ([0.5] * 4, 6, [2, 2, 1, 1]), ([0.0] * 3, 8, [3, 3, 2]),
        ([0.3], 7, [7]), ([], 4, []), ([0.4, 0.4], 0, [0, 0]), ([math.nan, 0.2], 3, [0, 3]),
        ([-math.inf, -math.inf], 3, [2, 1]), ([math.nan], 2, [2]), ([1e9, 0.0], 5, [5, 0]),
    ],
)  # fmt: skip
def test_shares_are_those_of_the_rule(scores, width, counts):
    assert rebase_counts(scores, width).tolist() == counts


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=30), st.integers(0, 200), st.floats(0.01, 10))
def test_the_whole_width_is_shared_out_and_a_better_score_never_gets_less(scores, width, temperature):
    counts = rebase_counts(scores, width, temperature)
    assert counts.sum() == width and (counts >= 0).all()
    order = np.argsort(-np.asarray(scores), kind="stable")
    assert all(counts[a] >= counts[b] - 1 for a, b in pairwise(order))


@pytest.mark.parametrize(("text", "expected"), [("rebase(n=4", 0.520), ("rebase(n=16", 0.914), ("dvts(n=4", 0.438)])
def test_they_reach_the_reference_accuracy_on_the_noisy_tree(text, expected):
    problems = 400
    tolerance = 0.026 + 3 * math.sqrt(expected * (1 - expected) / problems)
    assert accuracy(f"{text}, verifier=sim_tree_score)", problems) == pytest.approx(expected, abs=tolerance)


def test_each_sub_tree_follows_its_own_best_step_whatever_the_others_score():
    result, _ = search("dvts(n=12, branch=4, verifier=sim_tree_score)")
    tree = result.tree
    for depth in range(1, 8):
        for sub in range(3):
            own = [s for s in tree.nodes if s.depth == depth and s.path[0] // 4 == sub]
            extended = [s for s in own if any(c.parent is s for c in tree.nodes)]
            assert len(own) == 4 and extended == [max(own, key=tree.score)]
    assert len(result.candidates) == 12 and len({c.state for c in result.candidates}) == 12


def test_one_sub_tree_per_step_is_best_of_n_and_a_single_sub_tree_is_greedy():
    apart, _ = search("dvts(n=6, branch=1, verifier=sim_tree_score, choose=best_score)")
    plain, _ = search("best_of_n(n=6, verifier=sim_tree_score)")
    assert [c.output for c in apart.candidates] == [c.output for c in plain.candidates]
    assert apart.output == plain.output
    greedy, _ = search("dvts(n=4, branch=4, verifier=sim_tree_score)")
    assert len({s.parent for s in greedy.tree.nodes}) == 8


@pytest.mark.parametrize("text", ["rebase(n=1", "dvts(n=1", "rebase(n=3, temperature=1e6", "dvts(n=3"])
def test_small_and_even_widths_draw_full_levels(text):
    result, ctx = search(f"{text}, verifier=sim_tree_score)")
    n = int(text.split("n=")[1][0])
    assert [level["new"] for level in result.tree.levels] == [n] * 8
    assert ctx.ledger.total.function_evaluations == 8 * n


@pytest.mark.parametrize("text", ["rebase(n=8", "dvts(n=8"])
@pytest.mark.parametrize("limit", [0, 5, 8, 21, 60])
def test_a_budget_is_kept_and_yields_the_best_so_far(text, limit):
    result, ctx = search(f"{text}, verifier=sim_tree_score)", budget=Budget(function_evaluations=limit))
    assert ctx.ledger.total.function_evaluations <= limit
    assert (limit < 8) or result.candidates[0].finish == "stop"


@pytest.mark.parametrize(
    ("bad", "says"), [("dvts(n=6)", "n=4 and n=8"), ("dvts(branch=0)", "branch"), ("rebase(temperature=0)", "> 0")]
)
def test_impossible_shapes_are_refused_with_the_nearest_possible(bad, says):
    with pytest.raises(ponder.errors.ParameterError, match=says):
        ponder.parse(bad)
