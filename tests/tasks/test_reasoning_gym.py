import pytest

import ponder
from ponder.errors import GraderError, SpecError, TaskError, UnknownNameError

pytest.importorskip("reasoning_gym")
SUMS = "reasoning_gym:chain_sum(min_terms=2, max_terms=2, min_digits=1, max_digits=2)"


def test_the_same_seed_gives_the_same_problems_and_more_keep_the_first():
    task = ponder.task(SUMS)
    few, many = task.problems(3, seed=5), task.problems(6, seed=5)
    assert [p.prompt for p in few] == [p.prompt for p in many[:3]]
    assert [p.reference for p in few] != [p.reference for p in task.problems(3, seed=6)]


def test_examples_never_repeat_a_problem():
    for seed in range(5):
        for problem in ponder.task(SUMS).problems(40, seed=seed):
            *examples, question = problem.prompt.split("\n\n")
            assert question.removesuffix("\nA:") not in [e.partition("\nA:")[0] for e in examples]


def test_plain_answers_end_with_their_line_and_are_graded_exactly():
    task = ponder.task(SUMS)
    (problem,) = task.problems(1)
    assert task.sampling["stop"] == ("\n",)
    assert task.grade(problem, f" {problem.reference}\n\nQ: next").correct
    assert not task.grade(problem, " 99999").correct
    assert not task.grade(problem, "  \n").correct
    assert task.extract(" 42 ") == "42"


def test_chat_asks_in_messages_and_reads_the_final_answer():
    task = ponder.task("reasoning_gym:chain_sum(min_terms=2, max_terms=2, format=chat, shots=1)")
    (problem,) = task.problems(1)
    assert [m["role"] for m in problem.prompt] == ["system", "user", "assistant", "user"]
    assert task.grade(problem, f"Let me see. The answer is {problem.reference}.").correct


def test_the_text_form_round_trips():
    task = ponder.task(SUMS)
    assert ponder.task(str(task)) == task
    assert "reasoning_gym:chain_sum(" in str(task)


def test_a_scorer_that_raises_is_the_graders_error(monkeypatch):
    task = ponder.task(SUMS)
    (problem,) = task.problems(1)

    class Broken:
        def score_answer(self, **_):
            raise IndexError("malformed")

    monkeypatch.setattr(type(task), "_make", lambda *_: Broken())
    with pytest.raises(GraderError, match="could not score"):
        task.grade(problem, "42")


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("reasoning_gym:chain_sm", UnknownNameError, "did you mean chain_sum"),
        ("reasoning_gym:chain_sum(min_trms=2)", UnknownNameError, "did you mean min_terms"),
        ("reasoning_gym:chain_sum(format=xml)", ponder.errors.ParameterError, "plain or chat"),
        ("reasoning_gym", SpecError, "a dataset is expected"),
    ],
)
def test_what_cannot_be_says_why(text, error, says):
    with pytest.raises(error, match=says):
        ponder.task(text)


def test_an_impossible_configuration_is_told_when_problems_are_made():
    with pytest.raises(TaskError, match="refuses"):
        ponder.task("reasoning_gym:chain_sum(min_terms=0)").problems(1)
    with pytest.raises(TaskError, match="limit=0"):
        ponder.task(SUMS).problems(0)
