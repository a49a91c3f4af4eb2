"""Resampling and effective sample size: closed forms, unbiasedness, and the order of variances."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ponder import errors, smc

SCHEMES = ("multinomial", "stratified", "systematic", "residual")
W = np.array([0.05, 0.15, 0.2, 0.6])
VARIANCES = {
    "multinomial": [0.475, 1.275, 1.6, 2.4],
    "stratified": [0.25, 0.25, 0, 0],
    "systematic": [0.25, 0.25, 0, 0],
    "residual": [0.25, 0.25, 0, 0],
}


def counts(scheme, weights, n, draws):
    rng = np.random.default_rng(1)
    return np.stack([np.bincount(smc.resample(weights, n, scheme, rng), minlength=len(weights)) for _ in range(draws)])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_each_particle_is_drawn_n_times_its_weight_on_average_with_the_known_variance(scheme):
    draws = 20_000
    seen = counts(scheme, W, 10, draws)
    expected = np.array(VARIANCES[scheme])
    error = np.sqrt(np.maximum(seen.var(axis=0), 1e-12) / draws)
    assert np.all(np.abs(seen.mean(axis=0) - 10 * W) <= 4 * error + 1e-9)
    assert seen.var(axis=0) == pytest.approx(expected, abs=0.06)


def test_variances_fall_from_multinomial_to_stratified_to_systematic():
    rng = np.random.default_rng(5)
    weights = rng.dirichlet(np.ones(7))
    spread = {s: counts(s, weights, 5, 20_000).var(axis=0).sum() for s in SCHEMES}
    assert spread["systematic"] <= spread["stratified"] * 1.02
    assert spread["stratified"] < spread["multinomial"]
    assert spread["residual"] < spread["multinomial"]


@given(
    st.lists(st.floats(0, 1, allow_subnormal=False), min_size=1, max_size=12).filter(lambda w: sum(w) > 1e-6),
    st.integers(0, 40),
    st.sampled_from(SCHEMES),
    st.integers(0, 2**32),
)
def test_no_scheme_draws_a_particle_of_weight_zero_and_all_draw_exactly_n(weights, n, scheme, seed):
    drawn = smc.resample(weights, n, scheme, np.random.default_rng(seed))
    assert len(drawn) == n and all(weights[i] > 0 for i in drawn)
    assert list(drawn) == sorted(drawn)
    share = np.array(weights) / sum(weights)
    if scheme in ("systematic", "residual"):
        assert np.all(np.bincount(drawn, minlength=len(weights)) >= np.floor(n * share - 1e-6))
    if scheme == "systematic":
        assert np.all(np.bincount(drawn, minlength=len(weights)) <= np.ceil(n * share + 1e-6))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_certain_particle_gets_every_place_and_equal_weights_one_place_each(scheme):
    rng = np.random.default_rng(0)
    assert smc.resample([0, 1, 0], 5, scheme, rng).tolist() == [1] * 5
    if scheme in ("systematic", "residual", "stratified"):
        assert smc.resample([0.25] * 4, 4, scheme, rng).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("bad", [[], [0.0, 0.0], [1.0, -0.1], [1.0, math.nan], [math.inf]])
def test_weights_that_are_none_are_refused(bad):
    with pytest.raises(errors.ParameterError, match="weights"):
        smc.resample(bad, 3)


def test_an_unknown_scheme_is_refused_with_the_known_ones():
    with pytest.raises(errors.ParameterError, match="systematic"):
        smc.resample([1.0], 1, "fair")


def test_effective_sample_size_is_between_one_and_n_and_does_not_mind_a_common_factor():
    assert smc.effective_sample_size([0.0] * 7) == pytest.approx(7)
    assert smc.effective_sample_size([0.0, -math.inf, -math.inf]) == 1
    assert smc.effective_sample_size([-800.0, -800.0]) == pytest.approx(2)
    assert smc.effective_sample_size([math.log(0.5), math.log(0.25), math.log(0.25)]) == pytest.approx(1 / 0.375)
    assert smc.effective_sample_size([]) == smc.effective_sample_size([-math.inf]) == 0


def test_all_dead_is_told_apart_from_malformed():
    with pytest.raises(errors.AllParticlesDeadError, match="none of 2 particles"):
        smc.normalise([-math.inf, -math.inf])
    with pytest.raises(errors.ParameterError, match="log_weights"):
        smc.normalise([0.0, math.nan])


def test_entropy_is_one_for_equal_weights_and_for_a_single_particle():
    assert smc.entropy([0.0, 0.0]) == pytest.approx(1)
    assert smc.entropy([3.0]) == 1
    assert smc.entropy([0.0, -math.inf]) == 0
