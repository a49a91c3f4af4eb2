"""Lookahead: none is beam search, rollouts are paid for, and seeing past a trap helps."""

import asyncio

import numpy as np
import pytest

import ponder
from ponder.core.context import Context
from ponder.core.registry import PROCESSES
from ponder.ledger.budget import Budget

TRAP = "sim_tree(survival=[0.85], sharpness=[1.5], noise=[0.5], trap=[0.5], trap_depth=3, depth=10, count=2000)"


def run(text, problems=1, **options):
    task, process, method = ponder.task(TRAP), PROCESSES.build("sim_tree"), ponder.parse(text)

    async def go():
        out = []
        for problem in task.problems(problems):
            ctx = Context(problem, process, task=task, **options)
            out.append((await method.run(problem, ctx), ctx))
        return out

    return asyncio.run(go())


def accuracy(text, problems):
    return np.mean([r.output == r.problem.reference for r, _ in run(text, problems)])


def test_without_lookahead_it_is_beam_search_draw_for_draw():
    ((ahead, _),) = run("lookahead_search(n=8, steps=0, verifier=sim_tree_score)")
    ((beam, _),) = run("beam_search(n=8, verifier=sim_tree_score)")
    assert [c.state.path for c in ahead.candidates] == [c.state.path for c in beam.candidates]
    assert ahead.output == beam.output and [c.scores for c in ahead.candidates] == [c.scores for c in beam.candidates]


@pytest.mark.parametrize("steps", [1, 3])
def test_rollouts_are_paid_for_and_are_no_candidates(steps):
    ((result, ctx),) = run(f"lookahead_search(n=4, steps={steps}, verifier=sim_tree_score)")
    drawn = sum(4 * (1 + min(steps, 10 - depth)) for depth in range(1, 11))
    assert ctx.ledger.total.function_evaluations == drawn
    assert len(result.tree) == 40 and len(result.candidates) == 4
    assert ctx.ledger.total.verifier_calls == 40


def test_seeing_past_an_over_confident_verifier_helps():
    near, far = (accuracy(f"lookahead_search(n=8, steps={s}, verifier=sim_tree_score)", 120) for s in (0, 3))
    assert far > near + 0.4


def test_a_wide_beam_falls_where_early_scores_are_over_confident_and_a_vote_does_not():
    narrow, wide = (accuracy(f"beam_search(n={n}, verifier=sim_tree_score)", 150) for n in (4, 32))
    assert wide < narrow - 0.15


@pytest.mark.parametrize("limit", [0, 3, 11, 30])
def test_a_budget_is_kept(limit):
    ((result, ctx),) = run("lookahead_search(n=4, verifier=sim_tree_score)", budget=Budget(function_evaluations=limit))
    assert ctx.ledger.total.function_evaluations <= limit and result.reason


def test_a_negative_lookahead_is_refused():
    with pytest.raises(ponder.errors.ParameterError, match="steps"):
        ponder.parse("lookahead_search(steps=-1)")
