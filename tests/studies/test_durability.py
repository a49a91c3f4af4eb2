"""Killed, busy, foreign, damaged, full: what a study's directory goes through."""

import asyncio
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from ponder.core.model import Completion
from ponder.errors import StoreBusyError, StoreError, StoreMismatchError
from ponder.studies.store import Store, decode, encode

SCRIPT = """
import asyncio, os, sys
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import ClassVar
from ponder.core.cache import content_keys
from ponder.core.model import Model
from ponder.models.simulated import Simulated
from ponder.studies.runner import bench
from ponder.testing import Sums


@dataclass
class Logged(Model):
    log: str
    inner: Simulated = field(default_factory=Simulated)
    name: ClassVar[str] = "sim"

    def __post_init__(self):
        self.capabilities = self.inner.capabilities

    def __str__(self):
        return "logged"

    @property
    def identity(self):
        return "logged"

    def count_tokens(self, prompt):
        return self.inner.count_tokens(prompt)

    async def sample(self, request):
        with open(self.log, "a") as log:
            log.write(" ".join(key.hex() for key in content_keys(self, request)) + "\\n")
        await asyncio.sleep(0.01)
        async with aclosing(self.inner.sample(request)) as completions:
            async for item in completions:
                yield item


out, log = sys.argv[1:]
bench(
    model=Logged(log), task=Sums(), out=out, check=False, limit=10, concurrency=3, samples=[1, 2, 4, 8],
    strategies=[
        "single", "best_of_n(verifier=log_probability)", "repeated_sampling | majority",
        "best_of_n(n=4, verifier=llm_judge)", "adaptive_consistency(n=8)",
    ],
)
"""


def _start(script: Path, out: Path, log: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, str(script), str(out), str(log)], env={**os.environ})


def _calls(log: Path) -> list[list[str]]:
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def _stored(out: Path) -> set[str]:
    with sqlite3.connect(out / "store.sqlite") as db:
        keys = {row[0].hex() for row in db.execute("SELECT key FROM draws")}
    db.close()
    return keys


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, int]:
    home = tmp_path_factory.mktemp("undisturbed")
    script = home / "study.py"
    script.write_text(textwrap.dedent(SCRIPT))
    assert _start(script, home / "out", home / "log").wait(120) == 0
    return script, home / "out", len(_calls(home / "log"))


@pytest.mark.parametrize("moment", [1, 2, 3])
def test_a_killed_study_goes_on_to_the_same_results_and_repeats_no_finished_call(
    undisturbed: tuple[Path, Path, int], tmp_path: Path, moment: int
) -> None:
    script, whole, n_calls = undisturbed
    out, log = tmp_path / "out", tmp_path / "log"
    fatal = random.Random(moment).randint(1, n_calls * 3 // 4)
    running = _start(script, out, log)
    while len(_calls(log)) < fatal:
        assert running.poll() is None, "the study ended before it could be killed"
        time.sleep(0.001)
    running.send_signal(signal.SIGKILL)
    running.wait()
    stored, seen = _stored(out), len(_calls(log))
    assert not (out / "results.json").exists()

    assert _start(script, out, log).wait(120) == 0
    repeated = [key for call in _calls(log)[seen:] for key in call if key in stored]
    assert not repeated, f"{len(repeated)} finished draws were asked for again after {fatal} of {n_calls} calls"
    assert (out / "results.json").read_bytes() == (whole / "results.json").read_bytes()
    assert (out / "outcomes.json").read_bytes() == (whole / "outcomes.json").read_bytes()


def test_a_finished_study_started_again_sends_nothing(undisturbed: tuple[Path, Path, int], tmp_path: Path) -> None:
    script, whole, _ = undisturbed
    before = (whole / "results.json").read_bytes()
    assert _start(script, whole, tmp_path / "log").wait(120) == 0
    assert _calls(tmp_path / "log") == []
    assert (whole / "results.json").read_bytes() == before


IDENTITY = {"model": "m", "task": "t", "seed": "0"}


async def test_every_completion_comes_back_as_it_was() -> None:
    nan = float("nan")
    for completion in (
        Completion("plain", 3),
        Completion("\ud800 lone surrogate", 3, "length", "", -1.5, 10, 4, 1, 0.25),
        Completion("a\nb", 2, token_logprobs=(-0.1, -2.0 / 3.0), tokens=("a", "\nb"), logprob=-0.1 - 2.0 / 3.0),
        Completion("single", 2, token_logprobs=(-0.5, -0.25), top_logprobs=({"x": -0.5, "y": -1.0}, {})),
        Completion("no tokens", 0, token_logprobs=(), tokens=()),
    ):
        assert decode(encode(completion)) == completion
    strange = decode(encode(Completion("", 2, logprob=nan, token_logprobs=(nan, -float("inf")))))
    assert str(strange.logprob) == "nan"
    assert [str(v) for v in strange.token_logprobs or ()] == ["nan", "-inf"]
    tops = decode(encode(Completion("", 1, top_logprobs=({"x": nan},)))).top_logprobs
    assert tops is not None and str(tops[0]["x"]) == "nan"


def test_what_was_put_is_there_for_another_process(tmp_path: Path) -> None:
    count = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('select count(*) from draws').fetchone())"
    with Store(tmp_path, IDENTITY) as store:
        asyncio.run(store.put([(b"0" * 16, Completion("kept", 1))]))
        seen = subprocess.run([sys.executable, "-c", count, str(store.path)], capture_output=True, check=True)
    assert seen.stdout.strip() == b"(1,)"


