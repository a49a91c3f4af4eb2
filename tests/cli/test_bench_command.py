"""`ponder bench` and `ponder select`, as typed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ponder.cli.main import cli


@pytest.fixture
def task(tmp_path: Path) -> str:
    path = tmp_path / "sums.jsonl"
    records = [{"id": f"p{i}", "prompt": f"What is {i}+{i}?", "reference": str(2 * i)} for i in range(8)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return f"jsonl:{path}(grader=numeric)"


def ponder(*arguments: str) -> Result:
    return CliRunner(catch_exceptions=False).invoke(cli, arguments)


def bench(task: str, out: Path, *more: str) -> Result:
    return ponder(
        "bench", "--model", "sim:default", "--task", task, "--strategy", "single", "--strategy",
        "repeated_sampling | majority", "--samples", "1,2,4", "--seed", "3", "--out", str(out), "--no-check", *more,
    )  # fmt: skip


def test_bench_writes_rows_plan_store_and_prints_them_as_json(task: str, tmp_path: Path) -> None:
    done = bench(task, tmp_path / "out", "--limit", "6", "--json")
    assert done.exit_code == 0
    rows = json.loads(done.stdout)
    assert rows == json.loads((tmp_path / "out" / "results.json").read_text())
    assert [(r["strategy"], r["budget"], r["n_problems"]) for r in rows] == [
        ("single", 1, 6),
        *[("repeated_sampling | majority", k, 6) for k in (1, 2, 4)],
    ]
    assert {r["model"] for r in rows} == {"sim:default"} and {r["task"] for r in rows} == {task.partition("(")[0]}
    for name in ("study.toml", "store.sqlite", "outcomes.json"):
        assert (tmp_path / "out" / name).exists()


def test_the_table_is_for_people_and_says_the_most_it_can_cost(task: str, tmp_path: Path) -> None:
    done = bench(task, tmp_path / "out", "--price", "sim=1,0.5,2")
    assert done.exit_code == 0
    assert "majority" in done.stdout
    assert "at most" in done.stderr and "$" in done.stderr
    assert "at most" not in bench(task, tmp_path / "out", "--quiet").stderr


def test_a_study_file_is_read_and_flags_win(task: str, tmp_path: Path) -> None:
    bench(task, tmp_path / "one", "--limit", "4")
    plan = tmp_path / "one" / "study.toml"
    again = ponder("bench", "--study", str(plan), "--out", str(tmp_path / "two"), "--no-check", "--json")
    assert json.loads(again.stdout) == json.loads((tmp_path / "one" / "results.json").read_text())
    fewer = ponder("bench", "--study", str(plan), "--limit", "2", "--no-check", "--json")
    assert {row["n_problems"] for row in json.loads(fewer.stdout)} == {2}


def test_select_repeats_the_row_without_a_model(task: str, tmp_path: Path) -> None:
    rows = json.loads(bench(task, tmp_path / "out", "--json").stdout)
    done = ponder("select", str(tmp_path / "out"), "--selector", "majority", "--selector", "first", "--json")
    majority, first = json.loads(done.stdout)
    assert majority["accuracy"] == rows[-1]["accuracy"] and majority["coverage"] == rows[-1]["coverage"]
    assert first["accuracy"] == rows[0]["accuracy"]
    shown = ponder("select", str(tmp_path / "out"), "--selector", "majority", "--export", str(tmp_path / "s.parquet"))
    assert "32 samples written" not in shown.stdout and "samples written" in shown.stdout
    assert (tmp_path / "s.parquet").exists()


def test_bench_without_a_task_says_what_to_give() -> None:
    done = ponder("bench", "--model", "sim:default")
    assert done.exit_code == 2 and "--task" in done.stderr
    assert "1,2,4,8" in ponder("bench", "-m", "sim:default", "-T", "x", "--samples", "a").stderr


def _started(task: str, out: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [
            sys.executable, "-m", "ponder.cli.main", "bench", "--model", "sim:default(latency_s=0.05)", "--task", task,
            "--strategy", "repeated_sampling | majority", "--strategy", "best_of_n(verifier=llm_judge)",
            "--concurrency", "1", "--samples", "1,4", "--out", str(out), "--no-check",
        ],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "COLUMNS": "100"},
    )  # fmt: skip


def test_control_c_stops_cleanly_says_how_to_go_on_and_loses_nothing(task: str, tmp_path: Path) -> None:
    running = _started(task, tmp_path / "out")
    while not (tmp_path / "out" / "study.toml").exists():
        assert running.poll() is None
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130
    assert b"run the same command again" in errors and b"Traceback" not in errors
    whole = _started(task, tmp_path / "whole")
    again = _started(task, tmp_path / "out")
    assert (whole.wait(60), again.wait(60)) == (0, 0)
    for process in (whole, again):
        process.communicate()
    assert (tmp_path / "out" / "results.json").read_bytes() == (tmp_path / "whole" / "results.json").read_bytes()


def test_a_failing_study_is_one_line_and_exit_code_one(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    arguments = ["bench", "-m", "sim:default", "-T", f"jsonl:{tmp_path / 'empty.jsonl'}", "-s", "single", "--no-check"]
    run = subprocess.run([sys.executable, "-m", "ponder.cli.main", *arguments], capture_output=True, check=False)
    assert run.returncode == 1 and b"TaskError" in run.stderr and b"Traceback" not in run.stderr
