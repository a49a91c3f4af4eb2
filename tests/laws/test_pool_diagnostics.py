from itertools import combinations

import numpy as np
import pytest

from ponder.errors import LawFitError, ParameterError
from ponder.laws.hedged_sampling import pool_diagnostics
from ponder.laws.multi_temperature import expected_coverage, temperature_coverage


def test_best_and_worst_are_the_mean_over_all_subsets():
    values, greedy = [0.1, 0.5, 0.7, 0.2, 0.9], 0.4
    subsets = [(*s, greedy) for s in combinations(values, 2)]
    found = pool_diagnostics(values, greedy, 3)
    assert found.best == pytest.approx(np.mean([max(s) for s in subsets]))
    assert found.worst == pytest.approx(np.mean([min(s) for s in subsets]))
    assert found.mean == pytest.approx(np.mean([np.mean(s) for s in subsets]))
    assert found.hope == pytest.approx(found.best / greedy - 1)
    plain = pool_diagnostics(values, greedy, 3, hedged=False)
    assert plain.best == pytest.approx(np.mean([max(s) for s in combinations(values, 3)]))


@pytest.mark.parametrize("sigma", [0.3, 0.6, 1.0])
def test_the_hedge_lifts_the_worst_more_than_theory_says_it_costs_the_best(sigma):
    pool = np.random.default_rng(0).normal(0, sigma, 4000).tolist()
    hedged, plain = pool_diagnostics(pool, 0.1, 5), pool_diagnostics(pool, 0.1, 5, hedged=False)
    one_draw_fewer = plain.best - pool_diagnostics(pool, 0.1, 4, hedged=False).best
    assert hedged.worst > plain.worst
    assert plain.best - hedged.best < one_draw_fewer


def test_a_pool_of_one_is_the_greedy_output():
    assert pool_diagnostics([0.3], 0.5, 1).best == 0.5
    with pytest.raises(ParameterError, match="from 1 to 3"):
        pool_diagnostics([0.1, 0.2], 0.5, 4)


def test_coverage_of_a_grid_has_a_closed_form():
    rates = np.array([[0.5, 0.0], [0.2, 0.2]])
    assert expected_coverage(rates, [2, 3]) == pytest.approx((0.75 + 1 - 0.8**5) / 2)


def test_the_union_is_shown_next_to_single_temperatures_at_equal_cost():
    right = {0.2: np.array([[True, True], [False, False]]), 0.8: np.array([[True, False], [False, True]])}
    larger = {t: np.concatenate([v, v], axis=1) for t, v in right.items()}
    report = temperature_coverage(right, larger)
    assert report.union == 1.0 and report.solved == {0.2: 0.5, 0.8: 1.0} and report.unique == {0.2: 0.0, 0.8: 0.5}
    assert report.single == {0.2: 0.5, 0.8: 1.0} and report.best_single == 1.0 and report.samples == 4
    assert temperature_coverage(right).best_single is None
    with pytest.raises(LawFitError, match="at least one temperature"):
        temperature_coverage({})
