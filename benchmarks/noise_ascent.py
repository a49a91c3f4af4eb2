"""Noise ascent against its rivals at equal evaluations, on a digits generator that is not told the digit.

Rewards are first selected on judged pictures (as by `ponder calibrate-verifiers`), then each strategy searches with the
weighted sum, and a judge that no search may use reads what it found:

    python benchmarks/noise_ascent.py [--problems 40] [--steps 3]

Printed are the judge's mean log-probability of the asked digit with its standard error, the share it reads as asked,
the mean reward, the evaluations a problem, and the mean norm of the final noises over √d.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import ponder
from ponder.api import run_sync
from ponder.core.context import Context
from ponder.diffusion.schedule import Floats
from ponder.processes.denoising import Denoising
from ponder.studies.reward_selection import Selection, select_rewards

REWARDS = (
    "class_confidence(log=true, weak=true)",
    "digit_trait(trait=prototype)",
    "digit_trait(trait=ink)",
    "digit_trait(trait=smoothness)",
)
JUDGE = "class_confidence(log=true, judge=true)"


def category(digit: int) -> str:
    return "straight" if digit in (1, 4, 7) else "round"


def table(draws: int = 30) -> tuple[list[float], dict[str, list[float]], list[str]]:
    """Judgement, rewards and categories of pictures, half of them made without being told the digit."""
    columns: dict[str, list[float]] = {name: [] for name in (JUDGE, *REWARDS)}
    categories: list[str] = []
    for digit in range(10):
        problem = ponder.Problem(f"calibrate-{digit}", str(digit))
        for model, steps in (("diffusers:digits", 2), ("diffusers:digits(guidance=0)", 3)):
            ctx = Context(problem, Denoising(ponder.model(model), steps=steps, solver="euler"), seed=5)
            drawn = run_sync(lambda: ctx.draw(problem, draws))  # noqa: B023
            for name, column in columns.items():
                column += run_sync(lambda: ctx.score(problem, drawn, ponder.verifier(name))).tolist()  # noqa: B023
            categories += [category(digit)] * draws
    return columns.pop(JUDGE), columns, categories


@dataclass(frozen=True)
class Found:
    """What a strategy found.

    Attributes:
        judge: of each problem the held-out judge's log-probability of the asked digit.
        rewards: of each problem the searched reward.
        norms: of each climb the norm of its last noise over √d; empty for other searches.
        evaluations: a problem.
    """

    judge: Floats
    rewards: Floats
    norms: Floats
    evaluations: float


def searched(strategy: str, problems: int, steps: int = 3) -> Found:
    """Each problem asks for a digit, of a generator that is not told which."""
    model, judge = ponder.model("diffusers:digits(guidance=0)"), ponder.verifier(JUDGE)
    found, rewards, norms, evaluations = [], [], [], []
    for i in range(problems):
        problem = ponder.Problem(f"digit-{i}", str(i % 10), metadata={"category": category(i % 10)})
        ctx = Context(problem, Denoising(model, steps=steps, solver="euler"), seed=1)
        result = run_sync(lambda: ponder.parse(strategy).run(problem, ctx))  # noqa: B023
        assert result.best is not None
        evaluations.append(result.total.function_evaluations)
        rewards.append(next(iter(result.best.scores.values())))
        norms += result.details.get("norms", [])
        found.append(run_sync(lambda: ctx.score(problem, [result.best], judge))[0])  # noqa: B023
    return Found(np.asarray(found), np.asarray(rewards), np.asarray(norms), float(np.mean(evaluations)))


def row(strategy: str, found: Found) -> str:
    error = np.std(found.judge, ddof=1) / math.sqrt(len(found.judge))
    norm = f"{np.mean(found.norms):.2f}" if len(found.norms) else "   –"
    right = np.mean(found.judge > math.log(0.5))
    shown = f"{np.mean(found.judge):7.2f} ± {error:.2f}  {right:5.2f}  {np.mean(found.rewards):6.2f}"
    return f"{strategy.partition(', verifier')[0]:<58}{shown}  {found.evaluations:5.0f}  {norm}"


def weighted_sum(folder: Path, selection: Selection) -> str:
    """The selected rewards as a verifier, with their weights in a file."""
    weights = folder / "weights.json"
    weights.write_text(json.dumps(selection.as_dict()))
    return f'category_weighted(rewards=[{", ".join(REWARDS)}], base=[1, 5, 5, 5], weights="{weights}")'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=40)
    parser.add_argument("--steps", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        selection = select_rewards(*table())
        for name, own in selection.agreements.items():
            for reward, a in own.items():
                print(f"{name:<9} {reward:<38} {a.correlation:+.2f}  {a.dropped or f'weight {a.weight:.2f}'}")
        weighted = f"verifier={weighted_sum(Path(folder), selection)}"
        plain = weighted.partition(", weights=")[0] + ")"
        print(f"{'':<58}{'judge':>7}         right  reward  evals  norm")
        for head in (
            "best_of_n(n=1",
            "best_of_n(n=62",
            "zero_order_search(n=62",
            "noise_ascent(n=21, restarts=1",
            "noise_ascent(n=22, restarts=2",
            "noise_ascent(n=24, restarts=5",
            "noise_ascent(n=24, restarts=5, regulariser=0",
            "noise_ascent(n=24, restarts=5, regulariser=1.0",
            "noise_ascent(n=21, restarts=1, regulariser=0",
            "noise_ascent(n=21, restarts=1, regulariser=0.16",
            "noise_ascent(n=22, restarts=2, lr=0.3",
            "noise_ascent(n=62, restarts=5, gradient=spsa",
        ):
            plan = f"{head}, {weighted})"
            print(row(plan, searched(plan, asked.problems, asked.steps)), flush=True)
        print("with all four rewards, unweighted:")
        for head in ("best_of_n(n=62", "noise_ascent(n=24, restarts=5"):
            plan = f"{head}, {plain})"
            print(row(plan, searched(plan, asked.problems, asked.steps)), flush=True)


if __name__ == "__main__":
    main()
