"""Samplers against the exact tilted targets of Gaussian mixtures, at equal transitions; and corrected weights (FKC).

    python benchmarks/gaussian_mixtures.py tilts [--repeats 12] [--transitions 250,1000,4000]
    python benchmarks/gaussian_mixtures.py corrected [--repeats 16]
    python benchmarks/gaussian_mixtures.py guidance [--repeats 16]

Everything runs through public strategies. `tilts`: an instance's reward tilts its mixture, q·exp(r) / Z, and each
method may take so many transitions to sample it. `corrected`: powers and products of mixtures by `combine`, with and
without the weights. `guidance`: the same for classifier-free guidance. Intervals are 95 %, by Student's t over the
repeats. Runs are kept in runs/gaussian_mixtures.json, so that an interrupted study goes on.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

import ponder
from ponder.diffusion.model import DiffusionModel, FunctionModel
from ponder.diffusion.schedule import Floats
from ponder.models.combine import Combine
from ponder.models.gmm import Gmm
from ponder.testing import gmm

EXACT = 1500
"""Exact draws that a result is compared with for W1, new ones for every repeat. MMD² and masses have closed forms."""


# ---------------------------------------------------------------------- tilts

STEPS = {"a": 10, "ring": 10, "ring_quadratic": 10, "ring_decoy": 20}
"""Instances and their timesteps."""

THIN = "denoising(steps={steps})"
FIVE = "denoising(steps={steps}, macro={macro})"
VALUE = "particle_filter(n={n}, verifier=gmm_reward(value=true), potential=telescope, threshold=0.5)"
FK = "fk_steering(n={n}, verifier=gmm_reward, strength=1, potential=difference, final=sample"
METHODS = {
    "base": (THIN, "repeated_sampling(n={n})"),
    "best_of_n": (THIN, "best_of_n(n={n}, verifier=gmm_reward)"),
    "gradient guidance": ("denoising(steps=50, solver=ddim)", "repeated_sampling(n={n})"),
    "importance sampling": (THIN, FK + ", threshold=0)"),
    "SMC, expected data": (THIN, FK + ")"),
    "SMC, exact value": (THIN, VALUE),
    "DTS, thin": (THIN, "diffusion_tree_sampling(n=100000, verifier=gmm_reward, factor=1, widening=0.8, explore=0)"),
    "DTS, five levels": (FIVE, "diffusion_tree_sampling(n=100000, verifier=gmm_reward)"),
}  # fmt: skip
"""Process and strategy of each method; a tree counts its cost by the budget."""


@dataclass(frozen=True)
class Guided:
    """The score with the gradient of r(expected data) added: what is called reward guidance.

    The gradient is taken by central differences of the exact expected data, whose Jacobian is symmetric. Its cost is
    not counted.
    """

    model: Gmm
    reward: Callable[[Floats], Floats]

    def __call__(self, x: Floats, t: Floats, prompt: Any) -> Floats:
        """Scores (n, d) at x (n, d) of the cosine schedule's angles t (n,)."""
        a, s, h = np.cos(t), np.sin(t), 1e-4

        def data(x: Floats) -> Floats:
            return self.model.predict(x, a, s, t, None).x0

        there = data(x)
        steps = h * np.eye(x.shape[1])
        slope = np.stack([(self.reward(there + e) - self.reward(there - e)) / (2 * h) for e in steps], axis=1)
        guide = (data(x + h * slope) - data(x - h * slope)) / (2 * h)
        return (a[:, None] * there - x) / np.square(s)[:, None] + guide


