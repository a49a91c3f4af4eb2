"""The embedded engine beside llama.cpp's server, on the same model in the same run.

The server has a process of its own: in one process the two would have more threads than there are cores, and OpenMP
then slows both.

    python benchmarks/engine.py [samples] [tree] [width] [lookup] [--repeats 3] [--model smollm2-135m]

`samples`: 32 samples of a 512-token prompt, 64 new tokens, against the same batch after one token (the decode limit)
and against one request a sample at the server. `tree`: width 16, depth 12; the tokens evaluated are compared with the
distinct tokens of the tree, the time with the server's own prompt cache. `width`: tokens a second at 1 to 256 texts.
`lookup`: 48 tokens in 1 to 64 texts behind a prompt that has been read, with lookup=auto over lookup=off.

Every figure is a ratio of two measurements made one after the other; shown are the median and the range over repeats.
The noise line is the same measurement divided by itself, repeated.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import ponder
from ponder.core.model import Completion, Model, Request, Sampling
from ponder.engine.decoder import Counters
from ponder.models.embedded import Embedded

WORDS = ("river", "stone", "lantern", "quiet", "harbour", "copper", "meadow", "winter", "signal", "orchard", "velvet")


def prompt_of(model: Embedded, tokens: int, seed: int) -> str:
    """A prompt of about so many tokens that no other seed has."""
    rng = np.random.default_rng(seed)
    text = f"{WORDS[seed % len(WORDS)]} and a long story about many things:"  # no beginning in common with the next
    while model.count_tokens(text) < tokens:
        text += " " + " ".join(rng.choice(WORDS, 8))
    return text


@dataclass
class Server:
    """llama.cpp's server in a process of its own, asked over a pipe for whole measurements.

    Args:
        spec: the model.
    """

    spec: str

    def __post_init__(self) -> None:
        self._pipe, there = multiprocessing.get_context("spawn").Pipe()
        multiprocessing.get_context("spawn").Process(target=_serve, args=(self.spec, there), daemon=True).start()

    async def __call__(self, what: Callable[..., Any], *args: Any) -> Any:
        """`await what(model, *args)` in the other process."""
        self._pipe.send((what, args))
        return await asyncio.to_thread(self._pipe.recv)


def _serve(spec: str, pipe: Any) -> None:
    async def work() -> None:
        model = ponder.model(spec)
        while True:
            what, args = await asyncio.to_thread(pipe.recv)
            pipe.send(await what(model, *args))

    with suppress(EOFError):  # the other process has ended
        asyncio.run(work())


async def ask(
    model: Model, prompt: str, seeds: Sequence[int], tokens: int, prefix: str = "", temperature: float = 1.0
) -> list[Completion]:
    """So many samples, in the order of their seeds."""
    out = {}
    request = Request(prompt, Sampling(max_new_tokens=tokens, temperature=temperature), tuple(seeds), prefix=prefix)
    async for position, completion in model.sample(request):
        out[position] = completion
    DRAWN.append(sum(c.n_tokens for c in out.values()))
    return [out[i] for i in sorted(out)]


DRAWN: list[int] = []


async def rate(
    model: Model, prompt: str, groups: Sequence[Sequence[int]], tokens: int, temperature: float = 1.0
) -> float:
    """Tokens a second of requests made together, one for each group of seeds."""
    DRAWN.clear()
    begin = time.perf_counter()
    await asyncio.gather(*(ask(model, prompt, seeds, tokens, temperature=temperature) for seeds in groups))
    return sum(DRAWN) / (time.perf_counter() - begin)


def show(name: str, ratios: Sequence[float], unit: str = "") -> None:
    print(f"  {name:<64} {statistics.median(ratios):6.2f}{unit}   ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)


def evaluated(model: Embedded) -> int:
    return sum(c.evaluated for c in model.running().counters().values())


async def samples(engine: Embedded, server: Server, repeats: int) -> None:
    print("32 samples of a 512-token prompt, 64 new tokens")
    limit, plain, noise = [], [], []
    for r in range(repeats):
        # the prompt is read once and apart: what is compared is decoding 32 texts behind it
        prompt = prompt_of(engine, 512, 1000 + r)
        begin = time.perf_counter()
        await ask(engine, prompt, range(32), 1)
        reading = time.perf_counter() - begin
        behind = await rate(engine, prompt, [range(32)], 64)
        bare, again = [await rate(engine, WORDS[r], [range(32 * i, 32 * i + 32)], 64) for i in (0, 1)]
        limit.append(behind / bare)
        noise.append(again / bare)
        if r:
            continue  # the server reads the prompt 32 times, which takes minutes: once is enough to see the size of it
        prompt = prompt_of(engine, 512, 2000 + r)
        whole = await rate(engine, prompt, [range(32)], 64)
        single = await server(rate, prompt, [(i,) for i in range(32)], 64)
        plain.append(whole / single)
    show("decoding behind the prompt / after one token", limit)
    show("prompt included / one request a sample at llama.cpp's server", plain)
    show("noise: the same against itself", noise)
    print(f"  the prompt alone takes {reading:.2f} s once")


async def tree(engine: Embedded, server: Server, repeats: int) -> None:
    print("A beam of width 16 and depth 12: 4 continuations of 4 kept texts a level, 12 tokens each, 256-token prompt")
    ratios = []
    for r in range(repeats):
        prompt = prompt_of(engine, 256, 3000 + r)
        before = evaluated(engine)
        seconds, distinct = await beam(engine, prompt, together=True)
        distinct += engine.count_tokens(prompt)
        print(f"  tokens evaluated {evaluated(engine) - before}, distinct tokens of the tree {distinct}")
        theirs, _ = await server(beam, prompt, False)
        ratios.append(theirs / seconds)
    show("seconds of the server with its prompt cache / ours", ratios)


async def beam(model: Model, prompt: str, together: bool) -> tuple[float, int]:
    """Seconds, and the distinct tokens below the prompt that somebody has to evaluate.

    Every drawn token is one but a text's last, which is one only if it is continued. Ended texts are not, nor are texts
    cut inside a character: what is read back of them is another text, and its end is evaluated anew.
    """
    begin, distinct, kept = time.perf_counter(), 0, [""]
    for depth in range(12):
        each = 16 // len(kept)
        seeds = [[99 * depth + each * i + j for j in range(each)] for i in range(len(kept))]
        groups = seeds if together else [[seed] for group in seeds for seed in group]
        parents = kept if together else [text for text in kept for _ in range(each)]
        found = await asyncio.gather(*(ask(model, prompt, g, 12, t) for g, t in zip(groups, parents, strict=True)))
        grown = [(t + c.text, c) for t, some in zip(parents, found, strict=True) for c in some]
        distinct += sum(c.n_tokens - 1 for _, c in grown)
        open_ones = list(dict.fromkeys(t for t, c in grown if c.finish == "length" and t[-1:] != "\ufffd"))
        kept = open_ones[:: max(1, len(open_ones) // 4)][:4]
        distinct += len(kept) if depth < 11 else 0
    return time.perf_counter() - begin, distinct


async def width(engine: Embedded, server: Server, repeats: int) -> None:
    print("Decoding 32 tokens at once in so many texts after a short prompt: tokens a second over the server's")
    for n in (1, 4, 16, 64, 256):
        ratios, speeds = [], []
        for r in range(repeats):
            prompt = f"Once upon a time in {WORDS[r % len(WORDS)]} number {n}"
            theirs = await server(rate, prompt, [range(n)], 32)
            ours = await rate(engine, prompt, [range(n)], 32)
            ratios.append(ours / theirs)
            speeds.append((ours, theirs))
        ours, theirs = (statistics.median(x) for x in zip(*speeds, strict=True))
        show(f"{n:>3} texts ({ours:.0f} against {theirs:.0f} tokens/s)", ratios)


async def lookup(engine: Embedded, repeats: int, only: str) -> None:
    print("48 tokens in so many texts, the prompt read before: tokens a second with lookup=auto over lookup=off")
    plain = replace(engine, lookup="off")
    for name in ("products", "chain_sum", "gsm_symbolic", "prose"):
        if name == "prose":
            prompt = "It was late in the autumn when the old ship came back into the harbour, and nobody"
        else:
            task = ponder.task(f"reasoning_gym:{name}(shots=8)")
            prompt = str(next(iter(task.problems())).prompt)
        for temperature in (0.0, 0.7, 1.0):
            for n in (1, 4, 16, 64) if only in f"{name} T={temperature}" else ():
                ratios, speeds, before = [], [], engine.running().counters()
                for r in range(repeats):
                    seeds = [range(n * r, n * r + n)]
                    await rate(plain, prompt, seeds, 1, temperature)
                    pair = (plain, engine) if r % 2 else (engine, plain)
                    found = {m.lookup: await rate(m, prompt, seeds, 48, temperature) for m in pair}
                    ratios.append(found["auto"] / found["off"])
                    speeds.append((found["auto"], found["off"]))
                ours, without = (statistics.median(x) for x in zip(*speeds, strict=True))
                now = engine.running().counters()
                accepted, drafted = (
                    sum(getattr(c, what) - getattr(before.get(kind, Counters()), what) for kind, c in now.items())
                    for what in ("accepted", "drafted")
                )
                label = f"{name} T={temperature} {n:>2} texts ({ours:.0f} against {without:.0f} tokens/s"
                show(f"{label}; {accepted} of {drafted})", ratios)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", default=[])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--only", default="", help="of lookup: the workloads with this in their names (products T=0.7)")
    given = parser.parse_args()
    engine = ponder.model(f"embedded:{given.model}(engine={given.engine})")
    assert isinstance(engine, Embedded)
    for note in engine.notes():
        print(note)
    for n in (1, 64):  # both backends
        await ask(engine, "Warm up", range(n), 2)
    against = {"samples": samples, "tree": tree, "width": width}
    chosen = [name for name in [*against, "lookup"] if not given.parts or name in given.parts]
    if "lookup" in chosen:
        await lookup(engine, given.repeats, given.only)
    if set(chosen) & set(against):
        server = Server(f"llamacpp:{given.model}(context=32768, parallel=256)")
        for n in (1, 64):
            await server(ask, "Warm up", range(n), 2)
    for name in [name for name in against if name in chosen]:
        await against[name](engine, server, given.repeats)


if __name__ == "__main__":
    asyncio.run(main())
