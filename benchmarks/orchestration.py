"""What orchestration costs: ponder, a bare aiohttp client and its-hub 1.2 on one endpoint that answers at once.

Everybody votes over the same number of samples, on the same local endpoint (a process of its own), in one run, and in
turn: a repetition measures all of them one after the other, and ratios are taken within repetitions. The bare client
only sends and parses. its-hub lives in an environment of its own (made in ponder's cache if `--its-hub` does not name
its Python); it is measured with its default limit of 32 requests at once and without limit, and it does not use `n`.

    python benchmarks/orchestration.py [--repeats 9] [--its-hub PYTHON | --without-its-hub]

Printed are CPU per sample (of the client's process, threads included) and samples per second as median [quartiles], and
how long 64 draws take where every request takes 200 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from overhead import PROMPT, SLOW_S, bare, serve

import ponder
from ponder.core.cache import NoCache
from ponder.core.context import Context
from ponder.core.strategy import Strategy
from ponder.models.catalog import cache_dir
from ponder.models.openai_compatible import OpenAICompatible
from ponder.processes.text_steps import TextSteps
from ponder.studies.store import Store

AT_ONCE = 32
PROBLEMS = 8
Timing = tuple[float, float]
"""Seconds of processor time and of the clock."""


def timed(run: Callable[[], None]) -> Timing:
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    return time.process_time() - cpu, time.perf_counter() - wall


async def vote(url: str, problems: int, samples: int, n: int, at_once: int, cache=None) -> None:
    """`repeated_sampling | majority` on several problems side by side."""
    model = OpenAICompatible("m", url, api="chat", n=n > 1, max_n=n, max_concurrency=at_once)
    runtime = ponder.Runtime(cache=cache or NoCache())
    strategy = Strategy.parse("repeated_sampling | majority").with_samples(samples)

    async def solve(i: int) -> None:
        problem = ponder.Problem(f"p{i}", PROMPT)
        ctx = Context(problem, TextSteps(model), sampling=ponder.Sampling(max_new_tokens=64), runtime=runtime)
        result = await strategy.run(problem, ctx)
        assert len(result.candidates) == samples and result.status == "ok"

    await asyncio.gather(*(solve(i) for i in range(problems)))
    await runtime.aclose()


def with_store(url: str, problems: int, samples: int, n: int) -> None:
    """The same, every draw kept in a study's store."""
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder), {"study": "orchestration"}) as store:
        asyncio.run(vote(url, problems, samples, n, AT_ONCE, store))


