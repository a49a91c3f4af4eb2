"""PlanGEN: the bandit by hand and against uniform choice, its verifier, its stages, bad input."""

import asyncio
import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

import ponder
from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.model import Sampling
from ponder.core.registry import PROCESSES
from ponder.errors import ParameterError
from ponder.ledger.budget import Budget
from ponder.models.simulated import Simulated
from ponder.processes.text_steps import TextSteps
from ponder.strategies.plan_gen import Bandit, PlanGen, parse_prior, upper_bound
from ponder.testing import Sums
from ponder.verifiers.constraint_check import parse_reward

V = "verifier=noisy_grade(noise=0)"
ARMS = f"arms=[best_of_n({V}), iterative_agent_decoding(per_round=1, patience=0, {V})], {V}, prior=0"
EITHER = "sim_edits(toward=[0.15, 0.02], away=[0.05, 0.3], count=5000)"
"""On every other problem editing harms, and drawing anew is the better arm."""


def context(world=EITHER, problem=0, **options):
    task = ponder.task(world)
    wanted = task.problems(problem + 1)[problem]
    return Context(wanted, PROCESSES.build(world.partition("(")[0]), task=task, **options)


def run(text, problem=0, **options):
    ctx = context(problem=problem, **options)
    strategy = ponder.parse(text) if isinstance(text, str) else text
    return asyncio.run(strategy.run(ctx.problem, ctx))


class Scripted(Simulated):
    """Answers by a script: the first key that is in the prompt decides; the last replies are repeated."""

    script: ClassVar = {}
    asked: ClassVar = []

    @classmethod
    def of(cls, script):
        return type("Scripted", (cls,), {"script": {k: list(v) for k, v in script.items()}, "asked": []})()

    async def sample(self, request):
        async for position, completion in super().sample(request):
            asked = str(request.prompt[-1]["content"])
            self.asked.append(asked)
            replies = next((v for k, v in self.script.items() if k in asked), ["The answer is 10."])
            yield position, replace(completion, text=replies.pop(0) if len(replies) > 1 else replies[0])


def on_text(strategy, script, **options):
    task, model = Sums(), Scripted.of(script)
    problem = task.problems(2)[1]
    ctx = Context(problem, TextSteps(model), task=task, sampling=Sampling(logprobs=0), seed=7, **options)
    return asyncio.run(ponder.parse(strategy).run(problem, ctx)), model.asked


def test_the_upper_bound_is_the_one_worked_by_hand():
    assert upper_bound(1, 2, 5, diversity=0.1) == pytest.approx(1.871900, abs=1e-6)
    assert upper_bound(1, 2, 5, exploration=0, prior=0.25, recovery=0.1) == pytest.approx(0.85)


def test_untried_arms_come_first_by_their_priors_and_then_the_largest_bound():
    arms = [ponder.parse(t) for t in ("best_of_n", "rebase", "beam_search")]
    bandit, rng = Bandit(PlanGen(exploration=0, diversity=0, recovery=0), arms), np.random.default_rng(0)
    prior = {"best_of_n": 0.1, "rebase": 0.9}
    order = []
    for reward in (0.2, 0.6, 0.4):
        order.append(bandit.choose(prior, rng))
        bandit.tell(order[-1], reward, recovered=False)
    assert order == [1, 0, 2]
    assert bandit.choose({}, rng) == 0  # the highest mean: arm 0 got 0.6
    assert bandit.choose({"rebase": 1.0, "beam_search": 1.0}, rng) == 2 or bandit.means() == [0.6, 0.2, 0.4]
    assert Bandit(PlanGen(), arms[:1] * 2).names == ["best_of_n-1", "best_of_n-2"]


