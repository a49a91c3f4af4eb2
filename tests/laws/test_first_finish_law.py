from statistics import NormalDist

import numpy as np
import pytest

from ponder.errors import LawFitError, ParameterError
from ponder.laws.first_finish import (
    FirstFinishLaw,
    advise_first_finish,
    first_finish_accuracy,
    first_finish_tokens,
    shorter_is_right,
)


def test_the_published_set_up_gives_the_published_series():
    law = FirstFinishLaw(0.5, NormalDist(80, 15), NormalDist(110, 15))
    assert [round(law.predict(n), 3) for n in (1, 2, 4, 8)] == [0.5, 0.711, 0.874, 0.956]


def test_widely_spread_wrong_lengths_make_the_accuracy_rise_and_fall():
    law = FirstFinishLaw(0.5, NormalDist(80, 15), NormalDist(110, 45))
    assert [round(law.predict(n), 3) for n in (1, 2, 4, 8, 16)] == [0.5, 0.618, 0.613, 0.507, 0.353]
    assert law.best_n() == 3


def test_longer_right_answers_make_racing_hurt():
    law = FirstFinishLaw(0.5, NormalDist(110, 15), NormalDist(80, 15))
    assert law.predict(8) < law.predict(2) < law.predict(1) == pytest.approx(0.5)


def test_the_integral_agrees_with_simulation_within_three_standard_errors():
    law, rng, trials, n = (
        FirstFinishLaw(0.4, NormalDist(60, 20), NormalDist(90, 30)),
        np.random.default_rng(0),
        40_000,
        5,
    )
    right = rng.random((trials, n)) < 0.4
    lengths = np.where(right, rng.normal(60, 20, (trials, n)), rng.normal(90, 30, (trials, n)))
    first = lengths.argmin(axis=1)
    rate = right[np.arange(trials), first].mean()
    assert abs(rate - law.predict(n)) < 3 * np.sqrt(rate * (1 - rate) / trials)
    shortest = lengths.min(axis=1)
    assert abs(shortest.mean() - law.sequential_tokens(n)) < 3 * shortest.std() / np.sqrt(trials)
    assert law.tokens(n) == pytest.approx(n * law.sequential_tokens(n))


def test_logged_traces_estimate_the_race_exactly_ties_by_lot():
    assert first_finish_accuracy([5, 5], [True, False], 3) == pytest.approx(0.5)
    assert first_finish_accuracy([5, 9], [True, False], 3) == pytest.approx(1 - 0.5**3)
    assert first_finish_tokens([5, 9], 3) == pytest.approx(5 * 7 / 8 + 9 / 8)
    assert first_finish_accuracy([3, 4, 8], [False, True, True], 1) == pytest.approx(2 / 3)


def test_shorter_is_right_counts_ties_half():
    assert shorter_is_right([1, 2], [True, False]) == 1.0
    assert shorter_is_right([2, 2], [True, False]) == 0.5
    with pytest.raises(LawFitError, match="right and wrong"):
        shorter_is_right([1, 2], [True, True])


def test_racing_is_advised_only_where_it_beats_a_vote_of_as_many_tokens():
    short_right = ([10, 12, 40, 44, 41, 43], [True, True, False, False, False, False], [0, 0, 1, 1, 2, 2])
    advice = advise_first_finish([short_right], 4)
    assert advice.recommended and advice.shorter_is_right == 1.0 and advice.first_finish > advice.majority
    long_right = ([40, 44, 41, 43, 10, 12], [True, True, True, True, False, False], [0, 0, 0, 0, 1, 2])
    assert not advise_first_finish([long_right], 4).recommended


def test_impossible_parameters_are_named():
    with pytest.raises(ParameterError, match="accuracy=2"):
        FirstFinishLaw(2, NormalDist(1, 1), NormalDist(1, 1))
    with pytest.raises(ParameterError, match="n=0"):
        FirstFinishLaw(0.5, NormalDist(1, 1), NormalDist(1, 1)).predict(0)
    with pytest.raises(LawFitError, match="same traces"):
        first_finish_accuracy([1], [True, False], 2)
