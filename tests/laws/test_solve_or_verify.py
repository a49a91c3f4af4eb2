import numpy as np
import pytest

from ponder.errors import LawFitError, ParameterError
from ponder.laws.solve_or_verify import (
    Point,
    SolverAndVerifier,
    allocate,
    cost,
    crossing,
    exact_split,
    fit_split,
    simulated_grid,
    split_intervals,
    stored_grid,
)

BUDGETS = np.geomspace(16, 512, 12)


def test_best_of_s_with_v_verdicts_agrees_with_simulation():
    model, rng, trials = SolverAndVerifier(0.3, 0.8, 0.4), np.random.default_rng(0), 40_000
    for s, v in ((1, 3), (4, 2), (8, 6)):
        right = rng.random((trials, s)) < 0.3
        yes = rng.binomial(v, np.where(right, 0.8, 0.4)) + rng.random((trials, s)) * 0.5
        rate = right[np.arange(trials), yes.argmax(axis=1)].mean()
        assert abs(rate - model.best_of(s, v)) < 3.5 * np.sqrt(rate * (1 - rate) / trials)


def test_a_blind_verifier_is_a_random_pick_and_a_tireless_one_is_coverage():
    blind = SolverAndVerifier(0.3, 0.6, 0.6)
    assert blind.best_of(16, 8) == pytest.approx(0.3) and blind.best_of(5, 0) == pytest.approx(0.3)
    assert SolverAndVerifier(0.3, 0.7, 0.4).best_of(8, 400) == pytest.approx(1 - 0.7**8, abs=1e-4)


def test_solutions_grow_faster_than_verdicts_for_a_weak_solver_only():
    weak = exact_split(SolverAndVerifier(0.1, 0.9, 0.4), BUDGETS)
    assert weak.a - weak.b >= 0.1
    strong = exact_split(SolverAndVerifier(0.2, 0.75, 0.35), BUDGETS)
    assert abs(strong.a - strong.b) < 0.1
    assert weak.a + weak.b == pytest.approx(1, abs=0.12)


def test_voting_wins_at_small_budgets_when_the_right_answer_is_the_mode():
    model = SolverAndVerifier(0.4, 0.7, 0.4)
    assert model.self_consistency(8) > max(p.success for p in simulated_grid(model) if cost(p[0], p[1]) <= 8)
    misled = SolverAndVerifier(0.2, 0.9, 0.3, wrong=(0.6, 0.4))
    assert misled.self_consistency(8) < max(p.success for p in simulated_grid(misled) if cost(p[0], p[1]) <= 8)


def test_saved_verdicts_give_the_simulated_surface():
    model, rng = SolverAndVerifier(0.3, 0.8, 0.4), np.random.default_rng(1)
    right = rng.random((1500, 16)) < 0.3
    verdicts = (rng.random((1500, 16, 4)) < np.where(right, 0.8, 0.4)[:, :, None]).astype(float)
    for point in stored_grid(right, verdicts, (1, 4, 8), (1, 4)):
        assert abs(point.success - model.best_of(point.solutions, point.verdicts)) < 0.04


def test_missing_verdicts_are_left_out_and_none_at_all_scores_zero():
    right = np.array([[True, False]])
    verdicts = np.array([[[np.nan, 1.0], [np.nan, np.nan]]])
    assert stored_grid(right, verdicts, (2,), (2,)) == [Point(2, 2, 1.0)]
    with pytest.raises(ParameterError, match="2 stored verdicts"):
        stored_grid(right, verdicts, (2,), (4,))


def test_the_crossing_compares_at_equal_compute():
    where = crossing({1: 0.4, 2: 0.5, 4: 0.6, 8: 0.6}, [Point(4, 1, 0.55), Point(8, 3, 0.62)])
    assert (where.budget, where.plateau, where.plateau_budget, where.multiplier) == (32, 0.6, 4, 8)
    assert crossing({1: 0.9}, [Point(4, 1, 0.55)]).budget is None


def test_the_allocator_votes_below_the_crossing_and_with_a_blind_verifier():
    law = exact_split(SolverAndVerifier(0.1, 0.9, 0.4), BUDGETS)
    where = crossing({1: 0.4, 4: 0.6}, [Point(8, 3, 0.62)])
    assert allocate(16, law, where, yes_if_right=0.9, yes_if_wrong=0.4) == (16, 0)
    assert allocate(256, law, where, yes_if_right=0.5, yes_if_wrong=0.48) == (256, 0)
    s, v = allocate(256, law, where, yes_if_right=0.9, yes_if_wrong=0.4)
    assert v >= 1 and cost(s, v) <= 256 and s & (s - 1) == 0 and v & (v - 1) == 0


def test_optima_at_the_grids_edge_are_not_fitted():
    points = [Point(s, v, s * v / 1000) for s in (1, 2) for v in (1, 2)]
    with pytest.raises(LawFitError, match="Widen the grid"):
        fit_split(points, [100, 200, 400])


def test_a_grid_fit_has_bootstrap_intervals():
    rng = np.random.default_rng(2)
    right = rng.random((60, 64)) < 0.1
    verdicts = (rng.random((60, 64, 16)) < np.where(right, 0.9, 0.4)[:, :, None]).astype(float)
    grid = {"solutions": (1, 2, 4, 8, 16, 32, 64), "numbers": (1, 2, 4, 8, 16)}
    spans = split_intervals(right, verdicts, [8, 16, 32, 64, 128], resamples=10, **grid)
    law = fit_split(stored_grid(right, verdicts, *grid.values()), [8, 16, 32, 64, 128])
    assert spans["a"][0] <= law.a <= spans["a"][1] and spans["b"][0] <= law.b <= spans["b"][1]
    with pytest.raises(LawFitError, match="of 10 bootstrap resamples"):
        split_intervals(right, verdicts, [8, 512, 1024], resamples=10, **grid)


def test_impossible_parameters_are_named():
    with pytest.raises(ParameterError, match="verdict_cost=0"):
        cost(1, 1, 0)
    with pytest.raises(ParameterError, match="accuracy=2"):
        SolverAndVerifier(2, 0.5, 0.5)
