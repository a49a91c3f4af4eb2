"""Drawing next tokens."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ponder.core.model import Sampling
from ponder.engine import sampling as draws

WIDTH = 700  # more than one block and not a multiple of it


def logits_of(seed, rows=1):
    return np.random.default_rng(seed).normal(0, 3, (rows, WIDTH)).astype(np.float32)


def reference(row, s):
    """The distribution by sorting everything."""
    p = np.exp((row.astype(np.float64) - row.max()) / s.temperature)
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    keep = order[: s.top_k] if s.top_k else order
    q = np.zeros_like(p)
    q[keep] = p[keep] / p[keep].sum()
    if s.top_p < 1:
        order = np.argsort(-q, kind="stable")
        n = int(np.searchsorted(np.cumsum(q[order]), s.top_p, side="left")) + 1
        q[order[n:]] = 0
    if s.min_p:
        q[q < s.min_p * q.max()] = 0
    return q / q.sum()


def distribution(row, s, n=4001):
    """What `draw` gives over an even grid of numbers: within 1/n of its distribution."""
    numbers = (np.arange(n) + 0.5) / n
    tokens = draws.draw(np.repeat(row[None], n, 0), [s] * n, numbers)
    return np.bincount(tokens, minlength=WIDTH) / n


@pytest.mark.parametrize(
    "s",
    [
        Sampling(),
        Sampling(temperature=0.5),
        Sampling(temperature=2.0, top_p=0.9),
        Sampling(top_p=0.3),
        Sampling(top_k=5),
        Sampling(top_k=600, top_p=0.95),
        Sampling(min_p=0.05),
        Sampling(temperature=1.5, top_k=20, top_p=0.8, min_p=0.1),
        Sampling(temperature=5.0, top_p=0.999),
    ],
)
def test_over_all_numbers_tokens_come_with_the_probabilities_of_the_filtered_softmax(s):
    row = logits_of(1)[0]
    assert np.abs(distribution(row, s) - reference(row, s)).max() < 2 / 4001 + 1e-4


def test_temperature_zero_takes_the_first_of_the_largest_whatever_the_number():
    row = np.array([[0.0, 5.0, 5.0, -math.inf]], np.float32)
    for number in (0.0, 0.5, 1 - 1e-16):
        assert draws.draw(row, [Sampling(temperature=0)], np.array([number])).tolist() == [1]


@given(st.integers(0, 1000), st.floats(0, 1, exclude_max=True))
def test_a_token_with_no_probability_is_never_drawn(seed, number):
    row = logits_of(seed)
    allowed = int(np.random.default_rng(seed).integers(WIDTH))
    masked = np.full_like(row, -math.inf)
    masked[0, allowed] = row[0, allowed]
    for s in (Sampling(), Sampling(top_p=0.5), Sampling(top_k=3), Sampling(min_p=0.5)):
        assert draws.draw(masked, [s], np.array([number])).tolist() == [allowed]


@settings(max_examples=25)
@given(st.integers(0, 1000), st.lists(st.sampled_from([0.0, 0.7, 1.0]), min_size=2, max_size=6))
def test_what_a_row_draws_does_not_depend_on_the_others_in_its_batch(seed, temperatures):
    rows = logits_of(seed, len(temperatures))
    numbers = np.random.default_rng(seed).random(len(temperatures))
    kinds = [Sampling(temperature=t, top_p=0.9 if i % 2 else 1.0) for i, t in enumerate(temperatures)]
    together = draws.draw(rows, kinds, numbers)
    alone = [draws.draw(rows[i : i + 1], [kinds[i]], numbers[i : i + 1])[0] for i in range(len(kinds))]
    assert together.tolist() == alone


def test_log_probabilities_are_those_of_the_untempered_softmax_and_sum_to_one():
    rows = logits_of(3, 4)
    known = draws.log_probabilities(rows)
    assert np.exp(known.astype(np.float64)).sum(1) == pytest.approx(np.ones(4), abs=1e-5)
    tokens = np.array([0, 10, 699, 256])
    assert draws.of_tokens(rows, tokens) == pytest.approx(known[np.arange(4), tokens], abs=1e-5)


def test_the_likeliest_tokens_come_in_order_and_no_more_than_there_are():
    row = np.array([[0.0, 3.0, 1.0, 2.0]], np.float32)
    assert draws.most_likely(row, 3).tolist() == [[1, 3, 2]]
    assert draws.most_likely(row, 9).tolist() == [[1, 3, 2, 0]]
