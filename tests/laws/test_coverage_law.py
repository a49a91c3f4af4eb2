from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

from ponder.errors import LawFitError, ParameterError
from ponder.laws import CoverageLaw, log_spaced_k, pass_at_k

K = np.unique(np.rint(np.geomspace(1, 1000, 40)))


def difficulties_of(a: float, b: float, k_max: int) -> tuple[np.ndarray, np.ndarray]:
    """A mixture of problem difficulties whose coverage follows exp(a·k^b) for k up to k_max, closely."""
    optimize = pytest.importorskip("scipy.optimize")
    p = np.concatenate([[0.0, 1.0], np.geomspace(1e-5, 0.999, 300)])
    k = log_spaced_k(k_max)
    design = np.vstack([1 - (1 - p[None, :]) ** k[:, None], 1000 * np.ones(p.size)])
    weights, _ = optimize.nnls(design, np.append(np.exp(a * k**b), 1000.0))
    return p, weights / weights.sum()


def test_planted_parameters_are_recovered_exactly() -> None:
    for a, b in ((-1.5, -0.35), (-0.2, -0.1), (-6.0, -0.6)):
        for target in ("coverage", "log"):
            law = CoverageLaw.fit(K, np.exp(a * K**b), target=target)
            assert abs(law.a - a) < 1e-6 and abs(law.b - b) < 1e-6
            assert not law.capped and set(law.parameters) == {"a", "b"}
            assert law.r2 == pytest.approx(1.0) and law.max_error < 1e-9


def test_a_planted_plateau_is_found_and_only_a_planted_one() -> None:
    law = CoverageLaw.fit(K, 0.7 * np.exp(-1.5 * K**-0.5))
    assert law.capped and law.parameters == pytest.approx({"a": -1.5, "b": -0.5, "c_max": 0.7}, abs=1e-5)
    assert CoverageLaw.fit(K, 0.7 * np.exp(-1.5 * K**-0.5), capped=False).parameters.keys() == {"a", "b"}


def test_noise_on_independent_points_moves_the_parameters_little() -> None:
    rng = np.random.default_rng(0)
    truth = np.exp(-1.5 * K**-0.35)
    fits = [CoverageLaw.fit(K, rng.binomial(2000, truth) / 2000, capped=False) for _ in range(20)]
    assert np.mean([f.a for f in fits]) == pytest.approx(-1.5, abs=0.02)
    assert np.mean([f.b for f in fits]) == pytest.approx(-0.35, abs=0.01)


def test_intervals_from_simulated_draws_hold_the_planted_parameters_as_often_as_they_say() -> None:
    p, weights = difficulties_of(-1.5, -0.35, 64)
    k = log_spaced_k(64)
    planted = (1 - (1 - p[None, :]) ** k[:, None]) @ weights
    assert np.abs(planted - np.exp(-1.5 * k**-0.35)).max() < 2e-3
    hits = {"a": 0, "b": 0, "c(64)": 0}
    runs = 24
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        chances = rng.choice(p, size=150, p=weights)
        law = CoverageLaw.fit_counts(64, rng.binomial(64, chances), capped=False, resamples=200, seed=seed)
        for name, value in (("a", -1.5), ("b", -0.35)):
            low, high = law.parameter_interval(name)
            hits[name] += low <= value <= high
        low, high = law.predict_interval(64)
        hits["c(64)"] += low <= math.exp(-1.5 * 64**-0.35) <= high
    # 95 % intervals: 22.8 of 24 expected.
    assert all(count >= 19 for count in hits.values()), hits


def test_counts_and_their_curve_give_the_same_law() -> None:
    rng = np.random.default_rng(5)
    c = rng.binomial(50, rng.beta(0.5, 2, size=100))
    by_counts = CoverageLaw.fit_counts(50, c, resamples=50)
    k = log_spaced_k(50)
    by_curve = CoverageLaw.fit(k, pass_at_k(50, c[:, None], k[None, :]).mean(axis=0))
    assert by_counts.parameters == pytest.approx(by_curve.parameters)
    assert by_counts.n_problems == 100
    low, high = by_counts.predict_interval(k)
    assert np.all(low <= by_counts.predict(k) + 0.02) and np.all(high >= by_counts.predict(k) - 0.02)
    assert by_counts.predict_interval(16, level=0.5)[0] > by_counts.predict_interval(16, level=0.99)[0]
    again = CoverageLaw.fit_counts(50, c, resamples=50)
    assert again.predict_interval(16) == by_counts.predict_interval(16)


