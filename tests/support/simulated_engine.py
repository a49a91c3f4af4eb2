"""An engine with known speed on a simulated clock, and an event loop whose time passes at once."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ponder.core.model import Capabilities, Chunk, Completion, Model
from ponder.errors import EngineError
from ponder.tuning.measure import Measured


class _Instant(selectors.DefaultSelector):
    """Does not wait, but moves the clock on by as much."""

    now = 0.0

    def select(self, timeout=None):
        if timeout:
            self.now += timeout
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self):
        self.instant = _Instant()
        super().__init__(self.instant)

    def time(self):
        return self.instant.now


def run_virtual(call: Callable[[], Any]):
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(call())
    finally:
        loop.close()


@dataclass
class Clockwork(Model):
    """Takes `first_s` for the first token of a call and `step_s` for each further one; `slots` calls at a time."""

    first_s: float = 0.5
    step_s: float = 0.1
    slots: int = 64
    caches: bool = False
    max_concurrency: int = 64
    calls: list[Any] = field(default_factory=list)
    capabilities: Capabilities = field(default_factory=lambda: Capabilities(chat=False, max_n=1, prefix=True))
    name = "clockwork"
    seen: set[str] = field(default_factory=set)

    def __post_init__(self):
        self._room = None

    @property
    def identity(self):
        return "clockwork"

    def __str__(self):
        return "clockwork"

    async def sample(self, request):
        self.calls.append(request)
        self._room = self._room or asyncio.Semaphore(self.slots)
        cached = self.caches and request.prompt in self.seen
        self.seen.add(str(request.prompt))
        async with self._room:
            await asyncio.sleep(self.first_s / (10 if cached else 1))
            tokens = request.sampling.max_new_tokens
            for i in range(tokens):
                if i:
                    await asyncio.sleep(self.step_s)
                if request.watch is not None:
                    request.watch(Chunk(0, " x", 1))
        words = len(str(request.prompt).split())
        for position in range(request.n):
            first = position == 0
            yield (
                position,
                Completion(
                    " x" * tokens, tokens, "length", prompt_tokens=words * first,
                    cached_tokens=words // 2 if cached and first else 0, requests=int(first),
                ),
            )  # fmt: skip


@dataclass
class FakeBench:
    """Configurations whose true speed is known, with log-normal noise; `clock` is the simulated time."""

    truth: Callable[[Mapping[str, Any]], float]
    noise: float
    seed: int = 0
    several: bool = True
    load_s: float = 3.0
    work: float = 400.0
    now: float = 0.0
    opened: list[dict[str, Any]] = field(default_factory=list)
    order: list[tuple[str, int]] = field(default_factory=list)
    drift: Callable[[float], float] = lambda now: 1.0

    def __post_init__(self):
        self.rng = np.random.default_rng(self.seed)

    def clock(self):
        return self.now

    def open(self, config, timeout_s):
        self.opened.append(dict(config))
        self.now += self.load_s
        speed = self.truth(config)
        if speed <= 0:
            raise EngineError("the process ended with code 1; its last words: out of memory")
        return _Fake(self, config, speed)


class _Fake:
    def __init__(self, bench, config, speed):
        self.bench, self.config, self.speed = bench, config, speed

    def measure(self, *, seed, repetition, fraction, timeout_s):
        bench = self.bench
        bench.order.append((repr(dict(self.config)), repetition))
        rate = self.speed * bench.drift(bench.now) * float(np.exp(bench.noise * bench.rng.standard_normal()))
        tokens = int(bench.work * fraction)
        seconds = tokens / rate
        if seconds > timeout_s:
            bench.now += timeout_s
            raise EngineError(f"no answer within {timeout_s:.0f} s")
        bench.now += seconds
        return Measured(seconds, 10, tokens, 100, 0, {}, {}, {"p50": seconds, "p90": seconds, "p99": seconds}, 1.0)

    def greedy(self):
        return ["same", "lossy" if self.config.get("kv") == "q8_0" else "same"]

    def close(self):
        pass
