"""How good are plans made from a pilot of a tenth of the budget, on problems that the pilot did not see?

    python benchmarks/planner.py [--seeds 5] [--held-out 150]
    python benchmarks/planner.py --real [--held-out 80]

In simulation the truth is measured on `--held-out` other problems for every configuration (strategy and number of
samples) that the planner may choose and that fits the budget. Regret is the accuracy of the best of them minus that of
the planner's choice; a fixed habit ("always best-of-N") takes the largest number of samples that fits. Intervals are
95 % bootstraps over plans (worlds and seeds) and held-out problems. With `--real` the model is SmolLM2-135M.
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
from ponder.studies.pilot import Chosen

TREES = {
    "easy-trap": "survival=[0.93],sharpness=[1.2],noise=[0.5],trap=[0.5],trap_depth=4",
    "medium": "survival=[0.8],sharpness=[0.5],noise=[1.5]",
    "easy, noisy": "survival=[0.95],sharpness=[0.3],noise=[2.0]",
    "mixed": "survival=[0.93,0.8,0.7],sharpness=[1.2,0.5,0.5],noise=[0.5,1.5,1.5],trap=[0.5,0,0],trap_depth=4",
}
SEARCHES = ("beam_search", "dvts", "rebase", "particle_filter")
SUMS = "reasoning_gym:chain_sum(min_terms=2,max_terms=2,max_digits=1,shots=4)"


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
            ponder.bench(strategies=[text], samples=ns, out=out, check=False, **study)
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


def interval(rows: list[np.ndarray], resamples: int = 1000) -> tuple[float, float, float]:
    """Mean over plans and problems, and the 95 % bootstrap interval over both."""
    rng = np.random.default_rng(0)
    means = []
    for _ in range(resamples):
        plans = rng.integers(len(rows), size=len(rows))
        problems = rng.integers(len(rows[0]), size=len(rows[0]))  # the same for all plans: those of a world share them
        means.append(np.mean([rows[i][problems].mean() for i in plans]))
    return float(np.mean([r.mean() for r in rows])), *map(float, np.quantile(means, [0.025, 0.975]))


def say(name: str, rows: list[np.ndarray]) -> None:
    mean, low, high = interval(rows)
    print(f"    {name:62} {mean:6.3f} ({low:+.3f} to {high:+.3f})")


def compare(label: str, picks: list[np.ndarray], tables: list) -> None:
    """Accuracy and regret of the planner, and of every habit."""
    ideal = [max(t.values(), key=lambda r: r.mean()) for t in tables]
    print(f"\n{label}: {len(picks)} plans")
    say("oracle (the best configuration that fits)", ideal)
    say("planner", picks)
    say("planner's regret", [i - p for i, p in zip(ideal, picks, strict=True)])
    for name in dict.fromkeys(s for t in tables for s in habits(t)):
        kept = [(p, habits(t)[name]) for p, t in zip(picks, tables, strict=True) if name in habits(t)]
        gaps = [p - h for p, h in kept]
        better = sum(g.mean() > 0.005 for g in gaps), sum(abs(g.mean()) <= 0.005 for g in gaps)
        say(f"planner - always {name} (wins {better[0]}, ties {better[1]} of {len(gaps)})", gaps)


def simulated(seeds: int, held_out: int, per_problem: int = 330, problems: int = 500) -> None:
    every = candidates("sim_tree_score", SEARCHES)
    all_picks, all_tables = [], []
    for name, world in TREES.items():
        task = f"sim_tree(depth=10,{world})"
        started = time.monotonic()
        table = truth(every, 64, per_problem, "calls", model="sim:default", task=task, process="sim_tree",
                      limit=held_out, seed=1000)  # fmt: skip
        picks = []
        for seed in range(seeds):
            with tempfile.TemporaryDirectory() as out:
                budget = f"calls={problems * per_problem / 0.9}"
                found = ponder.plan("sim:default", task, budget, out, process="sim_tree",
                                    candidates=every, limit=200, problems=problems, seed=seed, check=False)  # fmt: skip
            picks.append(chosen(found, every, table))
            print(f"{name} seed {seed}: {found.choice.strategy}, predicted {found.choice.accuracy:.3f} "
                  f"({found.choice.low:.2f}-{found.choice.high:.2f}), true {picks[-1].mean():.3f}, pilot "
                  f"{found.paid / found.budget:.1%} on {found.pilot_problems} problems, decided: {found.decided}",
                  flush=True)  # fmt: skip
        compare(name, picks, [table] * seeds)
        print(f"    ({time.monotonic() - started:.0f} s)", flush=True)
        all_picks += picks
        all_tables += [table] * seeds
    compare("all simulated worlds", all_picks, all_tables)


def real(seeds: int, held_out: int, folder: Path) -> None:
    every = candidates("log_probability", ())
    model, sampling = "embedded:smollm2-135m", {"max_new_tokens": 24, "temperature": 0.8}
    picks, tables = [], []
    for seed in range(seeds):
        found = ponder.plan(model, SUMS, "tokens=1.2e5", folder / f"pilot-{seed}", candidates=every, limit=160,
                            problems=400, seed=seed, sampling=sampling, check=False)  # fmt: skip
        print(f"seed {seed}: {found}", flush=True)
        # The seed also draws the examples in the prompt, so the other problems must be of the same seed.
        task = ponder.task(SUMS)
        unseen = [p for p in task.problems(160 + held_out, seed=seed)][160:]
        table = truth(every, 32, found.per_problem, "tokens", model=model, task=Chosen(task, tuple(unseen)),
                      seed=seed, sampling=sampling)  # fmt: skip
        for (name, n), right in table.items():
            print(f"    held out: {name} at {n}: {right.mean():.3f}", flush=True)
        picks.append(chosen(found, every, table))
        tables.append(table)
    compare("SmolLM2-135M", picks, tables)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--held-out", type=int, default=150)
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("runs/planner"))
    arguments = parser.parse_args()
    if arguments.real:
        real(arguments.seeds, arguments.held_out, arguments.folder)
    else:
        simulated(arguments.seeds, arguments.held_out)
