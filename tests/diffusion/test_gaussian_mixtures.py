"""Samplers against exact Gaussian mixtures: what the study claims, the cheap part of it at every run."""

import math
from dataclasses import replace

import numpy as np
import pytest

import ponder
from ponder.core.candidate import Candidate
from ponder.diffusion.schedule import Schedule
from ponder.models.combine import Combine
from ponder.models.gmm import Gmm
from ponder.testing import gmm

FK = "fk_steering(n={n}, verifier=gmm_reward, strength=1, potential=difference"
PLANS = {
    "base": "repeated_sampling(n={n})",
    "is": FK + ", threshold=0)",
    "smc": FK + ")",
    "dts": "diffusion_tree_sampling(n=10000, verifier=gmm_reward, factor=1, widening=0.8, explore=0)",
}
CORRECTED = "particle_filter(n={n}, verifier=constant(value=0.0), potential=exp, threshold={threshold}, final=sample)"
A, B = gmm.INSTANCES["expert_a"][0], gmm.INSTANCES["expert_b"][0]


def errors(name, instance, transitions, seeds, steps=10):
    """MMD² of each run from the tilted target."""
    target, _ = gmm.tilted(*gmm.INSTANCES[instance])
    found = []
    for seed in range(seeds):
        result = ponder.solve(
            "x", model=f"gmm:{instance}", process=f"denoising(steps={steps})", seed=seed,
            strategy=PLANS[name].format(n=transitions // steps),
            budget=f"transitions={transitions}" if name == "dts" else None,
        )  # fmt: skip
        assert result.total.transitions <= transitions
        found.append(target.mmd_squared(*gmm.weighted(result)))
    return np.asarray(found)


# ---------------------------------------------------------------------- measures


def test_the_distance_of_one_point_from_one_gaussian_has_the_value_worked_out_by_hand():
    """1 - 2 (h²/(h²+v))^½ exp(-½ x²/(h²+v)) + (h²/(h²+2v))^½ in one dimension, averaged over the bandwidths."""
    x, v = 0.7, 0.3
    by_hand = [
        1 - 2 * math.sqrt(h * h / (h * h + v)) * math.exp(-0.5 * x * x / (h * h + v)) + h / math.sqrt(h * h + 2 * v)
        for h in (0.25, 0.5, 1, 2, 4)
    ]
    found = gmm.Mixture((1.0,), ((0.0,),), (v,)).mmd_squared(np.asarray([[x]]))
    assert found == pytest.approx(np.mean(by_hand), rel=1e-12)


def test_the_distance_from_a_mixture_is_what_the_estimate_by_samples_comes_to():
    """Shifted points, so that the distance is far above the noise of 600 exact draws."""
    rng = np.random.default_rng(0)
    x = A.sample(60, rng) + 1.0
    assert A.mmd_squared(x, np.full(60, 3.0)) == pytest.approx(A.mmd_squared(x), rel=1e-12)
    estimates = [gmm.mmd_squared(x, A.sample(600, rng)) for _ in range(8)]
    diagonal = np.mean(
        [(1 - np.exp(-np.square(x[:, None] - x).sum(-1) / (2 * h * h))).sum() for h in (0.25, 0.5, 1, 2, 4)]
    )
    bias = diagonal / (60 * 60) / 59  # the estimate leaves out pairs of a point with itself
    assert A.mmd_squared(x) == pytest.approx(
        np.mean(estimates) + bias, abs=4.5 * np.std(estimates, ddof=1) / np.sqrt(8)
    )
    exact = [A.mmd_squared(A.sample(n, rng)) for n in (40, 40, 640, 640)]
    assert 0 < max(exact[2:]) < min(exact[:2])


def test_results_give_their_weights_and_count_alike_without():
    where = {"model": "gmm:a", "process": "denoising(steps=3)"}
    plain = ponder.solve("x", strategy="repeated_sampling(n=4)", **where)
    x, weights = gmm.weighted(plain)
    assert x.shape == (4, 2) and weights.tolist() == [0.25] * 4
    steered = ponder.solve("x", strategy="fk_steering(n=5, verifier=gmm_reward, threshold=0)", **where)
    assert gmm.weighted(steered)[1].sum() == pytest.approx(1) and len(set(gmm.weighted(steered)[1])) == 5
    failed = Candidate(None, None, index=9, finish="error", error="broken")
    assert len(gmm.weighted(replace(plain, candidates=(*plain.candidates, failed)))[0]) == 4


# ---------------------------------------------------------------------- tilts


def test_at_1000_transitions_weights_beat_plain_draws_and_the_best_draw():
    """Ring, linear reward. The differences are ten times the spread of the runs."""
    base = errors("base", "ring", 1000, 2)
    target, _ = gmm.tilted(*gmm.INSTANCES["ring"])
    best = ponder.solve(
        "x", model="gmm:ring", process="denoising(steps=10)", strategy="best_of_n(n=100, verifier=gmm_reward)"
    )
    for name in ("is", "smc", "dts"):
        own = errors(name, "ring", 1000, 2).mean()
        assert own < base.mean() / 2 and own < target.mmd_squared(best.output[None]) / 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["is", "smc", "dts"])
