"""By what rule should a plan choose? Regret of several on random worlds, without a model.

    python benchmarks/planner_rule.py [--worlds 120]

A world has its own difficulties, wrong answers (many or one that is popular), verifier (useless to good, with a bias of
its own for each answer) and up to four searches with levels and slopes of their own. A pilot of 20, 45 or 80 problems
gives the curves that the planner has; the truth is from 600 other problems. A budget allows 32 samples.
"""

from __future__ import annotations

import argparse
import math
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np

from ponder.studies.pilot_curve import Curve, Draws, PoolCurve, Resamples, SearchCurve

POOL, JUDGED = 16, 600
WIDTHS, SEARCH_WIDTHS = (1, 2, 4, 8, 16, 32), (4, 8, 16, 32)
WRONG = 8
RIGHT = np.arange(WRONG + 1) == 0

Options = list[tuple[str, int]]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@dataclass
class World:
    """Everything that differs between kinds of problems, drawn by lot."""

    seed: int

    def __post_init__(self) -> None:
        rng = np.random.default_rng([self.seed, 5])
        mean, concentration = rng.uniform(0.1, 0.8), math.exp(rng.uniform(math.log(0.5), math.log(4)))
        self.difficulty = mean * concentration, (1 - mean) * concentration
        self.spread_of_wrong = math.exp(rng.uniform(math.log(0.1), math.log(3)))
        self.verifier, self.bias = rng.uniform(-0.3, 1.5), rng.uniform(0, 1)
        self.level, self.slope = rng.normal(0, 0.7, 4), rng.normal(0, 0.35, 4)
        self.own = rng.uniform(0.3, 1.5)
        self.searches = int(rng.integers(0, 5))

    def problems(self, k: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Chance of a right draw, shares of wrong answers, biases of the verifier, how well searches fit."""
        wrong = rng.dirichlet(np.full(WRONG, self.spread_of_wrong), k)
        chance = rng.beta(*self.difficulty, k)
        return chance, wrong, rng.normal(0, self.bias, (k, WRONG + 1)), rng.normal(0, self.own, (k, 4))

    def draw(self, chance: float, wrong: np.ndarray, bias: np.ndarray, n: int, rng: np.random.Generator):
        """Draws with the verifier's raw scores, and with scores as probabilities."""
        groups = np.where(rng.random(n) < chance, 0, 1 + rng.choice(WRONG, size=n, p=wrong / wrong.sum()))
        scores = self.verifier * (groups == 0) + bias[groups] + rng.normal(0, 1, n)
        return Draws(groups, RIGHT, scores), Draws(groups, RIGHT, sigmoid(scores))

    def search(self, problems: tuple[np.ndarray, ...], n: int) -> np.ndarray:
        """Chance of each search on each problem."""
        p = np.clip(problems[0], 1e-3, 1 - 1e-3)
        logit = np.log(p / (1 - p))[:, None] + self.level + self.slope * math.log(n) + problems[3]
        return sigmoid(logit)[:, : self.searches]


def pilot(task: tuple[int, int]) -> tuple[Options, np.ndarray, np.ndarray]:
    """Options of one world, their true accuracies, and those that a pilot predicts in each resample."""
    seed, m = task
    world, rng = World(seed), np.random.default_rng([seed, m, 9])
    judged, seen = world.problems(JUDGED, rng), world.problems(m, rng)
    options: Options = []
    true: list[float] = []
    for n in WIDTHS:
        eight = np.kron(np.eye(8, dtype=np.int64), np.ones(n, dtype=np.int64))
        found = np.zeros(3)
        for chance, wrong, bias in zip(*judged[:3], strict=True):
            raw, probable = world.draw(chance, wrong, bias, 8 * n, rng)
            rows = raw.outcomes(eight, "majority"), raw.outcomes(eight, "best"), probable.outcomes(eight, "weighted")
            found += np.mean(rows, axis=1)
        options += [(rule, n) for rule in ("majority", "best", "weighted")]
        true += list(found / JUDGED)
    for n in SEARCH_WIDTHS:
        options += [(f"search {j}", n) for j in range(world.searches)]
        true += list(world.search(judged, n).mean(axis=0))
    resamples = Resamples.of(m, seed=seed)
    pools = [world.draw(*row, POOL, rng) for row in zip(*seen[:3], strict=True)]
    raw, probable = [a for a, _ in pools], [b for _, b in pools]
    curves: dict[str, Curve] = {
        "majority": PoolCurve(raw, "majority", POOL, resamples),
        "best": PoolCurve(raw, "best", POOL, resamples),
        "weighted": PoolCurve(probable, "weighted", POOL, resamples),
    }
    for j in range(world.searches):
        right = {n: (rng.random(m) < world.search(seen, n)[:, j]).astype(float) for n in (4, 16)}
        curves[f"search {j}"] = SearchCurve(right, resamples, f"search {j}")
    return options, np.array(true), np.stack([curves[name].accuracy(n) for name, n in options])


def shrunk(options: Options, accuracy: np.ndarray, spread: float) -> np.ndarray:
    """Posterior means: strategies differ by `spread`, one strategy's widths are alike, errors as in the resamples."""
    names, logs = np.array([name for name, _ in options]), np.log([n for _, n in options])
    alike = (names[:, None] == names) * np.exp(-np.abs(logs[:, None] - logs) / 2)
    prior = spread**2 * alike + 0.25
    noise = np.cov(accuracy) + 1e-5 * np.eye(len(options))
    return 0.5 + prior @ np.linalg.solve(prior + noise, accuracy.mean(axis=1) - 0.5)


def choices(options: Options, accuracy: np.ndarray) -> dict[str, int]:
    """What each rule takes."""
    cost = np.array([n for _, n in options])

    def cheapest_near(value: np.ndarray) -> int:
        near = np.flatnonzero(value >= value.max() - 0.005)
        return int(near[np.argmin(cost[near])])

    mean, quartile = accuracy.mean(axis=1), np.quantile(accuracy, 0.25, axis=1)
    top = accuracy >= accuracy.max(axis=0) - 1e-9
    return {
        "lower quartile, within half a point the cheapest (before)": cheapest_near(quartile),
        "lower quartile": int(quartile.argmax()),
        "mean, within half a point the cheapest": cheapest_near(mean),
        "mean (now)": int(mean.argmax()),
        "most often the best": int((top / top.sum(axis=0)).mean(axis=1).argmax()),
        **{f"mean, shrunk with {s}": int(shrunk(options, accuracy, s).argmax()) for s in (0.05, 0.1, 0.2)},
        **{f"always {rule} @ 32": options.index((rule, 32)) for rule in ("majority", "best", "weighted")},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--worlds", type=int, default=120)
    worlds = parser.parse_args().worlds
    for m in (20, 45, 80):
        regret: dict[str, list[float]] = {}
        with ProcessPoolExecutor() as pool:
            for options, true, accuracy in pool.map(pilot, [(seed, m) for seed in range(worlds)], chunksize=4):
                for rule, at in choices(options, accuracy).items():
                    regret.setdefault(rule, []).append(float(true.max() - true[at]))
        print(f"\npilots of {m} problems, {worlds} worlds: regret, and more than before (± standard error)")
        before = np.array(next(iter(regret.values())))
        for rule, values in regret.items():
            more = np.array(values) - before
            print(f"    {rule:58} {np.mean(values):.4f}  {more.mean():+.4f} ± {more.std() / math.sqrt(worlds):.4f}",
                  flush=True)  # fmt: skip
