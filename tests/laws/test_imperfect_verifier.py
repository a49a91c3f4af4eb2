import numpy as np
import pytest

from ponder.errors import LawFitError, ParameterError
from ponder.laws.imperfect_verifier import (
    ResamplingModel,
    Verdicts,
    fit_two_difficulties,
    pool_curve,
    sensitivity,
    verifier_rates,
)

SET_UP = {"accuracies": (0.9, 0.05), "weights": (0.5, 0.5), "completeness": 0.95, "soundness": 0.8}


def simulate(rng, problems, k, false_positive):
    """Utilities of resampling up to k, problem by problem."""
    r = np.where(rng.random(problems) < 0.5, 0.9, 0.05)[:, None]
    right = rng.random((problems, k)) < r
    accepted = rng.random((problems, k)) < np.where(right, 0.95, 0.2)
    first = accepted.argmax(axis=1)
    value = np.where(right[np.arange(problems), first], 1.0, false_positive)
    return np.where(accepted.any(axis=1), value, 0.0)


@pytest.mark.parametrize("false_positive", [0.0, -1.0, -4.0])
@pytest.mark.parametrize("k", [1, 2, 5, 20])
def test_totals_agree_with_simulation_within_three_standard_errors(k, false_positive):
    values = simulate(np.random.default_rng(k), 40_000, k, false_positive)
    model = ResamplingModel(**SET_UP, false_positive=false_positive)
    assert abs(values.mean() - model.total(k)) < 3 * values.std() / np.sqrt(len(values))


@pytest.mark.parametrize("false_positive", [-1.0, -4.0])
def test_the_best_k_of_five_thousand_problems_is_the_theorys(false_positive):
    rng, most = np.random.default_rng(4), 12
    r = np.where(rng.random(5000) < 0.5, 0.9, 0.05)[:, None]
    right = rng.random((5000, most)) < r
    accepted = rng.random((5000, most)) < np.where(right, 0.95, 0.2)
    verdicts = [Verdicts.of(a, g) for a, g in zip(accepted, right, strict=True)]
    assert (
        pool_curve(verdicts, false_positive=false_positive).best_k
        == ResamplingModel(**SET_UP, false_positive=false_positive).best_k()
    )


def test_the_ceiling_is_the_precision_and_is_where_accuracy_ends():
    model = ResamplingModel(**SET_UP)
    precisions = [0.95 * r / (0.95 * r + 0.2 * (1 - r)) for r in (0.9, 0.05)]
    assert model.ceiling() == pytest.approx(np.mean(precisions))
    assert model.accuracy(5000) == pytest.approx(model.ceiling())
    assert model.accuracy(1) < model.accuracy(10) < model.ceiling()


def test_with_a_perfect_verifier_more_is_always_better():
    model = ResamplingModel((0.9, 0.05), (0.5, 0.5), 0.9, 1.0, false_positive=-4.0)
    assert model.ceiling() == pytest.approx(1.0)
    assert model.best_k() is None
    assert (np.diff(model.totals(200)) > 0).all()
    rng = np.random.default_rng(0)
    right = rng.random((500, 20)) < 0.3
    curve = pool_curve([Verdicts.of(g, g) for g in right], false_positive=-4.0)
    assert curve.best_k == 20 and curve.ceiling_bounds[1] == 1.0


def test_both_ways_to_weigh_late_draws_agree_on_the_best_k():
    for false_positive in (-1.0, -2.0, -4.0):
        model = ResamplingModel(**SET_UP, false_positive=false_positive)
        exact, published = model.totals(60), model.totals(60, mode="published")
        assert exact.argmax() == published.argmax()
        assert exact[1] == pytest.approx(published[1])
        assert not np.allclose(exact, published)


def test_false_positives_grow_with_the_draw_that_was_accepted():
    model = ResamplingModel(**SET_UP)
    shares = [model.false_share(k) for k in range(1, 8)]
    assert shares == sorted(shares) and shares[-1] > shares[0]


def test_costly_false_positives_make_abstaining_best():
    assert ResamplingModel((0.1,), (1.0,), 0.9, 0.5, false_positive=-4.0).best_k() == 0
    assert ResamplingModel(**SET_UP, cost=2.0).best_k() == 0


