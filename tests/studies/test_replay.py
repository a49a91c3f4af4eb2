from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ponder
from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.core.verifier import Verifier
from ponder.processes.text_steps import TextSteps
from ponder.studies.pilot import Trial
from ponder.studies.pilot_curve import Draws, PoolCurve, ReplayCurve, Resamples, orders
from ponder.studies.planner import plan
from ponder.studies.replay import Replayed, replay
from ponder.testing import Counted, Sums

PROBLEM = Problem("p", "?")
TWO_ALIKE = "adaptive_consistency(n=5, criterion=share, threshold=0.99)"
"""Stops after two draws if they agree, and else never: then another share than 1 is left for good."""


def pool(answers: str, scores: Sequence[float] = ()) -> list[Candidate]:
    known = [{"silent": s} for s in scores] or [{} for _ in answers]
    return [Candidate(a, a, n_tokens=3, index=i, scores=k) for i, (a, k) in enumerate(zip(answers, known, strict=True))]


def context(problem: Problem) -> Context:
    """One that pays for nothing."""
    return Context(problem, TextSteps(Counted()), task=Sums(), budget=ponder.Budget(calls=0))


def replayed(text: str, answers: str, rows: Any, **options: Any) -> Replayed:
    draws = pool(answers, options.pop("scores", ()))
    return asyncio.run(replay(ponder.parse(text), PROBLEM, draws, np.array(rows), context, **options))


@pytest.mark.parametrize(
    ("answers", "share", "draws"),
    [
        # All pairs of first draws: AA in 3 of 10, BB in 1; else the vote of all five.
        ("AAABB", 9 / 10, 0.4 * 2 + 0.6 * 5),
        # AA in 1 of 10, BB in 3; else the vote of all five, which A never wins. A plain vote is never right.
        ("AABBB", 1 / 10, 0.4 * 2 + 0.6 * 5),
        # AA in 1 of 10; else all five draws, and A has the most votes.
        ("AABCD", 1.0, 0.1 * 2 + 0.9 * 5),
    ],
)
def test_all_orders_of_a_small_pool_give_what_counting_gives(answers: str, share: float, draws: float) -> None:
    found = replayed(TWO_ALIKE, answers, list(permutations(range(5))))
    assert np.mean([answers[at] == "A" for at in found.chosen]) == pytest.approx(share)
    assert found.draws.mean() == pytest.approx(draws)


def test_rotations_are_unbiased_over_the_orders_in_which_draws_may_have_come() -> None:
    every = list(permutations(range(5)))
    found = replayed(TWO_ALIKE, "AABBB", every)
    outcome = {order: "AABBB"[at] == "A" for order, at in zip(every, found.chosen, strict=True)}
    rows = orders(5, 5, 0, 0)[:5]  # the rotations of the order in which the draws came
    estimates = [np.mean([outcome[tuple(np.array(came)[row])] for row in rows]) for came in every]
    assert np.mean(estimates) == pytest.approx(1 / 10)
    # One order alone has a variance of 0.1 * 0.9; the mean of five rotations has less than half of it.
    assert np.var(estimates) < 0.045


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("n", [1, 2, 4, 8, 16])
def test_every_draw_is_equally_often_among_the_first(size: int, n: int) -> None:
    rows = orders(size, n, 3, 7)
    assert (np.sort(rows, axis=1) == np.arange(size)).all()
    assert list(rows[0]) == list(range(size)), "first of all the order in which they came"
    assert len(set(np.bincount(rows[:, :n].ravel(), minlength=size))) == 1
    assert len(rows) >= 16 // max(1, n // 4)


def test_a_pool_without_draws_has_one_empty_order() -> None:
    assert orders(0, 1, 0, 0).shape == (1, 0)
    found = replayed("adaptive_consistency(n=3)", "", orders(0, 1, 0, 0))
    assert list(found.chosen) == [-1] and list(found.draws) == [0]


@pytest.mark.parametrize("text", ["adaptive_consistency", "bayesian_stopping", "stop_at_saturation"])
def test_draws_end_where_the_pool_does(text: str) -> None:
    found = replayed(f"{text}(n=8)", "ABC", orders(3, 8, 0, 0))  # five draws were lost
    assert set(found.draws) == {3} and set(found.chosen) <= {0, 1, 2}


@dataclass(frozen=True)
class Silent(Verifier):
    """Has said everything before."""

    name = "silent"

    async def score(self, problem: Problem, items: Sequence[Any], ctx: Context) -> Sequence[float]:
        raise AssertionError("asked again")


def test_scores_of_the_pool_are_not_asked_for_again() -> None:
    from ponder.strategies.resample_until import ResampleUntil

    judge = Silent()
    draws = pool("ABC", [0.1, 0.7, 0.9])
    rows = np.array([[0, 1, 2], [2, 1, 0], [0, 2, 1]])
    found = asyncio.run(replay(ResampleUntil(3, judge), PROBLEM, draws, rows, context, verifier=judge))
    assert list(found.chosen) == [1, 2, 2] and list(found.draws) == [2, 1, 2]


