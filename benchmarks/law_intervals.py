"""How often the stated 95 % intervals of fitted laws hold the truth, over simulated studies.

    python benchmarks/law_intervals.py [--studies 1000] [--problems 50 --problems 200] [--law NAME] [--jobs 2]

Each study draws new problems and new samples from a population whose law is known, fits, and looks whether the truth
lies inside. A coverage is printed with its own 95 % interval (Wilson): ± 1.4 points for 1,000 studies.
"""

from __future__ import annotations

import argparse
import functools
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from ponder import laws
from ponder.errors import LawFitError

Row = tuple[str, float, float, float]
"""Quantity, low, high, truth."""


class World(NamedTuple):
    """What a study draws with."""

    rng: np.random.Generator
    problems: int
    resamples: int
    seed: int


class Case(NamedTuple):
    """A population, and how a study of it is simulated and fitted."""

    study: Callable[..., Iterator[Row]]
    setting: tuple[Any, ...]
    text: str
    sizes: tuple[int, ...] = (50, 200)
    """Of studies, in problems; one 0 if the size is part of the setting."""


def beta_binomial(world: World, alpha: float, beta: float, draws: int) -> Iterator[Row]:
    truth = laws.BetaBinomialLaw(alpha, beta)
    c = world.rng.binomial(draws, world.rng.beta(alpha, beta, world.problems))
    law = laws.BetaBinomialLaw.fit(draws, c)
    for name, value in truth.parameters.items():
        yield name, *law.parameter_interval(name), value
    for k in (1, draws, 8 * draws):
        yield f"c({k})", *law.predict_interval(k), truth.predict(k)


def beta_binomial_wrong_form(world: World, a: float, b: float, unsolvable: float, draws: int) -> Iterator[Row]:
    """Difficulties that follow no Beta distribution: what is said inside the range of the draws."""
    p, weights = planted(a, b, unsolvable, draws)
    c = world.rng.binomial(draws, world.rng.choice(p, size=world.problems, p=weights))
    law = laws.BetaBinomialLaw.fit(draws, c)
    for k in (1, 4, draws):
        yield f"c({k})", *law.predict_interval(k), float(weights @ (1 - (1 - p) ** k))


@functools.cache
def planted(a: float, b: float, unsolvable: float, draws: int) -> tuple[Any, Any]:
    """A mixture of difficulties whose coverage follows (1 - unsolvable) · exp(a k^b) up to 8 times the draws."""
    from scipy.optimize import nnls

    p = np.concatenate([[0.0, 1.0], np.geomspace(1e-5, 0.999, 300)])
    k = laws.log_spaced_k(8 * draws)
    chances = 1 - (1 - p[None, :]) ** k[:, None]
    weights, _ = nnls(np.vstack([chances, 1000 * np.ones(p.size)]), np.append(np.exp(a * k**b), 1000.0))
    weights *= (1 - unsolvable) / weights.sum()
    weights[0] += unsolvable
    return p, weights


@functools.cache
def best_coverage_law(a: float, b: float, unsolvable: float, draws: int) -> Any:
    """The law of the exact curve of such a mixture."""
    p, weights = planted(a, b, unsolvable, draws)
    k = laws.log_spaced_k(draws)
    curve = np.clip((1 - (1 - p[None, :]) ** k[:, None]) @ weights, 0, 1)
    return laws.CoverageLaw.fit(k, curve, capped=unsolvable > 0)


def coverage_law(world: World, a: float, b: float, unsolvable: float, draws: int) -> Iterator[Row]:
    """With a plateau if some problems are unsolvable, without one if none is."""
    p, weights = planted(a, b, unsolvable, draws)
    truth = best_coverage_law(a, b, unsolvable, draws)
    c = world.rng.binomial(draws, world.rng.choice(p, size=world.problems, p=weights))
    capped = unsolvable > 0
    law = laws.CoverageLaw.fit_counts(draws, c, capped=capped, resamples=world.resamples, seed=world.seed)
    for name, value in truth.parameters.items():
        yield name, *law.parameter_interval(name), value
    for k in (1, draws, 8 * draws):
        yield f"c({k})", *law.predict_interval(k), truth.predict(k)


