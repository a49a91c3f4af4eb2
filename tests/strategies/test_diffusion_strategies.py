"""Steering, corrected weights and noise search against exact Gaussian mixtures."""

import numpy as np
import pytest

import ponder
from ponder.core.search_tree import SearchTree
from ponder.diffusion.gmm import INSTANCES, tilted
from ponder.diffusion.measures import total_variation
from ponder.errors import CapabilityError, ParameterError
from ponder.models.gmm import Gmm
from ponder.strategies.fk_steering import FKSteering
from ponder.strategies.zero_order_search import neighbour


def weighted(result):
    x = np.asarray([c.output for c in result.candidates])
    return x, np.asarray([c.scores["weight"] for c in result.candidates])


@pytest.mark.parametrize("potential", ["difference", "max", "add"])
def test_potentials_multiply_to_exp_of_the_last_reward(potential):
    plan = ponder.parse(
        f"fk_steering(n=6, verifier=gmm_reward, strength=0.7, potential={potential}, threshold=0, every=2)"
    )
    result = ponder.solve("x", model="gmm:a", process="denoising(steps=5)", strategy=plan)
    assert isinstance(result.tree, SearchTree)
    x, share = weighted(result)
    expected = np.exp(0.7 * INSTANCES["a"][1](x))
    np.testing.assert_allclose(share, expected / expected.sum(), rtol=1e-9)


@pytest.mark.parametrize("strategy", [
    "fk_steering(n=64, verifier=gmm_reward, strength=1, potential=difference)",
    "fk_steering(n=64, verifier=gmm_reward, strength=1, potential=max)",
    "particle_filter(n=64, verifier=gmm_reward, potential=telescope, threshold=0.5)",
    "particle_filter(n=64, verifier=gmm_reward(value=true), potential=telescope)",
])  # fmt: skip
def test_steered_particles_have_the_tilted_masses_and_the_normaliser(strategy):
    """Means over 12 runs, within 4 standard errors of the exact values; exp(log evidence) is unbiased for Z."""
    target, log_z = tilted(*INSTANCES["a"])
    means, z = [], []
    for seed in range(12):
        result = ponder.solve("x", model="gmm:a", process="denoising(steps=4)", strategy=strategy, seed=seed)
        x, share = weighted(result)
        means.append(share @ x)
        z.append(np.exp(result.details["log_evidence"]))
    error = np.std(means, axis=0, ddof=1) / np.sqrt(12)
    assert (np.abs(np.mean(means, axis=0) - target.mean) < 4.5 * error + 0.02).all()
    assert abs(np.mean(z) - np.exp(log_z)) < 4.5 * np.std(z, ddof=1) / np.sqrt(12)


def test_one_particle_is_a_plain_draw():
    steered = ponder.solve(
        "x", model="gmm:a", process="denoising(steps=4)", strategy="fk_steering(n=1, verifier=gmm_reward)"
    )
    filtered = ponder.solve(
        "x", model="gmm:a", process="denoising(steps=4)", strategy="particle_filter(n=1, verifier=gmm_reward)"
    )
    np.testing.assert_array_equal(steered.output, filtered.output)


def test_rewards_are_asked_for_only_where_they_are_due():
    result = ponder.solve(
        "x",
        model="gmm:a",
        process="denoising(steps=6)",
        strategy="fk_steering(n=4, verifier=gmm_reward, first=3, every=2)",
    )
    assert result.total.verifier_calls == 4 * 3, "levels 3 and 5, and the last, 7"


@pytest.mark.parametrize(
    ("model", "target", "bias"),
    [
        ("combine(experts=[gmm:expert_a], weights=[2.0])", lambda a, b: a.power(2), 0.08),
        (
            "combine(experts=[gmm:expert_a(tables=variance_exploding)], weights=[2.0])",
            lambda a, b: a.power(2),
            0.08,
        ),
    ],
)
def test_corrected_weights_bring_the_mean_masses_to_the_target(model, target, bias):
    a, b = INSTANCES["expert_a"][0], INSTANCES["expert_b"][0]
    truth = a.masses(target(a, b).sample(50_000, np.random.default_rng(0)))
    masses: dict[float, list] = {0.5: [], 0.0: []}
    for seed in range(4):
        for threshold, found in masses.items():
            result = ponder.solve(
                "x", model=model, process="denoising(steps=40)", seed=seed,
                strategy=f"particle_filter(n=128, verifier=constant, potential=exp, threshold={threshold})",
            )  # fmt: skip
            x, share = weighted(result)
            found.append(a.masses(x, share if threshold else None))
    corrected, plain = (np.mean(masses[t], axis=0) for t in (0.5, 0.0))
    assert total_variation(corrected, truth) < total_variation(plain, truth)
    error = np.std(masses[0.5], axis=0, ddof=1) / np.sqrt(len(masses[0.5]))
    assert (np.abs(corrected - truth) < 4 * error + bias).all()


