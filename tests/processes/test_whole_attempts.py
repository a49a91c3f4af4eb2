"""Simulated editing and scores: the laws they claim, and the noisy grade."""

import asyncio

import numpy as np
import pytest

import ponder
from ponder.core.context import Context
from ponder.core.registry import PROCESSES
from ponder.core.revision import Feedback, Shown, attempts, feedback_node, is_attempt
from ponder.errors import ParameterError, TaskError
from ponder.ledger.budget import Budget


def context(world, **options):
    task = ponder.task(world)
    return Context(task.problems(1)[0], PROCESSES.build(world.partition("(")[0]), task=task, **options)


def drawn(ctx, state, n):
    return asyncio.run(ctx.extend([state], [n]))[0]


def share_right(ctx, states):
    return np.mean([[a == b for a, b in zip(s.step, ctx.problem.reference, strict=True)] for s in states])


def test_blind_bits_are_even_and_edits_flip_at_the_stated_rates():
    ctx = context("sim_edits(bits=64, toward=[0.15], away=[0.05])")
    assert share_right(ctx, drawn(ctx, ctx.root(), 2000)) == pytest.approx(0.5, abs=5 * 0.5 / (2000 * 64) ** 0.5)
    truth = ctx.problem.reference
    wrong = "".join("i" if c == "o" else "o" for c in truth)
    shown = Feedback((Shown(wrong, 0.0), Shown(truth, 1.0)))
    kept = drawn(ctx, feedback_node(ctx.root(), "good", shown), 2000)
    assert share_right(ctx, kept) == pytest.approx(0.95, abs=0.004)
    lied = Feedback((Shown(wrong, 1.0), Shown(truth, 0.0)))
    assert share_right(ctx, drawn(ctx, feedback_node(ctx.root(), "bad", lied), 2000)) == pytest.approx(0.15, abs=0.006)
    last = Feedback((Shown(truth), Shown(wrong)))
    assert share_right(ctx, drawn(ctx, feedback_node(ctx.root(), "last", last), 500)) < 0.2


def test_feedback_is_a_node_that_costs_nothing_and_is_no_attempt():
    ctx = context("sim_edits")
    (first,) = drawn(ctx, ctx.root(), 1)
    node = feedback_node(first, "f", Feedback((Shown(first.step, 0.5),), "note"), {"temperature": 0.3})
    (second,) = drawn(ctx, node, 1)
    assert [is_attempt(s) for s in second.ancestry()] == [True, False, True, False] and attempts(second) == 2
    assert second.meta == {"temperature": 0.3} and str(node.step) == "shown: 0.5; note"
    assert ctx.ledger.total.function_evaluations == 2 and not ctx.process.done(node)


def test_scores_begin_and_step_as_stated_and_stay_in_the_unit_interval():
    ctx = context("sim_scores(root_mean=0.4, root_sd=0.1, step_mean=-0.05, step_sd=0.02)")
    fresh = [s.step for s in drawn(ctx, ctx.root(), 4000)]
    assert np.mean(fresh) == pytest.approx(0.4, abs=0.008) and np.std(fresh) == pytest.approx(0.1, rel=0.05)
    node = feedback_node(ctx.root(), "f", Feedback((Shown(0.9), Shown(0.5))))
    steps = [s.step - 0.5 for s in drawn(ctx, node, 4000)]
    assert np.mean(steps) == pytest.approx(-0.05, abs=0.002) and np.std(steps) == pytest.approx(0.02, rel=0.05)
    edge = feedback_node(ctx.root(), "edge", Feedback((Shown(0.0),)))
    assert min(s.step for s in drawn(ctx, edge, 50)) == 0.0
    assert ctx.task.grade(ctx.problem, 0.7).correct and not ctx.task.grade(ctx.problem, 0.69).correct


def test_noise_is_normal_by_place_and_the_same_every_time():
    ctx = context("sim_edits")
    states = drawn(ctx, ctx.root(), 3000)
    exact, noisy = (
        asyncio.run(ctx.score(ctx.problem, states, ponder.verifier(v))) for v in ("exact", "noisy_grade(noise=0.2)")
    )
    error = noisy - exact
    assert error.mean() == pytest.approx(0, abs=5 * 0.2 / 3000**0.5) and error.std() == pytest.approx(0.2, rel=0.06)
    assert (
        asyncio.run(ctx.score(ctx.problem, states[:5], ponder.verifier("noisy_grade(noise=0.2)"))) == noisy[:5]
    ).all()


def test_problems_are_the_same_for_a_seed_and_mixed_where_parameters_are_lists():
    task = ponder.task("sim_edits(toward=[0.1, 0.3])")
    few, many = task.problems(3, seed=2), task.problems(7, seed=2)
    assert [p.reference for p in few] == [p.reference for p in many[:3]]
    assert [p.metadata["toward"] for p in few] == [0.1, 0.3, 0.1]
    assert task.problems(3, seed=3)[0].reference != few[0].reference


def test_a_budget_gives_fewer_and_bad_values_are_refused():
    ctx = context("sim_scores", budget=Budget(calls=3))
    assert len(drawn(ctx, ctx.root(), 10)) == 3
    for text, message in [("sim_edits(bits=0)", "integer ≥ 1"), ("sim_edits(toward=[2])", r"\[0, 1\]"),
                          ("sim_scores(root_sd=-1)", "≥ 0"), ("sim_scores(count=0)", "integer ≥ 1")]:  # fmt: skip
        with pytest.raises(ParameterError, match=message):
            ponder.task(text)
    with pytest.raises(ParameterError, match="finite"):
        ponder.verifier("noisy_grade(noise=-1)")
    for process, other in (("sim_edits", "sim_scores"), ("sim_scores", "sim_edits")):
        with pytest.raises(TaskError, match=f"needs problems of the task {process}"):
            PROCESSES.build(process).start(ponder.task(other).problems(1)[0])