def coverage_law_choosing(world: World, a: float, b: float, unsolvable: float, draws: int) -> Iterator[Row]:
    """The plateau is left to AICc, the default; the truth is the coverage of the population."""
    p, weights = planted(a, b, unsolvable, draws)
    c = world.rng.binomial(draws, world.rng.choice(p, size=world.problems, p=weights))
    law = laws.CoverageLaw.fit_counts(draws, c, resamples=world.resamples, seed=world.seed)
    for k in (1, 4, draws, 8 * draws):
        yield f"c({k})", *law.predict_interval(k), float(weights @ (1 - (1 - p) ** k))


def geometric_saturation(world: World, p: float, f_max: float, draws: int) -> Iterator[Row]:
    truth = laws.GeometricSaturation(p, f_max)
    c = world.rng.binomial(draws, np.where(world.rng.random(world.problems) < f_max, p, 0.0))
    law = laws.GeometricSaturation.fit_counts(draws, c, resamples=world.resamples, seed=world.seed)
    for name, value in truth.parameters.items():
        yield name, *law.parameter_interval(name), value
    for k in (1, 8, 2 * draws):
        yield f"F({k})", *law.predict_interval(k), truth.predict(k)


def geometric_saturation_rounds(world: World, p: float, f_max: float, rounds: int) -> Iterator[Row]:
    """Sequential: right answers stay right, and one run a problem is all there is."""
    truth = laws.GeometricSaturation(p, f_max)
    solved = np.where(world.rng.random(world.problems) < f_max, world.rng.geometric(p, world.problems), np.inf)
    units = np.arange(1, rounds + 1)
    right = (solved[:, None] <= units).astype(float)
    law = laws.GeometricSaturation.fit_table(units, right, resamples=world.resamples, seed=world.seed)
    for name, value in truth.parameters.items():
        yield name, *law.parameter_interval(name), value
    for k in (1, rounds, 2 * rounds):
        yield f"F({k})", *law.predict_interval(k), truth.predict(k)


def rethinking_chain(world: World, gained: float, lost: float, first: float, rounds: int) -> Iterator[Row]:
    truth = laws.RethinkingChain(gained, lost, first)
    right = np.empty((world.problems, rounds + 1))
    right[:, 0] = world.rng.random(world.problems) < first
    for n in range(rounds):
        right[:, n + 1] = world.rng.random(world.problems) < np.where(right[:, n] == 1, 1 - lost, gained)
    law = laws.RethinkingChain.fit(right)
    for name, value in truth.parameters.items():
        yield name, *law.parameter_interval(name), value
    yield "limit", *law.parameter_interval("limit"), truth.limit
    for k in (2, rounds):
        yield f"F({k})", *law.predict_interval(k), truth.predict(k)


def power_law(world: World, sizes: int, amounts: int, spread: float) -> Iterator[Row]:
    """A sweep of learning rates for each of sizes x amounts scales; losses vary by the share `spread`."""
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(6e7, 1e9, sizes), np.geomspace(2e9, 1e11, amounts)))
    grid = np.geomspace(1e-4, 1e-1, 31)
    params, tokens, rate = np.repeat(n, 31), np.repeat(d, 31), np.tile(grid, n.size)
    best = 1.79 * params**-0.713 * tokens**0.307
    # Random shift of the grid, so that its points do not favour one side of the optimum.
    rate = rate * np.repeat(np.exp(world.rng.uniform(-0.12, 0.12, n.size)), 31)
    loss = 3 * (1 + 0.02 * np.log(rate / best) ** 2) * (1 + spread * world.rng.standard_normal(rate.size))
    law = laws.fit_power_law({"params": params, "tokens": tokens}, rate, loss)
    for name, truth in (("params", -0.713), ("tokens", 0.307)):
        yield name, *law.parameter_interval(name), truth
    got = law.forecast(params=2e9, tokens=2e11)
    yield "value at 2B, 200B", got.low, got.high, 1.79 * 2e9**-0.713 * 2e11**0.307