def test_one_expert_of_power_one_needs_no_correction():
    result = ponder.solve(
        "x", model="combine(experts=[gmm:expert_a(tables=variance_exploding)], weights=[1.0])",
        process="denoising(steps=10)", strategy="particle_filter(n=8, verifier=constant, potential=exp, threshold=0)",
    )  # fmt: skip
    increments = [node.log_weight for node in result.tree.nodes if node.depth > 1]
    np.testing.assert_allclose(increments, 0.0, atol=1e-12)


def test_guidance_is_two_experts_and_weighs_by_their_distance():
    """γ = (1 - β, β): spread is β(β - 1)‖ε_u - ε_c‖²."""
    model = ponder.model("combine(experts=[gmm:expert_a, gmm:expert_b], weights=[-1.0, 2.0])")
    x, a, s = np.asarray([[0.4, 1.0]]), np.asarray([0.8]), np.asarray([0.6])
    u, c = (ponder.model(f"gmm:expert_{n}").predict(x, a, s, a, None).eps for n in "ab")
    found = model.predict(x, a, s, a, (None, None))
    np.testing.assert_allclose(found.eps, 2 * c - u)
    np.testing.assert_allclose(found.spread, 2 * np.square(u - c).sum())
    assert model.denoiser_calls == 2


def test_combinations_that_make_no_sense_are_refused():
    with pytest.raises(ParameterError, match="a sum > 0"):
        ponder.model("combine(experts=[gmm:a], weights=[-1.0])")
    with pytest.raises(CapabilityError, match="differ in latents or schedule"):
        ponder.model("combine(experts=[gmm:a, gmm:a(tables=variance_exploding)], weights=[1.0, 1.0])")
    with pytest.raises(CapabilityError, match="begins at pure noise"):
        ponder.model("combine(experts=[gmm:a(tables=flow)], weights=[1.0])")
    with pytest.raises(CapabilityError, match="takes diffusion models"):
        ponder.model("combine(experts=[sim:default], weights=[1.0])")
    with pytest.raises(ParameterError, match="one number for each"):
        ponder.model("combine(experts=[gmm:a], weights=[1.0, 2.0])")


@pytest.mark.parametrize("cosine", [-0.5, 0.0, 0.95])
def test_neighbours_keep_norm_and_cosine(cosine):
    rng = np.random.default_rng(0)
    pivot = rng.standard_normal((3, 4))
    other = neighbour(pivot, cosine, rng)
    assert np.linalg.norm(other) == pytest.approx(np.linalg.norm(pivot), rel=1e-12)
    assert (pivot * other).sum() / (pivot**2).sum() == pytest.approx(cosine, abs=1e-12)


def test_zero_order_search_never_loses_its_best_and_climbs():
    best = []
    for n in (1, 9, 33):
        result = ponder.solve(
            "x", model="gmm:two_modes", process="denoising(steps=5, solver=euler)",
            strategy=f"zero_order_search(n={n}, verifier=gmm_reward)",
        )  # fmt: skip
        scores = [c.scores["gmm_reward"] for c in result.candidates]
        assert len(scores) == n and result.chosen == (int(np.argmax(scores)),)
        assert result.total.function_evaluations == 5 * n
        best.append(max(scores))
    assert best[0] < best[1] < best[2]


def test_zero_order_search_stays_within_a_budget_and_needs_noise():
    result = ponder.solve(
        "x", model="gmm:a", process="denoising(steps=5)", strategy="zero_order_search(n=9, verifier=gmm_reward)",
        budget="function_evaluations=17",
    )  # fmt: skip
    assert len(result.candidates) == 3 and result.status == "ok" and result.reason
    with pytest.raises(CapabilityError, match="searches over noise"):
        ponder.solve("x", model="sim:default", strategy="zero_order_search(n=2, verifier=exact)")
    with pytest.raises(ParameterError, match=r"in \(-1, 1\)"):
        ponder.parse("zero_order_search(cosine=1.0)")
    assert FKSteering().due(1) and isinstance(Gmm("a").reward, object)
