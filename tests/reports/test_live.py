"""The live page: its numbers by hand, what it serves and refuses, stopping, following, and a real browser."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time

import aiohttp
import pytest

from ponder.errors import ModelError, StoreError, StudyError
from ponder.ledger.budget import Budget
from ponder.ledger.spend import Spend
from ponder.models.simulated import Simulated
from ponder.reports.live import LivePage, bench_live, follow, live_html
from ponder.studies.live import Follower, LiveState, LiveStopError
from ponder.studies.outcome import Outcome
from ponder.studies.results import Series
from ponder.studies.runner import abench, bench
from ponder.testing import Sums

TASK = "sim_tree(count=6)"
BEST = "best_of_n(verifier=sim_tree_score)"
RUN = {"model": "sim:default", "task": TASK, "process": "sim_tree", "strategies": [BEST, "single"],
       "samples": [1, 4], "check": False}  # fmt: skip


class Slow(Simulated):
    """Takes its time."""

    async def sample(self, request):
        await asyncio.sleep(0.15)
        async for landed in super().sample(request):
            yield landed


def outcome(correct, tokens=10, errors=0):
    return Outcome(correct, correct, 1, int(correct), "ok", errors, spend={"draw": {"generated_tokens": tokens}})


def test_progress_intervals_and_time_left_by_hand():
    now = [100.0]
    state = LiveState(Budget.parse("tokens=200,usd=4,seconds=60"), clock=lambda: now[0])
    assert state.snapshot()["left"] is None and state.snapshot()["elapsed"] == 0
    state.begin(2, 10, Spend())
    row, other = Series("single", 1), Series("best_of_n", 8)
    state.finished(row, outcome(True), replayed=True)
    assert state.seconds_left() is None  # nothing of its own yet
    now[0] += 8
    for correct in (True, False, True):
        state.finished(row, outcome(correct), replayed=False)
    state.finished(other, outcome(False, errors=2), replayed=False)
    state.count(lambda: Spend(prompt_tokens=30, generated_tokens=20, model_calls=5, cost_usd=1.0))
    shown = state.snapshot()
    assert (shown["done"], shown["expected"], shown["replayed"]) == (5, 20, 1)
    assert shown["left"] == pytest.approx(15 * 8 / 4)
    assert shown["limits"] == [
        {"name": "tokens", "limit": 200, "spent": 50}, {"name": "cost_usd", "limit": 4, "spent": 1.0},
        {"name": "seconds", "limit": 60, "spent": 8.0},
    ]  # fmt: skip
    best, single = shown["rows"]
    assert (best["strategy"], best["errors"], best["accuracy"]) == ("best_of_n", 2, 0.0)
    assert single["accuracy"] == 0.75 and single["low"] == pytest.approx(0.3006, abs=1e-3)
    assert single["high"] == pytest.approx(0.9544, abs=1e-3) and single["tokens"] == 10
    state.end("finished")
    now[0] += 50
    assert state.snapshot()["elapsed"] == 8 and state.seconds_left() is None


async def fetch(url, *, method="GET", host=None):
    headers = {"Host": host} if host else {}
    async with aiohttp.ClientSession() as session, session.request(method, url, headers=headers) as reply:
        return reply.status, reply.headers, await reply.text()


async def test_it_serves_this_machine_under_a_secret_and_keys_are_left_out():
    state = LiveState(title="openai:m@http://user:pw@host/v1 api_key=abc")
    async with LivePage(state).served() as url:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{20,}/", url)
        status, headers, text = await fetch(url)
        assert status == 200 and "default-src 'none'" in headers["Content-Security-Policy"] and text == live_html()
        assert headers["Referrer-Policy"] == "no-referrer"
        base = url.rsplit("/", 2)[0]
        for wrong in (f"{base}/", f"{base}/state", f"{base}/{'x' * 24}/state", f"{url}nothing"):
            assert (await fetch(wrong))[0] == 404
        assert (await fetch(url, host="elsewhere.example"))[0] == 403
        assert (await fetch(url + "stop", method="POST"))[0] == 404  # this page cannot stop anything
        shown = json.loads((await fetch(url + "state"))[2])
        assert "pw" not in shown["title"] and "abc" not in shown["title"] and shown["can_stop"] is False
    with pytest.raises(aiohttp.ClientError):
        await fetch(url)
    async with LivePage(state).served() as again:
        assert again.split("/")[-2] != url.split("/")[-2]


def test_the_page_has_no_outside_reference():
    text = live_html().replace("http://www.w3.org/2000/svg", "")
    assert not re.findall(r"(?:https?:)?//[\w.]+", text) and text.count("</script>") == 1


async def test_a_watched_study_gives_the_same_results_and_its_page_the_end(tmp_path):
    seen, address = [], asyncio.get_running_loop().create_future()

    async def look():
        url = await address
        while True:
            seen.append(json.loads((await fetch(url + "state"))[2]))
            if seen[-1]["status"] == "finished":
                return
            await asyncio.sleep(0.01)

    watching = asyncio.create_task(look())
    plain = await abench(**RUN)
    results = await bench_live(out=tmp_path, started=address.set_result, **RUN)
    await asyncio.wait_for(watching, 5)
    drop = {"seconds"}
    assert [{k: v for k, v in r.items() if k not in drop} for r in results.rows] == [
        {k: v for k, v in r.items() if k not in drop} for r in plain.rows
    ]
    last = seen[-1]
    assert last["done"] == last["expected"] == 18 and last["left"] is None
    rows = {(r["strategy"], r["budget"]): r for r in results.rows}
    for shown in last["rows"]:
        row = rows[shown["strategy"], shown["budget"]]
        assert (shown["accuracy"], shown["low"]) == pytest.approx((row["accuracy"], row["ci_low"]), abs=1e-6)


async def test_what_is_spent_counts_every_fresh_call_once(tmp_path):
    async def run():
        state = LiveState()
        await abench(
            model="sim:strong", task=Sums(), strategies=["repeated_sampling | majority"], samples=[1, 2, 4], limit=5,
            check=False, out=tmp_path, progress=state, study_budget="calls=100",
        )  # fmt: skip
        return state.snapshot()

    first = await run()
    assert first["spent"]["calls"] == 5 * 4  # three rows share them
    assert first["limits"] == [{"name": "calls", "limit": 100, "spent": 20}]
    again = await run()
    assert again["spent"]["calls"] == 0 and again["replayed"] == 15
    assert again["limits"] == [{"name": "calls", "limit": 100, "spent": 20}]


async def test_stopping_from_the_page_keeps_what_is_finished_and_closes_everything(tmp_path):
    address = asyncio.get_running_loop().create_future()

    async def stop():
        url = await address
        while json.loads((await fetch(url + "state"))[2])["done"] < 2:
            pass
        assert (await fetch(url + "stop", method="POST"))[0] == 200
        return url

    stopping = asyncio.create_task(stop())
    plan = {"task": Sums(), "strategies": ["single"], "limit": 30, "concurrency": 1, "check": False}
    with pytest.raises(LiveStopError, match="run the same command again to go on"):
        await bench_live(out=tmp_path, started=address.set_result, model=Slow(profile="strong"), **plan)
    with pytest.raises(aiohttp.ClientError):
        await fetch(await stopping)
    assert not [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
    results = await abench(out=tmp_path, model=Simulated(profile="strong"), **plan)
    assert results.complete and results.rows[0]["n_problems"] == 30


async def test_cancelling_and_failing_close_the_page_too(tmp_path):
    class Broken(Simulated):
        async def sample(self, request):
            raise ModelError("gone")
            yield

    address = asyncio.get_running_loop().create_future()
    running = asyncio.create_task(
        bench_live(model=Slow(), task=Sums(), strategies=["single"], limit=30, check=False, started=address.set_result)
    )
    url = await address
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    with pytest.raises(aiohttp.ClientError):
        await fetch(url)
    urls = []
    with pytest.raises(StudyError, match="in a row failed"):
        await bench_live(model=Broken(), task=Sums(), strategies=["single"], limit=60, check=False, started=urls.append)
    with pytest.raises(aiohttp.ClientError):
        await fetch(urls[0])
    async with LivePage(LiveState()).served() as taken:
        port = int(taken.split(":")[2].split("/")[0])
        with pytest.raises(StudyError, match=f"port {port} cannot be used"):
            await bench_live(model=Slow(), task=Sums(), strategies=["single"], check=False, started=print, port=port)
    assert not [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]


# ------------------------------------------------------------------------- from another process


def test_a_follower_sees_a_finished_study_and_one_that_nobody_runs(tmp_path):
    bench(out=tmp_path, **RUN)
    follower = Follower(tmp_path)
    shown = follower.state.snapshot()
    assert shown["status"] == "finished" and shown["done"] == shown["expected"] == shown["replayed"] == 18
    follower.close()
    plan = (tmp_path / "study.toml").read_text().replace("samples = [1, 4]", "samples = [1, 4, 8]")
    (tmp_path / "study.toml").write_text(plan)  # begun again with more samples, and killed
    (tmp_path / "store.lock").write_text("not a number")
    follower = Follower(tmp_path)
    assert follower.state.status == "stopped" and "goes on where it was" in follower.state.message
    follower.close()
    with pytest.raises(StoreError, match="holds no study"):
        Follower(tmp_path / "nowhere")


def test_a_follower_counts_what_comes_while_it_looks(tmp_path):
    records = [json.dumps({"prompt": f"What is {i}+3?", "reference": str(i + 3)}) for i in range(8)]
    (tmp_path / "sums.jsonl").write_text("\n".join(records))
    task = f"jsonl:{tmp_path / 'sums.jsonl'}(grader=numeric)"
    plan = {"task": task, "strategies": ["single"], "concurrency": 1, "check": False}
    running = threading.Thread(target=lambda: bench(out=tmp_path, model=Slow(), **plan))
    running.start()
    deadline = time.monotonic() + 20
    while not (tmp_path / "study.toml").exists() or not (tmp_path / "store.lock").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    follower = Follower(tmp_path)
    assert follower.state.status in ("running", "finished")
    running.join()
    follower.look()
    shown = follower.state.snapshot()
    assert shown["status"] == "finished" and shown["done"] == 8 and shown["spent"]["calls"] == 8
    follower.close()


async def test_the_command_serves_it(tmp_path):
    await abench(out=tmp_path, **RUN)
    address = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(follow(tmp_path, 0, address.set_result, every_s=0.01))
    url = await asyncio.wait_for(address, 10)
    await asyncio.sleep(0.05)
    assert json.loads((await fetch(url + "state"))[2])["status"] == "finished"
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


def test_the_bench_command_prints_the_address_and_finishes(tmp_path):
    words = ["bench", "-m", "sim:default", "-T", TASK, "-p", "sim_tree", "-s", "single", "--no-check", "--live",
             "--out", str(tmp_path / "s")]  # fmt: skip
    shown = subprocess.run(
        [sys.executable, "-m", "ponder.cli.main", *words],
        capture_output=True,
        text=True,
        timeout=60,
        env=dict(os.environ),
    )
    assert shown.returncode == 0, shown.stderr
    assert re.search(r"live: http://127\.0\.0\.1:\d+/[\w-]+/", shown.stderr)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
@pytest.mark.slow
async def test_a_browser_shows_rows_intervals_and_the_budget(tmp_path):
    state = LiveState(Budget.parse("tokens=1000"), title="sim:strong · <b>sums</b>")
    state.begin(2, 4, Spend())
    for i in range(3):
        state.finished(Series("repeated_sampling | majority", 4), outcome(i > 0), replayed=False)
    state.finished(Series("single", 1), outcome(True), replayed=False)
    state.count(lambda: Spend(prompt_tokens=100, generated_tokens=150, model_calls=9))
    async with LivePage(state, stop=lambda: None).served() as url:
        browser = await asyncio.create_subprocess_exec(
            "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2500", "--dump-dom", url,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        text = (await asyncio.wait_for(browser.communicate(), 120))[0].decode()
    assert "sim:strong · &lt;b&gt;sums&lt;/b&gt;" in text and "4 of 8 results" in text
    assert "66.7 (21–94)" in text and text.count("<circle") == 2 and "250 of 1,000" in text
    assert re.search(r'<button id="stop" type="button">', text)
