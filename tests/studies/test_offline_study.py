"""What can be done with a study's directory when its model is gone."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ponder.core.model import Completion
from ponder.errors import ParameterError, StoreError, UnknownNameError
from ponder.studies.export import export
from ponder.studies.reselect import reselect
from ponder.studies.results import StudyResults
from ponder.studies.runner import bench
from ponder.studies.store import Store, StoreReader
from ponder.testing import Sums

TASK = Sums()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StudyResults]:
    out = tmp_path_factory.mktemp("study") / "out"
    strategies = [
        "repeated_sampling | majority",
        "best_of_n(verifier=log_probability)",
        "best_of_n(verifier=log_probability) | weighted_majority",
        "single(temperature=0)",
    ]
    return out, bench(
        model="sim:default", task=TASK, strategies=strategies, samples=[2, 8], limit=12, out=out, check=False
    )


@pytest.mark.parametrize("n", [2, 8])
def test_reselection_gives_the_rows_that_the_study_measured(study: tuple[Path, StudyResults], n: int) -> None:
    out, results = study
    majority, best, weighted = reselect(
        out, ["majority", "best_score", "weighted_majority"], n=n, task=TASK, strategy="best_of_n"
    )
    for row, name in (
        (majority, "repeated_sampling | majority"),
        (best, "best_of_n"),
        (weighted, "best_of_n | weighted_majority"),
    ):
        measured = results.row(name, n)
        for key in ("accuracy", "ci_low", "ci_high", "coverage", "ties", "n_problems"):
            assert row[key] == measured[key], (name, key)
    assert majority["difference"] == 0.0
    assert best["difference"] == pytest.approx(best["accuracy"] - majority["accuracy"], abs=2e-6)


def test_samples_can_be_scored_anew(study: tuple[Path, StudyResults]) -> None:
    out, results = study
    (oracle,) = reselect(out, ["best_score"], verifiers=["exact"], strategy="repeated_sampling | majority", task=TASK)
    assert oracle["accuracy"] == oracle["coverage"] == results.row("repeated_sampling | majority", 8)["coverage"]


def test_submitting_more_answers_never_loses(study: tuple[Path, StudyResults]) -> None:
    rows = reselect(study[0], ["majority"], ks=[1, 2, 4], task=TASK)
    assert [row["k"] for row in rows] == [1, 2, 4]
    assert rows[0]["accuracy"] <= rows[1]["accuracy"] <= rows[2]["accuracy"] <= rows[0]["coverage"]


def test_a_selector_that_lacks_scores_says_what_to_do(study: tuple[Path, StudyResults]) -> None:
    with pytest.raises(ParameterError, match="score candidates with a verifier first"):
        reselect(study[0], ["best_score"], strategy="repeated_sampling | majority", task=TASK)


async def test_a_directory_can_be_read_while_a_study_runs_in_it(tmp_path: Path) -> None:
    with Store(tmp_path, {"model": "m"}) as store:
        reader = StoreReader(tmp_path)
        await store.put([(b"1" * 16, Completion("new", 1))])
        assert reader.get_many([b"1" * 16]) == [Completion("new", 1)]
        reader.close()


def test_more_samples_than_were_drawn_are_refused(study: tuple[Path, StudyResults]) -> None:
    with pytest.raises(ParameterError, match="from 1 to 8"):
        reselect(study[0], ["majority"], n=16, task=TASK)


def test_a_strategy_that_was_not_run_is_refused(study: tuple[Path, StudyResults]) -> None:
    with pytest.raises(ParameterError, match="one that the study ran"):
        reselect(study[0], ["majority"], strategy="best_of_n(verifier=exact)", task=TASK)


def test_a_misspelt_selector_names_the_nearest(study: tuple[Path, StudyResults]) -> None:
    with pytest.raises(UnknownNameError, match="majority"):
        reselect(study[0], ["majorty"], task=TASK)


def test_a_directory_without_a_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no store\.sqlite"):
        reselect(tmp_path, ["majority"])


def test_json_lines_and_parquet_hold_the_same_candidates(study: tuple[Path, StudyResults], tmp_path: Path) -> None:
    out, results = study
    count = export(out, tmp_path / "samples.jsonl", task=TASK)
    assert export(out, tmp_path / "samples.parquet", task=TASK) == count
    lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    table = pq.read_table(tmp_path / "samples.parquet").to_pylist()
    assert len(lines) == len(table) == count == 12 * (8 + 8 + 1)
    for line, row in zip(lines, table, strict=True):
        assert {**row, "scores": dict(row["scores"])} == line
    solved = {line["problem"] for line in lines if line["strategy"] == "repeated_sampling" and line["correct"]}
    assert len(solved) / 12 == pytest.approx(results.row("repeated_sampling | majority", 8)["coverage"], abs=2e-6)


def test_another_file_ending_is_refused(study: tuple[Path, StudyResults], tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"\.jsonl or \.parquet"):
        export(study[0], tmp_path / "samples.csv")