def test_two_runs_on_one_store_are_refused_by_process_id(tmp_path: Path) -> None:
    with Store(tmp_path, IDENTITY), pytest.raises(StoreBusyError, match=str(os.getpid())):
        Store(tmp_path, IDENTITY)
    Store(tmp_path, IDENTITY).close()


def test_another_study_is_refused_and_what_differs_is_named(tmp_path: Path) -> None:
    Store(tmp_path, IDENTITY).close()
    with pytest.raises(StoreMismatchError, match=r"seed is '0' there and '1' here.*--out"):
        Store(tmp_path, {**IDENTITY, "seed": "1"})


def test_another_layout_is_refused_and_both_versions_are_named(tmp_path: Path) -> None:
    Store(tmp_path, IDENTITY).close()
    with sqlite3.connect(tmp_path / "store.sqlite") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreMismatchError, match=r"99.*1"):
        Store(tmp_path, IDENTITY)


def test_a_file_that_is_no_store_is_named_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "store.sqlite").write_bytes(b"this is not a database " * 100)
    with pytest.raises(StoreError, match=r"store\.sqlite"):
        Store(tmp_path, IDENTITY)
    assert (tmp_path / "store.sqlite").read_bytes().startswith(b"this is not")


async def test_many_completions_are_found_in_the_order_of_their_keys(tmp_path: Path) -> None:
    keys = [i.to_bytes(16, "big") for i in range(1000)]
    with Store(tmp_path, IDENTITY) as store:
        await store.put([(key, Completion(str(i), 1)) for i, key in enumerate(keys) if i % 3])
        asked = [*reversed(keys), keys[1], keys[0]]
        found = store.get_many(asked)
    expected = [int.from_bytes(key, "big") for key in asked]
    assert found == [Completion(str(i), 1) if i % 3 else None for i in expected]


def test_damage_found_while_reading_is_a_store_error(tmp_path: Path) -> None:
    with Store(tmp_path, IDENTITY) as store:
        store._read_db.execute("DROP TABLE draws")
        with pytest.raises(StoreError, match="damaged"):
            store.get_many([b"0" * 16])


def test_a_directory_that_cannot_be_made_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"):
        Store(tmp_path / "file" / "study", IDENTITY)


async def test_a_full_disk_is_said_and_what_was_stored_stays(tmp_path: Path) -> None:
    with Store(tmp_path, IDENTITY) as store:
        await store.put([(b"0" * 16, Completion("kept", 1))])
        pages = store._write_db.execute("PRAGMA page_count").fetchone()[0]
        store._write_db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StoreError, match="full"):
            await store.put([(i.to_bytes(16, "big"), Completion("x" * 4000, 1)) for i in range(1, 50)])
    with Store(tmp_path, IDENTITY) as store:
        assert store.get_many([b"0" * 16]) == [Completion("kept", 1)]
        assert store.count() == 1


def test_rows_are_plain_json(undisturbed: tuple[Path, Path, int]) -> None:
    rows = json.loads((undisturbed[1] / "results.json").read_text())
    wanted = (
        "model task strategy budget n_problems accuracy ci_low ci_high coverage prompt_tokens cached_tokens "
        "generated_tokens model_calls verifier_calls seconds errors"
    )
    for row in rows:
        assert set(wanted.split()) <= set(row)
    assert [(r["strategy"], r["budget"]) for r in rows] == [
        ("single", 1),
        *[("best_of_n", k) for k in (1, 2, 4, 8)],
        *[("repeated_sampling | majority", k) for k in (1, 2, 4, 8)],
        ("best_of_n(n=4, verifier=llm_judge)", 4),
        ("adaptive_consistency(n=8)", 8),
    ]
