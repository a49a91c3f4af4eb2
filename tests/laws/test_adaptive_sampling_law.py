from statistics import NormalDist

import numpy as np
import pytest

from ponder.errors import ParameterError
from ponder.laws import self_evaluation as law


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.9])
@pytest.mark.parametrize("limit", [None, 6])
def test_closed_forms_agree_with_simulation_within_three_standard_errors(threshold, limit):
    rng, trials, most = np.random.default_rng(5), 20_000, limit or 120
    draws = rng.normal(size=(trials, most))
    reached = draws >= NormalDist().inv_cdf(threshold)
    taken = np.where(reached.any(axis=1), reached.argmax(axis=1) + 1, most)
    quality = np.where(reached.any(axis=1), draws[np.arange(trials), taken - 1], draws.max(axis=1))
    assert abs(taken.mean() - law.expected_samples(threshold, limit)) < 3 * taken.std() / np.sqrt(trials)
    assert abs(quality.mean() - law.expected_quality(threshold, limit)) < 3 * quality.std() / np.sqrt(trials)


def test_a_threshold_of_one_is_best_of_n_and_of_zero_a_single_draw():
    assert law.expected_quality(1.0, 16) == pytest.approx(law.best_of_n_quality(16)) == pytest.approx(1.766, abs=1e-3)
    assert law.expected_samples(1.0, 16) == 16 and law.gain_share(1.0) == pytest.approx(1.0)
    assert law.expected_samples(0.0) == 1 and law.expected_quality(0.0) == 0.0


def test_one_point_two_samples_keep_a_sixth_of_the_gain_when_prompts_are_alike():
    threshold = law.threshold_for(1.2, 16)
    assert law.expected_samples(threshold, 16) == pytest.approx(1.2)
    assert law.gain_share(threshold) == pytest.approx(0.17, abs=0.005)


def test_three_quarters_of_the_gain_need_one_point_two_samples_where_difficulties_differ():
    # Success rates with pass@1 = 0.84 and pass@16 = 0.91, the paper's GSM8K figures.
    rates = np.random.default_rng(0).beta(0.18292, 0.034842, 400_000)
    assert rates.mean() == pytest.approx(0.84, abs=0.002)
    assert (1 - (1 - rates) ** 16).mean() == pytest.approx(0.91, abs=0.002)
    outcome = law.binary_adaptive(rates, 0.9)
    assert outcome.samples <= 1.2 and outcome.gain_share >= 0.74


def test_alike_prompts_are_sampled_until_right_or_not_at_all():
    assert law.binary_adaptive([0.5], 0.9, 2) == pytest.approx((1.5, 0.75, 1.0))
    assert law.binary_adaptive([0.5], 0.4, 2) == pytest.approx((1.0, 0.5, 0.0))


def test_a_threshold_is_calibrated_on_held_out_scores():
    rng = np.random.default_rng(0)
    threshold = law.calibrated_threshold(rng.random((2000, 16)).tolist(), 2.0)
    assert threshold == pytest.approx(0.5, abs=0.03)


def test_pruned_tokens_follow_the_formula():
    assert law.pruning_tokens(16, 256, 64, 0.25) == 16 * 64 + 4 * 192
    assert law.pruning_tokens(3, 10, 4, 0.01) == 12 + 6


def test_impossible_parameters_are_named():
    with pytest.raises(ParameterError, match="samples=0"):
        law.threshold_for(0)
    with pytest.raises(ParameterError, match="n=0"):
        law.expected_samples(0.5, 0)
