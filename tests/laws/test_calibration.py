"""Calibration measures against cases worked by hand, and what they must be in the limit."""

import numpy as np
import pytest

from ponder.errors import ParameterError
from ponder.laws.calibration import (
    auroc,
    auroc_within,
    bin_sums,
    binned_calibration,
    brier_score,
    expected_calibration_error,
    log_loss,
    measure_calibration,
    ordered_pairs,
)
from ponder.laws.first_finish import shorter_is_right


def test_the_calibration_error_of_a_case_worked_by_hand():
    # Bins (0.2, 0.3]: one wrong at 0.3; (0.8, 0.9]: 0.9 right, 0.85 wrong, 0.85 right.
    error = expected_calibration_error([0.3, 0.9, 0.85, 0.85], [0, 1, 0, 1])
    assert error == pytest.approx((0.3 + abs(2.6 - 2)) / 4)


def test_bins_hold_their_upper_end_but_not_their_lower_one():
    for edge in (0.1, 0.3, 0.7):
        together = measure_calibration([edge, edge - 0.05], [1, 0]).bins
        assert len(together) == 1 and together[0].high == pytest.approx(edge)
        assert len(measure_calibration([edge, edge + 0.05], [1, 0]).bins) == 2
    assert measure_calibration([0.0, 0.05, 1.0, 0.95], [0, 0, 1, 1]).bins[0].n == 2


def test_bins_of_equal_mass_keep_equal_confidences_together():
    confidence = [0.5] * 6 + [0.6, 0.7, 0.8, 0.9]
    error = expected_calibration_error(confidence, [1, 1, 1, 0, 0, 0, 1, 1, 1, 1], bins=5, equal_mass=True)
    # 0.5 six times; 0.6 and 0.7 … by the edges after 2, 4, 6, 8 of 10: {0.5}, {0.6, 0.7}, {0.8, 0.9}.
    assert error == pytest.approx((0 + 0.7 + 0.3) / 10)
    skewed = np.concatenate([np.linspace(0.9, 1.0, 99), [0.01]])
    right = np.random.default_rng(0).random(100) < 0.95
    assert expected_calibration_error(skewed, right) < expected_calibration_error(skewed, right, equal_mass=True)


def test_a_calibrated_predictor_errs_as_much_as_is_said_and_less_with_more_data():
    rng = np.random.default_rng(1)
    found = []
    for n in (50, 5000):
        errors = []
        for _ in range(40):
            c = rng.beta(2, 2, n)
            errors.append(expected_calibration_error(c, rng.random(n) < c))
        expected = measure_calibration(c, rng.random(n) < c).ece_if_calibrated
        assert np.mean(errors) == pytest.approx(expected, rel=0.15)
        found.append(expected)
    assert found[1] < found[0] / 5


def test_over_confidence_is_measured_in_full():
    rng = np.random.default_rng(2)
    c = np.full(4000, 0.9)
    found = measure_calibration(c, rng.random(4000) < 0.6)
    assert found.ece.estimate == pytest.approx(0.3, abs=0.03) and found.ece.low > 0.25
    assert found.reliability == pytest.approx(0.09, abs=0.02) and found.auroc.estimate == 0.5
    assert found.ece_if_calibrated < 0.01


def test_the_brier_score_is_the_sum_of_its_parts():
    rng = np.random.default_rng(3)
    c, r = rng.random(300), rng.random(300) < 0.4
    parts = brier_score(c, r)
    assert parts.score == pytest.approx(np.mean((c - r) ** 2))
    assert parts.score == pytest.approx(parts.reliability - parts.resolution + parts.uncertainty + parts.within)
    whole = brier_score(np.ceil(c * 10) / 10, r)  # one value in each bin: nothing is left within
    assert whole.within == pytest.approx(0, abs=1e-12)
    constant = brier_score(np.full(300, r.mean()), r)
    assert constant.reliability == pytest.approx(0) and constant.resolution == pytest.approx(0)
    assert constant.score == pytest.approx(constant.uncertainty)
    assert brier_score([1, 0], [1, 0]).score == 0 and brier_score([0, 1], [1, 0]).score == 1


def test_log_loss_is_the_entropy_for_a_calibrated_constant_and_finite_for_a_sure_mistake():
    assert log_loss(np.full(4, 0.25), [1, 0, 0, 0]) == pytest.approx(-(0.25 * np.log(0.25) + 0.75 * np.log(0.75)))
    assert log_loss([1.0], [0]) == pytest.approx(-np.log(1e-6))


def test_the_area_counts_every_pair_and_half_of_the_ties():
    rng = np.random.default_rng(4)
    for _ in range(20):
        s, r = rng.integers(0, 6, 30), rng.random(30) < 0.4
        gaps = s[r][:, None] - s[~r][None, :]
        by_pairs = (gaps > 0).mean() + 0.5 * (gaps == 0).mean()
        assert auroc(s, r) == pytest.approx(by_pairs)
        assert auroc(-s, r) == pytest.approx(1 - by_pairs)
        assert ordered_pairs(s, r) == (pytest.approx(by_pairs * gaps.size), gaps.size)
    assert np.isnan(auroc([1, 2], [1, 1])) and ordered_pairs([1, 2], [True, True]) == (0.0, 0)
    assert ordered_pairs([np.nan, 2, 1], [True, True, False]) == (1.0, 1)


