from __future__ import annotations

import math

import numpy as np
import pytest

from ponder.errors import LawFitError, ParameterError
from ponder.laws import fit_power_law, next_sweep, step_law
from ponder.laws.step_law import parse_amount


def test_the_published_law_at_two_sizes() -> None:
    law = step_law(1e9, 1e11)
    assert law.learning_rate == pytest.approx(1.6325e-3, rel=1e-4)
    assert law.batch_tokens == pytest.approx(1.1077e6, rel=1e-4)
    assert law.batch_sequences == pytest.approx(540.9, abs=0.05) and law.notes == ()
    large = step_law(7e9, 1.4e12)
    assert large.learning_rate == pytest.approx(9.1656e-4, rel=1e-4)
    assert large.batch_tokens == pytest.approx(4.9988e6, rel=1e-4)
    assert any("outside" in n for n in large.notes)
    assert any("fine-tuning" in n for n in step_law(1e9, 1e10, fine_tuning=True).notes)
    assert any("fewer than 100" in n for n in step_law(1e6, 1e4).notes)
    with pytest.raises(ParameterError, match="above 0"):
        step_law(0, 1e9)
    with pytest.raises(ParameterError, match="135M"):
        parse_amount("lots")


def sweep(seed: int, noise: float = 0.001) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(6e7, 1e9, 4), np.geomspace(2e9, 1e11, 3)))
    params, tokens = np.repeat(n, 31), np.repeat(d, 31)
    rate = np.tile(np.geomspace(1e-4, 1e-1, 31), n.size)
    best = 1.79 * params**-0.713 * tokens**0.307
    loss = 3 * (1 + 0.02 * np.log(rate / best) ** 2) * (1 + noise * rng.standard_normal(rate.size))
    return {"params": params, "tokens": tokens}, rate, loss


def test_a_sweep_with_a_convex_bowl_gives_its_exponents_back() -> None:
    off, gaps = [], []
    for seed in range(10):
        law = fit_power_law(*sweep(seed))
        off.append([law.exponents["params"] + 0.713, law.exponents["tokens"] - 0.307])
        predicted = law.predict(params=2e9, tokens=2e11)
        gaps.append(0.02 * math.log(predicted / (1.79 * 2e9**-0.713 * 2e11**0.307)) ** 2)
        assert law.forecast(params=2e9, tokens=2e11).extrapolated
    assert np.abs(np.mean(off, axis=0)).max() < 0.03 and np.max(gaps) <= 0.002 and np.median(gaps) <= 0.001


def test_without_loss_it_is_a_plain_power_law() -> None:
    x = np.array([1.0, 2, 4, 8])
    law = fit_power_law({"budget": x}, 3 * x**0.57)
    assert law.predict(budget=16) == pytest.approx(3 * 16**0.57)
    assert law.parameter_interval("budget") == pytest.approx((0.57, 0.57))


def test_an_optimum_at_the_edge_and_scales_that_move_together_are_refused() -> None:
    scales, rate, loss = sweep(0)
    inside = rate < 5e-4
    with pytest.warns(UserWarning, match="edge of what was tried"), pytest.raises(LawFitError, match="best inside"):
        fit_power_law({k: v[inside] for k, v in scales.items()}, rate[inside], loss[inside])
    x = np.array([1.0, 2, 4, 8])
    with pytest.raises(LawFitError, match="move together"):
        fit_power_law({"a": x, "b": x**2}, x)
    with pytest.raises(LawFitError, match="needs 3 different"):
        fit_power_law({"a": [1, 2]}, [1, 2])
    with pytest.raises(ParameterError, match="above 0"):
        fit_power_law({"a": [1, 2, -3]}, [1, 2, 3])
    assert next_sweep(2.0)[2] == 2.0 and len(next_sweep(2.0)) == 5
