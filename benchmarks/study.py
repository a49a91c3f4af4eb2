"""How much of a real study's time is not the model's: the embedded engine on sums, from the first draw to the results.

    python benchmarks/study.py [--problems 50] [--samples 16] [--model embedded:smollm2-135m]

`no call under way` is the share of the time in which nothing was asked of the model: planning, grading, storing,
results. `not computing` is the share in which its matrices stood still: the former, and what the engine and the event
loop do between two steps of a batch. The model is loaded and calibrated, and reasoning_gym (which imports matplotlib)
imported, before the clock starts.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import ponder
from ponder.core.model import Completion, Request
from ponder.core.registry import TASKS
from ponder.engine.backend import Logits, Row
from ponder.engine.one_thread import OneThread
from ponder.models._engine_model import EngineModel


class Busy:
    """The time in which at least one thing was under way."""

    def __init__(self) -> None:
        self.seconds, self._count, self._since = 0.0, 0, 0.0

    def begin(self) -> None:
        """One more is under way."""
        if self._count == 0:
            self._since = time.perf_counter()
        self._count += 1

    def end(self) -> None:
        """One has ended."""
        self._count -= 1
        if self._count == 0:
            self.seconds += time.perf_counter() - self._since


def watched(calls: Busy, steps: Busy) -> None:
    """Note from now on when the model is asked and when it computes."""
    sample, evaluate = EngineModel.sample, OneThread.evaluate

    async def asked(self: EngineModel, request: Request) -> AsyncIterator[tuple[int, Completion]]:
        calls.begin()
        try:
            async for item in sample(self, request):
                yield item
        finally:
            calls.end()

    def computed(self: OneThread, rows: Sequence[Row]) -> Logits:
        steps.begin()
        try:
            return evaluate(self, rows)
        finally:
            steps.end()

    patched: Any = (EngineModel, OneThread)
    patched[0].sample, patched[1].evaluate = asked, computed


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--problems", type=int, default=50)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--model", default="embedded:smollm2-135m")
    parser.add_argument("--task", default="reasoning_gym:chain_sum(min_terms=2, max_terms=2, shots=8)")
    given = parser.parse_args()
    model = ponder.model(given.model)
    assert isinstance(model, EngineModel)

    async def warm() -> None:
        for n in (1, 64):
            _ = [c async for c in model.sample(Request("Warm up", ponder.Sampling(max_new_tokens=2), tuple(range(n))))]

    asyncio.run(warm())
    TASKS.build(given.task)
    calls, steps = Busy(), Busy()
    watched(calls, steps)
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        study = ponder.bench(
            model=model,
            task=given.task,
            strategies=["best_of_n(verifier=log_probability)", "repeated_sampling | majority"],
            samples=[1, 2, 4, 8, given.samples],
            limit=given.problems,
            out=folder,
        )
        whole = time.perf_counter() - begin
    tokens = max(row["generated_tokens"] for row in study.rows)
    print(f"{given.problems} problems x {given.samples} samples, {tokens:.0f} tokens, {whole:.1f} s")
    print(f"no call under way  {1 - calls.seconds / whole:6.1%}")
    print(f"not computing      {1 - steps.seconds / whole:6.1%}")


if __name__ == "__main__":
    main()
