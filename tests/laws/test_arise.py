from __future__ import annotations

import numpy as np
import pytest

from ponder.errors import ParameterError
from ponder.laws import arise, sample_until_steady, variance_guided_repeats
from ponder.laws.arise import per_problem


@pytest.mark.parametrize(
    ("quality", "cost", "value"),
    [
        ([0, 1], [100, 200], 0.5),
        ([1, 0], [100, 200], -2.0),
        ([0, 1], [100, 50], 2.0),
        ([0, 1, 0], [100, 200, 400], -1.5),
        ([0.5, 0.5, 0.5], [1, 2, 3], 0.0),
        ([0.5], [3], 0.0),
    ],
)
@pytest.mark.filterwarnings("ignore:levels are not ordered")
def test_cases_by_hand(quality: list[float], cost: list[float], value: float) -> None:
    assert arise([quality], [cost]).value == value
    assert arise([quality], [[7.5 * c for c in cost]]).value == pytest.approx(value)  # the unit does not matter


def test_a_level_that_changes_nothing_matters_only_between_two_changes() -> None:
    assert per_problem(np.array([[0, 0, 1.0]]), np.array([[100.0, 150, 200]]))[0] == pytest.approx(0.75)  # not 0.5
    assert per_problem(np.array([[0, 1, 1.0]]), np.array([[100.0, 200, 400]]))[0] == pytest.approx(0.5)


def test_equal_slopes_are_told_apart_by_who_lost() -> None:
    better, mixed = np.zeros((100, 2)), np.zeros((100, 2))
    better[:30, 1] = 1
    mixed[:40, 1] = 1
    mixed[40:50, 0] = 1
    cost = np.tile([100.0, 200.0], (100, 1))
    a, b = arise(better, cost), arise(mixed, cost)
    assert a.slope == pytest.approx(b.slope, abs=1e-12) and a.value > b.value
    assert (b.improved, b.degraded, b.always_wrong, b.mixed) == (40, 10, 50, 0)
    assert a.low < a.value < a.high


def test_the_interval_allows_for_a_loss_that_no_problem_showed() -> None:
    quality, cost = np.array([[0.0, 1.0]] * 20 + [[0.0, 0.0]] * 30), np.tile([100.0, 200.0], (50, 1))
    safe, dear = arise(quality, cost), arise(quality, cost * [1, 5])
    assert safe.value == pytest.approx(0.2) and safe.low < 0.1 < safe.value < safe.high < 0.3
    assert dear.low < 0 < dear.value  # one loss in fifty would cost ten
    assert arise(np.ones((5, 1)), np.ones((5, 1))).low == 0  # one level: nothing can change


def test_bad_problems_are_counted_and_bad_numbers_refused() -> None:
    with pytest.warns(UserWarning, match="2 of 3 problems"):
        got = arise([[0, 1], [0, 1], [0, 1]], [[1, 2], [0, 2], [1, float("nan")]])
    assert got.invalid == 2 and got.value == 0.5 and np.isnan(got.per_problem[1])
    with pytest.warns(UserWarning, match="order found is 1, 0"):
        arise([[0, 1]], [[2, 1]])
    with pytest.raises(ParameterError, match=r"in \[0, 1\]"):
        arise([[0, 2]], [[1, 2]])
    with pytest.raises(ParameterError, match="problems by levels"):
        arise([[0, 1]], [[1, 2, 3]])
    with pytest.warns(UserWarning, match="1 of 1"):
        assert np.isnan(arise([[0, 1]], [[0, 1]]).value)


def test_a_cell_is_repeated_until_it_is_steady() -> None:
    steady = sample_until_steady(lambda i: (1.0, 10.0))
    assert len(steady.quality) == 3 and steady.converged
    rng = np.random.default_rng(0)
    noisy = sample_until_steady(lambda i: (float(i % 2), float(rng.integers(1, 500))))
    assert len(noisy.cost) == 10 and not noisy.converged
    # All wrong has no variation, so the published rule stops; Wilson's interval is still wide.
    wrong = sample_until_steady(lambda i: (0.0, 10.0), rule="wilson", half_width=0.15)
    assert len(wrong.quality) > 3
    with pytest.raises(ParameterError, match="least"):
        sample_until_steady(lambda i: (0, 1), least=0)


def test_a_total_is_split_by_variation_and_spent() -> None:
    assert variance_guided_repeats([1.0, 0.0, 0.5], 18).tolist() == [9, 3, 6]
    assert variance_guided_repeats([1.0, 1.0], 3).tolist() == [3, 3]
    assert variance_guided_repeats([0.0, 0.0], 30).tolist() == [3, 3]
    rng = np.random.default_rng(0)
    for _ in range(50):
        spread = rng.random(8) * (rng.random(8) < 0.6)
        total = int(rng.integers(20, 90))
        got = variance_guided_repeats(spread, total)
        assert got.min() >= 3 and got.max() <= 10
        room = 24 + 7 * int((spread > 0).sum())
        assert got.sum() == max(24, min(total, room))
    with pytest.raises(ParameterError, match="≥ 0"):
        variance_guided_repeats([float("nan")], 10)


def test_guided_repeats_steady_arise_when_half_the_cells_never_vary() -> None:
    """20 problems, 2 levels; half of the problems are deterministic. Same total for both ways."""
    rng = np.random.default_rng(1)
    chance = np.array([[0.4, 0.6]] * 10 + [[0.0, 1.0]] * 10)
    cost = np.tile([100.0, 200.0], (20, 1))

    def metric(repeats: np.ndarray) -> float:
        return float(per_problem(rng.binomial(repeats, chance) / repeats, cost).mean())

    uniform = np.full((20, 2), 6)
    guided = variance_guided_repeats((chance % 1 > 0).ravel().astype(float), 240).reshape(20, 2)
    assert guided.sum() <= uniform.sum()
    spreads = [np.std([metric(r) for _ in range(400)]) for r in (guided, uniform)]
    assert spreads[0] < spreads[1]