def rag_allocation(world: World, tasks: int, noise: float, questions: int) -> Iterator[Row]:
    """24 cells a task: each cell's logit off the form by `noise`, and its accuracy counted on `questions`."""
    truth = {"a_documents": 0.3, "a_demonstrations": 0.1, "a_iterations": 0.4, "b_documents": 0.8,
             "b_demonstrations": 0.5, "c": -0.5}  # fmt: skip
    configs = [laws.RagConfig(k, m, n) for k in (0, 1, 5, 20) for m in (0, 1, 4) for n in (1, 3)] * tasks
    gains = [laws.RagTask(0.1 + 0.2 * i, 0.05 + 0.15 * (i % 3)) for i in range(tasks) for _ in range(24)]
    known = laws.RagAllocation(truth, "logit", "full", 1.0, len(configs), np.eye(6))
    logit = np.array([np.log(p / (1 - p)) for p in map(known.predict, configs, gains)])
    chance = 1 / (1 + np.exp(-(logit + noise * world.rng.standard_normal(logit.size))))
    seen = world.rng.binomial(questions, chance) / questions
    law = laws.RagAllocation.fit(configs, gains, seen, n_questions=questions)
    for name in ("a_documents", "b_demonstrations"):
        yield name, *law.parameter_interval(name), truth[name]
    at = laws.RagConfig(50, 8, 5), laws.RagTask(0.2, 0.1)
    got = law.forecast(*at)
    yield "quality at (50, 8, 5)", got.low, got.high, known.predict(*at)


def arise(world: World, chances: tuple[float, ...], degraded: float) -> Iterator[Row]:
    """What is right stays right, but for some problems whose last answer is wrong."""
    cost = np.array([100.0, 200, 400])
    quality = (world.rng.random(world.problems)[:, None] < chances).astype(float)
    quality[world.rng.random(world.problems) < degraded] = [1.0, 1.0, 0.0]
    got = laws.arise(quality, np.tile(cost, (world.problems, 1)))
    yield "mean", got.low, got.high, (1 - degraded) * 0.5 * (chances[2] - chances[0]) - 2 * degraded


def arise_flips(world: World, gained: float, lost: float, first: float) -> Iterator[Row]:
    """Answers that are found and lost again."""
    right = np.empty((world.problems, 3))
    right[:, 0] = world.rng.random(world.problems) < first
    for n in range(2):
        right[:, n + 1] = world.rng.random(world.problems) < np.where(right[:, n] == 1, 1 - lost, gained)
    got = laws.arise(right, np.tile([100.0, 200, 400], (world.problems, 1)))
    before = laws.RethinkingChain(gained, lost, first).predict([0, 1])
    yield "mean", got.low, got.high, float(((1 - before) * gained * 0.5 - before * lost * 2).sum())


def scaling_metrics(world: World, alpha: float, beta: float) -> Iterator[Row]:
    """Solved by any of the first 1, 4, 16 and 64 draws."""
    budgets = np.array([1, 4, 16, 64])
    p = world.rng.beta(alpha, beta, world.problems)
    first = world.rng.geometric(np.maximum(p, 1e-12))
    right = (first[:, None] <= budgets).astype(float)
    coverage = laws.BetaBinomialLaw(alpha, beta).predict(budgets)
    for metric in (laws.slope_per_doubling, laws.mean_pairwise_slope, laws.area_under_curve):
        got = laws.metric_interval(metric, 100 * budgets, right)
        yield metric.__name__, got.low, got.high, metric(100 * budgets, coverage)
    cost = np.tile(100.0 * budgets, (world.problems, 1))
    for at, k in enumerate(budgets):
        got = laws.mean_interval(laws.anytime_quality(cost, right, 100 * k)[:, 0])
        yield f"quality at {100 * k}", got.low, got.high, float(coverage[at])


def split_of_solving_and_verifying(
    world: World, alpha: float, beta: float, yes_if_right: float, yes_if_wrong: float
) -> Iterator[Row]:
    """64 solutions with 16 verdicts each; the truth is the fit to the exact surface on the same grid."""
    grid: dict[str, Any] = {"solutions": (1, 2, 4, 8, 16, 32, 64), "numbers": (1, 2, 4, 8, 16)}
    budgets = (8, 16, 32, 64, 128, 256)
    q = world.rng.beta(alpha, beta, world.problems)
    right = world.rng.random((world.problems, 64)) < q[:, None]
    said = world.rng.random((world.problems, 64, 16)) < np.where(right, yes_if_right, yes_if_wrong)[:, :, None]
    truth = exact_grid_split(alpha, beta, yes_if_right, yes_if_wrong, *grid.values(), budgets)
    spans = laws.split_intervals(right, said.astype(float), budgets, **grid, seed=world.seed)
    for name, value in (("a", truth.a), ("b", truth.b)):
        yield name, spans[name][0] - 1e-9, spans[name][1] + 1e-9, value


