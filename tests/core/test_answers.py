from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ponder.core.answers import RELATIVE_TOLERANCE, as_number, group_answers

ANSWERS = st.lists(
    st.one_of(
        st.none(),
        st.integers(-5, 5),
        st.sampled_from(["1", " 1.0", "1,000", "1000", "Yes", "yes ", "", "  ", "1/2", "x"]),
        st.floats(allow_nan=True, allow_infinity=True, width=16),
        st.booleans(),
        st.tuples(st.integers(0, 1)),
        st.lists(st.integers(0, 1), max_size=1),
    ),
    max_size=12,
)


def partition(groups):
    """Groups as sets of places, whatever their numbers."""
    return {frozenset(i for i, g in enumerate(groups) if g == number) for number in set(groups) if number >= 0}


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("1,250.0", 1250.0), (" +7 ", 7.0), ("1e3", 1000.0), (3, 3.0), (np.int64(42), 42.0), (np.float32(0.5), 0.5),
        (Fraction(1, 4), 0.25), ("1,25", None), ("1_000", None), ("x", None), ("inf", None), ("nan", None),
        (True, None), (None, None), (10**400, None), ("1e999", None),
    ],
)  # fmt: skip
def test_the_number_that_an_answer_states(answer, number):
    assert as_number(answer) == number


def test_text_numbers_and_other_values_are_told_apart():
    assert group_answers(["Yes", "yes ", "no"]) == [0, 0, 1]
    assert group_answers(["42", 42, 42.0, np.int64(42), "42.0", "43"]) == [0, 0, 0, 0, 0, 1]
    assert group_answers([True, 1, [1], [1], (1,), (1,)]) == [0, 1, 2, 2, 3, 3]
    assert group_answers([10**400, 10**400, "1e999"]) == [0, 0, 1]


def test_nothing_gives_nothing_and_invalid_answers_have_no_group():
    assert group_answers([]) == []
    assert group_answers([None, "", "  ", float("nan")]) == [-1] * 4


def test_numbers_within_the_tolerance_chain_into_one_group():
    step = 1 + RELATIVE_TOLERANCE / 2
    chain = [step**i for i in range(10)]
    assert group_answers(chain) == [0] * 10  # the ends are further apart than the tolerance
    assert group_answers([chain[0], chain[-1]]) == [0, 1]
    assert group_answers([chain[5], -1.0, chain[0], chain[9], *chain]) == [0, 1, 0, 0] + [0] * 10


def test_groups_are_numbered_by_their_first_answer():
    assert group_answers(["b", None, "a", "b", "c", "a"]) == [0, -1, 1, 0, 2, 1]


@given(ANSWERS, st.randoms(use_true_random=False))
def test_the_order_of_answers_changes_no_group(answers, rng):
    order = list(range(len(answers)))
    rng.shuffle(order)
    moved = group_answers([answers[i] for i in order])
    back = [0] * len(answers)
    for place, i in enumerate(order):
        back[i] = moved[place]
    assert partition(back) == partition(group_answers(answers))


@given(ANSWERS, st.sets(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=8))
def test_any_relation_only_joins_groups(answers, related):
    keys = [repr(a) for a in answers]
    pairs = {(keys[i], keys[j]) for i, j in related if i < len(keys) and j < len(keys)}

    def same(first, second):
        return (repr(first), repr(second)) in pairs

    groups = group_answers(answers, same)
    valid = [g for g in groups if g >= 0]
    assert sorted(set(valid)) == list(range(len(set(valid))))
    assert [g >= 0 for g in groups] == [g >= 0 for g in group_answers(answers)]
    coarser = partition(groups)
    assert all(any(fine <= coarse for coarse in coarser) for fine in partition(group_answers(answers)))


def test_an_asymmetric_relation_counts_in_either_order_and_chains():
    def one_more(first, second):
        return ord(second) - ord(first) == 1

    assert group_answers(["c", "b", "a", "z"], one_more) == [0, 0, 0, 1]


def test_a_comparison_that_raises_means_different_and_loses_nothing():
    def same(first, second):
        if "bad" in (first, second):
            raise ZeroDivisionError
        return first[0] == second[0]

    assert group_answers(["ab", "bad", "ac", "bd"], same) == [0, 1, 0, 2]


def test_what_is_equal_already_is_never_compared():
    asked = []

    def same(first, second):
        asked.append((first, second))
        return True

    assert group_answers(["a", "A", "b", "c", None, "b "], same) == [0, 0, 0, 0, -1, 0]
    assert asked == [("a", "b"), ("a", "c")]
