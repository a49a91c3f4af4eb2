import pytest
from hypothesis import given
from hypothesis import strategies as st

from ponder.tasks.final_answer import clean, final_answer, last_boxed


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("17+25 is 41, so the answer is 41.", "41"),
        ("17+25 is 42, so the answer is 42.", "42"),
        ("The final answer: **42**", "42"),
        (r"Hence \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{1} no, \boxed{2}", "2"),
        (r"\boxed{3", "3"),
        ("… #### 1,234", "1,234"),
        ("It costs $1,234.50 in all.", "1,234.50"),
        ("so x = −5", "-5"),
        ("The answer is $x+1$.", "x+1"),
        ("Paris", "Paris"),
        ("", None),
        ("   \n ", None),
        ("a long tale\nwithout any figure", None),
        ("The answer is: 7/8", "7/8"),
        ("答えは 42 です", "42"),
        ("ANSWER = yes", "yes"),
        ("half of v2 is what we want, that is 12 apples", "12"),
    ],
)
def test_the_answer_that_a_text_ends_with(text, answer):
    assert final_answer(text) == answer


@given(st.integers(-(10**9), 10**9), st.sampled_from(["The answer is {}.", "#### {}", "so we get {}", "\\boxed{{{}}}"]))
def test_a_number_put_into_a_text_comes_back(number, form):
    assert final_answer("We think 12 and 13 first. " + form.format(number)) == str(number)


@given(st.text(max_size=60))
def test_any_text_is_read_without_an_error_and_cleaning_is_idempotent(text):
    answer = final_answer(text)
    assert answer is None or answer.strip()
    assert clean(clean(text)) == clean(text)


def test_braces_are_balanced():
    assert last_boxed(r"\boxed{a{b}c}") == "a{b}c"
    assert last_boxed(r"\boxed{a") is None
    assert last_boxed("nothing") is None
