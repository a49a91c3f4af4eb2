from __future__ import annotations

import numpy as np
import pytest

from ponder.errors import LawFitError, ParameterError
from ponder.laws import SampledModel, compare_at_equal_cost, coverage_curve, curve_shift


def test_a_planted_shift_is_found() -> None:
    k = np.unique(np.rint(np.geomspace(1, 1000, 40)))
    got = curve_shift(k, np.exp(-1.5 * k**-0.4), k, np.exp(-1.5 * (k / 3) ** -0.4))
    assert got.factor == pytest.approx(3.0, rel=0.01) and got.residual < 1e-3 and got.overlap >= 20


def test_curves_of_different_shape_leave_a_residual() -> None:
    k = np.arange(1.0, 65)
    got = curve_shift(k, 1 - 0.9**k, k, 0.5 * (1 - 0.9**k))
    assert got.residual > 0.02


def test_curves_that_cannot_be_shifted_are_refused() -> None:
    with pytest.raises(LawFitError, match="constant"):
        curve_shift([1, 2, 4], [0.5, 0.5, 0.5], [1, 2, 4], [0.1, 0.2, 0.3])
    with pytest.raises(ParameterError, match="rising"):
        curve_shift([2, 1, 4], [0.1, 0.2, 0.3], [1, 2, 4], [0.1, 0.2, 0.3])
    with pytest.raises(ParameterError, match="3 points"):
        curve_shift([1, 2, 4], [0.1, 0.2, 0.3], [1, 2], [0.1, 0.2])


def test_equal_cost_buys_the_cheap_model_its_draws() -> None:
    rng = np.random.default_rng(0)
    hard = rng.random(100)
    cheap = SampledModel("small", 50, rng.binomial(50, 0.3 * hard).tolist(), draw_cost=0.05, prompt_cost=0.2)
    dear = SampledModel("large", 10, rng.binomial(10, 0.5 * hard).tolist(), draw_cost=1.0)
    got = compare_at_equal_cost(cheap, dear)
    assert got.cheap_k == 16 and not got.capped
    assert got.cheap_coverage == pytest.approx(coverage_curve(50, cheap.c, [16])[0])
    assert got.dear_coverage == pytest.approx(np.mean(dear.c) / 10)
    assert got.difference.estimate == pytest.approx(got.cheap_coverage - got.dear_coverage)
    assert got.difference.low > 0
    assert got.matching_k is not None and got.matching_cost_ratio == pytest.approx(0.2 + 0.05 * got.matching_k)
    assert got.matching_cost_ratio < 1


def test_a_cheap_model_that_was_drawn_too_little_says_so_and_may_lose() -> None:
    got = compare_at_equal_cost(
        SampledModel("small", 2, [0, 0, 1], draw_cost=0.01), SampledModel("large", 2, [2, 2, 2], draw_cost=1.0)
    )
    assert got.capped and got.cheap_k == 2 and got.matching_k is None and got.matching_cost_ratio is None
    assert got.difference.estimate < 0


def test_comparisons_that_make_no_sense_are_refused() -> None:
    a, b = SampledModel("a", 2, [0, 1], 1.0), SampledModel("b", 2, [0, 1, 1], 1.0)
    with pytest.raises(ParameterError, match="same 3 problems"):
        compare_at_equal_cost(a, b)
    with pytest.raises(ParameterError, match="swap the models"):
        compare_at_equal_cost(SampledModel("c", 2, [1, 1], 5.0), a)
    with pytest.raises(ParameterError, match="dear_k"):
        compare_at_equal_cost(a, a, dear_k=3)
    with pytest.raises(ParameterError, match="draw_cost"):
        SampledModel("a", 2, [1], 0.0)