def test_a_pool_is_evaluated_as_the_mean_over_all_orders():
    accept, right = [True, False, True, False, False], [True, False, False, True, False]
    verdicts = Verdicts.of(accept, right)
    rng, k, total = np.random.default_rng(0), 2, 0.0
    for _ in range(20_000):
        order = rng.permutation(5)[:k]
        first = next((i for i in order if accept[i]), None)
        total += 0.0 if first is None else (1.0 if right[first] else -1.0)
    curve = pool_curve([verdicts], false_positive=-1.0)
    assert abs(total / 20_000 - curve.rewards[k]) < 0.02
    assert curve.rewards[0] == 0.0
    curve = pool_curve([verdicts])
    assert curve.rewards[5] == pytest.approx(0.5) and curve.ceiling == 0.5
    assert not curve.closes_gap_to(0.6)


def test_the_ceilings_bounds_span_problems_of_which_nothing_was_accepted():
    curve = pool_curve([Verdicts(4, 2, 2), Verdicts(4, 0, 0, right=1)])
    assert (curve.ceiling, curve.ceiling_bounds, curve.never_accepted) == (0.5, (0.5, 1.0), 1)
    dropped = pool_curve([Verdicts(4, 2, 2), Verdicts(4, 0, 0, right=1)], drop_false_negatives=True)
    assert dropped.ceiling == 1.0


def test_the_cost_of_draws_is_charged_until_the_first_accepted():
    curve = pool_curve([Verdicts(2, 1, 1)], cost=0.1)
    assert curve.rewards.tolist() == pytest.approx([0.0, 0.5 - 0.1, 1.0 - 0.15])


def test_expectation_maximisation_recovers_two_difficulties():
    rng = np.random.default_rng(3)
    r = np.where(rng.random(400) < 0.3, 0.85, 0.1)
    fit = fit_two_difficulties([(int(rng.binomial(40, p)), 40) for p in r])
    assert fit.accuracies == pytest.approx((0.85, 0.1), abs=0.03)
    assert fit.weights == pytest.approx((0.3, 0.7), abs=0.07)


def test_a_beta_distribution_of_difficulties_keeps_its_mean():
    model = ResamplingModel.beta(0.3, 3.0, 0.9, 0.9)
    assert float(np.mean(model.accuracies)) == pytest.approx(0.3 / 3.3, rel=0.02)


def test_rates_come_with_wilson_intervals():
    rates = verifier_rates([True, True, False, False, True], [True, True, True, False, False])
    assert rates.completeness[0] == pytest.approx(2 / 3) and rates.soundness[0] == pytest.approx(0.5)
    assert rates.label_noise == pytest.approx(1 / 3)
    assert rates.precision[1] < rates.precision[0] < rates.precision[2]
    with pytest.raises(LawFitError, match="sensitivity"):
        verifier_rates([], [])


def test_samples_of_one_problem_make_the_rates_less_sure():
    accept, right = [True] * 8 + [False] * 8, [True, True, True, False] * 4
    apart = verifier_rates(accept, right)
    same = verifier_rates(accept, right, [i // 4 for i in range(16)])
    assert same.completeness.estimate == apart.completeness.estimate == 0.5
    assert same.completeness.low < apart.completeness.low and same.completeness.high > apart.completeness.high
    silent = verifier_rates([False] * 4, [True, False, True, False], "aabb")
    assert silent.precision[1:] == (0.0, 1.0) and silent.soundness.high == 1
    with pytest.raises(ParameterError, match="one for each verdict"):
        verifier_rates([True, False], [True, False], "a")


def test_without_labels_a_table_over_soundness_is_what_can_be_said():
    table = sensitivity(ResamplingModel(**SET_UP, false_positive=-4.0))
    assert table[1.0] is None and (table[0.5] or 0) <= (table[0.9] or 0)


def test_impossible_parameters_are_named():
    with pytest.raises(ParameterError, match="false_positive=1"):
        ResamplingModel(**SET_UP, false_positive=1.0)
    with pytest.raises(ParameterError, match="soundness=2"):
        ResamplingModel((0.5,), (1.0,), 0.9, 2)
    with pytest.raises(LawFitError, match="never accepts"):
        pool_curve([Verdicts(4, 0, 0)])
    with pytest.raises(ParameterError, match="accepted_right ≤ accepted"):
        Verdicts(4, 1, 2)