def tilt_run(instance: str, method: str, transitions: int, seed: int) -> dict[str, Any]:
    """One search, and how far it is from the tilted target."""
    mixture, reward = gmm.INSTANCES[instance]
    target, log_z = gmm.tilted(mixture, reward)
    process, plan = METHODS[method]
    steps, model = STEPS[instance], Gmm(instance)
    source: Any = model
    if method == "gradient guidance":
        steps, source = (
            50,
            FunctionModel(Guided(model, reward), model.latent_shape, "score", label=f"guided {instance}"),
        )
    result = ponder.solve(
        "x", model=source, seed=seed, process=process.format(steps=steps, macro=steps // 5),
        strategy=plan.format(n=transitions // steps),
        budget=f"transitions={transitions}" if method.startswith("DTS") else None,
    )  # fmt: skip
    if method == "best_of_n":
        x, weights = np.asarray([result.output]), np.ones(1)
    else:
        x, weights = gmm.weighted(result)
    found = distances(x, weights, target, mixture, seed)
    found["transitions"] = result.total.transitions
    if (evidence := result.details.get("log_evidence")) is not None:
        found["value"] = float(evidence - log_z)
    return found


def distances(x: Floats, weights: Floats, target: gmm.Mixture, modes: gmm.Mixture, seed: int) -> dict[str, float]:
    """Of a weighted sample from the target, by a new exact sample of it; masses go to the nearest mean of `modes`."""
    rng = np.random.default_rng([7, seed])
    exact = target.sample(EXACT, rng)
    return {
        "mmd": target.mmd_squared(x, weights),
        "w1": gmm.sliced_wasserstein(x, exact, rng, weights),
        "tv": gmm.total_variation(modes.masses(x, weights), _masses(target, modes)),
    }


@cache
def _masses(target: gmm.Mixture, modes: gmm.Mixture) -> Floats:
    return modes.masses(target.sample(1_000_000, np.random.default_rng(0)))


def floor_run(instance: str, n: int, seed: int) -> dict[str, float]:
    """The same distances of n exact draws."""
    mixture, reward = gmm.INSTANCES[instance]
    target, _ = gmm.tilted(mixture, reward)
    x = target.sample(n, np.random.default_rng([8, seed]))
    return distances(x, np.full(n, 1.0 / n), target, mixture, seed)


# ---------------------------------------------------------------------- corrected weights


@dataclass(frozen=True)
class Case:
    """A combined target with what is known of it.

    Args:
        experts: the mixtures.
        gammas: their powers.
        target: the normalised product, in closed form.
        log_z: the logarithm of ∫ ∏ qᵢ ** γᵢ.
        modes: centres to which masses are counted.
    """

    experts: tuple[gmm.Mixture, ...]
    gammas: tuple[float, ...]
    target: gmm.Mixture
    log_z: float
    modes: gmm.Mixture

    @property
    def model(self) -> DiffusionModel:
        """For strategies."""
        return Combine(tuple(Gmm(mixture=e, tables="variance_exploding") for e in self.experts), self.gammas)


def _over(mixture: gmm.Mixture, log_z: float, by: gmm.Mixture) -> tuple[gmm.Mixture, float]:
    """Mixture · exp(log_z) / by, for one Gaussian `by` that is wider than all components: a tilt by its inverse."""
    (v,), d = by.variances, by.dimension
    target, log_tilt = gmm.tilted(mixture, gmm.Quadratic(-1.0 / v, by.means[0]))
    return target, log_z + log_tilt + 0.5 * d * math.log(2 * math.pi * v)


@cache
def cases() -> dict[str, Case]:
    """Powers and products of the specification's experts, and guidance (γ = -1, 2) where it has a closed form."""
    a, b = gmm.INSTANCES["expert_a"][0], gmm.INSTANCES["expert_b"][0]
    square, log_2 = a.product(a)
    fourth, log_4 = square.product(square)
    both, log_ab = a.product(b)
    near = gmm.Mixture((1.0, 1.0, 1.0), ((-3.0, 0.7), (3.0, -0.6), (0.0, 2.0)), (1.0, 1.0, 1.0))
    wide = gmm.Mixture((1.0,), ((0.0, 0.0),), (4.0,))
    narrow = gmm.Mixture((1.0,), ((2.0, 1.0),), (1.0,))
    peaks = gmm.Mixture((0.3, 0.7), ((-2.0, 0.0), (2.0, 1.0)), (0.6, 1.0))
    guided, told = narrow.product(narrow), peaks.product(peaks)
    return {
        "A²": Case((a,), (2.0,), square, log_2, a),
        "A⁴": Case((a,), (4.0,), fourth, 2 * log_2 + log_4, a),
        "A·B": Case((a, b), (1.0, 1.0), both, log_ab, near),
        "guidance, Gaussians": Case((wide, narrow), (-1.0, 2.0), *_over(*guided, wide), narrow),
        "guidance, mixture": Case((wide, peaks), (-1.0, 2.0), *_over(*told, wide), peaks),
    }


def corrected_run(name: str, weighted: bool, setting: Sequence[float], seed: int) -> dict[str, Any]:
    """K particles with weights, or as many plain draws of the guided SDE."""
    case = cases()[name]
    k, steps, macro, nu = setting
    plan = f"particle_filter(n={k}, verifier=constant(value=0.0), potential=exp, threshold=0.5, final=sample)"
    result = ponder.solve(
        "x", model=case.model, seed=seed, process=f"denoising(steps={steps}, macro={macro}, nu={nu})",
        strategy=plan if weighted else f"repeated_sampling(n={k})",
    )  # fmt: skip
    x, weights = gmm.weighted(result)
    found: dict[str, Any] = distances(x, weights, case.target, case.modes, seed)
    found["masses"] = case.modes.masses(x, weights).tolist()
    mean = weights @ x
    found["moments"] = [*mean.tolist(), float(weights @ np.square(x - mean).sum(axis=1)) / x.shape[1]]
    if weighted:
        found["value"] = float(result.details["log_evidence"] - case.log_z)
    return found


HUNDRED: tuple[float, ...] = (512, 100, 4, 1.0)
FOUR_HUNDRED: tuple[float, ...] = (512, 400, 16, 1.0)
CORRECTED: dict[str, list[tuple[tuple[float, ...], float]]] = {
    "A²": [(HUNDRED, 1), (FOUR_HUNDRED, 1), ((512, 400, 16, 2.0), 0.5)],
    "A⁴": [(HUNDRED, 1), (FOUR_HUNDRED, 1)],
    "A·B": [
        ((96, 40, 1, 1.0), 2), (HUNDRED, 1), (FOUR_HUNDRED, 1), ((512, 400, 16, 2.0), 0.5),
        ((4096, 100, 4, 1.0), 0.25), ((4096, 400, 16, 1.0), 0.25),
    ],
    "guidance, Gaussians": [((512, 100, 2, 1.0), 1)],
    "guidance, mixture": [((512, 100, 2, 1.0), 1)],
}  # fmt: skip
"""Cases with their settings (particles, steps, macro, ν), each with its share of the repeats."""


# ---------------------------------------------------------------------- tables


def interval(values: Sequence[float], digits: int = 3) -> str:
    """Mean and half-width of the 95 % interval."""
    n = len(values)
    half = float(student.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    return f"{np.mean(values):.{digits}f} ± {half:.{digits}f}"


class Kept:
    """Finished runs, in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def get(self, *key: Any, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A run, made if it is not there."""
        name = json.dumps(key)
        if name not in self._found:
            self._found[name] = make()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps(self._found))
        found: dict[str, Any] = self._found[name]
        return found


def tilts(kept: Kept, repeats: int, budgets: Sequence[int], instances: Sequence[str], methods: Sequence[str]) -> None:
    """A table for each instance: MMD² at every budget, the other measures at the largest one."""
    for instance in instances:
        print(f"\n**{instance}**, {STEPS[instance]} steps\n")
        print(f"| method | {' | '.join(f'MMD² {b}' for b in budgets)} | W1 | TV of masses | log Z error |")
        print("|---|" + "---|" * (len(budgets) + 3))
        for method in [*methods, "exact draws"]:
            by_budget = []
            for budget in budgets:
                n = budget // STEPS[instance]
                runs = []
                for seed in range(repeats):
                    if method == "exact draws":
                        runs.append(kept.get("floor", instance, n, seed, make=partial(floor_run, instance, n, seed)))
                    else:
                        make = partial(tilt_run, instance, method, budget, seed)
                        runs.append(kept.get("tilt", instance, method, budget, seed, make=make))
                by_budget.append(runs)
            cells = [interval([r["mmd"] for r in runs], 4) for runs in by_budget]
            last = by_budget[-1]
            values = [r["value"] for r in last if "value" in r]
            cells += [interval([r["w1"] for r in last], 2), interval([r["tv"] for r in last])]
            print(f"| {method} | {' | '.join(cells)} | {interval(values, 2) if values else '–'} |", flush=True)


def corrected(kept: Kept, repeats: int, names: Sequence[str]) -> None:
    """A table of masses, one of distances."""
    for name in names:
        case = cases()[name]
        truth = _masses(case.target, case.modes)
        print(f"\n**{name}**, masses {np.round(truth, 3).tolist()}\n")
        print("| K, steps, macro, ν | runs | | masses | TV of mean | TV of a run | MMD² | W1 | Z estimate / Z |")
        print("|---|---|---|---|---|---|---|---|---|")
        mean_and_variance: list[str] = []
        for setting, share in CORRECTED[name]:
            n = max(2, round(repeats * share))
            for weighted in (False, True):
                runs = [
                    kept.get(
                        "corrected", name, weighted, setting, s, make=partial(corrected_run, name, weighted, setting, s)
                    )
                    for s in range(n)
                ]
                masses = np.asarray([r["masses"] for r in runs])
                shown = ", ".join(interval(column.tolist()) for column in masses.T)
                ratio = interval([math.exp(r["value"]) for r in runs], 2) if weighted else "–"
                cells = [interval([r[m] for r in runs], d) for m, d in (("tv", 3), ("mmd", 4), ("w1", 2))]
                label = "weighted" if weighted else "plain"
                bias = gmm.total_variation(masses.mean(axis=0), truth)
                where = ", ".join(f"{v:g}" for v in setting)
                print(f"| {where} | {n} | {label} | {shown} | {bias:.3f} | {' | '.join(cells)} | {ratio} |", flush=True)
                if name == "guidance, Gaussians":
                    moments = np.asarray([r["moments"] for r in runs])
                    mean_and_variance.append(
                        label + ": " + ", ".join(interval(column.tolist()) for column in moments.T)
                    )
        if mean_and_variance:
            exact = (*np.round(case.target.means[0], 3), round(case.target.variances[0], 3))
            print(f"\nMean and variance, {'; '.join(mean_and_variance)}; exact {exact}")


def main() -> None:
    """Run what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["tilts", "corrected", "guidance"])
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--transitions", default="250,1000,4000")
    parser.add_argument("--instances", default=",".join(STEPS))
    parser.add_argument("--methods", default="|".join(METHODS), help="separated by |")
    parser.add_argument("--cases", default="A²|A⁴|A·B")
    parser.add_argument("--out", type=Path, default=Path("runs/gaussian_mixtures.json"))
    args = parser.parse_args()
    kept = Kept(args.out)
    if args.part == "tilts":
        budgets = [int(b) for b in args.transitions.split(",")]
        tilts(kept, args.repeats or 12, budgets, args.instances.split(","), args.methods.split("|"))
    else:
        names = args.cases.split("|") if args.part == "corrected" else ["guidance, Gaussians", "guidance, mixture"]
        corrected(kept, args.repeats or 16, names)


if __name__ == "__main__":
    main()
