"""Finished pictures and their scores are stored: killed or failed, a study pays none twice and finds the same."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import ponder
from ponder.api import build_process, run_sync
from ponder.core.cache import MemoryCache
from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.errors import BudgetError, StoreError
from ponder.studies.reselect import reselect
from ponder.studies.runner import bench
from ponder.studies.store import StoreReader

SUPPORT = Path(__file__).parent.parent / "support"
sys.path.insert(0, str(SUPPORT))
from dots import Dots, DotsTask, Fault, registered  # noqa: E402

STEPS = 5
PLAIN = ("best_of_n(verifier=dots_ink)", "repeated_sampling | first")


@pytest.fixture(scope="module", autouse=True)
def names():
    with registered():
        yield


def study(out, model, strategies=PLAIN, **options):
    options = {"process": f"denoising(steps={STEPS})", "samples": [2, 4], "concurrency": 1, **options}
    return bench(model=model, task=DotsTask(), strategies=list(strategies), out=out, check=False, **options)


def without_seconds(folder):
    """Rows and outcomes, measured time aside."""

    def strip(value):
        if isinstance(value, dict):
            return {k: strip(v) for k, v in value.items() if k != "seconds"}
        return [strip(v) for v in value] if isinstance(value, list) else value

    return [strip(json.loads((folder / name).read_text())) for name in ("results.json", "outcomes.json")]


def test_rows_of_a_study_share_their_draws_and_each_counts_them(tmp_path):
    model = Dots()
    results = study(tmp_path, model)
    assert sum(model.seen) == 4 * 4 * STEPS, "4 problems, the largest row's 4 draws, and none again"
    assert sum(model.scored) == 4 * 4
    for name in PLAIN:
        for n in (2, 4):
            row = results.row(name, n)
            assert row["function_evaluations"] == 4 * n * STEPS and row["seconds"] > 0


@pytest.mark.parametrize("moment", [2, 9, 16])
def test_after_a_fault_only_what_is_missing_is_computed_and_the_results_are_the_same(tmp_path, moment):
    study(tmp_path / "whole", Dots())
    with pytest.raises(Fault):
        study(tmp_path / "broken", Dots(fails_at=moment))
    with closing(StoreReader(tmp_path / "broken")) as store:
        (kept,) = store._db.execute("SELECT COUNT(*) FROM outputs WHERE length(data) > 100").fetchone()
    again = Dots()
    study(tmp_path / "broken", again)
    assert kept == 4 * ((moment - 1) // STEPS), "whole batches were stored"
    assert sum(again.seen) == (16 - kept) * STEPS
    assert without_seconds(tmp_path / "broken") == without_seconds(tmp_path / "whole")
    idle = Dots()
    study(tmp_path / "broken", idle)
    assert not idle.seen and not idle.scored


@pytest.mark.parametrize("strategy", ["zero_order_search(n=6, neighbours=2, verifier=dots_ink)",
                                      "evo_search(n=6, verifier=dots_ink)",
                                      "particle_filter(n=4, verifier=dots_ink)"])  # fmt: skip
def test_searches_go_on_to_the_same_results_and_pay_less(tmp_path, strategy):
    whole = Dots()
    study(tmp_path / "whole", whole, [strategy])
    with pytest.raises(Fault):
        study(tmp_path / "broken", Dots(fails_at=len(whole.seen) - 1), [strategy])
    again = Dots()
    study(tmp_path / "broken", again, [strategy])
    assert sum(again.seen) < sum(whole.seen) / 2
    assert without_seconds(tmp_path / "broken") == without_seconds(tmp_path / "whole")


@pytest.mark.parametrize("colour", [False, True])
def test_a_reloaded_picture_is_the_same_array_and_scores_the_same(colour):
    cache, problem = MemoryCache(), Problem("p", "x")

    def drawn(model):
        process = build_process(f"denoising(steps={STEPS})", (), model)
        ctx = Context(problem, process, runtime=ponder.Runtime(cache=cache))

        async def go():
            candidates = await ctx.draw(problem, 3)
            return candidates, await ctx.score(problem, candidates, ponder.verifier("dots_ink"))

        return run_sync(go)

    first, second = Dots(colour=colour), Dots(colour=colour)
    (made, scores), (kept, again) = drawn(first), drawn(second)
    assert first.seen and not second.seen and not second.scored
    np.testing.assert_array_equal(scores, again)
    for a, b in zip(made, kept, strict=True):
        assert a.output.dtype == b.output.dtype and a.output.tobytes() == b.output.tobytes()
        for name in ("x", "noise"):
            np.testing.assert_array_equal(getattr(a.state.payload, name), getattr(b.state.payload, name))
    fresh = [float(np.mean(c.output)) for c in kept]
    np.testing.assert_array_equal(fresh, scores)


def test_other_seeds_prompts_settings_and_models_are_drawn_anew():
    cache = MemoryCache()

    def asked(prompt="x", seed=0, process="denoising(steps=3)", **model):
        dots = Dots(**model)
        problem = Problem("p", prompt)
        ctx = Context(problem, build_process(process, (), dots), seed=seed, runtime=ponder.Runtime(cache=cache))
        run_sync(lambda: ctx.draw(problem, 2))
        return sum(dots.seen)

    assert asked() == 6 and asked() == 0
    for other in ({"prompt": "y"}, {"seed": 1}, {"process": "denoising(steps=4)"}, {"colour": True}):
        assert asked(**other) > 0 and asked(**other) == 0


def test_stored_pictures_are_chosen_from_again_without_the_model(tmp_path):
    results = study(tmp_path, Dots(), ["repeated_sampling | first", "best_of_n(verifier=dots_ink)"])
    first, best = reselect(tmp_path, ["first", "best_score"], verifiers=["dots_ink"], task=DotsTask())
    assert first["accuracy"] == results.row("repeated_sampling | first", 4)["accuracy"]
    assert best["accuracy"] == results.row("best_of_n(verifier=dots_ink)", 4)["accuracy"]
    (two,) = reselect(tmp_path, ["first"], n=2, task=DotsTask())
    assert two["coverage"] == results.row("repeated_sampling | first", 2)["coverage"]


def test_frames_are_stored_one_by_one_and_chosen_from_again(tmp_path):
    options = {"process": "frames(frames=3, steps=4)", "samples": [2]}
    model = Dots()
    results = study(tmp_path, model, ["repeated_sampling | first"], **options)
    assert results.rows[0]["function_evaluations"] == sum(model.seen) == 4 * 2 * (4 + 2 + 2)
    (first,) = reselect(tmp_path, ["first"], task=DotsTask())
    assert first["accuracy"] == results.rows[0]["accuracy"] and first["n_problems"] == 4


def test_a_study_of_searches_alone_says_that_there_are_no_draws_to_choose_from(tmp_path):
    study(tmp_path, Dots(), ["particle_filter(n=2, verifier=dots_ink)"], baselines=False, samples=[2])
    with pytest.raises(StoreError, match="no stored samples"):
        reselect(tmp_path, ["first"], task=DotsTask())


def test_a_study_budget_counts_evaluations_once_and_over_all_runs(tmp_path):
    first = Dots()
    limit = f"function_evaluations={9 * STEPS}"
    results = study(tmp_path, first, study_budget=limit)
    assert not results.complete and sum(first.seen) == 8 * STEPS
    second = Dots()
    results = study(tmp_path, second, study_budget=limit)
    assert not results.complete and not second.seen, "what earlier runs spent counts"
    assert study(tmp_path, second, study_budget=f"function_evaluations={16 * STEPS}").complete
    with pytest.raises(BudgetError, match="no problem could be finished"):
        study(tmp_path / "none", Dots(), study_budget="function_evaluations=3")


def test_a_store_of_an_earlier_version_has_no_outputs(tmp_path):
    study(tmp_path, Dots(), ["repeated_sampling | first"])
    with sqlite3.connect(tmp_path / "store.sqlite") as db:
        db.execute("DROP TABLE outputs")
    db.close()
    with closing(StoreReader(tmp_path)) as store:
        assert store.get_outputs([b"0" * 16]) == [None]


@pytest.mark.parametrize("moment", [1, 2])
def test_a_killed_study_of_pictures_repeats_no_stored_draw(tmp_path, moment):
    def start(out, log):
        return subprocess.Popen([sys.executable, str(SUPPORT / "dots.py"), str(out), str(log)], env={**os.environ})

    def rows(log):
        return len(log.read_text().splitlines()) if log.exists() else 0

    assert start(tmp_path / "whole", tmp_path / "whole.log").wait(120) == 0
    total = rows(tmp_path / "whole.log")
    assert total == 12 * 8 * STEPS
    out, log = tmp_path / "out", tmp_path / "log"
    fatal, running = random.Random(moment).randint(STEPS * 4, total * 3 // 4), start(out, log)
    while rows(log) < fatal:
        assert running.poll() is None, "the study ended before it could be killed"
        time.sleep(0.001)
    running.send_signal(signal.SIGKILL)
    running.wait()
    with closing(StoreReader(out)) as store:
        (kept,) = store._db.execute("SELECT COUNT(*) FROM outputs WHERE length(data) > 100").fetchone()
    before = rows(log)
    assert start(out, log).wait(120) == 0
    assert rows(log) - before == (96 - kept) * STEPS
    assert without_seconds(out) == without_seconds(tmp_path / "whole")
