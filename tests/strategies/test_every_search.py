"""What every step-wise search promises: a full first level, no copies among its candidates, an answer in any budget."""

import asyncio

import pytest

import ponder
from ponder.core.context import Context
from ponder.core.registry import PROCESSES
from ponder.ledger.budget import Budget

LEVELS = [
    "beam_search(n=8", "lookahead_search(n=8", "dvts(n=8", "rebase(n=8", "ets(n=8, coverage=0", "dynamic_experts(n=8",
    "tree_of_thoughts(n=8", "particle_filter(n=8", "entropic_particle_filter(n=8",
]  # fmt: skip
EVERY = [
    *LEVELS, "beam_search(n=8, finished=compete", "dynamic_experts(n=8, inherit=false",
    "particle_filter(n=8, threshold=0", "particle_gibbs(n=16", "parallel_tempering(n=16",
    "tree_of_thoughts(n=8, search=dfs, accept=0.9", "a_star(n=8", "best_first(n=8", "best_first(n=8, first=false",
    "mcts(n=8", "mcts(n=8, until=leaf", "mcts(n=8, rollout=0.5",
]  # fmt: skip


def search(text, problem=0, **options):
    task = ponder.task("sim_tree(survival=[0.8], sharpness=[0.5], noise=[1.5], count=20)")
    wanted = task.problems(problem + 1)[problem]
    ctx = Context(wanted, PROCESSES.build("sim_tree"), task=task, **options)
    return asyncio.run(ponder.parse(f"{text}, verifier=sim_tree_score)").run(wanted, ctx)), ctx


@pytest.mark.parametrize("text", LEVELS)
def test_the_first_level_draws_its_full_width(text):
    result, _ = search(text)
    assert result.tree.levels[0]["new"] == 8
    assert len({node.path for node in result.tree.nodes if node.depth == 1}) == 8


@pytest.mark.parametrize("text", EVERY)
def test_no_candidate_is_a_copy_of_another(text):
    for problem in range(3):
        result, _ = search(text, problem)
        states = [c.state for c in result.candidates]
        assert states and len({id(s) for s in states}) == len(states)
        assert len({s.path for s in states}) == len(states)  # so each was drawn by itself


@pytest.mark.parametrize("text", EVERY)
@pytest.mark.parametrize("limit", [9, 13, 30])
def test_a_budget_that_ends_it_in_the_middle_still_yields_an_answer(text, limit):
    result, ctx = search(text, budget=Budget(function_evaluations=limit))
    assert ctx.ledger.total.function_evaluations <= limit
    assert result.status == "ok" and result.output is not None
    assert all(c.finish == "stop" for c in result.candidates)


TABLE = {
    "good": (
        "survival=[0.8], sharpness=[2], noise=[1]",
        {4: (0.129, 0.528, 0.505, 0.987, 0.985, 0.987, 0.985), 16: (0.081, 0.946, 0.788, 1.0, 1.0, 1.0, 1.0)},
    ),
    "noisy": (
        "survival=[0.8], sharpness=[0.5], noise=[1.5]",
        {4: (0.152, 0.273, 0.223, 0.418, 0.438, 0.520, 0.465), 16: (0.090, 0.391, 0.197, 0.871, 0.611, 0.914, 0.833)},
    ),
    "easy": (
        "survival=[0.93], sharpness=[0.3], noise=[2]",
        {4: (0.733, 0.622, 0.703, 0.667, 0.701, 0.709, 0.699), 16: (0.963, 0.679, 0.955, 0.903, 0.871, 0.913, 0.855)},
    ),
}
"""Accuracies of an independent program (1500 problems), by world and number of samples, in the order of COLUMNS."""
COLUMNS = (
    "repeated_sampling(n={n}) | majority", "best_of_n(n={n}, verifier=sim_tree_score)",
    "best_of_n(n={n}, verifier=sim_tree_score) | weighted_majority", "beam_search(n={n}, verifier=sim_tree_score)",
    "dvts(n={n}, verifier=sim_tree_score)", "rebase(n={n}, verifier=sim_tree_score)",
    "particle_filter(n={n}, verifier=sim_tree_score, scheme=multinomial)",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("world", TABLE)
def test_the_reference_table(world):
    problems, (settings, rows) = 300, TABLE[world]
    task, process = ponder.task(f"sim_tree({settings}, count={problems})"), PROCESSES.build("sim_tree")
    for n, expected in rows.items():
        for text, wanted in zip(COLUMNS, expected, strict=True):
            method = ponder.parse(text.format(n=n))

            async def go(method=method):
                found = [await method.run(p, Context(p, process, task=task)) for p in task.problems(problems)]
                return sum(r.output == "right" for r in found) / problems

            # two standard errors of the reference and three of ours
            tolerance = 0.026 + 3 * max(wanted * (1 - wanted) / problems, 1e-4) ** 0.5
            assert asyncio.run(go()) == pytest.approx(wanted, abs=tolerance), (text, n)