def test_errors_fall_by_three_from_250_to_4000_transitions(name):
    """Means of 8 runs at 250 and 4 at 4000, MMD² of the weighted points, which includes their own finite number."""
    assert errors(name, "ring", 4000, 4).mean() < errors(name, "ring", 250, 8).mean() / 3


@pytest.mark.slow
def test_where_the_expected_data_tell_the_reward_steering_is_no_worse_than_the_tree():
    smc, dts = (errors(name, "ring_quadratic", 1000, 6) for name in ("smc", "dts"))
    assert smc.mean() < dts.mean() + 2 * np.sqrt(dts.var(ddof=1) / 6)


@pytest.mark.slow
@pytest.mark.parametrize("transitions", [500, 2000])
def test_on_the_decoy_the_tree_is_better_than_steering_by_the_expected_data(transitions):
    """Lures where no data are draw the particles away at high noise; the tree only knows rewards of outputs."""
    smc, dts = (errors(name, "ring_decoy", transitions, 10, steps=20) for name in ("smc", "dts"))
    assert dts.mean() < smc.mean()


# ---------------------------------------------------------------------- corrected weights


def density_and_score(mixture, x, a, s):
    """Log-density and its gradient of one state, written out."""
    weights, total, slope = np.asarray(mixture.weights) / np.sum(mixture.weights), 0.0, 0.0
    for w, m, v in zip(weights, np.asarray(mixture.means), mixture.variances, strict=True):
        p = a * a * v + s * s
        part = w * math.exp(-((x - a * m) @ (x - a * m)) / (2 * p)) / (2 * math.pi * p) ** (len(x) / 2)
        total, slope = total + part, slope + part * (a * m - x) / p
    return math.log(total), slope / total


@pytest.mark.parametrize("tables", ["variance_exploding", "cosine"])
@pytest.mark.parametrize(("experts", "gammas", "nu"), [
    ((A,), (2.0,), 1.0), ((A, B), (1.0, 1.0), 0.7), ((A, B), (-1.0, 2.0), 1.0), ((A, B, A), (0.7, 0.4, -0.3), 1.6),
])  # fmt: skip
def test_paths_and_weights_are_the_equations_written_out(experts, gammas, nu, tables):
    """Each step of each path again from its noise: d log w = ½σ²(‖S̄‖² - Σγᵢ‖sᵢ‖²)dτ, in y = x / a where f = 0."""
    model = Combine(tuple(Gmm(mixture=e, tables=tables) for e in experts), gammas)
    result = ponder.solve(
        "x", model=model, process=f"denoising(steps=8, nu={nu})",
        strategy=CORRECTED.format(n=5, threshold=0.0),
    )  # fmt: skip
    table, total = model.schedule(8), sum(gammas)
    for node in result.tree.nodes:
        i, x = node.payload.index, node.payload.x
        a, s = float(table.a[i]), float(table.s[i])
        if i == 0:
            y, rho = x / a, s / a
            target = sum(
                g * (density_and_score(e, x, a, s)[0] + 2 * math.log(a)) for g, e in zip(gammas, experts, strict=True)
            )
            proposal = -(y @ y) * total / (2 * rho**2) - math.log(2 * math.pi * rho**2 / total)
            assert node.log_weight == pytest.approx(target - proposal, rel=1e-10, abs=1e-10)
            continue
        before = node.parent.payload.x
        a0, s0 = float(table.a[i - 1]), float(table.s[i - 1])
        scores = [a0 * density_and_score(e, before, a0, s0)[1] for e in experts]
        joint = sum(g * score for g, score in zip(gammas, scores, strict=True))
        change = (s0 / a0) ** 2 - (s / a) ** 2
        y = before / a0 + 0.5 * (1 + nu**2) * change * joint + nu * math.sqrt(change) * node.payload.noise[0]
        np.testing.assert_allclose(x, a * y, rtol=1e-10, atol=1e-10)
        spread = joint @ joint - sum(g * (score @ score) for g, score in zip(gammas, scores, strict=True))
        assert node.log_weight == pytest.approx(0.5 * change * spread, rel=1e-10, abs=1e-10)


