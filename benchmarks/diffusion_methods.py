"""Reward, held-out accuracy and variety against function evaluations: every search over denoising, on digits.

    python benchmarks/diffusion_methods.py [--repeats 20] [--rewards weak,strong,ensemble] [--out FILE] [--png FILE]

The model is not told which digit it shall draw (`guidance=0`), so that one sample in ten is right; the judge is a
classifier trained on the half of the data that neither model nor rewards have seen. Rewards: `weak`, the
log-probability by a classifier of three images a digit; `strong`, by one of 898 images; `ensemble`, the mean rank by
three weak classifiers among 500 plain samples, which are drawn once and kept.

Variety is the mean distance between a search's five best outputs, the same number for every method.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

import ponder
from ponder.diffusion.measures import mean_pairwise_distance
from ponder.laws.intervals import wilson_interval

STEPS, SHOWN = 20, 5
REFERENCE = Path("runs/digits_reference.npy")
MODEL = "diffusers:digits(guidance=0)"
REWARDS = {
    "weak": "class_confidence(log=true, weak=true)",
    "strong": "class_confidence(log=true)",
    "ensemble": "rank_ensemble(verifiers=[class_confidence(log=true, weak=true), class_confidence(log=true, "
    f"pixels=16), class_confidence(log=true, examples=1, variant=3)], reference='{REFERENCE}')",
}
METHODS = {
    "best_of_n": ("ddim", "best_of_n(n={n}, verifier={v})"),
    "zero_order_search": ("euler", "zero_order_search(n={n}, verifier={v})"),
    "search_over_paths": ("euler", "search_over_paths(n={n}, verifier={v})"),
    "fk_steering": ("ddim", "fk_steering(n={n}, verifier={v}, strength={fk}, potential=difference)"),
    "dts": ("ddim", "diffusion_tree_sampling(n=100000, verifier={v}, final=best, strength={dts}, batch=4)"),
    "dts_star": ("ddim", "diffusion_tree_sampling(n=100000, verifier={v}, select=uct, exploration={c}, batch=4)"),
    "dts_star, max": (
        "ddim",
        "diffusion_tree_sampling(n=100000, verifier={v}, select=uct, backup=max, factor=1.5, exploration={c}, batch=4)",
    ),
    "evo_search": ("ddim", "evo_search(n={n}, verifier={v})"),
    "evo_search, varied": ("ddim", "evo_search(n={n}, verifier={v}, schedule=[4, 8], tournament=0.1)"),
}
"""Name: solver and strategy. The trees count their cost by the budget."""
SCALES = {"ensemble": {"fk": 20, "dts": 10, "c": 0.05}}
"""Strengths for a reward in [0, 1]; log-probabilities take the others."""


def reference() -> None:
    """Plain samples, once, for the ranks of the ensemble."""
    if not REFERENCE.exists():
        plan = "best_of_n(n=500, verifier=constant)"
        drawn = ponder.solve("0", model=MODEL, process=f"denoising(steps={STEPS})", strategy=plan, seed=10_000)
        REFERENCE.parent.mkdir(parents=True, exist_ok=True)
        np.save(REFERENCE, np.stack([c.output for c in drawn.candidates]))


def run(method: str, budget: int, digit: int, seed: int, reward: str) -> dict[str, Any]:
    """One search for one digit: the best output's reward, what the judge says to it, how varied the best five are."""
    solver, plan = METHODS[method]
    scales = SCALES.get(reward, {"fk": 2, "dts": 1, "c": 0.5})
    result = ponder.solve(
        str(digit),
        model=MODEL,
        task="digits",
        process=f"denoising(steps={STEPS}, macro=4, solver={solver})",
        strategy=plan.format(n=budget // STEPS, v=REWARDS[reward], **scales),
        budget=f"function_evaluations={budget}",
        seed=seed,
    )
    name = "rank_ensemble" if reward == "ensemble" else "class_confidence"
    scores = np.asarray([c.scores.get(name, -math.inf) for c in result.candidates])
    best = np.argsort(-scores, kind="stable")[:SHOWN]
    outputs = [result.candidates[i].output for i in best]
    grade = ponder.task("digits").grade(ponder.Problem("digit", str(digit), str(digit)), outputs[0])
    return {
        "method": method, "budget": budget, "digit": digit, "seed": seed, "kind": reward, "reward": scores[best[0]],
        "shown": float(scores[best].mean()), "distance": mean_pairwise_distance(np.stack([x.ravel() for x in outputs])),
        "right": bool(grade.correct), "judge": grade.score, "evaluations": result.total.function_evaluations,
        "outputs": len(scores),
    }  # fmt: skip


def cell(own: list[dict[str, Any]]) -> dict[str, float]:
    """Means of one method at one budget with half their 95 % intervals, and Wilson's interval of the share right."""
    found: dict[str, float] = {"searches": len(own)}
    for key in ("reward", "shown", "distance"):
        values = [r[key] for r in own]
        found[key], found[f"{key}±"] = float(np.mean(values)), float(1.96 * np.std(values, ddof=1) / len(own) ** 0.5)
    sure = wilson_interval(sum(r["right"] for r in own), len(own))
    return found | {"right": float(np.mean([r["right"] for r in own])), "low": sure.low, "high": sure.high}


def table(found: list[dict[str, Any]]) -> dict[tuple[str, str, int], dict[str, float]]:
    """Cells by reward, method and budget."""
    cells: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for row in found:
        cells.setdefault((row["kind"], row["method"], row["budget"]), []).append(row)
    return {key: cell(own) for key, own in cells.items() if len(own) > 1}


def saved(found: list[dict[str, Any]], kind: str, method: str, budget: int) -> tuple[float, float, float]:
    """How many times a method's evaluations `best_of_n` takes for the same mean reward, with a 95 % interval.

    Read off the line through `best_of_n`'s budgets in their logarithms; infinite beyond the last. The interval is a
    bootstrap over the searches.
    """
    rng = np.random.default_rng(0)
    own = {b: [r["reward"] for r in found if (r["kind"], r["method"], r["budget"]) == (kind, "best_of_n", b)]
           for b in sorted({r["budget"] for r in found if r["method"] == "best_of_n"})}  # fmt: skip
    own = {b: values for b, values in own.items() if values}
    other = [r["reward"] for r in found if (r["kind"], r["method"], r["budget"]) == (kind, method, budget)]

    def factor(mean: float, line: list[float]) -> float:
        return math.exp(float(np.interp(mean, np.maximum.accumulate(line), np.log(list(own)), right=math.inf))) / budget

    def again(values: list[float]) -> float:
        return float(np.mean(rng.choice(values, len(values))))

    drawn = [factor(again(other), [again(values) for values in own.values()]) for _ in range(1000)]
    low, high = np.quantile(drawn, [0.025, 0.975], method="nearest")
    return factor(float(np.mean(other)), [float(np.mean(values)) for values in own.values()]), float(low), float(high)


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """Three curves of every method for each reward."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    cells = table(found)
    kinds = [kind for kind in REWARDS if any(key[0] == kind for key in cells)]
    figure, axes = pyplot.subplots(len(kinds), 3, figsize=(12, 3.3 * len(kinds)), squeeze=False, sharex=True)
    for row, kind in zip(axes, kinds, strict=True):
        for place, method in enumerate(METHODS):
            own = {b: c for (k, m, b), c in sorted(cells.items()) if (k, m) == (kind, method)}
            at = np.asarray(list(own)) * 1.02 ** (place - 4.0)
            style: dict[str, Any] = {"marker": "o", "markersize": 3, "linewidth": 1.2, "elinewidth": 0.6}
            style |= {"color": "black", "zorder": 5} if method == "best_of_n" else {"color": f"C{place}"}
            for axis, key in ((row[0], "reward"), (row[2], "distance")):
                axis.errorbar(at, [c[key] for c in own.values()], [c[f"{key}±"] for c in own.values()], **style)
            bars = [[c["right"] - c["low"] for c in own.values()], [c["high"] - c["right"] for c in own.values()]]
            row[1].errorbar(at, [c["right"] for c in own.values()], np.abs(bars), label=method, **style)
        row[0].set(ylabel="mean rank" if kind == "ensemble" else "log-probability", title=f"{kind}: reward of the best")
        row[1].set(ylabel="share", title=f"{kind}: right, by the held-out judge")
        row[2].set(ylabel="distance", title=f"{kind}: distance between the {SHOWN} best")
        for axis in row:
            budgets = sorted({r["budget"] for r in found})
            axis.set(xscale="log", xlabel="function evaluations" if kind == kinds[-1] else "")
            axis.set_xticks(budgets, [str(b) for b in budgets])
            axis.minorticks_off()
            axis.grid(alpha=0.3)
    axes[0][1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def main() -> None:
    """Run, keep every search in a file, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20, help="searches for each point, over the digits in turn")
    parser.add_argument("--rewards", default=",".join(REWARDS))
    parser.add_argument("--budgets", default="200,400,800,1600")
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--out", type=Path, default=Path("runs/diffusion_methods.json"))
    parser.add_argument("--png", type=Path, help="draw a figure")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    reference()
    found: list[dict[str, Any]] = json.loads(args.out.read_text()) if args.out.exists() else []
    done = {(r["kind"], r["method"], r["budget"], r["digit"], r["seed"]) for r in found}
    for repeat in range(args.repeats):
        for kind in args.rewards.split(","):
            for budget in map(int, args.budgets.split(",")):
                for method in args.methods:
                    if (kind, method, budget, repeat % 10, repeat // 10) not in done:
                        found.append(run(method, budget, repeat % 10, repeat // 10, kind))
        args.out.write_text(json.dumps(found))
    cells = table(found)
    for kind in args.rewards.split(","):
        print(f"\n| {kind} | evaluations | best | right (judge) | five best | distance | best_of_n needs |")
        print("|---|---|---|---|---|---|---|")
        for method in METHODS:
            for (_, _, budget), c in sorted(item for item in cells.items() if item[0][:2] == (kind, method)):
                factor, low, high = saved(found, kind, method, budget)
                sure = f"{c['right']:.2f} ({c['low']:.2f}–{c['high']:.2f})"
                means = " | ".join(f"{c[key]:.2f} ± {c[f'{key}±']:.2f}" for key in ("shown", "distance"))
                print(
                    f"| `{method}` | {budget} | {c['reward']:.2f} ± {c['reward±']:.2f} | {sure} | {means} | "
                    f"{factor:.1f} [{low:.1f}, {high:.1f}] × |"
                )
    if args.png:
        draw(found, args.png)


if __name__ == "__main__":
    main()