def test_a_strategy_that_fails_has_no_answer() -> None:
    class Failing(type(ponder.parse("single"))):  # type: ignore[misc]
        async def run(self, problem: Problem, ctx: Context) -> Any:
            raise ValueError("broken")

    found = asyncio.run(replay(Failing(), PROBLEM, pool("AB"), orders(2, 1, 0, 0), context))
    assert set(found.chosen) == {-1}


def test_choices_are_right_by_their_answer_and_nothing_is_wrong() -> None:
    draws = Draws(np.array([0, 1, -1, 0]), np.array([True, False]))
    assert list(draws.chosen(np.array([0, 1, 2, 3, -1]))) == [1, 0, 0, 1, 0]


def test_beyond_the_pool_a_rule_of_stopping_lies_between_no_change_and_the_line() -> None:
    right = {n: np.full(50, share) for n, share in ((1, 0.4), (4, 0.5), (16, 0.6))}
    found = ReplayCurve(right, Resamples.of(50))
    logit = np.log(0.6 * 50 + 0.5) - np.log(0.4 * 50 + 0.5)
    rise = logit - (np.log(0.5 * 50 + 0.5) - np.log(0.5 * 50 + 0.5))
    line = 1 / (1 + np.exp(-(logit + rise)))
    beyond = found.accuracy(64)
    assert 0.59 < beyond.min() < beyond.max() <= line + 1e-9
    assert beyond.mean() == pytest.approx((0.6 + line) / 2, abs=0.02)
    assert np.allclose(found.accuracy(16), 0.6)


def test_one_draw_is_one_draw_for_every_rule(tmp_path: Path) -> None:
    every = ["repeated_sampling | majority", "best_of_n", "adaptive_consistency", "bayesian_stopping", "single"]
    found = plan(Counted(), Sums(), "tokens=60000", tmp_path, limit=40, check=False, candidates=every)
    first = [o for o in found.options if o.samples == 1]
    assert len(first) == 5
    assert len({round(o.accuracy, 9) for o in first}) == len({round(o.cost, 9) for o in first}) == 1


def test_rules_of_stopping_add_no_calls_to_a_pilot(tmp_path: Path) -> None:
    vote, all_of_them = Counted(), Counted()
    rules = ["adaptive_consistency", "bayesian_stopping", "stop_at_saturation", "early_stopping_consistency"]
    voted = ["repeated_sampling | majority"]
    options: dict[str, Any] = {"limit": 40, "check": False}
    alone = plan(vote, Sums(), "tokens=60000", tmp_path / "a", candidates=voted, **options)
    found = plan(all_of_them, Sums(), "tokens=60000", tmp_path / "b", candidates=voted + rules, **options)
    assert all_of_them.completions == vote.completions
    assert found.paid == alone.paid and found.pilot_problems == alone.pilot_problems
    for rule in rules:  # they stop early, so they cost less than the vote of as many
        cost = {o.samples: o.cost for o in found.options if o.strategy.startswith(rule)}
        assert cost[16] <= next(o.cost for o in alone.options if o.samples == 16)


@pytest.mark.parametrize(
    ("text", "pooled"),
    [
        ("bayesian_stopping", True),
        ("bayesian_stopping(strategy='repeated_sampling | majority')", True),
        ("stop_at_saturation(verifier=log_probability)", True),
        ("resample_until(verifier=log_probability)", True),
        ("bayesian_stopping(strategy='best_of_n(verifier=log_probability)')", False),
        ("bayesian_stopping(strategy='self_refine')", False),
        ("best_of_n(verifier=rank_ensemble(verifiers=[log_probability]))", False),
    ],
)
def test_what_draws_more_than_the_pool_is_not_replayed(text: str, pooled: bool) -> None:
    assert Trial(ponder.parse(text)).pooled is pooled


def test_a_rule_that_never_stops_agrees_with_the_vote_over_the_same_orders() -> None:
    answers = "AABBBACBAAACBBA"
    rows = orders(len(answers), 1, 0, 0)
    groups = np.array(["ABC".index(a) for a in answers])
    draws = Draws(groups, np.array([True, False, False]))
    for n in (1, 5, 15):
        found = replayed(f"adaptive_consistency(n={n}, threshold=1)", answers, rows)
        votes = [np.bincount(groups[row[:n]], minlength=3) for row in rows]
        tied = [(v == v.max()).sum() > 1 for v in votes]
        vote = PoolCurve([draws], "majority", len(answers), Resamples.of(1)).accuracy(n).mean()
        # Ties share the credit in the one and go to the earliest draw in the other.
        assert abs(draws.chosen(found.chosen).mean() - vote) <= np.mean(tied) / 2 + 1e-9


@pytest.mark.parametrize(
    ("text", "pooled"),
    [("bayesian_stopping", True), ("stop_at_saturation(epsilon=0.05)", True), ("adaptive_consistency", True),
     ("stop_at_saturation(value=20, currency=generated_tokens)", False),
     ("stop_at_saturation(verifier=llm_judge)", True),
     ("bayesian_stopping(strategy=self_refine)", False), ("self_refine", False),
     ("best_of_n(verifier=log_probability) | weighted_majority(transform=softmax)", True)],
)  # fmt: skip
def test_what_looks_at_draws_alone_takes_them_from_the_pool(text: str, pooled: bool) -> None:
    assert Trial(ponder.parse(text)).pooled is pooled