class Near(Gmm):
    """The noise begins at 8 instead of 40 standard deviations, where the densities are already known."""

    def schedule(self, steps):
        return Schedule.variance_exploding(steps, largest=8.0)


def guided():
    """γ = (-1, 2) on N(0, 4 I) and N((2, 1), I): precision -1/4 + 2, and ∫ q_c² / q_u."""
    u, c = gmm.Mixture((1.0,), ((0.0, 0.0),), (4.0,)), gmm.Mixture((1.0,), ((2.0, 1.0),), (1.0,))
    square, log_2 = c.product(c)
    target, log_tilt = gmm.tilted(square, gmm.Quadratic(-1 / 4.0, (0.0, 0.0)))
    model = Combine((Near(mixture=u), Near(mixture=c)), (-1.0, 2.0))
    return model, target, log_2 + log_tilt + math.log(2 * math.pi * 4.0)


def test_guidance_of_gaussians_has_the_precision_and_the_normaliser_of_the_closed_form():
    """Means over 10 runs within 4.5 standard errors, and 3 % for the steps' finite number.

    The exact values are precision (1 - β) / v_u + β / v_c = 7/4 and mean (16/7, 8/7). Plain draws are elsewhere.
    """
    model, target, log_z = guided()
    assert target.variances[0] == pytest.approx(4 / 7) and target.means[0] == pytest.approx((16 / 7, 8 / 7))
    told: dict = {"weighted": [], "plain": []}
    for seed in range(10):
        for name, plan in (("weighted", CORRECTED.format(n=128, threshold=0.5)), ("plain", "repeated_sampling(n=128)")):
            result = ponder.solve("x", model=model, process="denoising(steps=100, macro=10)", strategy=plan, seed=seed)
            x, weights = gmm.weighted(result)
            mean = weights @ x
            z = math.exp(result.details["log_evidence"] - log_z) if name == "weighted" else 1.0
            told[name].append([*mean, weights @ np.square(x - mean).mean(axis=1), z])
    exact = np.asarray([16 / 7, 8 / 7, 4 / 7, 1.0])
    means = {name: np.mean(rows, axis=0) for name, rows in told.items()}
    error = {name: np.std(rows, axis=0, ddof=1) / np.sqrt(10) for name, rows in told.items()}
    assert (np.abs(means["weighted"] - exact) < 4.5 * error["weighted"] + 0.03 * exact).all()
    assert np.abs(means["plain"] - exact)[0] > 4.5 * error["plain"][0] + 0.03 * exact[0]


@pytest.mark.slow
@pytest.mark.parametrize(("gammas", "experts"), [((2.0,), (A,)), ((1.0, 1.0), (A, B))])
def test_the_mean_weight_estimates_the_normaliser_of_powers_and_products(gammas, experts):
    """400 steps, 16 runs: within 4.5 standard errors, and 15 % for the steps' finite number."""
    log_z = experts[0].product(experts[-1])[1]
    model = Combine(tuple(Near(mixture=e) for e in experts), gammas)
    ratios = []
    for seed in range(16):
        result = ponder.solve(
            "x", model=model, process="denoising(steps=400, macro=10)", seed=seed,
            strategy=CORRECTED.format(n=256, threshold=0.5),
        )  # fmt: skip
        ratios.append(math.exp(result.details["log_evidence"] - log_z))
    assert abs(np.mean(ratios) - 1) < 4.5 * np.std(ratios, ddof=1) / 4 + 0.15


@pytest.mark.slow
@pytest.mark.parametrize("power", [2, 4])
def test_weights_bring_powers_nearer_to_the_target_than_the_guided_dynamics_alone(power):
    """K = 512, 100 steps. For A² the mean over runs is also within 0.08 of every mode's mass; plain draws are not."""
    truth = A.masses(A.power(power).sample(400_000, np.random.default_rng(0)))
    model = Combine((Gmm(mixture=A, tables="variance_exploding"),), (float(power),))
    runs = 16 if power == 2 else 8
    found: dict = {}
    for name, plan in (("corrected", CORRECTED.format(n=512, threshold=0.5)), ("plain", "repeated_sampling(n=512)")):
        drawn = [
            ponder.solve("x", model=model, process="denoising(steps=100, macro=4)", strategy=plan, seed=seed)
            for seed in range(runs)
        ]
        found[name] = np.asarray([A.masses(*gmm.weighted(result)) for result in drawn])
    away = {name: 0.5 * np.abs(masses - truth).sum(axis=1).mean() for name, masses in found.items()}
    assert away["corrected"] < away["plain"]
    if power == 2:
        assert (np.abs(found["corrected"].mean(axis=0) - truth) < 0.08).all()
        assert (np.abs(found["plain"].mean(axis=0) - truth) > 0.08).any()
