"""The protocols' numbers: by hand on a 4 x 3 grid, against theory, on a stored study, and where they refuse."""

import dataclasses
import json
import math
import warnings

import numpy as np
import pytest
from click.testing import CliRunner

from ponder.core.problem import Problem
from ponder.errors import ParameterError, RaggedRunsError, StudyError
from ponder.studies.protocols import (
    Bounds,
    Runs,
    arun,
    bounds,
    by_level,
    gap_closed,
    level_of,
    measured_level,
    preset,
    protocol,
)
from ponder.studies.runner import bench
from ponder.testing import Sums

A, B, C = "a", "b", "c"
GRID = Runs(
    ids=["p0", "p1", "p2", "p3"],
    grades=[[1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 1, 0]],
    answers=[[A, A, B], [None, None, None], [A, B, B], [None, A, None]],
    tokens=[[10, 20, 30], [5, 5, 5], [8, 16, 24], [1, 2, 3]],
    levels=["1", "10", "2", "1"],
)


def test_a_grid_of_four_problems_and_three_runs_with_missing_answers_by_hand():
    found = bounds(GRID)
    assert (found.n_problems, found.n_runs) == (4, 3)
    assert found.average == pytest.approx((0.5 + 0.5 + 0.0) / 3)  # runs: p0+p2, p0+p3, none
    assert found.average_std == pytest.approx(math.sqrt((2 * (1 / 6) ** 2 + (1 / 3) ** 2) / 2))
    assert found.worst == 0 and found.best == 0.75
    assert found.best_std == pytest.approx(0.5)
    assert found.majority == 0.5  # p0: a, right; p1: none, 0; p2: b, wrong; p3: a, the only answer, right
    assert found.unanswered == 1 and found.ungraded == 0
    assert found.pass_at_k == pytest.approx({1: (2 + 0 + 1 + 1) / 12, 2: (1 + 0 + 2 / 3 + 2 / 3) / 4, 3: 0.75})
    assert found.tokens == pytest.approx(129 / 12) and found.tokens_all == pytest.approx(129 / 4)
    assert found.tokens_std == pytest.approx((10 + 0 + 8 + 1) / 4)


def test_levels_sort_as_numbers_and_hold_their_own_problems():
    found = by_level(GRID)
    assert list(found) == ["1", "2", "10"]
    assert [b.n_problems for b in found.values()] == [2, 1, 1]
    assert found["1"].best == 1 and found["1"].worst == 0 and found["10"].best == 0
    assert found["10"].length_correlation is None and found["2"].best_std is None
    unlevelled = by_level(dataclasses.replace(GRID, levels=()))
    assert {level: b.n_problems for level, b in unlevelled.items()} == {
        "never right": 1, "up to a third": 2, "up to two thirds": 1,
    }  # fmt: skip
    assert [measured_level(s) for s in (0, 0.01, 1 / 3, 0.34, 2 / 3, 0.9, 1)] == [
        "never right", "up to a third", "up to a third", "up to two thirds", "up to two thirds", "more than that",
        "always right",
    ]  # fmt: skip


def test_unknown_grades_are_in_no_mean_maximum_or_minimum():
    nan = math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = bounds(Runs(["p", "q"], [[nan, 1], [nan, nan]], [["a", "b"], ["c", "c"]], [[1, 1], [1, 1]]))
    assert found.average == found.best == found.worst == 1 and found.ungraded == 3
    with pytest.raises(StudyError, match="not a single run could be graded"):
        bounds(Runs(["p"], [[nan]], [["a"]], [[1]]))


def test_a_tie_of_the_majority_is_broken_by_a_seed_of_its_problem_evenly():
    def one(name, seed):
        return bounds(Runs([name], [[1, 0]], [["a", "b"]], [[1, 1]]), seed=seed).majority

    won = [one(f"p{i}", 0) for i in range(400)]
    assert abs(np.mean(won) - 0.5) < 3 * 0.5 / 20
    assert won == [one(f"p{i}", 0) for i in range(400)] != [one(f"p{i}", 1) for i in range(400)]


def test_ragged_runs_are_refused_and_common_ones_can_be_asked_for():
    ragged = Runs(["p", "q"], [[1, 0, 1], [0]], [["a", "b", "a"], ["c"]], [[1, 2, 3], [4]], [])
    with pytest.raises(RaggedRunsError, match=r"between 1 and 3 runs; .* first 1 of each"):
        bounds(ragged)
    assert bounds(ragged.common()).average == 0.5 and bounds(ragged.common()).average_std is None
    for empty in (Runs([], [], [], []), Runs(["p"], [[]], [[]], [[]])):
        with pytest.raises(StudyError, match="at least one run"):
            bounds(empty)


def test_the_gap_closed_is_not_measured_against_a_model_that_is_no_better():
    better = dataclasses.replace(bounds(GRID), average=0.9)
    assert gap_closed(bounds(GRID), better) == pytest.approx((0.75 - 1 / 3) / (0.9 - 1 / 3))
    assert gap_closed(bounds(GRID), bounds(GRID)) is None


