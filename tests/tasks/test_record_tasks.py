import pytest

import ponder
from ponder.errors import ParameterError, SpecError, TaskError, UnknownNameError


@pytest.fixture
def lines(tmp_path):
    def write(text):
        path = tmp_path / "tasks.jsonl"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_fields_default_to_id_prompt_and_reference(lines):
    path = lines('{"id": "a", "prompt": "2+2?", "reference": 4}\n\n{"prompt": "übrig?", "reference": "5"}\n')
    task = ponder.task(f"jsonl:{path}(grader=numeric)")
    first, second = task.problems()
    assert (first.id, first.reference, first.metadata["question"]) == ("a", 4, "2+2?")
    assert second.id == "3"  # its line: the second is blank
    assert first.prompt[-1] == {"role": "user", "content": "2+2?"}
    assert task.grade(first, "The answer is 4.").correct
    assert not task.grade(first, "no idea at all,\nreally").correct


def test_fields_can_be_named_and_messages_are_taken_as_they_are(lines):
    path = lines('{"q": [{"role": "user", "content": "hi"}], "gold": "yes", "n": 7}\n')
    task = ponder.task(f"jsonl:{path}(prompt=q, reference=gold, id=n, grader=exact)")
    (problem,) = task.problems()
    assert (problem.id, problem.reference) == ("7", "yes")
    assert problem.prompt == ({"role": "user", "content": "hi"},)


def test_the_first_records_become_examples(lines):
    path = lines("".join(f'{{"prompt": "q{i}", "reference": {i}}}\n' for i in range(4)))
    problems = ponder.task(f"jsonl:{path}(shots=2, format=plain)").problems()
    assert [p.metadata["question"] for p in problems] == ["q2", "q3"]
    assert problems[0].prompt == "Q: q0\nA: 0\n\nQ: q1\nA: 1\n\nQ: q2\nA:"


