"""A judge of steps: what it is shown, what it is paid for, how its grades are read."""

import asyncio
import math
from collections.abc import AsyncIterator

import pytest

import ponder
from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.model import Capabilities, Completion, Model
from ponder.core.state import root
from ponder.errors import ParameterError
from ponder.ledger.budget import Budget
from ponder.processes.text_steps import TextSteps
from ponder.verifiers.step_judge import StepJudge, parse_grade

PROBLEM = ponder.Problem("p", ({"role": "user", "content": "What is 2+2?"},), "4")


class Judge(Model):
    """Says in turn what it is given, and remembers what it was shown."""

    name = "scripted_judge"
    capabilities = Capabilities()
    identity = "scripted_judge"

    def __init__(self, *replies):
        self.replies, self.shown, self.seeds = replies, [], []

    async def sample(self, request) -> AsyncIterator[tuple[int, Completion]]:
        self.shown.append(request.prompt[0]["content"])
        self.seeds.append(request.seeds)
        for position in range(request.n):
            reply = self.replies[(len(self.shown) + position - 1) % len(self.replies)]
            yield position, Completion(reply, 3, prompt_tokens=10 if position == 0 else 0, requests=int(position == 0))


def score(verifier, items, budget=None, calls=1):
    ctx = Context(PROBLEM, TextSteps(ponder.model("sim:strong"), "paragraph"), budget=budget)

    async def go():
        for _ in range(calls):
            got = await ctx.score(PROBLEM, items, verifier)
        return got.tolist()

    return asyncio.run(go()), ctx


def chain(*steps):
    state = root(PROBLEM)
    for i, step in enumerate(steps):
        state = state.child(i, step)
    return state


def test_the_last_step_is_judged_in_the_light_of_the_earlier_ones():
    judge = Judge("Score: 6")
    scores, ctx = score(StepJudge(judge), [chain("One.\n\n", "Two.\n\n", "Three.")])
    assert scores == [0.6] and len(judge.shown) == 1
    assert "Steps so far:\nOne.\n\nTwo.\n\nNext step:\nThree.\n" in judge.shown[0]
    assert ctx.ledger.stages["verify"].verifier_tokens == 13 and ctx.ledger.total.verifier_calls == 1


def test_a_candidates_steps_are_all_judged_and_put_together():
    judge = Judge("Score: 6", "Score: 2", "Score: 10")
    assert score(StepJudge(judge, how="min"), [Candidate("One.\n\nTwo.\n\nThree.")])[0] == [pytest.approx(0.2)]
    assert len(judge.shown) == 3
    last = Judge("Score: 6")
    assert score(StepJudge(last), [Candidate("One.\n\nTwo.\n\nThree.")])[0] == [0.6] and len(last.shown) == 1


def test_shared_steps_are_paid_once_in_a_run_and_again_in_the_next():
    judge = Judge("Score: 6")
    verifier = StepJudge(judge, how="mean")
    items = [
        Candidate("One.\n\nTwo.", index=0),
        Candidate("One.\n\nThree.", index=1),
        Candidate("One.\n\nTwo.", index=2),
    ]
    scores, ctx = score(verifier, items, calls=2)
    assert scores == [0.6] * 3 and len(judge.shown) == 3
    assert ctx.ledger.total.verifier_tokens == 39 and ctx.ledger.total.verifier_calls == 6
    score(verifier, items)
    assert len(judge.shown) == 6 and sorted(judge.seeds[:3]) == sorted(judge.seeds[3:])


def test_votes_are_averaged_and_those_that_cannot_be_read_left_out():
    judge = Judge("Grade: right", "no idea", "Grade: unsure")
    scores, _ = score(StepJudge(judge, scale="labels", votes=3), [chain("One.")])
    assert scores == [0.75] and "Grade: right" in judge.shown[0]


def test_a_step_without_any_grade_is_a_failure_of_that_item_only():
    judge = Judge("no idea", "Score: 3")
    scores, ctx = score(StepJudge(judge), [chain("One."), chain("Two.")])
    assert math.isnan(scores[0]) and scores[1] == 0.3
    assert "no grade" in ctx.failures[0].message


def test_what_the_budget_does_not_allow_is_not_judged():
    judge = Judge("Score: 6")
    scores, ctx = score(StepJudge(judge), [chain("One.")], Budget(tokens=5))
    assert math.isnan(scores[0]) and not judge.shown and not ctx.failures and ctx.shortfalls


def test_braces_in_a_text_are_not_taken_for_the_templates():
    judge = Judge("Score: 6")
    score(StepJudge(judge, prompt="{problem}|{earlier}|{step}"), [chain("a {step}\n\n", "b {earlier}")])
    assert judge.shown == ["What is 2+2?|a {step}|b {earlier}"]


@pytest.mark.parametrize(
    ("reply", "grade"),
    [
        ("Grade: right", 1.0),
        ("**Grade**: *Wrong*", 0.0),
        ("Grade: wrong. No: Grade: unsure", 0.5),
        ("Grade: rightly", None),
    ],
)
def test_the_last_label_counts(reply, grade):
    assert parse_grade(reply, "labels") == grade


def test_impossible_settings_are_refused():
    with pytest.raises(ParameterError, match="votes"):
        StepJudge(votes=0)
    with pytest.raises(ParameterError, match="template"):
        StepJudge(prompt="Is it good?")
