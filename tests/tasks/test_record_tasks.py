import pytest

import ponder
from ponder.errors import SpecError, TaskError, UnknownNameError


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
    assert second.id == "1"
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
        ('{"prompt": "q"}\n[1]\n', "line 2: a JSON object"),
        ('{"question": "q"}\n', "no field 'prompt' (there are: question)"),
        ('{"id": 1, "prompt": "q"}\n{"id": 1, "prompt": "r"}\n', "occurs twice"),
        ('{"prompt": 5}\n', "must be text or a list"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(lines, text, says):
    with pytest.raises(TaskError) as caught:
        ponder.task(f"jsonl:{lines(text)}").problems()
    assert says in str(caught.value)


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
