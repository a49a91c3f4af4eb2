"""Guessing what comes next, and how much of it to evaluate."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ponder.engine.lookup import MOST, SIZES, Acceptance, Draft, Lookup, costs, lengths


def test_a_draft_is_what_followed_the_longest_ending_that_was_written_before():
    index = Lookup([1, 2, 3, 4, 7, 9, 3, 4, 8, 1, 2, 3, 4])
    draft = index.draft(index.text(), 3)
    assert (draft.tokens, draft.size) == ([7, 9, 3], 4)  # 1 2 3 4, not the later 3 4
    text = index.text()
    index.add(text, 5)
    assert index.draft(text) is None  # 5 is new
    index.add(text, 3)
    assert index.draft(text, 2) == Draft([4, 5], 1)  # the last place where 3 was


def test_a_text_is_guessed_by_the_other_texts_of_its_prompt():
    index = Lookup([1])
    one, two = index.text(), index.text()
    for token in (5, 6, 7, 8):
        index.add(one, token)
    index.add(two, 5)
    assert index.draft(two).tokens == [6, 7, 8]


def test_a_text_that_repeats_itself_is_guessed_to_go_on_so():
    index = Lookup([1])
    text = index.text()
    for token in (5, 6, 5, 6, 5):
        index.add(text, token)
    assert index.draft(text).tokens == [6, 5, 6, 5, 6, 5, 6]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=20), st.lists(st.integers(0, 3), max_size=20))
def test_the_first_guess_is_what_searching_the_whole_text_backwards_gives(prompt, more):
    index = Lookup(prompt)
    text = index.text()
    for token in more:
        index.add(text, token)
    whole = prompt + more
    expected = None
    for size in SIZES:
        starts = [i for i in range(len(whole) - size) if whole[i : i + size] == whole[-size:]]
        if starts and size <= len(whole):
            expected = whole[starts[-1] + size], size
            break
    draft = index.draft(text)
    assert (None if draft is None else (draft.tokens[0], draft.size)) == expected
    assert draft is None or len(draft.tokens) <= MOST


def test_acceptance_is_learnt_for_each_size_up_to_the_first_wrong_guess():
    acceptance = Acceptance()
    before = acceptance.chances(Draft([1] * 4, 1))
    for _ in range(2000):
        acceptance.learn(Draft([1, 2, 3, 4], 2), [1, 2, 9, 4])  # right after 2 and 3 tokens, wrong after 4
    after = acceptance.chances(Draft([1] * 4, 1))
    assert after[0] == before[0]
    assert np.diff(np.log(after)) == pytest.approx([0, 0, np.log(acceptance.chances(Draft([1], 4))[0])], abs=1e-6)
    assert acceptance.chances(Draft([1], 4))[0] < 1e-6
    assert Acceptance(acceptance).chances(Draft([1] * 4, 1)) == after


def test_costs_lead_straight_through_what_was_measured_and_never_fall():
    found = costs({1: 2.0, 3: 4.0, 5: 3.0, 7: 6.0}, 9)
    assert found.tolist() == [2, 2, 3, 4, 4, 4, 5, 6, 7, 8]
    assert costs({}, 9) is None
    assert costs({1: 2.0}, 3).tolist() == [2, 2, 4, 6]  # of one text nothing is known but that no step is free


chances = st.lists(
    st.lists(st.floats(0.01, 0.99), min_size=1, max_size=4).map(lambda p: np.cumprod(p).tolist()), max_size=4
)


@given(chances, st.lists(st.floats(0.01, 1), min_size=25, max_size=25), st.integers(0, 3))
def test_no_other_choice_promises_more_tokens_a_second(drafts, steps, more):
    """Against trying all; a tenth must be gained, or nothing is drafted."""
    texts = len(drafts) + 1
    seconds = np.cumsum([0.5, *steps])

    def speed(chosen):
        gained = sum(sum(d[:n]) for d, n in zip(drafts, chosen, strict=True))
        return (texts + gained) / seconds[texts + more + sum(chosen)]

    found = lengths(drafts, texts, texts + more, seconds)
    every = [list(c) for c in np.ndindex(*(len(d) + 1 for d in drafts))]
    best = max(map(speed, every))
    if best < 1.1 * speed([0] * len(drafts)):
        assert found == [0] * len(drafts)
    else:
        assert speed(found) == pytest.approx(best)


def test_drafts_never_make_a_step_longer_than_allowed():
    found = lengths([[0.9] * 7, [0.8] * 7], 2, 3, np.ones(3 + 5 + 1))
    assert sum(found) == 5 and found == [5, 0]
    assert lengths([[0.9]], 1, 3, np.ones(4)) == [0]
    assert lengths([], 1, 3, np.ones(4)) == []
