"""Accuracy of every search at equal generated steps, on simulated reasoning trees with known truth.

python benchmarks/search_accuracy.py                    # all worlds, n = 4, 16, 64
python benchmarks/search_accuracy.py --world trap --n 16 --problems 1000

A row's budget is what n plain samples generate (n · depth steps); a search may leave some of it. Prints accuracy with
its 95 % half-width, steps and scores per problem, and last how many times as many steps and scores best-of-N needs for
the accuracy that each search has at n = 16. AB-MCTS refines whole answers, which this world has none of.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import re
from dataclasses import dataclass

import ponder
from ponder.core.context import Context
from ponder.core.registry import PROCESSES
from ponder.laws.intervals import wilson_interval

WORLDS = {
    "good": ("survival=[0.8], sharpness=[2], noise=[1]", 8),
    "noisy": ("survival=[0.8], sharpness=[0.5], noise=[1.5]", 8),
    "easy": ("survival=[0.93], sharpness=[0.3], noise=[2]", 8),
    "trap": ("survival=[0.93], sharpness=[1.2], noise=[0.5], trap=[0.5], trap_depth=4", 10),
}
STRATEGIES = (
    "repeated_sampling(n={n}) | majority",
    "best_of_n(n={n}, verifier=sim_tree_score)",
    "best_of_n(n={n}, verifier=sim_tree_score) | weighted_majority",
    "beam_search(n={n}, verifier=sim_tree_score)",
    "lookahead_search(n={half}, verifier=sim_tree_score)",
    "dvts(n={n}, verifier=sim_tree_score)",
    "rebase(n={n}, verifier=sim_tree_score)",
    "ets(n={n}, coverage=0, verifier=sim_tree_score)",
    "dynamic_experts(n={n}, verifier=sim_tree_score)",
    "a_star(n={n}, verifier=sim_tree_score)",
    "best_first(n={n}, verifier=sim_tree_score)",
    "mcts(n={n}, verifier=sim_tree_score)",
    "particle_filter(n={n}, verifier=sim_tree_score)",
    "entropic_particle_filter(n={n}, verifier=sim_tree_score)",
)
BEST_OF = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Point:
    """What one strategy did at one n: shares and means over problems."""

    accuracy: float
    half_width: float
    steps: float
    scores: float


def measure(text: str, world: str, problems: int) -> Point:
    """Run a strategy on the first problems of a world."""
    settings, depth = WORLDS[world]
    task = ponder.task(f"sim_tree({settings}, depth={depth}, count={problems})")
    process, strategy = PROCESSES.build("sim_tree"), ponder.parse(text)

    async def run() -> tuple[int, float, float]:
        right, steps, scores = 0, 0.0, 0.0
        for problem in task.problems(problems):
            ctx = Context(problem, process, task=task)
            right += (await strategy.run(problem, ctx)).output == problem.reference
            total = ctx.ledger.total
            steps, scores = steps + total.function_evaluations, scores + total.verifier_calls
        return right, steps, scores

    right, steps, scores = asyncio.run(run())
    _, low, high = wilson_interval(right, problems)
    return Point(right / problems, float(high - low) / 2, steps / problems, scores / problems)


def needed(curve: list[Point], accuracy: float) -> tuple[float, float] | None:
    """Steps and scores at which a curve reaches an accuracy, between points by the logarithm; None if it does not."""
    for before, after in zip([None, *curve], curve, strict=False):
        if after.accuracy < accuracy:
            continue
        if before is None:
            return after.steps, after.scores
        share = (accuracy - before.accuracy) / (after.accuracy - before.accuracy)
        steps, scores = (
            math.exp((1 - share) * math.log(getattr(before, name)) + share * math.log(getattr(after, name)))
            for name in ("steps", "scores")
        )
        return steps, scores
    return None


def short(text: str) -> str:
    """A strategy without what all rows have in common."""
    parts = text.replace("n={half}", "n/2").replace("n={n}", "").replace("verifier=sim_tree_score", "")
    return re.sub(r"\((, )*", "(", re.sub(r"(, )*\)", ")", parts)).replace(", , ", ", ").replace("()", "")


def main() -> None:
    """Print one table for each world."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=list(WORLDS))
    parser.add_argument("--n", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--problems", type=int, default=300, help="a third of them above n = 16")
    options = parser.parse_args()
    for world in [options.world] if options.world else WORLDS:
        print(f"\n{world}: {WORLDS[world][0]}, depth={WORLDS[world][1]}")
        print(
            "| | "
            + " | ".join(f"n = {n}: accuracy | steps | scores" for n in options.n)
            + " | best-of-N: steps, scores |"
        )
        print("|---" * (3 * len(options.n) + 2) + "|")
        best = [measure(STRATEGIES[1].format(n=n), world, options.problems // 2) for n in BEST_OF]
        for text in STRATEGIES:
            points = {
                n: measure(text.format(n=n, half=max(1, n // 2)), world, options.problems // (3 if n > 16 else 1))
                for n in options.n
            }
            cells = " | ".join(
                f"{p.accuracy:.3f} ± {p.half_width:.3f} | {p.steps:.0f} | {p.scores:.0f}" for p in points.values()
            )
            at = points.get(16) or points[max(points)]
            enough = needed(best, at.accuracy)
            saved = (
                "not reached"
                if enough is None
                else f"{enough[0] / at.steps:.1f}×, {enough[1] / max(at.scores, 1):.2f}×"
            )
            print(f"| `{short(text)}` | {cells} | {saved} |", flush=True)


if __name__ == "__main__":
    main()
