from __future__ import annotations

import numpy as np
import pytest

from ponder.laws import best_of_k, majority_accuracy
from ponder.studies.pilot_curve import CostCurve, Draws, PoolCurve, Resamples, SearchCurve


def pool(answers: list[int], scores: list[float] | None = None) -> Draws:
    """Draws of which answer 0 is right; -1 is none."""
    right = np.arange(max(answers, default=0) + 1) == 0
    return Draws(np.array(answers), right, None if scores is None else np.array(scores))


def curve(draws: list[Draws], rule: str, resamples: int = 400) -> PoolCurve:
    return PoolCurve(draws, rule, len(draws[0].groups), Resamples.of(len(draws), resamples=resamples))  # type: ignore[arg-type]


def test_all_draws_of_a_pool_give_the_choice_of_the_pool() -> None:
    one = pool([0, 1, 1, -1], [0.9, 0.1, 0.2, 1.0])
    assert np.allclose(curve([one], "majority").accuracy(4), 0)
    assert np.allclose(curve([one], "best").accuracy(4), 1)
    assert np.allclose(curve([one], "weighted").accuracy(4), 1)


def test_ties_share_the_credit() -> None:
    one = pool([0, 1], [0.5, 0.5])
    for rule in ("majority", "best", "weighted"):
        assert np.allclose(curve([one], rule).accuracy(2), 0.5)


def test_a_draw_without_a_score_is_never_the_best_and_weighs_nothing() -> None:
    one = pool([0, 1], [float("nan"), 0.1])
    assert np.allclose(curve([one], "best").accuracy(2), 0)
    assert np.allclose(curve([one], "weighted").accuracy(2), 0)


def test_a_pool_without_answers_is_never_right() -> None:
    for n in (1, 3, 12):
        assert curve([pool([-1, -1, -1])] * 4, "majority").accuracy(n).max() < 0.2
    assert np.allclose(curve([pool([-1, -1, -1])], "majority").accuracy(3), 0)


def test_subsets_of_a_pool_average_to_the_rank_estimator() -> None:
    rng = np.random.default_rng(0)
    draws = [pool([int(a) for a in rng.integers(0, 3, 12)], rng.random(12).tolist()) for _ in range(60)]
    for k in (1, 2, 6):
        exact = np.mean([best_of_k(d.scores, (d.groups == 0).astype(float), k) for d in draws])  # type: ignore[arg-type]
        # 60 problems of 64 subsets each: the standard error of the average is below 0.5 / sqrt(3840) = 0.008.
        assert curve(draws, "best").accuracy(k).mean() == pytest.approx(exact, abs=0.03)


@pytest.mark.parametrize("chances", [[0.5, 0.3, 0.2], [0.25, 0.45, 0.3]])
def test_a_vote_beyond_the_pool_moves_to_where_the_truth_is(chances: list[float]) -> None:
    rng = np.random.default_rng(1)
    draws = [pool([int(a) for a in rng.choice(3, size=16, p=chances)]) for _ in range(150)]
    truth, now = majority_accuracy(chances, 64), majority_accuracy(chances, 16)
    found = curve(draws, "majority").accuracy(64).mean()
    # Problems that are all alike are the hardest to continue: the vote then sharpens faster than any line.
    assert abs(found - truth) < abs(now - truth)


def test_a_vote_on_problems_of_all_difficulties_lies_within_its_interval_beyond_the_pool() -> None:
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(10):
        right = rng.beta(0.8, 1.2, size=60)
        chances = [[p, (1 - p) * 0.6, (1 - p) * 0.4] for p in right]
        draws = [pool([int(a) for a in rng.choice(3, size=16, p=p)]) for p in chances]
        low, high = np.quantile(curve(draws, "majority").accuracy(64), [0.025, 0.975])
        votes = np.stack([rng.multinomial(64, p, size=500) for p in chances])
        inside += low < (votes.argmax(axis=2) == 0).mean() < high
    assert inside >= 8  # 95 % intervals, of which 10 leave two out with a chance of 9 %


def test_a_straight_line_in_logits_is_continued() -> None:
    # Simulated beam search against an over-confident verifier: .626, .250, .042 at 4, 16, 64 samples.
    m = 1000
    correct = {4: (np.arange(m) < 626).astype(float), 16: (np.arange(m) < 250).astype(float)}
    found = SearchCurve(correct, Resamples.of(m), "beam").accuracy(64)
    low, high = np.quantile(found, [0.025, 0.975])
    assert low < 0.042 < high and found.mean() < 0.12


def test_between_two_widths_the_accuracy_lies_between_theirs_and_at_them_it_is_theirs() -> None:
    correct = {4: np.array([1.0, 0, 0, 0] * 5), 16: np.array([1.0, 1, 1, 0] * 5)}
    found = SearchCurve(correct, Resamples.of(20), "x")
    assert found.accuracy(4).mean() == pytest.approx(0.25, abs=0.02)
    assert 0.4 < found.accuracy(8).mean() < 0.6
    assert found.accuracy(16).mean() == pytest.approx(0.75, abs=0.02)


def test_what_was_seen_at_one_width_may_go_either_way() -> None:
    found = SearchCurve({4: np.array([1.0, 0] * 20)}, Resamples.of(40, resamples=2000), "x")
    spread = [float(np.diff(np.quantile(found.accuracy(n), [0.05, 0.95]))[0]) for n in (4, 8, 16)]
    assert spread[0] < spread[1] < spread[2]
    assert found.accuracy(16).mean() == pytest.approx(0.5, abs=0.05)


def test_curves_share_their_problems() -> None:
    right = np.array([1.0, 0, 1, 0, 1, 1, 0, 0])
    shared = Resamples.of(8)
    a, b = SearchCurve({4: right}, shared, "a"), SearchCurve({4: right}, shared, "b")
    assert np.array_equal(a.accuracy(4), b.accuracy(4))


def test_a_dropped_curve_keeps_the_weights_of_its_own_problems() -> None:
    shared = Resamples.of(8)
    assert np.allclose(shared.first(3).sum(axis=1), 1)
    found = SearchCurve({4: np.array([1.0, 1, 1])}, shared, "a").accuracy(4)
    assert np.allclose(found, 1)


def test_costs_are_proportional_to_one_point_and_lines_through_several() -> None:
    assert CostCurve({4: 100.0}).at(8) == 200
    linear = CostCurve({1: 10.0, 4: 40.0, 16: 160.0})
    assert [round(linear.at(n)) for n in (1, 2, 4, 8, 16, 32, 64)] == [10, 20, 40, 80, 160, 320, 640]
    assert CostCurve({8: 50.0, 16: 50.0}).at(64) == 50
    shared_prompt = CostCurve({1: 103.0, 8: 124.0, 16: 148.0})
    assert shared_prompt.at(128) == pytest.approx(100 + 3 * 128)
