"""Reward and held-out accuracy against function evaluations: every search over denoising, on digits.

    python benchmarks/diffusion_methods.py [--repeats 10] [--reward weak] [--out FILE.json] [--png FILE.png]

The model is not told which digit it shall draw (`guidance=0`), so that one sample in ten is right; the reward is a
classifier's log-probability of the digit, and the judge is another classifier, trained on the other half of the data.
With `--reward weak` the classifier has seen three examples of each digit: a search can fool it, and the judge tells.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

import ponder
from ponder.laws.intervals import wilson_interval

STEPS = 20
METHODS = {
    "best_of_n": ("ddim", "best_of_n(n={n}, {v})"),
    "zero_order_search": ("euler", "zero_order_search(n={n}, {v})"),
    "search_over_paths": ("euler", "search_over_paths(n={n}, {v})"),
    "fk_steering": ("ddim", "fk_steering(n={n}, {v}, strength=2, potential=difference)"),
    "dts": ("ddim", "diffusion_tree_sampling(n=100000, {v}, final=best)"),
    "dts_star": ("ddim", "diffusion_tree_sampling(n=100000, {v}, select=uct)"),
    "evo_search": ("ddim", "evo_search(n={n}, {v})"),
}
"""Name: solver and strategy. The trees count their cost by the budget."""


def run(method: str, budget: int, digit: int, seed: int, reward: str) -> dict[str, Any]:
    """One search for one digit: the best output's reward, and what the judge says to it."""
    solver, plan = METHODS[method]
    weak = ", weak=true" if reward == "weak" else ""
    result = ponder.solve(
        str(digit),
        model="diffusers:digits(guidance=0)",
        task="digits",
        process=f"denoising(steps={STEPS}, macro=4, solver={solver})",
        strategy=plan.format(n=budget // STEPS, v=f"verifier=class_confidence(log=true{weak})"),
        budget=f"function_evaluations={budget}",
        seed=seed,
    )
    rewards = [c.scores.get("class_confidence", -math.inf) for c in result.candidates]
    best = result.candidates[int(np.argmax(rewards))]
    grade = ponder.task("digits").grade(ponder.Problem("digit", str(digit), str(digit)), best.output)
    return {
        "method": method, "budget": budget, "digit": digit, "seed": seed, "reward": max(rewards),
        "right": bool(grade.correct), "judge": grade.score, "evaluations": result.total.function_evaluations,
        "outputs": len(result.candidates), "diversity": result.details.get("diversity"),
    }  # fmt: skip


def rows(found: list[dict[str, Any]]) -> list[tuple[str, int, int, float, float, float, tuple[float, float]]]:
    """Method, budget, searches, mean reward, its standard error, share right and its 95 % interval (Wilson)."""
    table = []
    for method in METHODS:
        for budget in sorted({r["budget"] for r in found}):
            own = [r for r in found if r["method"] == method and r["budget"] == budget]
            if own:
                reward, right = [r["reward"] for r in own], [float(r["right"]) for r in own]
                error = float(np.std(reward, ddof=1) / math.sqrt(len(own))) if len(own) > 1 else math.nan
                share = float(np.mean(right))
                sure = wilson_interval(sum(right), len(own))
                table.append((method, budget, len(own), float(np.mean(reward)), error, share, (sure.low, sure.high)))
    return table


def draw(found: list[dict[str, Any]], path: Path, reward: str) -> None:
    """Both curves of every method, side by side."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.5, 3.8))
    for method in METHODS:
        own = [row for row in rows(found) if row[0] == method]
        left.errorbar(
            [r[1] for r in own], [r[3] for r in own], [r[4] for r in own], marker="o", label=method, capsize=2
        )
        bars = np.abs([[r[5] - r[6][0] for r in own], [r[6][1] - r[5] for r in own]])
        right.errorbar([r[1] for r in own], [r[5] for r in own], bars, marker="o", capsize=2, alpha=0.7)
    left.set(xscale="log", xlabel="function evaluations", ylabel="log-probability", title=f"search reward ({reward})")
    right.set(xscale="log", xlabel="function evaluations", ylabel="share", title="right, by the held-out judge")
    for axes in (left, right):
        budgets = sorted({r["budget"] for r in found})
        axes.set_xticks(budgets, [str(b) for b in budgets])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    left.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def main() -> None:
    """Run, keep every search in a file, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10, help="searches for each point, over the digits in turn")
    parser.add_argument("--reward", choices=["strong", "weak"], default="weak")
    parser.add_argument("--budgets", default="200,400,800,1600")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--first", type=int, default=0, help="repeat to begin with: several processes share the work")
    parser.add_argument("--out", type=Path, default=Path("runs/diffusion_methods.json"))
    parser.add_argument("--png", type=Path, help="draw a figure")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = json.loads(args.out.read_text()) if args.out.exists() else []
    done = {(r["method"], r["budget"], r["digit"], r["seed"]) for r in found}
    for repeat in range(args.first, args.repeats):
        for budget in map(int, args.budgets.split(",")):
            for method in args.methods.split(","):
                if (method, budget, repeat % 10, repeat // 10) not in done:
                    found.append(run(method, budget, repeat % 10, repeat // 10, args.reward))
        args.out.write_text(json.dumps(found))
    print("| method | evaluations | searches | reward | right (judge) |\n|---|---|---|---|---|")
    for method, budget, n, reward, error, share, (low, high) in rows(found):
        print(f"| `{method}` | {budget} | {n} | {reward:.2f} ± {error:.2f} | {share:.2f} ({low:.2f}–{high:.2f}) |")
    if args.png:
        draw(found, args.png, args.reward)


if __name__ == "__main__":
    main()
