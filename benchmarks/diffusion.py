"""What batching a search over noise saves, and what the denoising process costs over the bare loop of its model.

Both are ratios within repetitions of one run, on a mixture (where the model costs next to nothing, so that overhead
shows) and on the digits model (trained first if it is not there), at equal function evaluations:

    python benchmarks/diffusion.py [--repeats 7] [--n 32] [--steps 20] [--models gmm:two_modes diffusers:digits]

batched / one at a time: `best_of_n(n=N)` in one go, against N draws that are asked for one after the other.
process / bare loop: the same N draws, against the sampler written out as a loop around `model.predict`.
Printed are medians [quartiles]; CPU seconds, which other work on the machine disturbs less than the clock.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np

import ponder
from ponder.api import run_sync
from ponder.core.context import Context
from ponder.diffusion import solvers
from ponder.diffusion.model import DiffusionModel
from ponder.processes.denoising import Denoising

Way = Callable[[DiffusionModel, int, int, int], int]
"""Draws `n` outputs of so many steps with a seed; says how many evaluations that took."""


def timed(way: Way, model: DiffusionModel, n: int, steps: int, seed: int) -> float:
    started = time.process_time()
    evaluations = way(model, n, steps, seed)
    assert evaluations == n * steps
    return time.process_time() - started


def context(model: DiffusionModel, steps: int, seed: int) -> Context:
    return Context(ponder.Problem("bench", "7"), Denoising(model, steps=steps, solver="ddim"), seed=seed)


def batched(model: DiffusionModel, n: int, steps: int, seed: int) -> int:
    ctx = context(model, steps, seed)
    run_sync(lambda: ponder.parse(f"best_of_n(n={n}, verifier=constant)").run(ctx.problem, ctx))
    return ctx.ledger.total.function_evaluations


def one_at_a_time(model: DiffusionModel, n: int, steps: int, seed: int) -> int:
    ctx = context(model, steps, seed)

    async def go() -> None:
        verifier = ponder.verifier("constant")
        for _ in range(n):
            await ctx.score(ctx.problem, await ctx.draw(ctx.problem, 1), verifier)

    run_sync(go)
    return ctx.ledger.total.function_evaluations


def bare(model: DiffusionModel, n: int, steps: int, seed: int) -> int:
    rng, schedule, condition = np.random.default_rng(seed), model.schedule(steps), model.encode("7")
    x = model.start(rng.standard_normal((n, *model.start_shape)), schedule)
    for i in range(steps):
        a, s, t = (np.full(n, v[i]) for v in (schedule.a, schedule.s, schedule.t))
        found = model.predict(x, a, s, t, condition)
        now, then = ((float(schedule.a[j]), float(schedule.s[j])) for j in (i, i + 1))
        x = solvers.ddim(found.x0, found.eps, now, then, 1.0, rng.standard_normal(x.shape))
    for row in x:
        model.decode(row)
    return n * steps


def quartiles(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--n", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--models", nargs="+", default=["gmm:two_modes", "diffusers:digits"])
    asked = parser.parse_args()
    print(f"Python {platform.python_version()}, {asked.n} draws of {asked.steps} steps, {asked.repeats} repeats")
    for text in asked.models:
        model = ponder.model(text)
        assert isinstance(model, DiffusionModel)
        ways = {"bare": bare, "batched": batched, "one": one_at_a_time}
        for way in ways.values():
            way(model, 2, asked.steps, 0)  # loads weights, warms caches
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for seed in range(asked.repeats):
            for name, way in ways.items():
                seconds[name].append(timed(way, model, asked.n, asked.steps, seed))
        saved = [one / many for one, many in zip(seconds["one"], seconds["batched"], strict=True)]
        over = [many / plain for many, plain in zip(seconds["batched"], seconds["bare"], strict=True)]
        each = 1e6 * statistics.median(seconds["batched"]) / (asked.n * asked.steps)
        print(f"{text:<18} one at a time / batched {quartiles(saved)}   process / bare loop {quartiles(over)}")
        print(f"{'':<18} {each:.1f} µs of CPU an evaluation")


if __name__ == "__main__":
    main()