@functools.cache
def exact_grid_split(
    alpha: float, beta: float, yes_if_right: float, yes_if_wrong: float, solutions: Any, verdicts: Any, budgets: Any
) -> Any:
    accuracies = laws.ResamplingModel.beta(alpha, beta, 1, 1).accuracies
    grids = [
        laws.simulated_grid(laws.SolverAndVerifier(q, yes_if_right, yes_if_wrong), solutions, verdicts)
        for q in accuracies
    ]
    mean = [cells[0]._replace(success=float(np.mean([c.success for c in cells]))) for cells in zip(*grids, strict=True)]
    return laws.fit_split(mean, budgets)


def verifier_rates(world: World, completeness: float, soundness: float, alike: float, samples: int) -> Iterator[Row]:
    """Samples of one problem share its difficulty and how well the verifier judges it (Beta, `alike` counts strong)."""
    shape = (world.problems, samples)
    right = world.rng.random(shape) < world.rng.beta(0.6, 0.9, (world.problems, 1))
    c, s = (world.rng.beta(alike * x, alike * (1 - x), (world.problems, 1)) for x in (completeness, soundness))
    accept = world.rng.random(shape) < np.where(right, c, 1 - s)
    problem = np.repeat(np.arange(world.problems), samples).tolist()
    found = laws.verifier_rates(accept.ravel().tolist(), right.ravel().tolist(), problem)
    apart = laws.verifier_rates(accept.ravel().tolist(), right.ravel().tolist())
    accepted_right, accepted_wrong = 0.4 * completeness, 0.6 * (1 - soundness)
    precision = accepted_right / (accepted_right + accepted_wrong)
    for name, truth in (("completeness", completeness), ("soundness", soundness), ("precision", precision)):
        yield name, *getattr(found, name)[1:], truth
        yield f"{name} as if of problems of their own", *getattr(apart, name)[1:], truth


def paired_difference(world: World, better: float, worse: float) -> Iterator[Row]:
    """Two strategies on the same problems; either is right where the other is not. The percentile interval."""
    u = world.rng.random(world.problems)
    difference = (u < better).astype(float) - (u > 1 - worse)
    got = laws.paired_difference(difference, np.zeros(world.problems), resamples=1000, seed=world.seed)
    yield "difference", got.low, got.high, better - worse


