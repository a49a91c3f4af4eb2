from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

from ponder.errors import LawFitError, ParameterError
from ponder.laws import BetaBinomialLaw, CoverageLaw, beta_binomial


def test_prediction_is_the_mean_over_the_beta_distribution() -> None:
    law = BetaBinomialLaw(0.3, 3.0)
    assert law.predict(0) == 0.0
    assert law.predict(1) == pytest.approx(0.3 / 3.3)
    # Failure at k+1 draws is failure at k times (β + k) / (α + β + k).
    fail = 1.0
    for k in range(200):
        fail *= (3.0 + k) / (3.3 + k)
    assert law.predict(200) == pytest.approx(1 - fail)


def test_huge_k_joins_the_exact_formula_smoothly() -> None:
    law = BetaBinomialLaw(0.3, 3.0)
    k = 1e6
    assert 1 - law.predict(k + 10) == pytest.approx((1 - law.predict(k - 10)), rel=1e-4)
    assert -math.log(law.predict(1e12)) == pytest.approx(law.scale * 1e12**law.power, rel=1e-3)


def test_the_fit_is_the_maximum_of_the_likelihood() -> None:
    stats = pytest.importorskip("scipy.stats")
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(0)
    n = rng.integers(5, 60, size=150)
    c = rng.binomial(n, rng.beta(0.6, 1.7, size=150))
    law = BetaBinomialLaw.fit(n, c)

    def loss(theta: np.ndarray) -> float:
        return -float(stats.betabinom(n, *np.exp(theta)).logpmf(c).sum())

    best = optimize.minimize(loss, [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-10})
    assert [law.alpha, law.beta] == pytest.approx(np.exp(best.x).tolist(), rel=1e-4)


def test_intervals_hold_the_planted_parameters_as_often_as_they_say() -> None:
    hits = {"alpha": 0, "beta": 0, "c(1000)": 0}
    truth = BetaBinomialLaw(0.4, 2.0)
    for seed in range(16):
        rng = np.random.default_rng(seed)
        c = rng.binomial(50, rng.beta(0.4, 2.0, size=200))
        law = BetaBinomialLaw.fit(50, c)
        for name, value in truth.parameters.items():
            low, high = law.parameter_interval(name)
            hits[name] += low <= value <= high
        low, high = law.predict_interval(1000)
        hits["c(1000)"] += low <= truth.predict(1000) <= high
    assert all(count >= 13 for count in hits.values()), hits  # 15.2 expected


def test_it_extrapolates_better_than_the_power_law_from_a_hundred_draws_to_ten_thousand() -> None:
    wins = 0
    truth = BetaBinomialLaw(0.3, 3.0).predict(10_000)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        c = rng.binomial(100, rng.beta(0.3, 3.0, size=400))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            power_law = CoverageLaw.fit_counts(100, c, capped=False).predict(10_000)
            mixture = BetaBinomialLaw.fit(100, c).predict(10_000)
        wins += abs(mixture - truth) < abs(power_law - truth)
    assert wins >= 8


def test_inverse_undoes_predict() -> None:
    law = BetaBinomialLaw(0.3, 3.0)
    assert law.predict(law.inverse(0.8)) == pytest.approx(0.8)
    assert law.inverse(1.0) == math.inf and law.inverse(0.0) == pytest.approx(0.0, abs=1e-9)
    assert law.reach(0.9) == law.inverse(0.9)


def test_equally_hard_problems_warn_and_still_predict() -> None:
    with pytest.warns(UserWarning, match="equally hard"):
        law = BetaBinomialLaw.fit(10, [3] * 50)
    assert law.predict(4) == pytest.approx(1 - 0.7**4, abs=1e-3)


def test_what_does_not_identify_the_law_is_named() -> None:
    with pytest.raises(LawFitError, match="no draw is right"):
        BetaBinomialLaw.fit(10, [0, 0, 0])
    with pytest.raises(LawFitError, match="every draw is right"):
        BetaBinomialLaw.fit(10, [10, 10])
    with pytest.raises(LawFitError, match="2 problems or more"):
        BetaBinomialLaw.fit(10, [3])
    with pytest.raises(LawFitError, match="2 draws a problem"):
        BetaBinomialLaw.fit(1, [1, 0])
    with pytest.raises(ParameterError, match="at most n"):
        BetaBinomialLaw.fit(10, [3, 11])
    with pytest.raises(ParameterError, match="above 0"):
        BetaBinomialLaw(0.0, 1.0)
    with pytest.raises(LawFitError, match="were given"):
        BetaBinomialLaw(1.0, 1.0).predict_interval(4)


def test_sums_over_very_many_draws_are_exact_with_few_terms() -> None:
    n, c = np.array([[100_000, 100_000, 60_000], [3, 70_001, 59_990]])
    i, times = beta_binomial._terms(n, c)
    assert i.size < 1_000 and times.sum() == pytest.approx(100_000, rel=1e-13)
    every = np.arange(100_000.0)
    for a in (1e-5, 0.3, 7.0, 1e4):
        for f in (np.log, lambda x: 1 / x, lambda x: x**-2.0):
            for end in np.unique([n, c, n - c]):
                some = i < end
                assert (times[some] * f(a + i[some])).sum() == pytest.approx(f(a + every[every < end]).sum(), rel=1e-12)


def test_the_fit_is_the_same_with_few_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    c = rng.binomial(4_000, rng.beta(0.4, 1.2, 30))
    whole = BetaBinomialLaw.fit(4_000, c)
    monkeypatch.setattr(beta_binomial, "_ALL_TERMS", 100)
    few = BetaBinomialLaw.fit(4_000, c)
    assert (few.alpha, few.beta) == pytest.approx((whole.alpha, whole.beta), rel=1e-7)
    assert few.predict_interval(40_000) == pytest.approx(whole.predict_interval(40_000), rel=1e-6)