class ItsHub:
    """its-hub in a process of its own environment."""

    def __init__(self, python: Path) -> None:
        script = Path(__file__).with_name("its_hub_client.py")
        self._process = subprocess.Popen([python, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, url: str, problems: int, samples: int, concurrency: int) -> Timing:
        """Seconds of its process."""
        asked = {"url": url, "problems": problems, "samples": samples, "concurrency": concurrency}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        told = json.loads(self._process.stdout.readline())
        return told["cpu"], told["wall"]

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait()


def its_hub_python() -> Path:
    """The Python of an environment with its-hub 1.2, made if it is missing."""
    folder = cache_dir() / "benchmarks" / "its-hub-1.2"
    python = folder / "bin" / "python"
    if subprocess.run([python, "-c", "import its_hub"], capture_output=True).returncode if python.exists() else True:
        print(f"making an environment for its-hub in {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "its-hub[lm]==1.2.*"], check=True)
    return python


def spread(values: list[float], form: str) -> str:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:{form}} [{low:{form}}, {high:{form}}]"


def throughput(url: str, repeats: int, hub: ItsHub | None) -> None:
    """Who needs how much processor time for a sample, and gets how many in a second."""
    one, many = 512, 4096
    runs: dict[str, tuple[int, Callable[[], Timing]]] = {
        "bare, n=1": (one, lambda: timed(lambda: asyncio.run(bare(url, PROBLEMS * one, AT_ONCE, 1)))),
        "ponder, n=1": (one, lambda: timed(lambda: asyncio.run(vote(url, PROBLEMS, one, 1, AT_ONCE)))),
        "ponder, n=1, stored": (one, lambda: timed(lambda: with_store(url, PROBLEMS, one, 1))),
        "bare, n=64": (many, lambda: timed(lambda: asyncio.run(bare(url, PROBLEMS * many, AT_ONCE, 64)))),
        "ponder, n=64": (many, lambda: timed(lambda: asyncio.run(vote(url, PROBLEMS, many, 64, AT_ONCE)))),
        "ponder, n=64, stored": (many, lambda: timed(lambda: with_store(url, PROBLEMS, many, 64))),
    }
    if hub is not None:
        runs["its-hub, 32 at once"] = (one, lambda: hub.run(url, PROBLEMS, one, 32))
        runs["its-hub, no limit"] = (one, lambda: hub.run(url, PROBLEMS, one, -1))
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    rate: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, (samples, run) in runs.items():
            spent, wall = run()
            if repeat:  # the first one warms up
                cpu[name].append(spent * 1e3 / (PROBLEMS * samples))
                rate[name].append(PROBLEMS * samples / wall)
    print(f"{'':24}{'CPU ms/sample':>26}{'samples/s':>28}")
    for name in runs:
        print(f"{name:24}{spread(cpu[name], '.4f'):>26}{spread(rate[name], ',.0f'):>28}")
    pairs = [("ponder, n=1", "bare, n=1"), ("ponder, n=64", "bare, n=64")]
    if hub is not None:
        rate["its-hub, the faster"] = [
            max(a, b) for a, b in zip(rate["its-hub, 32 at once"], rate["its-hub, no limit"], strict=True)
        ]
        pairs += [
            (ours, "its-hub, the faster")
            for ours in ("ponder, n=1", "ponder, n=1, stored", "ponder, n=64", "ponder, n=64, stored")
        ]
    print("\nsamples/s, ratio")
    for ours, theirs in pairs:
        ratios = [a / b for a, b in zip(rate[ours], rate[theirs], strict=True)]
        print(f"{f'{ours} / {theirs}':48}{spread(ratios, '.2f'):>24}")


def latency(url: str, repeats: int, hub: ItsHub | None) -> None:
    """How many round trips 64 draws take."""
    slow = url.replace("/v1", "/slow/v1")
    runs: dict[str, Callable[[], Timing]] = {
        "bare, n=1": lambda: timed(lambda: asyncio.run(bare(slow, 64, 64, 1))),
        "ponder, n=1": lambda: timed(lambda: asyncio.run(vote(slow, 1, 64, 1, 64))),
        "ponder, n=64": lambda: timed(lambda: asyncio.run(vote(slow, 1, 64, 64, 64))),
    }
    if hub is not None:
        runs["its-hub, 32 at once"] = lambda: hub.run(slow, 1, 64, 32)
        runs["its-hub, no limit"] = lambda: hub.run(slow, 1, 64, -1)
    print(f"\n{f'64 draws at {SLOW_S * 1e3:.0f} ms each':24}{'ms':>26}{'round trips':>14}")
    for name, run in runs.items():
        walls = [run()[1] for _ in range(repeats)]
        print(f"{name:24}{spread([w * 1e3 for w in walls], '.0f'):>26}{statistics.median(walls) / SLOW_S:>14.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--its-hub", type=Path, help="Python of an environment that has its-hub 1.2")
    parser.add_argument("--without-its-hub", action="store_true")
    options = parser.parse_args()
    hub = None if options.without_its_hub else ItsHub(options.its_hub or its_hub_python())
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    url = f"http://127.0.0.1:{ours.recv()}/v1"
    print(f"Python {platform.python_version()}, {multiprocessing.cpu_count()} cores, {options.repeats} repetitions\n")
    try:
        throughput(url, options.repeats, hub)
        latency(url, options.repeats, hub)
    finally:
        if hub is not None:
            hub.close()
        process.terminate()


if __name__ == "__main__":
    main()
