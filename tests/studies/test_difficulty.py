"""Gains and allocation by difficulty, by hand."""

from pathlib import Path

import numpy as np
import pytest

from ponder.studies.difficulty import by_difficulty
from ponder.studies.measured import Measured, Point


def point(strategy, budget, correct, tokens=None):
    row = {"n_problems": len(correct), "accuracy": float(np.nanmean(correct)), "budget": budget, "generated_tokens": 1}
    return Point(
        strategy, budget, row, np.array(correct, float), {}, None if tokens is None else np.array(tokens, float)
    )


def counts(n, c):
    return np.array(n, dtype=np.int64), np.array(c, dtype=np.int64)


SINGLE = point("single", 1, [0, 0, 1, 1, 0, 1])
POOL = point("repeated_sampling | majority", 4, [0, 0, 1, 1, 1, 1], tokens=[40, 40, 40, 40, 20, 60])
ADAPTIVE = point("adaptive_consistency", 4, [0, 1, 0, 1, 1, 1])
DRAWS = {
    "single": counts([1] * 6, [0, 0, 1, 1, 0, 1]),
    "repeated_sampling | majority": counts([4] * 6, [0, 0, 2, 2, 2, 4]),
    "adaptive_consistency": counts([4, 4, 4, 3, 3, 2], [0, 1, 1, 2, 2, 2]),
}


def test_gains_tokens_and_draws_by_level_by_hand():
    found = by_difficulty(Measured(Path(), (SINGLE, POOL, ADAPTIVE), DRAWS))
    assert found.pool == "repeated_sampling | majority"
    assert found.levels == ("never right", "up to two thirds", "always right") and found.problems == (2, 3, 1)
    hard, middle, easy = found.rows["repeated_sampling | majority"]
    assert (hard.accuracy, hard.gain, hard.tokens, hard.draws) == (0, 0, 40, 4)
    assert (middle.accuracy, middle.gain) == (1, pytest.approx(1 / 3)) and middle.tokens == pytest.approx(100 / 3)
    assert middle.low <= middle.gain <= middle.high
    assert (easy.accuracy, easy.low, easy.high) == (1, None, None)  # one problem: no interval
    assert found.adaptive == ("adaptive_consistency",)
    assert [cell.draws for cell in found.rows["adaptive_consistency"]] == [4, pytest.approx(10 / 3), 2]
    assert found.rows["adaptive_consistency"][0].tokens is None
    assert all(cell.gain == 0 for cell in found.rows["single"])


def test_unfinished_problems_are_left_out_and_without_draws_there_is_nothing():
    holes = point("x", 8, [np.nan, 1, np.nan, 1, 1, 1])
    found = by_difficulty(Measured(Path(), (SINGLE, POOL, holes), DRAWS))
    assert [c.accuracy for c in found.rows["x"]] == [1, 1, 1] and found.rows["x"][0].draws is None
    assert by_difficulty(Measured(Path(), (SINGLE,), {"single": DRAWS["single"]})) is None
    assert by_difficulty(Measured(Path(), (SINGLE, POOL), {})) is None