def test_inverse_slope_and_reach_agree_with_predict() -> None:
    law = CoverageLaw(-1.5, -0.35)
    assert law.inverse(law.predict(40)) == pytest.approx(40)
    assert law.inverse(1.0) == math.inf and law.limit == 1.0
    step = 1e-6
    numeric = (law.predict(40 * math.exp(step)) - law.predict(40 * math.exp(-step))) / (2 * step)
    assert law.slope(40) == pytest.approx(numeric)
    assert law.predict(law.reach(0.9)) == pytest.approx(0.9)
    capped = CoverageLaw(-1.5, -0.5, c_max=0.7, capped=True)
    assert capped.inverse(0.7) == math.inf and capped.limit == 0.7
    assert capped.predict(capped.reach(0.9)) == pytest.approx(0.63)


def test_predict_takes_numbers_and_arrays() -> None:
    law = CoverageLaw(-1.5, -0.35)
    assert isinstance(law.predict(4), float)
    assert law.predict([1, 4]).tolist() == [law.predict(1), law.predict(4)]
    with pytest.raises(ParameterError, match="above 0"):
        law.predict(0)


def test_far_extrapolation_warns_and_near_one_does_not() -> None:
    law = CoverageLaw.fit(K, np.exp(-1.5 * K**-0.35))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        law.predict(10_000)
    with pytest.warns(UserWarning, match="more than 10 times"):
        law.predict(10_001)


def test_a_curve_that_falls_is_not_extrapolated() -> None:
    law = CoverageLaw.fit([1, 2, 4, 8], [0.8, 0.7, 0.6, 0.5])
    assert not law.decaying and law.predict(8) == pytest.approx(0.5, abs=0.03)
    with pytest.raises(LawFitError, match="not extrapolated"):
        law.predict(16)
    with pytest.raises(LawFitError, match="both must be below 0"):
        law.inverse(0.9)


def test_what_does_not_identify_the_law_is_named() -> None:
    with pytest.raises(LawFitError, match=r"1 of 3 \(1 at coverage 0, 1 at coverage 1 left out\)"):
        CoverageLaw.fit([1, 2, 4], [0.0, 0.5, 1.0])
    with pytest.raises(LawFitError, match=r"constant .* identical"):
        CoverageLaw.fit([1, 2, 4], [0.5, 0.5, 0.5])
    with pytest.raises(LawFitError, match="there are none"):
        CoverageLaw.fit_counts(4, [])
    with pytest.raises(LawFitError, match="needs 4 or more"):
        CoverageLaw.fit([1, 2, 4], [0.1, 0.2, 0.3], capped=True)
    with pytest.raises(LawFitError, match="fit_counts"):
        CoverageLaw.fit([1, 2, 4], [0.1, 0.2, 0.3]).predict_interval(4)


@pytest.mark.parametrize(
    ("k", "coverage", "words"),
    [
        ([1, 2], [0.1], "one number for each k"),
        ([0, 1, 2], [0.1, 0.2, 0.3], "above 0"),
        ([1, 1, 2], [0.1, 0.2, 0.3], "each once"),
        ([1, 2, 3], [0.1, 0.2, 1.3], "between 0 and 1"),
        ([1, 2, 3], [0.1, float("nan"), 0.3], "between 0 and 1"),
        ([1, 2, 3], ["a", "b", "c"], "numbers"),
    ],
)
def test_bad_curves_are_refused(k: list[float], coverage: list[float], words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        CoverageLaw.fit(k, coverage)


def test_an_unknown_target_or_parameter_is_refused() -> None:
    with pytest.raises(ParameterError, match="'coverage' or 'log'"):
        CoverageLaw.fit([1, 2, 4], [0.1, 0.2, 0.3], target="loss")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="one of a, b, c_max"):
        CoverageLaw(-1, -1).parameter_interval("c")
