"""How good are plans made from a pilot of a tenth of the budget, on problems that the pilot did not see?

    python benchmarks/planner.py [--seeds 5] [--held-out 150]
    python benchmarks/planner.py --real [--seeds 16] [--folder runs/planner]

In simulation (`--real`: see planner_real.py) the truth is measured on `--held-out` other problems for every
configuration (strategy and number of samples) that the planner may choose and that fits the budget. Regret is the
accuracy of the best of them minus that of the planner's choice; a fixed habit ("always best-of-N") takes the largest
number of samples that fits. Intervals are 95 % bootstraps over worlds, then over a world's problems, which its plans
share, and its plans.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

import ponder
import ponder.studies.measured
import ponder.studies.planner

TREES = {
    "easy-trap": "survival=[0.93],sharpness=[1.2],noise=[0.5],trap=[0.5],trap_depth=4",
    "medium": "survival=[0.8],sharpness=[0.5],noise=[1.5]",
    "easy-noisy": "survival=[0.95],sharpness=[0.3],noise=[2.0]",
    "mixture": "survival=[0.93,0.8,0.7],sharpness=[1.2,0.5,0.5],noise=[0.5,1.5,1.5],trap=[0.5,0,0],trap_depth=4",
}
SEARCHES = ("beam_search", "dvts", "rebase", "particle_filter")


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


def habits(table: dict[tuple[str, int], np.ndarray]) -> dict[str, np.ndarray]:
    """Each strategy at the largest number of samples that fits."""
    return {s: table[s, max(n for t, n in table if t == s)] for s in dict.fromkeys(s for s, _ in table)}


def chosen(found: ponder.studies.planner.Plan, strategies: list[str], table) -> np.ndarray:
    for text in strategies:
        strategy = ponder.parse(text)
        for (name, n), right in table.items():
            if name == text and str(strategy.with_samples(n)) == found.choice.strategy:
                return right
    fits = [(n, r) for (s, n), r in table.items() if str(ponder.parse(s).with_samples(n)).split("(n=")[0]
            == found.choice.strategy.split("(n=")[0]]  # fmt: skip
    return max(fits, key=lambda f: f[0])[1]  # its cost was misjudged by a little: the largest that fits


def interval(rows: list[list[np.ndarray]], resamples: int = 1000) -> tuple[float, float, float]:
    """Mean over worlds of the mean over plans and problems, and its 95 % bootstrap interval.

    `rows` has a list for each world. Plans of one world are judged on the same problems and of one kind of tree: worlds
    are resampled first (where there are several), then the problems of each, alike for all its plans, and the plans.
    """
    rng = np.random.default_rng(0)
    tables = [np.stack(world) for world in rows]
    means = []
    for _ in range(resamples):
        picked = rng.integers(len(tables), size=len(tables)) if len(tables) > 1 else [0]
        found = []
        for table in (tables[w] for w in picked):
            plans, problems = (rng.integers(size, size=size) for size in table.shape)
            found.append(table[plans][:, problems].mean())
        means.append(np.mean(found))
    return float(np.mean([t.mean() for t in tables])), *map(float, np.quantile(means, [0.025, 0.975]))


def say(name: str, rows: list[list[np.ndarray]]) -> None:
    mean, low, high = interval(rows)
    print(f"    {name:62} {mean:6.3f} ({low:+.3f} to {high:+.3f})")


def compare(label: str, worlds: list[tuple[list[np.ndarray], dict[tuple[str, int], np.ndarray]]]) -> None:
    """Accuracy and regret of the planner, and of every habit; each world has its plans' outcomes and its truth."""
    ideal = [[max(t.values(), key=lambda r: r.mean())] * len(picks) for picks, t in worlds]
    own = [picks for picks, _ in worlds]
    print(f"\n{label}: {sum(map(len, own))} plans in {len(own)} worlds")
    say("oracle (the best configuration that fits)", ideal)
    say("planner", own)
    say("planner's regret", [[b - p for b, p in zip(i, ps, strict=True)] for i, ps in zip(ideal, own, strict=True)])
    for name in dict.fromkeys(s for _, t in worlds for s in habits(t)):
        gaps = [[p - habits(t)[name] for p in picks] for picks, t in worlds if name in habits(t)]
        every = [g.mean() for world in gaps for g in world]
        better = sum(g > 0.005 for g in every), sum(abs(g) <= 0.005 for g in every)
        say(f"planner - always {name} (wins {better[0]}, ties {better[1]} of {len(every)})", gaps)


def simulated(names: list[str], seeds: int, held_out: int, per_problem: int = 330, problems: int = 500) -> None:
    every = candidates("sim_tree_score", SEARCHES)
    worlds = []
    for name in names:
        task = f"sim_tree(depth=10,{TREES[name]})"
        started = time.monotonic()
        table = truth(every, 64, per_problem, "calls", model="sim:default", task=task, process="sim_tree",
                      limit=held_out, seed=1000)  # fmt: skip
        picks = []
        for seed in range(seeds):
            with tempfile.TemporaryDirectory() as out:
                budget = f"calls={problems * per_problem / 0.9}"
                found = ponder.plan("sim:default", task, budget, out, process="sim_tree",
                                    candidates=every, limit=200, problems=problems, seed=seed, check=False)  # fmt: skip
            assert found.paid <= 0.1 * found.budget, "the pilot passed its share"
            picks.append(chosen(found, every, table))
            print(f"{name} seed {seed}: {found.choice.strategy}, predicted {found.choice.accuracy:.3f} "
                  f"({found.choice.low:.2f}-{found.choice.high:.2f}), true {picks[-1].mean():.3f}, pilot "
                  f"{found.paid / found.budget:.1%} on {found.pilot_problems} problems, decided: {found.decided}",
                  flush=True)  # fmt: skip
        worlds.append((picks, table))
        compare(name, worlds[-1:])
        print(f"    ({time.monotonic() - started:.0f} s)", flush=True)
    if len(worlds) > 1:
        compare("all simulated worlds", worlds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--held-out", type=int, default=150)
    parser.add_argument("--worlds", default=",".join(TREES), help="Simulated worlds, by name.")
    parser.add_argument("--real", action="store_true", help="SmolLM2-135M, from samples that are drawn once.")
    parser.add_argument("--tasks", default="products,sums", help="With --real.")
    parser.add_argument("--folder", type=Path, default=Path("runs/planner"))
    arguments = parser.parse_args()
    if arguments.real:
        import planner_real

        planner_real.main(arguments.folder, arguments.tasks.split(","), arguments.seeds)
    else:
        simulated(arguments.worlds.split(","), arguments.seeds, arguments.held_out)
