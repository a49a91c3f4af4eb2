import random

import pytest

import ponder
from ponder.errors import GraderError, ParameterError, SpecError, TaskError, UnknownNameError

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


def test_few_different_problems_are_no_obstacle_and_a_larger_limit_keeps_the_prompts():
    task = ponder.task("reasoning_gym:products(min_terms=2, max_terms=2, min_digits=1, max_digits=1, shots=8)")
    many = task.problems(130, seed=2)
    for limit in (1, 7, 100):
        assert [(p.id, p.prompt) for p in task.problems(limit, seed=2)] == [(p.id, p.prompt) for p in many[:limit]]
    shown = {block.partition("\nA:")[0] for block in many[0].prompt.split("\n\n")[:-1]}
    assert len(shown) == 8
    assert not shown & {f"Q: {p.metadata['question']}" for p in many}


def test_more_examples_than_there_are_different_problems_are_refused():
    with pytest.raises(TaskError, match="different examples"):
        ponder.task("reasoning_gym:coin_flip(min_trials=1, max_trials=1, shots=400)").problems(1)


def test_seeds_have_no_problems_in_common_but_by_chance():
    task = ponder.task("reasoning_gym:chain_sum(min_terms=4, max_terms=4, min_digits=4, max_digits=4)")
    questions = [{p.metadata["question"] for p in task.problems(50, seed=seed)} for seed in (0, 1, 2, 3)]
    assert len(set.union(*questions)) == 200


def test_the_tasks_own_seed_is_added_and_its_size_is_the_default_limit():
    shifted = ponder.task("reasoning_gym:chain_sum(seed=2, size=3)")
    plain = ponder.task("reasoning_gym:chain_sum")
    assert [p.prompt for p in shifted.problems(seed=1)] == [p.prompt for p in plain.problems(3, seed=3)]
    assert str(shifted) == "reasoning_gym:chain_sum(size=3, seed=2)"


@pytest.mark.parametrize("name", ["list_functions", "acre", "coin_flip"])
def test_problems_are_the_same_whenever_they_are_asked_for(name):
    task = ponder.task(f"reasoning_gym:{name}(shots=1)")
    first = [p.prompt for p in task.problems(2)]
    assert first == [p.prompt for p in task.problems(2)] == [p.prompt for p in task.problems(3)[:2]]


def test_making_problems_leaves_the_global_generators_as_they_were():
    random.seed(1)
    ponder.task("reasoning_gym:list_functions").problems(1)
    after = random.random()
    random.seed(1)
    assert after == random.random()


def test_problems_that_depend_on_the_process_are_warned_of(monkeypatch):
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    with pytest.warns(UserWarning, match="PYTHONHASHSEED=0"):
        ponder.task("reasoning_gym:ransom_note").problems(1)


def test_answers_of_several_lines_are_read_whole():
    for form in ("plain", "chat"):
        task = ponder.task(f"reasoning_gym:rotate_matrix(format={form}, shots=1)")
        (problem,) = task.problems(1)
        assert "\n" in problem.reference
        output = (
            problem.reference + "\n\nQ: next" if form == "plain" else f"So: <answer>\n{problem.reference}\n</answer>"
        )
        assert task.grade(problem, output).correct
    assert task.problems(1)[0].prompt[2]["content"].startswith("<answer>\n")


def test_sentences_keep_the_mark_that_ends_them():
    task = ponder.task("reasoning_gym:sentence_reordering(format=chat)")
    for problem in task.problems(3):
        assert task.grade(problem, f"The answer is {problem.reference}").correct


@pytest.mark.parametrize(
    "answer", ["__import__('os').getpid()", "print(1)", "(1).real", "exit()", "no idea: it's hard"]
)
def test_answers_that_are_no_formula_are_wrong_and_not_evaluated(answer):
    task = ponder.task("reasoning_gym:countdown")
    (problem,) = task.problems(1)
    assert task.grade(problem, problem.reference).correct
    assert not task.grade(problem, answer).correct


def test_lists_are_read_as_literals_only(tmp_path):
    task = ponder.task("reasoning_gym:string_insertion")
    (problem,) = task.problems(1)
    mark = tmp_path / "evaluated"
    assert not task.grade(problem, f"[open({str(mark)!r}, 'w').name]").correct
    assert not mark.exists()
    assert task.grade(problem, str(list(problem.reference))).score == pytest.approx(0.1)


def test_a_formula_without_end_is_an_error_on_its_sample():
    task = ponder.task("reasoning_gym:countdown")
    (problem,) = task.problems(1)
    with pytest.raises(GraderError, match="needed more than"):
        task.grade(problem, "9**9**9**9")


def test_problems_without_a_sample_answer_cannot_be_shown_as_examples():
    with pytest.raises(TaskError, match="set shots=0"):
        ponder.task("reasoning_gym:graph_color").problems(1)
    assert ponder.task("reasoning_gym:graph_color(shots=0, format=chat)").problems(1)


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

    monkeypatch.setattr(type(task), "_scorer", lambda *_: Broken())
    with pytest.raises(GraderError, match="could not score"):
        task.grade(problem, "42")


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("reasoning_gym:chain_sm", UnknownNameError, "did you mean chain_sum"),
        ("reasoning_gym:chain_sum(min_trms=2)", UnknownNameError, "did you mean min_terms"),
        ("reasoning_gym:chain_sum(format=xml)", ParameterError, "one of plain, chat"),
        ("reasoning_gym:chain_sum(shots=two)", ParameterError, "shots must be an integer"),
        ("reasoning_gym:chain_sum(shots=-1)", ParameterError, "shots=-1"),
        ("reasoning_gym:chain_sum(size=0)", ParameterError, "size=0"),
        ("reasoning_gym:chain_sum(max_new_tokens=0)", ParameterError, "max_new_tokens=0"),
        ("reasoning_gym:chain_sum(2)", SpecError, "have names"),
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
