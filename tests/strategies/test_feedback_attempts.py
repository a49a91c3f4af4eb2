"""Feedback attempts: closed forms with and without feedback, what student and teacher see, leaks, limits."""

import asyncio
import re
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import pytest

import ponder
from ponder.core.context import Context
from ponder.core.model import Capabilities, Completion, Model
from ponder.core.problem import Grade, Problem, Task
from ponder.core.seeds import generator
from ponder.errors import ParameterError
from ponder.ledger.budget import Budget
from ponder.models.simulated import Simulated
from ponder.processes.text_steps import TextSteps
from ponder.strategies.feedback_attempts import gives_away
from ponder.studies.outcome import grade_result
from ponder.testing import Sums


@dataclass
class Choosing(Model):
    """Answers a k-way choice with an option that its prompt does not show as tried; as a teacher says `hint`."""

    k: int = 5
    hint: str = "Try another one."
    seen: list[str] = field(default_factory=list)

    name: ClassVar[str] = "choosing"
    capabilities: ClassVar[Capabilities] = Capabilities(n=True, seeds=True)

    def __str__(self) -> str:
        return "choosing"

    @property
    def identity(self):
        return f"choosing-{self.k}"

    def count_tokens(self, prompt):
        return len(str(prompt))

    async def sample(self, request):
        text = request.prompt if isinstance(request.prompt, str) else request.prompt[-1]["content"]
        self.seen.append(text)
        for i, seed in enumerate(request.seeds):
            tried = set(re.findall(r"option (\d+)", text))
            left = [j for j in range(self.k) if str(j) not in tried]
            pick = int(generator(seed).choice(left))
            said = self.hint if "student" in text else f"option {pick}"
            yield i, Completion(said, 2, "stop", prompt_tokens=1)


class OneOf(Task):
    """Which of k options? The reference is drawn by problem."""

    name = "one_of"

    def __init__(self, k=5):
        self.k = k

    def problems(self, limit=None, *, seed=0):
        return [
            Problem(f"q{i}", ({"role": "user", "content": "Which one?"},), f"option {i % self.k}")
            for i in range(limit or 100)
        ]

    def grade(self, problem, output):
        return Grade.of(output == problem.reference)


def attempts(text, problem, task, model, **options):
    ctx = Context(problem, TextSteps(model), task=task, seed=3, **options)
    return asyncio.run(ponder.parse(text).run(problem, ctx))


def test_feedback_that_rules_out_tried_answers_solves_a_choice_of_k_in_k_attempts_uniformly():
    task, model = OneOf(5), Choosing(5)
    made = []
    for problem in task.problems(300):
        result = attempts("feedback_attempts(n=5, verifier=exact)", problem, task, model)
        assert result.output == problem.reference and result.details["stopped"] == "threshold"
        made.append(len(result.candidates))
    counts = np.bincount(made, minlength=6)[1:]
    assert np.all(np.abs(counts - 60) < 4 * np.sqrt(300 * 0.2 * 0.8))  # the right one is equally likely at each place


def test_without_feedback_the_number_of_attempts_is_geometric():
    task, model = OneOf(5), Choosing(5)
    solved = np.zeros(4)
    for problem in task.problems(400):
        result = attempts("feedback_attempts(n=4, verifier=exact, feedback=off)", problem, task, model)
        if result.output == problem.reference:
            solved[len(result.candidates) - 1 :] += 1
    truth = 1 - 0.8 ** np.arange(1, 5)
    assert np.all(np.abs(solved / 400 - truth) < 4 * np.sqrt(truth * (1 - truth) / 400))


def test_without_feedback_it_is_resampling_until_the_check_accepts_draw_by_draw():
    task, model = Sums(), Simulated(profile="strong")
    for problem in task.problems(6):
        one = attempts("feedback_attempts(n=5, verifier=exact, feedback=off)", problem, task, model)
        other = attempts("resample_until(n=5, verifier=exact)", problem, task, model)
        outputs = [c.output for c in other.candidates]
        assert [c.output for c in one.candidates] == outputs[: len(one.candidates)]
        assert (one.candidates[-1].answer == problem.reference) == (other.output is not None)


