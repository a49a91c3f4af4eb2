"""Bayesian stopping, stopping at saturation, abandoning early: limits, worked cases, budgets, errors."""

import asyncio
import warnings

import pytest

import ponder
from ponder import testing
from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.core.registry import PROCESSES
from ponder.ledger.budget import Budget
from ponder.models.simulated import Simulated
from ponder.processes.text_steps import TextSteps
from ponder.testing import Sums

NAMES = ("bayesian_stopping", "stop_at_saturation", "abandon_early(verifier=exact)")


def run(text, problem=0, model=None, **options):
    wanted = Sums().problems(problem + 1)[problem]
    ctx = Context(wanted, TextSteps(model or Simulated()), task=Sums(), **options)
    return asyncio.run(ponder.parse(text).run(wanted, ctx))


@pytest.mark.parametrize("problem", range(8))
def test_certainty_answers_as_all_samples_do_and_draws_no_more(problem):
    full = run("repeated_sampling(n=12) | majority", problem)
    sure = run("bayesian_stopping(n=12, threshold=1)", problem)
    assert sure.answer == full.answer and len(sure.candidates) <= 12
    assert [c.output for c in sure.candidates] == [c.output for c in full.candidates[: len(sure.candidates)]]


def test_a_unanimous_vote_stops_as_soon_as_the_posterior_is_sure():
    result = run("bayesian_stopping(n=16)", model=Simulated(alpha=1e6, beta=1e-3))
    assert result.details["stopped"] == "posterior" and result.details["samples"] == len(result.candidates) == 4


def test_a_vote_keeps_99_percent_of_the_accuracy_at_half_of_the_samples():
    model, full, stopped, drawn = Simulated(alpha=2, beta=1), 0, 0, 0
    for i in range(150):
        problem = Sums().problems(i + 1)[i]
        everything = run("repeated_sampling(n=16) | majority", i, model)
        early = run("bayesian_stopping(n=16)", i, model)
        full += everything.answer == problem.reference
        stopped += early.answer == problem.reference
        drawn += len(early.candidates)
    assert stopped >= 0.99 * full and drawn <= 0.5 * 16 * 150


def test_saturation_with_a_verifier_stops_at_the_first_success_and_at_the_worked_number_of_failures():
    always, never = Simulated(alpha=1e6, beta=1e-3), Simulated(alpha=1e-3, beta=1e6)
    solved = run("stop_at_saturation(n=32, verifier=exact, start=1)", model=always)
    assert len(solved.candidates) == 1 and solved.details["stopped"] == "saturated"
    # ½ / (1 + n) ≤ 0.05 from n = 9 on
    failed = run("stop_at_saturation(n=32, verifier=exact, epsilon=0.05)", model=never)
    assert len(failed.candidates) == 9


def test_an_economic_threshold_is_cost_over_value():
    never = Simulated(alpha=1e-3, beta=1e6)
    by_value = run("stop_at_saturation(n=32, verifier=exact, value=20, currency=samples)", model=never)
    assert len(by_value.candidates) == 9
    dear = run("stop_at_saturation(n=32, verifier=exact, value=50, currency=generated_tokens)", model=never)
    assert len(dear.candidates) == 4


def test_a_problem_is_abandoned_when_it_can_hardly_be_solved_any_more():
    never = Simulated(alpha=1e-3, beta=1e6)
    text = "abandon_early(n=16, verifier=exact, threshold=0.2, alpha=0.5, beta=2"
    given_up = run(f"{text})", model=never)
    assert given_up.details["stopped"] == "abandoned" and 1 < len(given_up.candidates) < 16
    silent = run(f"{text}, abstain=true)", model=never)
    assert silent.status == "abstain" and silent.reason.startswith("abandoned after") and silent.answer is None
    stubborn = run("abandon_early(n=16, verifier=exact, threshold=0)", model=never)
    assert len(stubborn.candidates) == 16
    assert len(run(f"{text})", model=Simulated(alpha=1e6, beta=1e-3)).candidates) == 1


@pytest.mark.parametrize("text", NAMES)
def test_one_sample_is_a_plain_draw(text):
    head, _, tail = text.partition("(")
    result = run(f"{head}(n=1{', ' + tail if tail else ')'}")
    assert len(result.candidates) == 1 and result.output == run("single").output


@pytest.mark.parametrize("limit", [0, 1, 5, 7])
@pytest.mark.parametrize("text", NAMES)
def test_a_budget_of_calls_is_kept(text, limit):
    result = run(f"with_settings({text})", model=None, budget=Budget(calls=limit))
    assert result.total.calls <= limit


def test_any_strategy_can_be_stopped_and_any_selector_may_follow():
    result = run('bayesian_stopping(n=12, strategy="best_of_n(verifier=exact) | weighted_majority", batch=3)')
    assert result.selection is not None and result.total.verifier_calls == len(result.candidates)
    piped = run("stop_at_saturation(n=8) | minimum_bayes_risk")
    assert piped.status == "ok"


def test_searches_are_turns_of_their_own_width():
    task = ponder.task("sim_tree(count=4)")
    problem = task.problems(1)[0]
    ctx = Context(problem, PROCESSES.build("sim_tree"), task=task)
    text = "bayesian_stopping(n=12, strategy=rebase(n=4, verifier=sim_tree_score), threshold=1)"
    result = asyncio.run(ponder.parse(text).run(problem, ctx))
    assert len(result.candidates) in (4, 8, 12) and result.details["samples"] == len(result.candidates)
    assert len({c.state for c in result.candidates}) == len(result.candidates)
    assert [c.index for c in result.candidates] == list(range(len(result.candidates)))


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("bayesian_stopping(threshold=0)", r"\(0, 1\]"), ("bayesian_stopping(n=0)", "≥ 1"),
        ("bayesian_stopping(unseen=-1)", "≥ 0"), ("stop_at_saturation(epsilon=0)", "never reached"),
        ("stop_at_saturation(value=0)", "currency"), ("stop_at_saturation(alpha=0)", "> 0"),
        ("abandon_early(threshold=1)", "never gives up"),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(bad, says):
    with pytest.raises(ponder.errors.ParameterError, match=says):
        ponder.parse(bad)


def test_a_verifier_that_raises_costs_no_answer():
    class Breaks(ponder.Verifier):
        name = "always_breaks"

        async def score(self, problem: Problem, items, ctx):
            raise RuntimeError("no")

        def __str__(self):
            return "always_breaks"

    wanted = Sums().problems(1)[0]
    ctx = Context(wanted, TextSteps(Simulated()), task=Sums())
    strategy = ponder.parse("stop_at_saturation(n=6)")
    object.__setattr__(strategy, "verifier", Breaks())
    result = asyncio.run(strategy.run(wanted, ctx))
    assert result.status == "ok" and len(result.failures) == len(result.candidates)


@pytest.mark.parametrize("check", testing.STRATEGY_CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize(
    "text", ["stop_at_saturation(verifier=exact)", 'bayesian_stopping(strategy="best_of_n | majority")']
)
def test_the_shared_suite_holds_for_other_settings(text, check):
    with warnings.catch_warnings():
        testing.run(check, text)