def test_the_bandit_beats_uniform_choice_at_equal_calls_and_finds_the_better_arm():
    plan = ponder.parse(f"plan_gen(n=65, per_round=4, threshold=inf, exploration=0.1, {ARMS})")
    rewards, calls, shares = {}, {}, []
    for rule in ("ucb", "uniform"):
        results = [run(replace(plan, rule=rule), problem) for problem in range(40)]
        calls[rule] = [r.total.function_evaluations for r in results]
        rewards[rule] = [
            sum(n * r.details["rewards"][arm] for arm, n in r.details["uses"].items()) / 16 for r in results
        ]
        if rule == "ucb":
            shares = [r.details["uses"]["best_of_n"] / 16 for r in results]
    assert calls["ucb"] == calls["uniform"]
    gain = np.subtract(rewards["ucb"], rewards["uniform"])
    assert gain.mean() > 3 * gain.std() / math.sqrt(len(gain))
    assert np.mean(shares[1::2]) > np.mean(shares[::2])


def test_it_stops_when_a_plan_passes_and_says_so_when_none_does():
    passed = run(f"plan_gen(n=200, per_round=8, threshold=0.9, {ARMS})")
    assert passed.details["passed"] and passed.best.scores["noisy_grade"] >= 0.9 and len(passed.candidates) < 200
    failed = run(f"plan_gen(n=9, threshold=inf, {ARMS})")
    assert not failed.details["passed"] and failed.reason.startswith("below_threshold") and failed.status == "ok"
    assert len(failed.candidates) == 9
    assert failed.best.scores["noisy_grade"] == max(c.scores.get("noisy_grade", -1) for c in failed.candidates)


def test_the_number_of_outputs_bounds_arms_that_fix_their_own():
    for n in (1, 2, 6, 12):
        result = run(f"plan_gen(n={n}, threshold=inf, {V}, prior=0, arms=[best_of_n(n=5, {V})])")
        assert len(result.candidates) == n
    assert run(f"plan_gen(n=1, threshold=inf, {ARMS})").details["order"] == ()


@pytest.mark.parametrize("calls", [0, 1, 2, 3, 7, 15])
def test_a_budget_in_the_middle_keeps_the_best(calls):
    result = run(f"plan_gen(n=20, threshold=inf, {ARMS})", budget=Budget(calls=calls))
    assert result.total.calls <= calls and (calls < 2 or result.chosen)


def test_constraints_are_asked_for_once_feedback_is_in_the_next_prompt_and_a_pass_ends_it():
    script = {
        "List the constraints": ["- must be ten"],
        "Check a proposed": ["It is far off. Score: -40", "Not yet. Score: 10", "Score: 20", "All met. Score: 100"],
        "Which way of searching": ["best_of_n: 0.9"],
        "An earlier attempt": ["The answer is 11.", "The answer is 12.", "The answer is 10."],
    }  # fmt: skip
    arms = "arms=[best_of_n(verifier=constraint_check)]"
    result, asked = on_text(f"plan_gen(n=9, per_round=3, {arms})", script)
    assert sum("List the constraints" in a for a in asked) == 1
    assert all("must be ten" in a for a in asked if "Check a proposed" in a)
    assert any("It is far off" in a for a in asked if "An earlier attempt" in a)
    assert result.details["passed"] and result.best.scores["constraint_check"] == 1.0 and result.answer == "10"
    assert result.total.verifier_calls == 4


def test_the_models_prior_decides_who_is_tried_first():
    script = {"List the constraints": ["-"], "Check a proposed": ["Score: 0"],
              "Which way of searching": ["best_of_n: 0.1\nrepeated_sampling: 0.8"]}  # fmt: skip
    arms = "arms=[best_of_n, repeated_sampling(n=2)]"
    result, asked = on_text(f"plan_gen(n=5, per_round=2, {arms})", script)
    assert result.details["order"][0] == "repeated_sampling" or sum("Which way" in a for a in asked) >= 1
    assert parse_prior("nothing", ["best_of_n"]) == {}


