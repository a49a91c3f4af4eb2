"""Two questions to the held-out judge of the digits: do steps help like search, and is a weak verifier fooled?

    python benchmarks/diffusion_judge.py steps [--repeats 4]
    python benchmarks/diffusion_judge.py hacking [--trio pixels] [--repeats 4]

`steps`: single samples of 5 to 200 timesteps against the best of several samples of 20 timesteps, at equal function
evaluations. The model is told the digit at a guidance of 0.3, which leaves something to gain.
`hacking`: the best of n by one of three weak classifiers (of one image a digit, of eight pixels, of three images; or of
four pixels each), or by their ranks, for growing n; the model is not told the digit. What a verifier says of
its choices is shown beside what the judge says. All n are cut from one pool of samples for each digit.
"""

from __future__ import annotations

import argparse

import numpy as np
import numpy.typing as npt

import ponder
from ponder.api import run_sync
from ponder.core.context import Context
from ponder.processes.denoising import Denoising
from ponder.verifiers.rank_ensemble import ranks_of

Floats = npt.NDArray[np.float64]
JUDGE = "class_confidence(log=true, judge=true)"
STRONG, WEAK = "class_confidence(log=true)", "class_confidence(log=true, weak=true)"
TRIOS = {
    "mixed": {
        "one image": "class_confidence(log=true, examples=1)",
        "8 pixels": "class_confidence(log=true, pixels=8, variant=1)",
        "3 images": "class_confidence(log=true, examples=3, variant=1)",
    },
    "pixels": {
        f"4 pixels ({name})": f"class_confidence(log=true, pixels=4, variant={i})" for i, name in enumerate("abc")
    },
}


def drawn(
    guidance: float, digit: int, n: int, steps: int, solver: str, seed: int
) -> tuple[Context, list[ponder.Candidate]]:
    problem = ponder.Problem(f"digit-{digit}", str(digit))
    model = ponder.model(f"diffusers:digits(guidance={guidance})")
    ctx = Context(problem, Denoising(model, steps=steps, solver=solver), seed=seed)  # type: ignore[arg-type]
    return ctx, run_sync(lambda: ctx.draw(problem, n))


def scores(ctx: Context, candidates: list[ponder.Candidate], verifier: str) -> Floats:
    return run_sync(lambda: ctx.score(ctx.problem, candidates, ponder.verifier(verifier)))


def told(values: list[float]) -> str:
    return f"{np.mean(values):.2f} ± {1.96 * np.std(values, ddof=1) / len(values) ** 0.5:.2f}"


def steps(repeats: int) -> None:
    print("| evaluations | one sample | judge | best of 20-step samples, weak | judge | strong | judge |")
    print("|---|---|---|---|---|---|---|")
    for budget in (5, 10, 20, 50, 100, 200, 400, 800):
        plain: list[float] = []
        best: dict[str, list[float]] = {WEAK: [], STRONG: []}
        for digit in range(10):
            for seed in range(repeats):
                if budget <= 200:
                    ctx, candidates = drawn(0.3, digit, 10, budget, "ddim", seed)
                    plain += scores(ctx, candidates, JUDGE).tolist()
                if budget >= 20:
                    ctx, candidates = drawn(0.3, digit, budget // 20, 20, "ddim", 1000 + seed)
                    judged = scores(ctx, candidates, JUDGE)
                    for verifier, found in best.items():
                        found.append(float(judged[np.argmax(scores(ctx, candidates, verifier))]))
        cells = [f"{np.mean(np.exp(v) > 0.5):.2f} | {told(v)}" if v else " | " for v in (plain, *best.values())]
        print(f"| {budget} | {' | '.join(cells)} |", flush=True)


def hacking(trio: dict[str, str], repeats: int, pool: int) -> None:
    columns = {**trio, "all images": STRONG, "judge": JUDGE}
    found: dict[tuple[str, int], list[list[float]]] = {}
    for digit in range(10):
        for seed in range(repeats):
            ctx, candidates = drawn(0.0, digit, pool, 20, "ddim", seed)
            known = np.stack([scores(ctx, candidates, verifier) for verifier in columns.values()])
            for n in (1, 4, 16, 64, 256, 1024):
                for first in range(0, pool - n + 1, n):
                    part = known[:, first : first + n]
                    chosen = {name: int(np.argmax(part[i])) for i, name in enumerate(trio)}
                    chosen["ranks of the three"] = int(np.argmax(sum(ranks_of(row.tolist()) for row in part[:3])))
                    for name, i in chosen.items():
                        found.setdefault((name, n), []).append([*part[:, i], digit + 10 * seed])
    print(f"| chosen by | n | {' | '.join(columns)} | right (judge) | mean rank |\n|{'---|' * (len(columns) + 4)}")
    for n in sorted({n for _, n in found}):
        names = [name for name, size in found if size == n]
        means = np.stack([np.mean(found[name, n], axis=0)[:-1] for name in names])
        places = 1 + (len(names) - 1) * (1 - np.stack([ranks_of(column.tolist()) for column in means.T]))
        for name, row, place in zip(names, means, places.mean(axis=0), strict=True):
            rows = np.asarray(found[name, n])
            searches = [rows[rows[:, -1] == key] for key in np.unique(rows[:, -1])]  # one pool each
            judge = told([own[:, -2].mean() for own in searches])
            right = told([float(np.mean(np.exp(own[:, -2]) > 0.5)) for own in searches])
            cells = " | ".join(f"{value:.2f}" for value in row[:-1])
            print(f"| {name} | {n} | {cells} | {judge} | {right} | {place:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", choices=["steps", "hacking"])
    parser.add_argument("--trio", choices=list(TRIOS), default="mixed")
    parser.add_argument("--repeats", type=int, default=4, help="of each digit")
    parser.add_argument("--pool", type=int, default=1024)
    args = parser.parse_args()
    if args.question == "steps":
        steps(args.repeats)
    else:
        hacking(TRIOS[args.trio], args.repeats, args.pool)


if __name__ == "__main__":
    main()