def test_shorter_is_right_is_the_area_of_fewer_tokens():
    lengths, right = [5, 9, 9, 12, 30], [True, True, False, True, False]
    assert shorter_is_right(lengths, right) == auroc([-x for x in lengths], right) == pytest.approx(4.5 / 6)


def brier_alone(confidence, right, *, weights=None):
    return brier_score(confidence, right, weights=weights).score


@pytest.mark.parametrize("measure", [expected_calibration_error, log_loss, auroc, brier_alone])
def test_weights_are_repetitions_and_many_sets_are_measured_at_once(measure):
    rng = np.random.default_rng(5)
    c, r = rng.random(25).round(1), rng.random(25) < 0.5
    counts = rng.integers(1, 4, (6, 25))
    together = measure(c, r, weights=counts)
    assert together.shape == (6,)
    for value, count in zip(together, counts, strict=True):
        assert value == pytest.approx(measure(np.repeat(c, count), np.repeat(r, count), weights=None))
        assert isinstance(measure(c, r, weights=count), float)


def test_tied_tops_share_their_credit():
    # Two tied answers of confidence 0.5, one of them right, each counted one half.
    shared = expected_calibration_error([0.5, 0.5, 0.8], [1, 0, 1], weights=[0.5, 0.5, 1])
    assert shared == pytest.approx(expected_calibration_error([0.5, 0.8], [0.5, 1])) == pytest.approx(0.1)


def test_intervals_resample_problems_and_not_their_draws():
    rng = np.random.default_rng(6)
    rate = rng.beta(0.5, 0.5, 40)
    problem = np.repeat(np.arange(40), 50)
    r = rng.random(2000) < rate[problem]
    c = np.full(2000, 0.5)
    clustered = measure_calibration(c, r, problem=problem)
    naive = measure_calibration(c, r)
    assert clustered.brier.estimate == naive.brier.estimate
    assert clustered.ece.high - clustered.ece.low > 2 * (naive.ece.high - naive.ece.low)


def test_within_problems_difficulty_earns_nothing():
    # The score knows which problem is easy, and nothing about the draws.
    easy, hard = ([0.9] * 10, [1] * 9 + [0]), ([0.1] * 10, [1] + [0] * 9)
    pooled = auroc(easy[0] + hard[0], easy[1] + hard[1])
    pairs = [ordered_pairs(*easy), ordered_pairs(*hard)]
    within = auroc_within(*zip(*pairs, strict=True))
    assert pooled == pytest.approx(0.9) and (within.estimate, within.low, within.high) == (0.5, 0.5, 0.5)
    assert auroc_within([0.0], [0]) is None


def test_the_interval_of_the_area_within_holds_the_truth():
    rng = np.random.default_rng(7)
    hits = 0
    for _ in range(100):
        r = rng.random((40, 8)) < 0.5
        s = rng.normal(r * 0.7, 1)  # chance that a right one is above: Φ(0.7 / √2) = 0.6897
        won, of = zip(*(ordered_pairs(a, b) for a, b in zip(s, r, strict=True)), strict=True)
        found = auroc_within(won, of, resamples=300)
        hits += found.low <= 0.6897 <= found.high
    assert hits >= 87


def test_sums_over_bins_are_enough_for_calibration_error_and_brier_score():
    rng = np.random.default_rng(8)
    c, r, problem = rng.random(90), rng.random(90) < 0.5, np.repeat(np.arange(30), 3)
    sums = [bin_sums(c[problem == p], r[problem == p]) for p in range(30)]
    short, full = binned_calibration(sums), measure_calibration(c, r, problem=problem)
    assert short.n == 90 and short.confidence == pytest.approx(full.confidence)
    assert short.ece == pytest.approx(full.ece) and short.brier == pytest.approx(full.brier)
    with pytest.raises(ParameterError, match="not all empty"):
        binned_calibration(np.zeros((3, 10, 4)))


def test_what_is_no_probability_is_refused_with_a_way_out():
    with pytest.raises(ParameterError, match="auroc"):
        measure_calibration([1.5, 0.2], [1, 0])
    with pytest.raises(ParameterError, match="one verdict a confidence"):
        brier_score([0.5], [1, 0])
    with pytest.raises(ParameterError, match="one or more"):
        expected_calibration_error([], [])
    with pytest.raises(ParameterError, match="bins=0"):
        expected_calibration_error([0.5], [1], bins=0)
    with pytest.raises(ParameterError, match="NaN"):
        auroc([np.nan, 1], [1, 0])
    with pytest.raises(ParameterError, match="weights"):
        log_loss([0.5], [1], weights=[1, 1])
    with pytest.raises(ParameterError, match="problem"):
        measure_calibration([0.5], [1], problem=[0, 1])


def test_plain_data_can_be_written_as_json():
    import json

    plain = measure_calibration([0.2, 0.9], [0, 1]).as_dict()
    again = json.loads(json.dumps(plain))
    assert again["n"] == 2 and len(again["ece"]) == 3 and len(again["bins"]) == 2