@pytest.mark.parametrize("n", [1, 3, 8])
def test_simulated_runs_meet_theory_and_keep_their_order(n):
    rng = np.random.default_rng(n)
    p = rng.beta(0.7, 1.5, size=4000)
    grades = (rng.random((4000, n)) < p[:, None]).astype(float)
    answers = np.where(grades > 0, "right", rng.choice(["x", "y", "z"], size=grades.shape)).tolist()
    found = bounds(Runs([f"p{i}" for i in range(4000)], grades.tolist(), answers, grades.tolist()))
    for measured, truth in ((found.best, 1 - (1 - p) ** n), (found.worst, p**n), (found.average, p)):
        error = np.sqrt(np.mean(truth * (1 - truth)) / 4000)
        assert abs(measured - truth.mean()) < 4 * error
    assert found.worst <= found.average <= found.best and found.worst <= found.majority <= found.best
    assert found.pass_at_k[n] == pytest.approx(found.best) and found.pass_at_k[1] == pytest.approx(found.average)


# ------------------------------------------------------------------------- on studies


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("protocol")
    strategies, points = preset(["parallel", "sequential"], runs=4)
    assert points == [1, 2, 3, 4]
    bench(
        model="sim:strong", task=Sums(), strategies=strategies, samples=points, limit=12, out=folder, check=False,
    )  # fmt: skip
    return folder


def test_a_stored_study_gives_the_bounds_that_its_own_rows_give(study):
    found = protocol(study, task=Sums())
    rows = {(r["strategy"], r["budget"]): r for r in json.loads((study / "results.json").read_text())}
    runs = found["parallel"]["all"]
    assert runs["n_runs"] == 4 and runs["n_problems"] == 12 and not found["parallel"]["warnings"]
    assert runs["best"] == pytest.approx(rows["best_of_n(verifier=exact)", 4]["accuracy"], abs=1e-6)
    assert runs["pass_at_k"][1] == pytest.approx(rows["repeated_sampling | majority", 1]["pass_at_k"], abs=1e-6)
    assert runs["tokens_all"] * 12 == rows["repeated_sampling | majority", 4]["generated_tokens"]
    assert sum(level["n_problems"] for level in found["parallel"]["levels"].values()) == 12
    hint, alone = found["sequential"]
    assert hint["strategy"] == "feedback_attempts(verifier=exact)"
    solved = [a["solved"] for a in hint["attempts"]]
    assert (
        solved == sorted(solved) and hint["attempts"][0]["teacher_tokens"] == 0 < hint["attempts"][3]["teacher_tokens"]
    )
    coverage = [rows["repeated_sampling | majority", k]["coverage"] for k in (1, 2, 3, 4)]
    assert [
        a["solved"] for a in alone["attempts"]
    ] == coverage  # without feedback: independent draws, stopped when right
    stored = json.loads((study / "protocol.json").read_text())
    assert stored["parallel"]["all"]["best"] == runs["best"]


def test_grouping_needs_the_key_and_says_which_there_are(study):
    problem = Problem("p", "?", metadata={"entry": {"metadata": {"difficulty": 3}}})
    assert level_of(problem, "entry.metadata.difficulty") == "3"
    with pytest.raises(StudyError, match=r"no 'entry.level' to group by; at 'level' there are: metadata"):
        level_of(problem, "entry.level")
    with pytest.raises(StudyError, match="no 'level' to group by"):
        protocol(study, task=Sums(), by="level")


def test_a_study_without_a_protocol_says_how_to_run_one(tmp_path):
    bench(model="sim:strong", task=Sums(), strategies=["single"], limit=2, out=tmp_path, check=False)
    with pytest.raises(StudyError, match="--protocol parallel"):
        protocol(tmp_path, task=Sums())
    with pytest.raises(ParameterError, match="one of parallel, sequential"):
        preset(["paralel"])


def test_equal_runs_are_called_not_independent(tmp_path):
    bench(
        model="sim:strong", task=Sums(), strategies=["repeated_sampling(n=3)"], limit=3, out=tmp_path, check=False,
        sampling={"temperature": 0.0},
    )  # fmt: skip
    assert "not independent" in protocol(tmp_path, task=Sums())["parallel"]["warnings"][0]


async def test_the_api_is_async_too(study):
    assert (await arun(study, task=Sums()))["by"] == "share of runs that are right"


def test_the_command_line_runs_and_shows_both_protocols(tmp_path):
    from ponder.cli.bench import command as bench_command
    from ponder.cli.protocol import command

    records = [
        {"prompt": f"What is {a}+{a + 3}?", "reference": str(2 * a + 3), "level": a % 2} for a in range(10, 18)
    ]  # fmt: skip
    (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, records)))
    task = f"jsonl:{tmp_path / 'sums.jsonl'}(grader=numeric)"
    out = str(tmp_path / "study")
    shown = CliRunner().invoke(
        bench_command,
        ["-m", "sim:strong", "-T", task, "--protocol", "parallel", "--protocol", "sequential", "--samples", "3",
         "--out", out, "--no-check", "-q"],
        catch_exceptions=False,
    )  # fmt: skip
    assert shown.exit_code == 0, shown.output
    told = " ".join(shown.output.split())
    assert "3 independent runs" in told and "pass@k 1: " in told and "feedback_attempts(verifier=exact)" in told
    again = CliRunner().invoke(command, [out, "--by", "level", "--against", out, "--json"], catch_exceptions=False)
    found = json.loads(again.output)
    assert list(found["parallel"]["levels"]) == ["0", "1"] and found["gap_closed"] is None
    assert Bounds(**found["parallel"]["all"]).n_problems == 8
    assert CliRunner().invoke(bench_command, ["-m", "sim:strong", "-T", task, "--protocol", "parallel"]).exit_code == 2
