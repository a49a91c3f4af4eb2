"""What ponder costs per sample beside a bare client, on a local endpoint that answers at once.

The endpoint runs in a process of its own. In one run, the same number of samples is drawn by a bare aiohttp client
and through ponder (`Context.draw` with the real backend); processor time is this process's.

    python benchmarks/overhead.py            # CPU per sample and samples per second, with ratios
    python benchmarks/overhead.py --memory   # resident memory while 100,000 samples are streamed
    python benchmarks/overhead.py --store    # the same as the first, through a study's store
    python benchmarks/overhead.py --profile  # which module's code the processor time goes to (--store: with a store)
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections import Counter
from contextlib import aclosing
from pathlib import Path

import aiohttp
import orjson

import ponder
from ponder.core.cache import NoCache
from ponder.core.context import Context
from ponder.models.openai_compatible import OpenAICompatible
from ponder.processes.text_steps import TextSteps
from ponder.studies.store import Store

PROMPT = ({"role": "user", "content": "How much is 17 + 25?"},)
REPEATS = 5
SLOW_S = 0.2
"""What a request to a path with /slow/ in it takes."""


def answer(n: int) -> bytes:
    choices = [
        {"index": i, "message": {"role": "assistant", "content": f"The answer is {i % 50}."}, "finish_reason": "stop"}
        for i in range(n)
    ]
    body = orjson.dumps({"choices": choices, "usage": {"prompt_tokens": 12, "completion_tokens": 5 * n}})
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    return head + body


ANSWERS = {n: answer(n) for n in (1, 64)}


class Endpoint(asyncio.Protocol):
    """Parses just enough of HTTP/1.1 to answer requests on kept-alive connections."""

    def connection_made(self, transport):
        """Keep the connection."""
        self.transport, self.buffer = transport, b""

    def data_received(self, data):
        """Answer every whole request."""
        self.buffer += data
        while True:
            head, sign, rest = self.buffer.partition(b"\r\n\r\n")
            if not sign:
                return
            at = head.lower().find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0])
            if len(rest) < length:
                return
            body, self.buffer = rest[:length], rest[length:]
            found = ANSWERS[64 if b'"n":64' in body else 1]
            if b"/slow/" in head:
                asyncio.get_running_loop().call_later(SLOW_S, self.transport.write, found)
            else:
                self.transport.write(found)


def serve(pipe):
    async def go():
        server = await asyncio.get_running_loop().create_server(Endpoint, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(go())


async def bare(url: str, samples: int, concurrency: int, n: int) -> None:
    body = {"model": "m", "messages": list(PROMPT), "temperature": 1.0, "top_p": 1.0, "max_tokens": 64, "seed": 1}
    if n > 1:
        body["n"] = n
    left = samples // n
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def work():
            nonlocal left
            while left > 0:
                left -= 1
                async with session.post(f"{url}/chat/completions", data=orjson.dumps(body)) as response:
                    for choice in orjson.loads(await response.read())["choices"]:
                        assert choice["message"]["content"]

        await asyncio.gather(*(work() for _ in range(concurrency)))


async def through_ponder(url: str, samples: int, concurrency: int, n: int, cache=None) -> None:
    model = OpenAICompatible("m", url, api="chat", n=n > 1, max_n=n, max_concurrency=concurrency)
    runtime = ponder.Runtime(cache=cache or NoCache())
    problems, each = 8, samples // 8

    async def work(i: int):
        problem = ponder.Problem(f"p{i}", PROMPT)
        sampling = ponder.Sampling(max_new_tokens=64)
        ctx = Context(problem, TextSteps(model), sampling=sampling, runtime=runtime)
        async with aclosing(ctx.stream(problem, each)) as stream:
            assert sum([1 async for _ in stream]) == each

    await asyncio.gather(*(work(i) for i in range(problems)))
    await runtime.aclose()


def measure(run) -> tuple[float, float]:
    """Median CPU and wall milliseconds per sample over the repeats, first one dropped."""
    cpu, wall = [], []
    for _ in range(REPEATS + 1):
        c, w = time.process_time(), time.perf_counter()
        samples = run()
        cpu.append((time.process_time() - c) * 1e3 / samples)
        wall.append((time.perf_counter() - w) * 1e3 / samples)
    return statistics.median(cpu[1:]), statistics.median(wall[1:])


def compare(url: str, with_store: bool) -> None:
    print(f"{'':26}{'CPU ms/sample':>28}{'samples/s':>22}")
    print(f"{'':26}{'bare':>10}{'ponder':>10}{'ratio':>8}{'bare':>12}{'ponder':>10}")
    for n, samples in ((1, 4096), (64, 32768)):
        for concurrency in (1, 16, 128):
            if n == 1 and concurrency == 1:
                samples = 2048

            def run_bare(samples=samples, concurrency=concurrency, n=n):
                asyncio.run(bare(url, samples, concurrency, n))
                return samples

            def run_ponder(samples=samples, concurrency=concurrency, n=n):
                if not with_store:
                    asyncio.run(through_ponder(url, samples, concurrency, n))
                    return samples
                with tempfile.TemporaryDirectory() as folder, Store(Path(folder), {"study": "overhead"}) as store:
                    asyncio.run(through_ponder(url, samples, concurrency, n, store))
                return samples

            (bare_cpu, bare_wall), (our_cpu, our_wall) = measure(run_bare), measure(run_ponder)
            print(
                f"n={n:<3} concurrency={concurrency:<8}{bare_cpu:>10.3f}{our_cpu:>10.3f}{our_cpu / bare_cpu:>8.2f}"
                f"{1e3 / bare_wall:>12,.0f}{1e3 / our_wall:>10,.0f}",
                flush=True,
            )


async def memory(url: str, n: int, samples: int = 100_000, step: int = 20_000) -> None:
    """Resident memory while one stream of many samples goes by, none of which is kept."""
    model = OpenAICompatible("m", url, api="chat", n=n > 1, max_n=n, max_concurrency=16)
    runtime = ponder.Runtime()
    problem = ponder.Problem("p", PROMPT)
    ctx = Context(problem, TextSteps(model), sampling=ponder.Sampling(max_new_tokens=64), runtime=runtime)
    print(f"n={n:<3} {0:>8,} samples: {resident():6.1f} MiB resident", flush=True)
    seen = 0
    async with aclosing(ctx.stream(problem, samples)) as stream:
        async for _ in stream:
            seen += 1
            if seen % step == 0:
                print(f"n={n:<3} {seen:>8,} samples: {resident():6.1f} MiB resident", flush=True)
    await runtime.aclose()


def profile(url: str, n: int, with_store: bool, concurrency: int = 32) -> None:
    """Shares of the processor time by module; what is built in counts for the module that calls it."""
    samples = 4096 if n == 1 else 65536
    asyncio.run(through_ponder(url, samples, concurrency, n))
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder), {"study": "overhead"}) as store:
        profiler = cProfile.Profile()
        profiler.enable()
        asyncio.run(through_ponder(url, samples, concurrency, n, store if with_store else None))
        profiler.disable()
    profiler.create_stats()
    spent: Counter[str] = Counter()
    for (file, _, name), (_, _, own, _, callers) in profiler.stats.items():
        if "poll" in name and file == "~":
            continue  # waiting
        if file != "~":
            spent[module(file)] += own
        for (caller, _, _), (_, _, part, _) in callers.items() if file == "~" else ():
            spent[module(caller)] += part
    whole = sum(spent.values())
    print(f"n={n}: share of processor time (profiled)")
    for name, seconds in spent.most_common(14):
        print(f"  {name:40}{seconds / whole:>7.1%}")


def module(file: str) -> str:
    """What a file of code belongs to."""
    parts = Path(file).parts
    if "ponder" in parts and "site-packages" not in parts:
        return "/".join(parts[len(parts) - parts[::-1].index("ponder") - 1 :])
    for package in ("aiohttp", "asyncio"):
        if package in parts:
            return package
    return "others"


def resident() -> float:
    """MiB of this process in memory now (its peak where the system does not tell)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return pages * resource.getpagesize() / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--store", action="store_true")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    url = f"http://127.0.0.1:{ours.recv()}/v1"
    try:
        if options.memory:
            for n in (64, 1):
                asyncio.run(memory(url, n))
        elif options.profile:
            for n in (1, 64):
                profile(url, n, options.store)
        else:
            compare(url, options.store)
    finally:
        process.terminate()


if __name__ == "__main__":
    main()
