"""How good are plans made from a pilot of a tenth of the budget, on problems that the pilot did not see?

    python benchmarks/planner.py [--seeds 4] [--held-out 150] [--worlds mixture,vote]
    python benchmarks/planner.py --real [--seeds 16] [--folder runs/planner]
    python benchmarks/planner.py --together [--seeds 4] [--real-seeds 8] [--folder runs/planner]

In simulation (`--real`: see planner_real.py) the truth is measured on `--held-out` other problems for every
configuration (strategy and number of samples) that the planner may choose and that fits the budget. Regret is the
accuracy of the best of them minus that of the planner's choice. Every fixed configuration is compared with the planner
plan by plan: a difference within half a point is a tie. Intervals are 95 % bootstraps over worlds, then over a world's
questions, which its plans share, and its plans.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import ponder
import ponder.studies.measured
import ponder.studies.planner
from ponder.testing import Sums

TREES = {
    "easy-trap": "survival=[0.93],sharpness=[1.2],noise=[0.5],trap=[0.5],trap_depth=4",
    "medium": "survival=[0.8],sharpness=[0.5],noise=[1.5]",
    "easy-noisy": "survival=[0.95],sharpness=[0.3],noise=[2.0]",
    "mixture": "survival=[0.93,0.8,0.7],sharpness=[1.2,0.5,0.5],noise=[0.5,1.5,1.5],trap=[0.5,0,0],trap_depth=4",
}
TEXTS = {
    "vote": "alpha=2,beta=1.5,right_nats=0.45,wrong_nats=0.3",
    "probability": "alpha=0.8,beta=1.6,right_nats=0.3,wrong_nats=0.45",
    "either": "alpha=1.5,beta=1.5,right_nats=0.35,wrong_nats=0.4",
    "neither": "alpha=0.6,beta=2,right_nats=0.4,wrong_nats=0.4",
    "popular-mistake": "alpha=3,beta=5,wrong_answers=1,right_nats=0.37,wrong_nats=0.4",
    "over-confident": "alpha=3,beta=3,wrong_answers=6,right_nats=0.5,wrong_nats=0.3",
}
"""Simulated models: how many questions are easy, and whether right answers are likelier (fewer nats a token)."""

SEARCHES = ("beam_search", "dvts", "rebase", "particle_filter")


SAMPLERS = [
    "repeated_sampling | majority", "best_of_n(verifier=log_probability)", "adaptive_consistency", "bayesian_stopping",
    "stop_at_saturation",
]  # fmt: skip


def candidates(verifier: str, searches: tuple[str, ...]) -> list[str]:
    judged = f"best_of_n(verifier={verifier})"
    pooled = ["repeated_sampling | majority", "adaptive_consistency", judged, f"{judged} | weighted_majority"]
    return pooled + [f"{name}(verifier={verifier})" for name in searches]


def truth(strategies: list[str], largest: int, most: float, axis: str, **study) -> dict[tuple[str, int], np.ndarray]:
    """Right or wrong on each held-out problem, for every strategy and number of samples that fits."""
    table = {}
    with tempfile.TemporaryDirectory() as out:
        for text in strategies:
            search = any(text.startswith(name) for name in SEARCHES)
            ns = [4, 8, 16, 32] if search else [1 << i for i in range(largest.bit_length())]
            ponder.bench(strategies=[text], samples=ns, out=out, check=False, baselines=False, **study)
            measured = ponder.studies.measured.Measured.load(out)
            for point in measured.points:
                if point.cost(measured.axis(axis)) <= most:
                    table[text, point.budget] = point.correct
    return table


@dataclass(frozen=True)
class World:
    """One kind of problems.

    Attributes:
        name: of the world or task.
        picks: of each plan the outcomes of its choice; NaN on problems that its pilot saw.
        table: outcomes of every configuration, by `name_of`.
        questions: which question each problem asks: equal ones stay together in the bootstrap.
    """

    name: str
    picks: list[np.ndarray]
    table: dict[str, np.ndarray]
    questions: np.ndarray

    def ideal(self) -> list[np.ndarray]:
        """Of each plan the configuration that is best on the problems that it is judged on."""
        return [max(self.table.values(), key=lambda r, p=pick: float(r[~np.isnan(p)].mean())) for pick in self.picks]


def name_of(strategy: str, n: int) -> str:
    """A configuration whatever its verifier is: `best_of_n @ 8`."""
    return f"{re.sub(r'[(][^()]*[)]', '', strategy)} @ {n}"


def chosen(found: ponder.studies.planner.Plan, strategies: list[str], table) -> np.ndarray:
    for text in strategies:
        strategy = ponder.parse(text)
        for (name, n), right in table.items():
            if name == text and str(strategy.with_samples(n)) == found.choice.strategy:
                return right
    fits = [(n, r) for (s, n), r in table.items() if str(ponder.parse(s).with_samples(n)).split("(n=")[0]
            == found.choice.strategy.split("(n=")[0]]  # fmt: skip
    return max(fits, key=lambda f: f[0])[1]  # its cost was misjudged by a little: the largest that fits


def interval(
    worlds: list[World], values: Callable[[World], list[np.ndarray]], resamples: int = 1000
) -> tuple[float, float, float]:
    """Mean over worlds of the mean over plans and problems, and its 95 % bootstrap interval.

    Plans of one world are judged on the same problems and of one kind of task: worlds are resampled first (where there
    are several), then the questions of each, alike for all its plans, and the plans.
    """
    rng = np.random.default_rng(0)
    tables = [np.stack(values(world)) for world in worlds]
    means = []
    for _ in range(resamples):
        found = []
        for w in rng.integers(len(tables), size=len(tables)) if len(tables) > 1 else [0]:
            table, of = tables[w], worlds[w].questions
            asked = of.max() + 1
            weights = rng.multinomial(asked, np.full(asked, 1 / asked))[of]
            rows = table[rng.integers(len(table), size=len(table))]
            known = ~np.isnan(rows)
            found.append(((np.where(known, rows, 0) @ weights) / (known @ weights)).mean())
        means.append(np.mean(found))
    mean = np.mean([np.nanmean(t, axis=1).mean() for t in tables])
    return float(mean), *map(float, np.quantile(means, [0.025, 0.975]))


def say(name: str, found: tuple[float, float, float]) -> None:
    mean, low, high = found
    print(f"    {name:70} {mean:6.3f} ({low:+.3f} to {high:+.3f})")


def compare(label: str, worlds: list[World]) -> None:
    """Accuracy and regret of the planner, and against every fixed configuration that all the worlds have."""
    print(f"\n{label}: {sum(len(w.picks) for w in worlds)} plans in {len(worlds)} worlds")
    say("oracle (the best configuration that fits)", interval(worlds, lambda w: [
        np.where(np.isnan(p), np.nan, i) for p, i in zip(w.picks, w.ideal(), strict=True)]))  # fmt: skip
    say("planner", interval(worlds, lambda w: w.picks))
    say("planner's regret", interval(worlds, lambda w: [i - p for i, p in zip(w.ideal(), w.picks, strict=True)]))
    shared = [name for name in worlds[0].table if all(name in w.table for w in worlds)]
    for name in shared:
        gaps = [[p - w.table[name] for p in w.picks] for w in worlds]
        plans = [float(np.nanmean(g)) for world in gaps for g in world]
        means = [float(np.mean([np.nanmean(g) for g in world])) for world in gaps]
        mean, low, high = interval(worlds, lambda w, name=name: [p - w.table[name] for p in w.picks])
        at_least = f"; at least as good in {sum(m >= -0.005 for m in means)} of {len(means)} worlds"
        at_least = at_least if len(means) > 1 else ""
        print(f"    planner - always {name:42} {mean:+.3f} ({low:+.3f} to {high:+.3f})  plans: "
              f"wins {sum(p > 0.005 for p in plans):3d}, ties {sum(abs(p) <= 0.005 for p in plans):3d}, "
              f"losses {sum(p < -0.005 for p in plans):3d}{at_least}", flush=True)  # fmt: skip


def simulated(names: list[str], seeds: int, held_out: int) -> list[World]:
    """Plans in simulated worlds: searches in trees, or questions with answers that only sampling is tried on."""
    worlds = []
    for name in names:
        tree = name in TREES
        axis, per_problem, problems = ("calls", 330, 500) if tree else ("generated_tokens", 32 * 24, 400)
        if tree:
            every = candidates("sim_tree_score", SEARCHES)
            setup: dict[str, Any] = {"model": "sim:default", "task": f"sim_tree(depth=10,{TREES[name]})"}
            options: dict[str, Any] = {"process": "sim_tree"}
        else:
            every, options = SAMPLERS, {}
            setup = {"model": f"sim:default({TEXTS[name]})", "task": Sums()}
        started = time.monotonic()
        raw = truth(every, 64 if tree else 32, per_problem * 1.05, axis, **setup, **options, limit=held_out, seed=1000)
        table = {name_of(text, n): right for (text, n), right in raw.items()}
        picks = []
        for seed in range(seeds):
            with tempfile.TemporaryDirectory() as out:
                budget = f"{axis}={problems * per_problem / 0.9}"
                found = ponder.plan(*setup.values(), budget, out, candidates=every, limit=200, problems=problems,
                                    seed=seed, check=False, **options)  # fmt: skip
            assert found.paid <= 0.1 * found.budget, "the pilot passed its share"
            picks.append(chosen(found, every, raw))
            print(f"{name} seed {seed}: {found.choice.strategy}, predicted {found.choice.accuracy:.3f} "
                  f"({found.choice.low:.2f}-{found.choice.high:.2f}), true {picks[-1].mean():.3f}, pilot "
                  f"{found.paid / found.budget:.1%} on {found.pilot_problems} problems, decided: {found.decided}",
                  flush=True)  # fmt: skip
        worlds.append(World(name, picks, table, np.arange(len(picks[0]))))
        compare(name, worlds[-1:])
        print(f"    ({time.monotonic() - started:.0f} s)", flush=True)
    for label, kind in (("trees", TREES), ("texts", TEXTS)):
        some = [w for w in worlds if w.name in kind]
        if len(some) > 1:
            compare(f"all simulated {label}", some)
    return worlds


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--real-seeds", type=int, help="Plans for each real task; --seeds by default.")
    parser.add_argument("--held-out", type=int, default=150)
    parser.add_argument("--worlds", default=",".join((*TREES, *TEXTS)), help="Simulated worlds, by name.")
    parser.add_argument("--real", action="store_true", help="SmolLM2-135M, from samples that are drawn once.")
    parser.add_argument("--together", action="store_true", help="Plans in the simulated worlds and on the real tasks.")
    parser.add_argument("--tasks", default="products,sums,letters,gcd", help="With --real.")
    parser.add_argument("--folder", type=Path, default=Path("runs/planner"))
    arguments = parser.parse_args()
    worlds: list[World] = []
    if arguments.together or not arguments.real:
        worlds = simulated(arguments.worlds.split(","), arguments.seeds, arguments.held_out)
    if arguments.real or arguments.together:
        import planner_real

        tasks = arguments.tasks.split(",")
        real = planner_real.main(
            arguments.folder, tasks, arguments.real_seeds or arguments.seeds, plans_only=arguments.together
        )
        real_worlds = [World(name, *parts) for name, *parts in real]
        compare("real tasks", real_worlds)
        if arguments.together:
            compare("real tasks and simulated texts", [*real_worlds, *(w for w in worlds if w.name in TEXTS)])
            compare("all worlds and tasks", [*real_worlds, *worlds])