CASES = (
    Case(beta_binomial, (0.4, 1.6, 32), "α 0.4, β 1.6, 32 draws"),
    Case(beta_binomial, (1.0, 1.0, 16), "α 1, β 1, 16 draws"),
    Case(beta_binomial, (0.2, 4.0, 64), "α 0.2, β 4, 64 draws"),
    Case(beta_binomial_wrong_form, (-1.5, -0.35, 0.25, 32), "a quarter unsolvable, the others no Beta"),
    Case(coverage_law, (-1.5, -0.35, 0.0, 32), "a -1.5, b -0.35, 32 draws"),
    Case(coverage_law, (-3.0, -0.3, 0.0, 64), "a -3, b -0.3, 64 draws"),
    Case(coverage_law, (-1.5, -0.6, 0.2, 64), "plateau 0.8, a -1.5, b -0.6, 64 draws"),
    Case(coverage_law, (-2.5, -0.5, 0.3, 64), "plateau 0.7, a -2.5, b -0.5, 64 draws"),
    Case(coverage_law_choosing, (-1.5, -0.35, 0.0, 32), "no plateau in truth"),
    Case(coverage_law_choosing, (-1.5, -0.6, 0.2, 64), "plateau 0.8 in truth"),
    Case(coverage_law_choosing, (-0.8, -0.8, 0.05, 32), "plateau 0.95 in truth, easy problems"),
    Case(geometric_saturation, (0.15, 0.7, 32), "p 0.15, F_max 0.7, 32 draws"),
    Case(geometric_saturation, (0.05, 0.5, 64), "p 0.05, F_max 0.5, 64 draws"),
    Case(geometric_saturation, (0.1, 0.95, 32), "p 0.1, F_max 0.95, 32 draws"),
    Case(geometric_saturation_rounds, (0.3, 0.6, 8), "sequential: p 0.3, F_max 0.6, 8 rounds"),
    Case(rethinking_chain, (0.3, 0.1, 0.2, 8), "a 0.3, b 0.1, F(0) 0.2, 8 rounds"),
    Case(rethinking_chain, (0.1, 0.05, 0.5, 4), "a 0.1, b 0.05, F(0) 0.5, 4 rounds"),
    Case(rethinking_chain, (0.2, 0.02, 0.4, 4), "a 0.2, b 0.02, F(0) 0.4, 4 rounds"),
    Case(power_law, (4, 3, 0.001), "12 scales of 31 runs, losses ± 0.1 %", (0,)),
    Case(power_law, (3, 2, 0.003), "6 scales of 31 runs, losses ± 0.3 %", (0,)),
    Case(rag_allocation, (2, 0.2, 100_000), "2 tasks, off the form by 0.2", (0,)),
    Case(rag_allocation, (3, 0.1, 200), "3 tasks, off by 0.1, 200 questions a cell", (0,)),
    Case(split_of_solving_and_verifying, (0.5, 2.0, 0.9, 0.4), "q ~ Beta(0.5, 2), t 0.9, f 0.4"),
    Case(split_of_solving_and_verifying, (1.0, 2.0, 0.75, 0.35), "q ~ Beta(1, 2), t 0.75, f 0.35"),
    Case(verifier_rates, (0.9, 0.8, 8.0, 8), "completeness 0.9, soundness 0.8, 8 samples a problem"),
    Case(verifier_rates, (0.97, 0.95, 8.0, 4), "completeness 0.97, soundness 0.95, 4 samples a problem"),
    Case(arise, ((0.4, 0.5, 0.7), 0.1), "a tenth degrades"),
    Case(arise, ((0.4, 0.5, 0.7), 0.02), "a fiftieth degrades"),
    Case(arise_flips, (0.3, 0.02, 0.4), "gained 0.3, lost 0.02"),
    Case(arise_flips, (0.3, 0.1, 0.4), "gained 0.3, lost 0.1"),
    Case(scaling_metrics, (0.4, 1.6), "p ~ Beta(0.4, 1.6)"),
    Case(scaling_metrics, (0.2, 6.0), "p ~ Beta(0.2, 6)"),
    Case(paired_difference, (0.2, 0.1), "0.2 better, 0.1 worse"),
    Case(paired_difference, (0.05, 0.02), "0.05 better, 0.02 worse"),
)


def study(job: tuple[Case, int, int, int]) -> list[Row]:
    case, seed, problems, resamples = job
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            world = World(np.random.default_rng([seed, problems]), problems, resamples, seed)
            return list(case.study(world, *case.setting))
        except LawFitError:
            return []


def measure(
    case: Case, *, studies: int, problems: int, resamples: int = 400, jobs: int = 1
) -> tuple[dict[str, int], int]:
    """By quantity how many studies' intervals hold the truth; and how many studies were fitted, not refused."""
    work = [(case, seed, problems, resamples) for seed in range(studies)]
    if jobs > 1:
        with ProcessPoolExecutor(jobs) as pool:
            found = list(pool.map(study, work, chunksize=10))
    else:
        found = [study(job) for job in work]
    hits: dict[str, int] = {}
    for rows in found:
        for quantity, low, high, truth in rows:
            hits[quantity] = hits.get(quantity, 0) + bool(low <= truth <= high)
    return hits, sum(bool(rows) for rows in found)


if __name__ == "__main__":
    names = sorted({case.study.__name__ for case in CASES})
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--problems", type=int, action="append", help="default: 50 and 200")
    parser.add_argument("--resamples", type=int, default=400)
    parser.add_argument("--law", action="append", choices=names)
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    for case in CASES:
        name = case.study.__name__
        if given.law and name not in given.law:
            continue
        for problems in given.problems if given.problems and case.sizes != (0,) else case.sizes:
            began = time.perf_counter()
            hits, fitted = measure(
                case, studies=given.studies, problems=problems, resamples=given.resamples, jobs=given.jobs
            )
            size = f" {problems} problems," if problems else ""
            seconds = time.perf_counter() - began
            print(f"{name}: {case.text};{size} {given.studies - fitted} of {given.studies} refused, {seconds:.0f} s")
            for quantity, count in hits.items():
                share, low, high = laws.wilson_interval(count, fitted)
                print(f"    {quantity}: {share:.1%} ({low:.1%} to {high:.1%})", flush=True)
