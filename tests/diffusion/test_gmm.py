"""Gaussian mixtures: the closed forms agree with hand values, with each other, and with sampling."""

import numpy as np
import pytest

import ponder
from ponder.diffusion.gmm import INSTANCES, Linear, Mixture, Quadratic, soft_value, tilted
from ponder.diffusion.measures import mmd_squared, sliced_wasserstein, total_variation
from ponder.errors import ParameterError, UnknownNameError

A, LINEAR = INSTANCES["a"]
QUADRATIC = INSTANCES["a_quadratic"][1]


@pytest.mark.parametrize(
    ("reward", "weights", "log_z", "mean"),
    [
        (LINEAR, (0.134530, 0.596428, 0.269042), 0.359699, (1.060345, 0.740880)),
        (QUADRATIC, (0.051943, 0.676034, 0.272023), -1.844056, (1.173472, 0.780046)),
    ],
)
def test_tilts_have_the_weights_worked_out_by_hand(reward, weights, log_z, mean):
    target, found = tilted(A, reward)
    np.testing.assert_allclose(target.weights, weights, atol=1e-6)
    np.testing.assert_allclose([found, *target.mean], [log_z, *mean], atol=1e-6)


def test_scores_posteriors_and_values_have_the_numbers_worked_out_by_hand():
    x, a = np.asarray([[0.3, -0.4]]), np.asarray([0.6])
    s = np.sqrt(1 - a**2)
    np.testing.assert_allclose(A.score(x, a, s)[0], [-0.066365, 0.657235], atol=1e-6)
    model = ponder.model("gmm:a")
    np.testing.assert_allclose(model.predict(x, a, s, a, None).x0[0], [0.429210, 0.034384], atol=1e-6)
    np.testing.assert_allclose(-model.predict(x, a, s, a, None).eps / s, A.score(x, a, s), atol=1e-12)
    np.testing.assert_allclose(soft_value(A, LINEAR, x, a, s), 0.528439, atol=1e-6)
    np.testing.assert_allclose(soft_value(A, QUADRATIC, x, a, s), -1.377135, atol=1e-6)
    x, a = np.asarray([[1.0, 1.0]]), np.asarray([0.9])
    s = np.sqrt(1 - a**2)
    np.testing.assert_allclose(soft_value(A, LINEAR, x, a, s), 0.905011, atol=1e-6)
    np.testing.assert_allclose(soft_value(A, QUADRATIC, x, a, s), -0.325216, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "masses", "log_z"),
    [
        ("ring", (0.3422, 0.3863, 0.1259, 0.0228, 0.0063, 0.0056, 0.0170, 0.0939), None),
        ("ring_quadratic", (0.0102, 0.9795, 0.0102, 0, 0, 0, 0, 0), -2.17192),
        ("ring_decoy", (0.561, 0.024, 0.024, 0.294, 0.024, 0.024, 0.024, 0.024), 2.3282),
    ],
)
def test_the_rings_have_their_tilted_masses(name, masses, log_z):
    target, found = tilted(*INSTANCES[name])
    by_mode = np.asarray(target.weights).reshape(-1, 8).sum(axis=0)
    np.testing.assert_allclose(by_mode, masses, atol=1.2e-3 if name == "ring_decoy" else 6e-5)
    assert log_z is None or abs(found - log_z) < 1e-4


def test_a_tilt_is_density_times_exp_reward_over_z_at_every_point():
    x = np.random.default_rng(0).normal(0, 2, (50, 2))
    for name in ("a", "a_quadratic", "ring_decoy"):
        mixture, reward = INSTANCES[name]
        target, log_z = tilted(mixture, reward)
        expected = mixture.log_density(x) + reward(x) - log_z
        np.testing.assert_allclose(target.log_density(x), expected, atol=1e-9)


