"""`ponder bench` against an HTTP endpoint that keeps a log: killed, started again, nothing finished asked twice."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SERVER = """
import asyncio, hashlib, json, sys
from aiohttp import web

async def chat(request):
    asked = await request.json()
    prompt, n, seed = asked["messages"][-1]["content"], asked.get("n", 1), asked.get("seed", 0)
    await asyncio.sleep(0.01)
    with open(sys.argv[1], "a") as log:
        log.write(json.dumps({"prompt": prompt, "n": n, "seed": seed}) + "\\n")
    texts = []
    for i in range(n):
        number = hashlib.sha256(f"{prompt}/{seed}/{i}".encode()).digest()[0] % 4
        judging = "Score: N" in prompt
        texts.append(f"Score: {number * 3}" if judging else f"The answer is {number}.")
    choices = [
        {"index": i, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        for i, text in enumerate(texts)
    ]
    usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": 5 * n}
    return web.json_response({"id": "x", "object": "chat.completion", "choices": choices, "usage": usage})

async def main():
    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(site._server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    home = tmp_path_factory.mktemp("endpoint")
    (home / "server.py").write_text(SERVER)
    server = subprocess.Popen([sys.executable, str(home / "server.py"), str(home / "log")], stdout=subprocess.PIPE)
    assert server.stdout is not None
    port = int(server.stdout.readline())
    yield f"http://127.0.0.1:{port}/v1", home / "log"
    server.kill()
    server.wait()
    server.stdout.close()


def _asked(log: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def _draws(calls: list[dict[str, object]]) -> int:
    return sum(int(str(call["n"])) for call in calls)


def _stored(out: Path) -> int:
    db = sqlite3.connect(out / "store.sqlite")
    count = int(db.execute("SELECT count(*) FROM draws").fetchone()[0])
    db.close()
    return count


def _start(url: str, out: Path, task: Path, choices: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [
            sys.executable, "-m", "ponder.cli.main", "bench", "--model", f"openai:small@{url}({choices})",
            "--task", f"jsonl:{task}(grader=numeric)", "--strategy", "single",
            "--strategy", "repeated_sampling | majority", "--strategy", "best_of_n(n=3, verifier=llm_judge)",
            "--samples", "1,2,4", "--concurrency", "2", "--out", str(out), "--no-check", "--json",
        ],
        stdout=subprocess.DEVNULL, env={**os.environ, "OPENAI_API_KEY": ""},
    )  # fmt: skip


def _rows(out: Path) -> list[dict[str, object]]:
    return [{**row, "seconds": None} for row in json.loads((out / "results.json").read_text())]


@pytest.mark.parametrize("choices", ["n=true", pytest.param("n=false", marks=pytest.mark.slow)])
def test_three_kills_change_nothing_and_repeat_no_finished_call(
    endpoint: tuple[str, Path], tmp_path: Path, choices: str
) -> None:
    url, log = endpoint
    task = tmp_path / "task.jsonl"
    problems = [{"id": f"p{i}", "prompt": f"Is {i} nice ({choices})?", "reference": str(i % 4)} for i in range(8)]
    task.write_text("".join(json.dumps(p) + "\n" for p in problems))
    before = len(_asked(log))
    assert _start(url, tmp_path / "whole", task, choices).wait(60) == 0
    whole = _asked(log)[before:]
    assert _draws(whole) == _stored(tmp_path / "whole")

    out, moments = tmp_path / "out", random.Random(choices)
    for _ in range(3):
        before = len(_asked(log))
        at_once = 2 * (3 if choices == "n=true" else 4)  # so many calls may be under way: more than those have come
        target = before + moments.randint(at_once + 1, len(whole) // 4)
        running = _start(url, out, task, choices)
        while len(_asked(log)) < target:
            assert running.poll() is None, "it ended before it could be killed"
            time.sleep(0.001)
        running.send_signal(signal.SIGKILL)
        running.wait()
    time.sleep(0.1)  # the endpoint answers what it was still asked
    kept, before = _stored(out), len(_asked(log))
    assert kept > 0
    assert _start(url, out, task, choices).wait(60) == 0
    assert _draws(_asked(log)[before:]) == _stored(out) - kept == _draws(whole) - kept
    assert _rows(out) == _rows(tmp_path / "whole")
    assert _start(url, out, task, choices).wait(60) == 0
    assert _draws(_asked(log)[before:]) == _draws(whole) - kept