def test_two_stages_search_for_plans_and_carry_the_best_one_out():
    script = {"List the constraints": ["-"], "Check a proposed": ["Score: 100"],
              "Follow this plan:": ["The answer is 10."],
              "Write a plan": ["First add, then check."]}  # fmt: skip
    result, asked = on_text("plan_gen(n=4, execute=true)", script)
    assert [c.output for c in result.candidates] == ["First add, then check.", "The answer is 10."]
    assert result.answer == "10" and result.candidates[0].answer is None
    assert any("Follow this plan:\nFirst add, then check." in a for a in asked)


# ---------------------------------------------------------------------------- the verifier


@pytest.mark.parametrize(("reply", "reward"), [("Score: 95", 95), ("score = -100.", -100), ("**Score**: 12/100", 12),
                                               
                                               ("Score: −7", -7), ("Score: 3 then Score: 4", 4), ("95", None),
                                               ("", None)])  # fmt: skip
def test_the_last_whole_number_after_score_is_the_reward(reply, reward):
    assert parse_reward(reply) == reward


def checked(replies, n=1, **script):
    model = Scripted.of({"List the constraints": ["- one"], "Check a proposed": replies, **script})
    task = Sums()
    problem = task.problems(2)[1]
    ctx = Context(problem, TextSteps(model), task=task, seed=7)
    scores = asyncio.run(
        ctx.score(problem, [Candidate("x", index=i) for i in range(n)], ponder.verifier("constraint_check"))
    )
    return scores.tolist(), ctx, model.asked


def test_rewards_are_mapped_to_the_unit_interval_clamped_and_flagged():
    assert checked(["Score: 95"])[0] == [0.975]
    scores, ctx, _ = checked(["Score: 400"])
    assert scores == [1.0] and ctx.failures[0].kind == "reward_out_of_range"


def test_an_unreadable_reward_is_asked_for_once_more_and_then_is_the_lowest():
    assert checked(["hm", "Score: 0"])[0] == [0.5]
    scores, ctx, asked = checked(["hm"])
    assert scores == [0.0] and ctx.failures[0].kind == "unparsed_reward" and len(asked) == 3


def test_an_empty_list_of_constraints_is_flagged_and_the_problem_itself_is_checked():
    scores, ctx, asked = checked(["Score: 50"], n=3, **{"List the constraints": [" "]})
    assert scores == [0.75] * 3 and [f.kind for f in ctx.failures] == ["no_constraints"]
    assert sum("List the constraints" in a for a in asked) == 1


def test_given_constraints_are_not_extracted():
    model = Scripted.of({"Check a proposed": ["Score: 50"]})
    problem = Sums().problems(2)[1]
    ctx = Context(problem, TextSteps(model), task=Sums())
    verifier = ponder.verifier('constraint_check(constraints="ends with a number")')
    asyncio.run(ctx.score(problem, [Candidate("x")], verifier))
    assert len(model.asked) == 1 and "ends with a number" in model.asked[0]


@dataclass(frozen=True)
class Nothing:
    """A strategy that finds nothing."""

    name = "nothing"
    stepwise = False
    requires = frozenset()

    def with_samples(self, n):
        return self

    async def run(self, problem, ctx):
        return ctx.result([], None)


def test_arms_that_find_nothing_earn_nothing_and_it_ends():
    ctx = context()
    result = asyncio.run(PlanGen(n=4, arms=(Nothing(),), verifier=ponder.verifier("exact")).run(ctx.problem, ctx))
    assert result.details["uses"] == {"nothing": 3.0} and result.details["rewards"] == {"nothing": 0.0}
    assert len(result.candidates) == 1 and result.chosen == (0,)


def test_values_that_make_no_sense_are_refused():
    for text, message in [
        ("plan_gen(n=0)", "integer ≥ 1"),
        ("plan_gen(low=1)", "below high"),
        ("plan_gen(prior=-1)", "≥ 0"),
    ]:
        with pytest.raises(ParameterError, match=message):
            ponder.parse(text)
