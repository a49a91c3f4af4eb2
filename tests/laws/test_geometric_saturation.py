from __future__ import annotations

import math

import numpy as np
import pytest

from ponder.errors import LawFitError, ParameterError
from ponder.laws import (
    BetaBinomialLaw,
    GeometricMixture,
    GeometricSaturation,
    RethinkingChain,
    economic_epsilon,
    economic_saturation,
    fit_saturation,
    saturation_point,
)

N = np.arange(1, 33)


def test_the_closed_form_is_the_first_unit_not_worth_it() -> None:
    assert saturation_point(0.2, 0.9, 0.01) == 13
    law = GeometricSaturation(0.2, 0.9)
    assert law.gain(12) > 0.01 >= law.gain(13)
    for p in (0.01, 0.2, 0.5, 0.97):
        for f_max in (0.3, 1.0):
            for epsilon in (1e-6, 0.003, 0.05, f_max * p * (1 - p) ** 5):
                n = saturation_point(p, f_max, epsilon)
                assert f_max * p * (1 - p) ** n <= epsilon
                assert n == 0 or f_max * p * (1 - p) ** (n - 1) > epsilon


def test_the_edges_of_the_closed_form() -> None:
    assert saturation_point(1.0, 0.9, 0.01) == 1 and saturation_point(1.0, 0.9, 0.9) == 0
    assert saturation_point(0.0) == 0 and saturation_point(0.3, 0.0) == 0 and saturation_point(0.2, 0.9, 0.5) == 0
    assert GeometricSaturation(0.0).reason == "unsolvable at this setting" and GeometricSaturation(0.2).reason == ""
    with pytest.raises(ParameterError, match="exactly zero is never reached"):
        saturation_point(0.2, 0.9, 0)
    with pytest.raises(ParameterError, match=r"p must be in \[0, 1\]"):
        saturation_point(1.2)
    assert GeometricSaturation(1.0, 0.8).predict([0, 1, 5]).tolist() == [0.0, 0.8, 0.8]


def test_a_planted_law_is_recovered_and_inverted() -> None:
    law = GeometricSaturation.fit(N, 0.9 * (1 - 0.8**N))
    assert law.parameters == pytest.approx({"p": 0.2, "f_max": 0.9}, abs=1e-6)
    assert law.saturation(0.01) == 13 and law.diagnostics is not None and law.diagnostics.r2 == pytest.approx(1)
    assert law.inverse(law.predict(7)) == pytest.approx(7) and law.inverse(0.95) == math.inf
    got = law.forecast(40)
    assert got.extrapolated and math.isnan(got.low) and not law.forecast(8).extrapolated
    with pytest.warns(UserWarning, match="more than 10 times"):
        law.predict(1000)


def test_saturation_of_equal_problems_is_found_to_two_units() -> None:
    true = saturation_point(0.08, 1.0, 0.01)
    errors = []
    for seed in range(40):
        c = np.random.default_rng(seed).binomial(32, 0.08, 500)
        errors.append(abs(GeometricSaturation.fit_counts(32, c, resamples=0).saturation(0.01) - true))
    assert np.mean(errors) <= 2


def test_the_mixture_predicts_a_heterogeneous_set_where_the_single_p_saturates_too_early() -> None:
    truth = BetaBinomialLaw(0.4, 1.6)
    wins = early = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        c = rng.binomial(16, rng.beta(0.4, 1.6, 400))
        mixture = fit_saturation(16, c)
        single = fit_saturation(16, c, mode="single", resamples=0)
        wins += abs(mixture.predict(64) - truth.predict(64)) < abs(single.predict(64) - truth.predict(64))
        early += single.saturation(0.002) < truth.saturation(0.002)
    assert wins >= 9 and early >= 9


def test_the_mixture_gains_what_its_curve_rises_and_knows_when_a_problem_is_hopeless() -> None:
    law = GeometricMixture(0.4, 1.6)
    for k in (0, 1, 7, 100):
        assert law.gain(k) == pytest.approx(law.predict(k + 1) - law.predict(k), rel=1e-9)
    n = law.saturation(0.001)
    assert law.gain(n) <= 0.001 < law.gain(n - 1)
    assert law.next_gain(4, 0) == pytest.approx(0.4 / 6.0) and law.next_gain(4, 1) == 0 and law.next_gain(0, 0) == 0.2
    # Saturation of the S-shaped power law is behind its steepest part, too.
    from ponder.laws import CoverageLaw

    hard = CoverageLaw(-12.0, -0.4)
    at = hard.saturation(1e-4)
    assert hard.gain(0) < 1e-4 and hard.gain(at) <= 1e-4 < hard.gain(at - 1) and at > hard.steepest


def test_economics_set_the_threshold() -> None:
    law = GeometricSaturation(0.2, 0.9)
    assert economic_saturation(law, lambda n: 500, 50_000) == law.saturation(economic_epsilon(500, 50_000)) == 13
    assert economic_saturation(law, lambda n: 500 * (n + 1), 50_000) < 13
    with pytest.raises(LawFitError, match="each of the first 5 units"):
        economic_saturation(law, lambda n: 0.001, 1e9, most=5)
    with pytest.raises(ParameterError, match="value must be"):
        economic_epsilon(1, 0)


