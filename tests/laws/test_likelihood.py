"""Profile-likelihood intervals of two parameters, found along the edge of the region."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ponder.laws import BetaBinomialLaw
from ponder.laws._likelihood import LikelihoodRegion
from ponder.laws.intervals import student_quantile


def test_of_a_normal_likelihood_the_interval_is_students() -> None:
    """ln L = -θᵀ A θ / 2 holds wᵀθ within the root of q wᵀA⁻¹w."""
    precision, centre = np.array([[4.0, -1.5], [-1.5, 1.0]]), np.array([0.4, -2.0])

    def log_likelihood(theta: np.ndarray) -> np.ndarray:
        return -0.5 * np.einsum("mi,ij,mj->m", theta - centre, precision, theta - centre)

    for problems in (5, 50, 10**6):
        t = student_quantile(0.975, problems - 1)
        allowed = problems * math.log1p(t * t / (problems - 1))
        region = LikelihoodRegion(log_likelihood, centre, 1e3, problems)
        for w in (np.array([1.0, 0.0]), np.array([0.3, -2.0])):
            (low,), (high,) = region.interval(lambda theta, w=w: (theta @ w)[:, None])
            reach = math.sqrt(allowed * w @ np.linalg.inv(precision) @ w)
            assert (low, high) == pytest.approx((w @ centre - reach, w @ centre + reach), abs=2e-3 * reach)
    assert allowed == pytest.approx(3.8415, abs=1e-3)  # χ² with one degree of freedom


def test_the_ends_of_alpha_are_those_of_the_profile() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(4)
    law = BetaBinomialLaw.fit(20, rng.binomial(20, rng.beta(0.5, 2.0, 60)))
    region = law.region
    assert region is not None
    t = student_quantile(0.975, 59)
    floor = float(region.log_likelihood(region.estimate[None, :])[0]) - 30 * math.log1p(t * t / 59)
    for end in law.parameter_interval("alpha"):
        profile = optimize.minimize_scalar(
            lambda b, end=end: -float(region.log_likelihood(np.array([[math.log(end), b]]))[0]), bounds=(-5, 5)
        )
        assert -profile.fun == pytest.approx(floor, abs=0.01)


def test_a_direction_without_an_end_goes_to_the_bound() -> None:
    def log_likelihood(theta: np.ndarray) -> np.ndarray:
        return np.asarray(-50 * (theta[:, 0] - theta[:, 1]) ** 2)

    region = LikelihoodRegion(log_likelihood, np.zeros(2), 12.0, 40)
    low, high = region.interval(lambda theta: theta)
    assert low == pytest.approx([-12, -12], abs=0.3) and high == pytest.approx([12, 12], abs=0.3)
    with pytest.warns(UserWarning, match="equally hard"):
        law = BetaBinomialLaw.fit(10, [3] * 50)
    assert law.parameter_interval("alpha")[1] == law.parameter_interval("beta")[1] == math.inf
    low, high = law.predict_interval(4)
    assert low < 1 - 0.7**4 < high and high - low < 0.15
