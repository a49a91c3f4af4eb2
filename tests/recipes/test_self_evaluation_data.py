import json

import pytest

from ponder.core.candidate import Candidate
from ponder.core.problem import Problem
from ponder.errors import ParameterError, TaskError
from ponder.recipes.self_evaluation_data import self_evaluation_examples, write_self_evaluation_data

PROBLEM = Problem("p", "Q: ")
GOOD, BAD = Candidate("It is clearly seven indeed.", "7"), Candidate("Maybe eight or nine then.", "8", index=1)


def test_the_better_response_could_not_do_better():
    examples = list(self_evaluation_examples([(PROBLEM, [GOOD, BAD], [1.0, 0.0])], partial=0))
    assert [e.label for e in examples] == ["No", "Yes"]
    assert [e.prefix for e in examples] == [GOOD.output, BAD.output]


def test_ties_count_as_success_and_unscored_samples_are_left_out():
    lost = Candidate(None, error="lost")
    rows = [(PROBLEM, [GOOD, BAD, lost], [0.5, 0.5, float("nan")])]
    assert [e.label for e in self_evaluation_examples(rows)] == ["No", "No"]
    assert not list(self_evaluation_examples([(PROBLEM, [GOOD], [1.0])]))


def test_about_half_of_the_responses_are_cut_and_keep_their_label():
    rows = [(Problem(f"p{i}", "Q"), [GOOD, BAD], [1.0, 0.0]) for i in range(200)]
    examples = list(self_evaluation_examples(rows))
    cut = [e for e in examples if e.partial]
    assert 150 < len(cut) < 250 and examples == list(self_evaluation_examples(rows))
    assert all(0 < len(e.prefix) < len(GOOD.output) for e in cut)
    assert all((e.label == "No") == GOOD.output.startswith(e.prefix) for e in examples)


def test_the_data_are_json_lines(tmp_path):
    path = tmp_path / "data.jsonl"
    assert write_self_evaluation_data(path, self_evaluation_examples([(PROBLEM, [GOOD, BAD], [1.0, 0.0])])) == 2
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert {"prompt", "prefix", "question", "label"} <= lines[0].keys()
    with pytest.raises(TaskError, match="two scored samples"):
        write_self_evaluation_data(path, [])


def test_impossible_parameters_are_named():
    with pytest.raises(ParameterError, match="margin=-1"):
        list(self_evaluation_examples([], margin=-1))
    with pytest.raises(ParameterError, match="partial=2"):
        list(self_evaluation_examples([], partial=2))