def test_what_does_not_identify_the_law_is_refused() -> None:
    with pytest.raises(LawFitError, match="RethinkingChain"):
        GeometricSaturation.fit([1, 2, 4], [0.5, 0.4, 0.3])
    with pytest.raises(LawFitError, match="constant"):
        GeometricSaturation.fit([1, 2, 4], [0.5, 0.5, 0.5])
    with pytest.raises(LawFitError, match="3 points"):
        GeometricSaturation.fit([1, 2], [0.1, 0.2])
    with pytest.raises(LawFitError, match="still straight"):
        GeometricSaturation.fit([1, 2, 4], [0.001, 0.002, 0.004])
    with pytest.raises(ParameterError, match="between 0 and 1"):
        GeometricSaturation.fit([1, 2, 4], [0.1, math.nan, 0.3])
    with pytest.raises(LawFitError, match="fit_counts or fit_table"):
        GeometricSaturation(0.2).predict_interval(3)
    with pytest.raises(ParameterError, match="'mixture' or 'single'"):
        fit_saturation(4, [1, 2], mode="both")  # type: ignore[arg-type]


def chain(seed: int, a: float, b: float, problems: int = 400, rounds: int = 8, first: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    right = np.empty((problems, rounds + 1))
    right[:, 0] = rng.random(problems) < first
    for n in range(rounds):
        right[:, n + 1] = rng.random(problems) < np.where(right[:, n] == 1, 1 - b, a)
    return right


def test_a_chain_that_loses_answers_explains_its_ceiling() -> None:
    law = RethinkingChain.fit(chain(0, 0.3, 0.1))
    assert law.limit == pytest.approx(0.75, abs=0.03)
    low, high = law.parameter_interval("limit")
    assert low < 0.75 < high
    exact, same = RethinkingChain(0.3, 0.1), GeometricSaturation(0.4, 0.75)
    assert exact.predict(N) == pytest.approx(same.predict(N)) and exact.saturation(0.01) == same.saturation(0.01)
    assert exact.inverse(exact.predict(5)) == pytest.approx(5)
    kept = RethinkingChain(0.2, 0.0)
    assert kept.limit == 1 and kept.predict(N) == pytest.approx(GeometricSaturation(0.2).predict(N))


def test_odd_chains_are_named() -> None:
    hurt = RethinkingChain(0.1, 0.3, first=0.8)
    assert hurt.saturation() == 0 and "hurt" in hurt.reason and hurt.predict(3) < 0.8
    swing = RethinkingChain(0.9, 0.8)
    assert swing.oscillates and "oscillates" in swing.reason
    n = swing.saturation(0.01)
    assert abs(swing.gain(n)) <= 0.01 + 1e-12 < abs(swing.gain(n - 1))
    with pytest.raises(ParameterError, match="whole numbers"):
        swing.predict(1.5)
    assert RethinkingChain(0, 0, 0.4).limit == 0.4 and "changes" in RethinkingChain(0, 0, 0.4).reason


def test_transitions_that_were_never_seen_are_refused() -> None:
    with pytest.raises(LawFitError, match="ever right"):
        RethinkingChain.fit(np.zeros((5, 3)))
    with pytest.raises(LawFitError, match="ever wrong"):
        RethinkingChain.fit(np.ones((5, 3)))
    with pytest.raises(ParameterError, match="0 and 1"):
        RethinkingChain.fit([[0.5, 1.0]])
    with pytest.raises(LawFitError, match="2 problems"):
        RethinkingChain.fit([[0, 1]])


def test_a_loss_that_no_problem_showed_is_allowed_for() -> None:
    kept = np.tile([[0.0, 1.0, 1.0, 1.0]], (40, 1))
    kept[30:] = 0
    law = RethinkingChain.fit(kept)
    assert law.lost == 0 and law.limit == 1
    assert law.parameter_interval("lost") == (0.0, pytest.approx(0.12, abs=0.02))  # Wilson's of 0 in 30 problems
    low, high = law.parameter_interval("limit")
    assert 0.7 < low < 0.95 and high == 1
    low, high = law.predict_interval(3)
    assert low < law.predict(3) < high < 1
    assert law.parameter_interval("first")[0] == 0
    with pytest.raises(LawFitError, match="was given"):
        RethinkingChain(0.3, 0.1).parameter_interval("lost")


def test_a_ceiling_of_one_is_not_certain_from_few_problems() -> None:
    """Forty problems of equal difficulty, all solved: one in twenty others may still be unsolvable."""
    c = np.random.default_rng(0).binomial(32, 0.3, 40)
    law = GeometricSaturation.fit_counts(32, c)
    assert law.f_max > 0.99
    for low, high in (law.parameter_interval("f_max"), law.predict_interval(64)):
        assert 0.88 < low < 0.95 and high > 0.99