def test_the_text_form_round_trips_and_the_identity_follows_the_content(lines):
    path = lines('{"prompt": "q", "reference": 1}\n')
    task = ponder.task(f"jsonl:{path}(grader=exact, shots=0, format=plain)")
    assert ponder.task(str(task)) == task
    before = task.identity
    lines('{"prompt": "q", "reference": 2}\n')
    assert task.identity != before


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no problems"),
        ("not json\n", "line 1: not JSON"),
        ('{"prompt": "q", "reference": 1}\n{"prompt": "q",}\n', "line 2: not JSON (trailing comma"),
        ('{"prompt": "q"}\n', "no field 'reference' (there are: prompt), which the grader numeric needs"),
        ('{"prompt": "q", "reference": null}\n', "no field 'reference'"),
        ('{"prompt": "q", "reference": 1}\n[1]\n', "line 2: a JSON object"),
        ('{"question": "q"}\n', "no field 'prompt' (there are: question)"),
        ('{"id": 1, "prompt": "q", "reference": 1}\n{"id": 1, "prompt": "r", "reference": 1}\n', "occurs twice"),
        ('{"prompt": 5, "reference": 1}\n', "must be text or a list"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(lines, text, says):
    with pytest.raises(TaskError) as caught:
        ponder.task(f"jsonl:{lines(text)}").problems()
    assert says in str(caught.value)


def test_the_column_of_a_fault_is_told(lines):
    path = lines('{"prompt":"q","reference":1,}')
    with pytest.raises(TaskError, match=r"line 1: not JSON .*column 28"):
        ponder.task(f"jsonl:{path}").problems()


@pytest.mark.parametrize(
    ("arguments", "text", "says"),
    [
        ("shots=2", '{"prompt": "q", "reference": 1}\n', "its 1 records are all examples"),
        ("shots=1, grader=python(path=math:isnan)", '{"prompt": "q"}\n', "needs a text prompt and a reference"),
        ("shots=1", '{"prompt": [{"role": "user"}], "reference": 1}\n', "needs a text prompt"),
        ("format=plain", '{"prompt": [{"role": "user"}], "reference": 1}\n', "sent as they are"),
        ("options=choices", '{"prompt": "q", "reference": 1}\n', "set options=FIELD"),
    ],
)
def test_settings_that_do_not_fit_the_records_are_told(lines, arguments, text, says):
    with pytest.raises(TaskError, match=says):
        ponder.task(f"jsonl:{lines(text)}({arguments})").problems()


def test_impossible_settings_are_refused(lines):
    path = lines('{"prompt": "q", "reference": 1}\n')
    for wrong in ("shots=-1", "max_new_tokens=0", "format=xml"):
        with pytest.raises(ParameterError, match=wrong.split("=")[0]):
            ponder.task(f"jsonl:{path}({wrong})")
    with pytest.raises(TaskError, match="limit=0"):
        ponder.task(f"jsonl:{path}").problems(0)


def test_a_byte_order_mark_and_line_ends_of_windows_are_no_fault(tmp_path):
    path = tmp_path / "a, b (1).jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + '{"prompt": "größer?", "reference": 1}\r\n'.encode())
    task = ponder.task(f'jsonl:"{path}"(grader=exact)')
    assert [p.metadata["question"] for p in task.problems()] == ["größer?"]
    assert ponder.task(str(task)) == task


def test_options_are_asked_with_the_question_and_may_be_answered_by_text(lines):
    record = '{"prompt": "What is wet?", "choices": ["fire", "water"], "reference": 1}\n'
    task = ponder.task(f"jsonl:{lines(record)}(grader=multiple_choice, options=choices)")
    (problem,) = task.problems()
    assert problem.metadata["question"] == "What is wet?\nA. fire\nB. water"
    assert task.grade(problem, "It must be (B)").correct
    assert task.grade(problem, "The answer is water.").correct
    assert not task.grade(problem, "fire").correct


def test_judges_see_the_last_question_of_a_conversation(lines):
    turns = (
        '[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]'
    )
    path = lines(f'{{"prompt": {turns}, "reference": 1}}')
    (problem,) = ponder.task(f"jsonl:{path}").problems()
    assert problem.metadata["question"] == "c"


def test_the_identity_follows_the_users_own_grader(lines, tmp_path):
    rule = tmp_path / "rule.py"
    rule.write_text("def right(output, answer, reference, metadata):\n    return True\n")
    task = ponder.task(f'jsonl:{lines("{}")}(grader=python(path="{rule}:right"))')
    before = task.identity
    rule.write_text("def right(output, answer, reference, metadata):\n    return False\n")
    assert task.identity != before


def test_outputs_without_a_final_answer_reach_the_users_function(lines, tmp_path):
    rule = tmp_path / "program.py"
    rule.write_text("def right(output, answer, reference, metadata):\n    return output.startswith('def')\n")
    path = lines('{"prompt": "write f"}')
    task = ponder.task(f'jsonl:{path}(grader=python(path="{rule}:right"))')
    (problem,) = task.problems()
    assert task.grade(problem, "def f(x):\n    return x").correct


def test_a_missing_file_and_a_missing_location_are_told():
    with pytest.raises(TaskError, match="cannot be read"):
        ponder.task("jsonl:/nowhere.jsonl").problems()
    with pytest.raises(SpecError, match="needs a location"):
        ponder.task("jsonl")
    with pytest.raises(UnknownNameError, match="did you mean grader"):
        ponder.task("jsonl:x(gradr=exact)")


def test_a_local_hugging_face_folder_is_a_task(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = {"question": ["2+2?", "3+3?"], "answer": ["#### 4", "#### 6"]}
    datasets.DatasetDict({"test": datasets.Dataset.from_dict(rows)}).save_to_disk(str(tmp_path / "saved"))
    task = ponder.task(f"hf:{tmp_path / 'saved'}(prompt=question, reference=answer)")
    first, second = task.problems()
    assert task.grade(first, "The answer is 4").correct
    assert not task.grade(second, "The answer is 4").correct
    with pytest.raises(TaskError, match="no split 'train'"):
        ponder.task(f"hf:{tmp_path / 'saved'}(prompt=question, split=train)").problems()


def test_a_folder_of_json_files_is_a_hugging_face_task(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "test.jsonl").write_text('{"prompt": "2+2?", "reference": 4}\n')
    (problem,) = ponder.task(f"hf:{tmp_path / 'data'}").problems()
    assert problem.reference == 4


def test_parquet_files_in_a_folder_are_a_hugging_face_task_and_the_identity_follows_the_rows(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    identities = []
    for place, answer in (("one", 4), ("two", 5)):
        (tmp_path / place).mkdir()
        datasets.Dataset.from_dict({"prompt": ["2+2?"], "reference": [answer]}).to_parquet(
            str(tmp_path / place / "test-00000-of-00001.parquet")
        )
        task = ponder.task(f"hf:{tmp_path / place}(split=test)")
        assert [(p.id, p.reference) for p in task.problems()] == [("0", answer)]
        assert task.identity == ponder.task(str(task)).identity
        identities.append(task.identity.partition("@")[2])
    assert identities[0] != identities[1]


def test_a_dataset_that_cannot_be_reached_is_told_with_what_works_instead(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")

    def unreachable(*_, **__):
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(TaskError, match=r"hf:some/where .*Couldn't reach.*local folder"):
        ponder.task("hf:some/where").problems()
