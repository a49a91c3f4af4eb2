"""Exact posteriors against simulation, limits and closed forms."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ponder.core.posteriors import chance_leader_stays, chance_solved, next_success, saturated_gain, vote_gain


def urn(counts, remaining, unseen, runs=3000):
    """Share of simulated Dirichlet-process continuations in which the first leader still leads."""
    rng, kept = np.random.default_rng(1), 0

    def leader(votes):
        return max(range(len(votes)), key=lambda i: (votes[i], -i))

    for _ in range(runs):
        votes = list(counts)
        for _ in range(remaining):
            at = rng.random() * (sum(votes) + unseen)
            i = int(np.searchsorted(np.cumsum(votes), at, side="right"))
            if i == len(votes):
                votes.append(1)
            else:
                votes[i] += 1
        kept += leader(votes) == leader(counts)
    return kept / runs


@pytest.mark.parametrize(("counts", "remaining"), [([3, 2], 7), ([2, 2], 5), ([1, 4], 9), ([5, 1], 20)])
def test_for_two_answers_the_chance_is_exact(counts, remaining):
    assert chance_leader_stays(counts, remaining, unseen=0) == pytest.approx(urn(counts, remaining, 0), abs=0.03)


@pytest.mark.parametrize(("counts", "remaining", "unseen"), [([3, 2, 1], 8, 1.0), ([4], 12, 1.0), ([2, 1, 1], 4, 0.5)])
def test_with_more_answers_it_is_a_lower_bound_and_not_far_below(counts, remaining, unseen):
    seen, bound = urn(counts, remaining, unseen), chance_leader_stays(counts, remaining, unseen=unseen)
    assert bound <= seen + 0.03 and bound >= seen - 0.15


@given(st.lists(st.integers(1, 12), max_size=6), st.integers(0, 20), st.floats(0, 3), st.integers(0, 5))
def test_it_is_a_chance_and_a_lead_that_cannot_be_turned_is_certain(counts, remaining, unseen, invalid):
    chance = chance_leader_stays(counts, remaining, unseen=unseen, invalid=invalid)
    assert 0 <= chance <= 1
    first, second = sorted([0, 0, *counts])[::-1][:2]
    if counts and first - second > remaining:
        assert chance == 1


def test_nobody_leads_without_answers_and_nothing_changes_without_draws():
    assert chance_leader_stays([], 3) == 0 and chance_leader_stays([], 0) == 1 and chance_leader_stays([1, 1], 0) == 1


def test_a_tie_is_kept_by_the_answer_that_came_first():
    assert chance_leader_stays([2, 1], 1, unseen=0) == 1.0  # 2:2, and the leader came first
    assert chance_leader_stays([1, 2], 1, unseen=0) == pytest.approx(2 / 3)  # 2:2 gives the lead to the earlier answer


@given(st.integers(0, 40), st.integers(0, 40), st.floats(0.1, 5), st.floats(0.1, 5))
def test_the_chance_of_ever_being_solved_adds_up_from_the_next_draws(draws, remaining, alpha, beta):
    fail = 1.0
    for k in range(remaining):
        fail *= 1 - next_success(draws + k, 0, alpha=alpha, beta=beta)
    assert chance_solved(draws, 0, remaining, alpha=alpha, beta=beta) == pytest.approx(1 - fail, abs=1e-9)
    assert chance_solved(draws, 1, remaining) == 1 and next_success(draws, 2) == 0


@pytest.mark.parametrize(("n", "leading"), [(4, 4), (7, 2), (1, 0)])
def test_the_saturated_gain_is_the_integral_over_the_posterior(n, leading):
    p = np.random.default_rng(0).beta(0.5 + leading, 0.5 + n - leading, 400_000)
    values = p * (1 - p) ** n
    assert saturated_gain(n, leading) == pytest.approx(values.mean(), abs=5 * values.std() / math.sqrt(p.size))


def test_a_vote_gains_most_where_it_is_open_and_never_loses():
    gains = [vote_gain(4 + k, 4 - k) for k in range(5)]
    assert gains == sorted(gains, reverse=True) and gains[-1] > 0
    assert vote_gain(0, 0) > vote_gain(4, 4) > vote_gain(20, 20)
    assert vote_gain(200, 0) < 1e-9