def test_products_and_powers_are_normalised_products_of_densities():
    x = np.random.default_rng(1).normal(0, 2, (40, 2))
    a, b = INSTANCES["expert_a"][0], INSTANCES["expert_b"][0]
    joint, log_z = a.product(b)
    np.testing.assert_allclose(joint.log_density(x), a.log_density(x) + b.log_density(x) - log_z, atol=1e-9)
    square, cube = a.power(2), a.power(3)
    difference = square.log_density(x) - 2 * a.log_density(x)
    np.testing.assert_allclose(difference, difference[0], atol=1e-9)
    difference = cube.log_density(x) - 3 * a.log_density(x)
    np.testing.assert_allclose(difference, difference[0], atol=1e-9)


def test_the_score_is_the_gradient_of_the_noisy_log_density():
    x, a, s, h = np.asarray([[0.4, 1.1]]), 0.7, 0.5, 1e-5
    noisy = A.noised(a, s)
    gradient = [(noisy.log_density(x + h * e) - noisy.log_density(x - h * e))[0] / (2 * h) for e in np.eye(2)]
    np.testing.assert_allclose(A.score(x, np.asarray([a]), np.asarray([s]))[0], gradient, atol=1e-7)


@pytest.mark.parametrize("steps", [1, 2, 6])
def test_the_exact_kernel_samples_the_mixture_with_any_number_of_steps(steps):
    result = ponder.solve(
        "x", model="gmm:a", process=f"denoising(steps={steps})", strategy="repeated_sampling(n=800)", seed=steps
    )
    x = np.asarray([c.output for c in result.candidates])
    exact = A.sample(800, np.random.default_rng(5))
    floor = [mmd_squared(A.sample(800, np.random.default_rng(i)), exact) for i in range(6, 12)]
    assert mmd_squared(x, exact) < np.mean(floor) + 6 * np.std(floor) + 2e-4
    errors = np.sqrt(np.asarray(A.weights) * (1 - np.asarray(A.weights)) / 800)
    assert (np.abs(A.masses(x) - A.masses(A.sample(100_000, np.random.default_rng(1)))) < 4.5 * errors).all()


def test_the_tilted_model_is_the_tilted_target():
    result = ponder.solve(
        "x", model="gmm:a(tilted=true)", process="denoising(steps=3)", strategy="repeated_sampling(n=800)"
    )
    x = np.asarray([c.output for c in result.candidates])
    target, _ = tilted(A, LINEAR)
    np.testing.assert_allclose(x.mean(axis=0), target.mean, atol=4 * x.std(axis=0).max() / np.sqrt(800))


def test_measures_are_zero_for_equal_distributions_and_see_a_shift():
    rng = np.random.default_rng(2)
    x, y = A.sample(1000, rng), A.sample(2000, rng)
    assert abs(mmd_squared(x, y)) < 3e-3 and mmd_squared(x + 1.0, y) > 0.05
    assert sliced_wasserstein(x, y, rng) < 0.2 < sliced_wasserstein(x + 1.0, y, rng)
    weighted = mmd_squared(x, tilted(A, LINEAR)[0].sample(2000, rng), np.exp(LINEAR(x)))
    assert weighted < 0.01 < mmd_squared(x, tilted(A, LINEAR)[0].sample(2000, rng))
    assert total_variation(np.asarray([0.2, 0.8]), np.asarray([0.5, 0.5])) == pytest.approx(0.3)


def test_models_are_text_and_mistakes_are_named():
    assert str(ponder.model("gmm:ring(tilted=true)")) == "gmm:ring(tilted=true)"
    assert ponder.model(str(ponder.model("gmm:a(tables=flow)"))) == ponder.model("gmm:a(tables=flow)")
    with pytest.raises(UnknownNameError, match="did you mean ring"):
        ponder.model("gmm:rings")
    with pytest.raises(ParameterError, match="equal lengths"):
        Mixture((0.5,), ((0.0,), (1.0,)), (1.0, 1.0))
    with pytest.raises(ParameterError, match="numbers > 0"):
        Mixture((1.0,), ((0.0,),), (0.0,))
    assert Linear((1.0,))(np.asarray([[2.0]])) == Quadratic(0.0, (0.0,))(np.asarray([[2.0]])) + 2.0
