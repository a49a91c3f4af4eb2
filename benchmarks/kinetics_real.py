"""Model size against trials against length, with two real models on sums that are worked out step by step.

    python benchmarks/kinetics_real.py --out runs/kinetics [--problems 40] [--samples 16]

Draws once for each model (`ponder bench`), cuts the samples at several lengths, and says which model, how many trials
and what length cover most for a cost (`ponder kinetics`). Needs `ponder models pull gemma3-270m`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

import ponder
from ponder.costs.frontier import Frontier
from ponder.reports.plots import write_frontier
from ponder.studies.kinetics import kinetics

MODELS = ("smollm2-135m", "gemma3-270m")
CAPS = (8, 16, 24, 32)
SHOTS = 5


def worked(terms: list[int]) -> str:
    """A worked sum, as in: 3 + 4 = 7. 7 + 5 = 12. The answer is 12."""
    total, steps = terms[0], []
    for term in terms[1:]:
        steps.append(f"{total} + {term} = {total + term}.")
        total += term
    return " ".join([*steps, f"The answer is {total}."])


def write_task(path: Path, problems: int, terms: int, largest: int) -> None:
    """The worked examples come first."""
    rng = np.random.default_rng(7)
    lists = [[int(x) for x in rng.integers(1, largest + 1, terms)] for _ in range(SHOTS + problems)]
    rows = [
        {"id": str(i), "prompt": " + ".join(map(str, t)), "reference": worked(t) if i < SHOTS else str(sum(t))}
        for i, t in enumerate(lists)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def told(frontier: Frontier) -> None:
    for step in frontier.steps:
        print(f"    {step.cost:10.3g}  {step.quality:.3f} ({step.low:.3f} to {step.high:.3f})  {step.configuration}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--problems", type=int, default=40)
    parser.add_argument("--limit", type=int, help="Only so many of the problems.")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--terms", type=int, default=3)
    parser.add_argument("--largest", type=int, default=9)
    parser.add_argument(
        "--settings", default="", help="Of the models, such as (threads=1); they change the speed only."
    )
    parser.add_argument("--draw", nargs="*", default=MODELS, help="Only draw for these models, and stop.")
    parser.add_argument("--hardware", default="here,usd_per_hour=0.1")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "sums.jsonl"
    write_task(file, given.problems, given.terms, given.largest)
    folders = []
    for model in given.draw:
        points = [2**i for i in range(given.samples.bit_length()) if 2**i <= given.samples]
        found = ponder.bench(
            model=f"llamacpp:{model}{given.settings}",
            task=f"jsonl:{file}(grader=numeric, shots={SHOTS}, format=plain)",
            strategies=["repeated_sampling | majority"], samples=points, limit=given.limit, check=False,
            sampling={"max_new_tokens": 48, "temperature": 0.7}, out=given.out / model,
        )  # fmt: skip
        for row in found.rows:
            print(model, row["budget"], f"accuracy {row['accuracy']:.3f}, coverage {row['coverage']:.3f}")
        folders.append(given.out / model)
    if list(given.draw) != list(MODELS):
        return
    for unit, batch in (("eflops", None), ("eflops", 1.0), ("dollars", 1.0)):
        found = kinetics(folders, unit=unit, on=given.hardware, caps=CAPS, batch=batch)
        print(f"{unit}, weights {'left out' if batch is None else 'read for each problem'}:")
        told(found.frontier)
        for model, frontier in found.each.items():
            print(f"  {model} alone")
            told(frontier)
        write_frontier(found, given.out / f"{unit}-{'weights' if batch else 'plain'}.png")


if __name__ == "__main__":
    main()