def test_the_student_sees_all_attempts_and_hints_the_teacher_all_wrong_answers_and_never_the_solution():
    task, model = OneOf(9), Choosing(9, hint="Think of primes.")
    problem = Problem("q", ({"role": "user", "content": "Which one?"},), "option 99")
    result = attempts("feedback_attempts(n=3, verifier=exact)", problem, task, model)
    first, second = (c.output for c in result.candidates[:2])
    student = [text for text in model.seen if "student" not in text]
    teacher = [text for text in model.seen if "student" in text]
    assert len(student) == 3 and len(teacher) == 2
    assert student[0] == "Which one?"
    assert "You have made 1 attempt, and it is wrong." in student[1] and "Hint: Think of primes." in student[1]
    assert first in student[2] and second in student[2] and student[2].count("Hint: Think of primes.") == 2
    assert "You have made 2 attempts, and all of them are wrong." in student[2]
    assert f"- {first}\n- {second}" in teacher[1] and not any("option 99" in text for text in model.seen)
    assert result.spend["critique"].model_calls == 2


def test_a_hint_that_gives_the_answer_away_is_discarded_and_counted():
    task, model = OneOf(9), Choosing(9, hint="It is Option  99, I think.")
    problem = Problem("q", ({"role": "user", "content": "Which one?"},), "option 99")
    result = attempts("feedback_attempts(n=3, verifier=exact)", problem, task, model)
    assert result.details["leaked_hints"] == 2 and grade_result(result, task).leaked == 2
    assert not any("Hint:" in text for text in model.seen)


@pytest.mark.parametrize(
    ("hint", "reference", "leaks"),
    [
        ("The sum is 42.", "42", True), ("The sum is 42,", 42, True),
        ("142 or 4.42 or 42.5 or 1,42 or 42,000", "42", False),
        ("A good start: read it again", "A", False), ("Choose (a).", "A", True), ("the answer is A", "A", True),
        ("", "42", False), ("anything", None, False), ("x", ["x"], False), ("ÄÖ ist richtig", "äö", True),
        ("(x+1)^2 is it", "(x+1)^2", True), ("no", "  ", False),
    ],
)  # fmt: skip
def test_what_counts_as_giving_away(hint, reference, leaks):
    problem = Problem("p", "?", reference)
    ctx = Context(problem, TextSteps(Choosing()), task=OneOf())
    assert gives_away(hint, problem, ctx) is leaks


def test_a_reference_with_working_is_compared_by_its_answer_too():
    problem = Problem("p", "?", "2 and 2 make 4")
    ctx = Context(problem, TextSteps(Choosing()), task=Sums())
    assert gives_away("Is it 4?", problem, ctx) and not gives_away("Count again.", problem, ctx)


def test_fewer_attempts_are_the_first_of_more():
    task, model = Sums(), Simulated(profile="weak")
    problem = task.problems(1)[0]
    three = attempts("feedback_attempts(n=3, verifier=exact)", problem, task, model)
    five = attempts("feedback_attempts(n=5, verifier=exact)", problem, task, model)
    assert [c.output for c in three.candidates] == [c.output for c in five.candidates][: len(three.candidates)]


def test_a_budget_ends_it_between_attempts_and_the_best_so_far_is_the_result():
    task, model = OneOf(9), Choosing(9)
    problem = Problem("q", ({"role": "user", "content": "Which one?"},), "option 99")
    result = attempts(
        "feedback_attempts(n=5, verifier=exact)", problem, task, model, budget=Budget.parse("calls=3"),
    )  # fmt: skip
    assert result.total.model_calls <= 3 and result.details["stopped"] == "budget" and result.candidates


def test_a_teacher_that_fails_costs_the_hint_only():
    @dataclass
    class Mute(Choosing):
        async def sample(self, request):
            yield 0, Completion("", 0, "error", error="EndpointError: gone")

    problem = Problem("q", ({"role": "user", "content": "Which one?"},), "option 99")
    task, student = OneOf(9), Choosing(9)
    strategy = replace(ponder.parse("feedback_attempts(n=2, verifier=exact)"), teacher=Mute())
    ctx = Context(problem, TextSteps(student), task=task, seed=3)
    result = asyncio.run(strategy.run(problem, ctx))
    assert len(result.candidates) == 2 and result.failures[0].stage == "critique"


@pytest.mark.parametrize("bad", ["n=0", "max_new_tokens=0"])
def test_bad_parameters(bad):
    with pytest.raises(ParameterError, match="an integer ≥ 1"):
        ponder.parse(f"feedback_attempts({bad})")
