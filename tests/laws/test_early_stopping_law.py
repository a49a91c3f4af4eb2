import numpy as np
import pytest

from ponder.errors import LawFitError, ParameterError
from ponder.laws.early_stopping import WindowedStopping, adaptive_consistency, choose_window
from ponder.laws.majority_limit import majority_accuracy


def test_the_published_exact_values_are_reproduced():
    accuracy, samples = adaptive_consistency(0.7, 40, threshold=0.95)
    assert (round(accuracy, 4), round(samples, 2)) == (0.9851, 15.11)
    accuracy, samples = adaptive_consistency(0.7, 40, threshold=0.99)
    assert (round(accuracy, 4), round(samples, 2)) == (0.9949, 25.30)
    assert round(majority_accuracy([0.7, 0.3], 40), 4) == 0.9957


def test_a_threshold_of_one_is_plain_majority():
    accuracy, samples = adaptive_consistency(0.7, 15, threshold=1.0)
    assert samples == pytest.approx(15) and accuracy == pytest.approx(majority_accuracy([0.7, 0.3], 15))


def test_batches_overshoot_by_less_than_a_batch():
    _, one = adaptive_consistency(0.7)
    _, four = adaptive_consistency(0.7, batch=4)
    assert one <= four <= one + 3


def test_window_formulas_agree_with_simulation_within_three_standard_errors():
    probabilities, window, n, trials = (0.6, 0.3, 0.1), 3, 20, 20_000
    law, rng = WindowedStopping(probabilities, window, n), np.random.default_rng(1)
    draws = rng.choice(3, size=(trials, law.windows, window), p=probabilities)
    unanimous = (draws == draws[:, :, :1]).all(axis=2)
    stopped = unanimous.any(axis=1)
    first = np.where(stopped, unanimous.argmax(axis=1), law.windows - 1)
    samples = window * (first + 1)
    assert abs(samples.mean() - law.expected_samples()) < 3 * samples.std() / np.sqrt(trials)
    wrong = stopped & (draws[np.arange(trials), first, 0] != 0)
    assert abs(wrong.mean() - law.wrong_stop()) < 3 * np.sqrt(wrong.mean() / trials)


def test_a_window_as_long_as_the_limit_draws_everything():
    assert WindowedStopping((0.5, 0.5), 8, 8).expected_samples() == pytest.approx(8)
    assert WindowedStopping((0.0,), 4, 8).expected_samples() == 8


def test_the_control_scheme_takes_larger_windows_for_less_agreement():
    sure, unsure = choose_window([10], 40), choose_window([6, 4], 40)
    assert sure.window < unsure.window
    assert sure.wrong_stop() <= 0.05
    with pytest.raises(LawFitError, match="at least one answer"):
        choose_window([], 40)


def test_impossible_parameters_are_named():
    with pytest.raises(ParameterError, match="from 1 to n=4"):
        WindowedStopping((0.5, 0.5), 5, 4)
    with pytest.raises(ParameterError, match="probability=2"):
        adaptive_consistency(2)
