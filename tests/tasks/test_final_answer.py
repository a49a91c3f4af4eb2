import pytest
from hypothesis import given
from hypothesis import strategies as st

from ponder.tasks.final_answer import NUMBER, clean, final_answer, last_boxed


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("17+25 is 41, so the answer is 41.", "41"),
        ("17+25 is 42, so the answer is 42.", "42"),
        ("17+25 is ...42", "42"),
        ("The final answer: **42**", "42"),
        ("**Answer:** 42", "42"),
        ("**Answer: 42**", "42"),
        ("The answer is **42** apples.", "42 apples"),
        ("The answer is\n\n42", "42"),
        ("The answer to 2+2 is 4.", "4"),
        ("The answer is $x+1$.", "x+1"),
        ("The answer is: 7/8", "7/8"),
        ("The answer is 3, 5 and 7.", "3, 5 and 7"),
        ("The answer is St. Louis.", "St. Louis"),
        ("ANSWER = yes", "yes"),
        ("", None),
        ("   \n ", None),
        ("Paris", "Paris"),
        ("a long tale\nwithout any figure", None),
        ("x" * 81, None),
    ],
)
def test_the_answer_that_a_text_ends_with(text, answer):
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("the answer is 41, no wait the answer is 42.", "42"),
        ("The answer is 41. Let me check: 40+1.", "41"),
        ("The answer is 42, because 17 and 25 make 42.", "42"),
        ("The answer is Bob. He has 3 apples.", "Bob"),
    ],
)
def test_the_last_statement_counts_up_to_the_end_of_its_sentence(text, answer):
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"Hence \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{1} no, \boxed{2}", "2"),
        (r"\boxed{1} and \boxed{2", "1"),
        (r"\boxed{3", "3"),
        (r"\boxed{}, that is 7", "7"),
        (r"\boxed{\boxed{3}}", "3"),
        (r"\boxed{\text{Paris}}", "Paris"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{40\%}", "40%"),
        (r"\boxed{5!} is 120", "5!"),
        (r"the answer is 1. \boxed{2} #### 3", "2"),
        ("<answer>1 2\n3 4</answer> as said", "1 2\n3 4"),
        ("… #### 1,234", "1,234"),
        ("#### 42\nDone", "42"),
        ("#### Step 1: add\nso it is 7 cm", "7"),
        ("the answer is 5\n#### 6", "6"),
    ],
)
def test_marked_answers_come_before_all_others(text, answer):
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("It costs $1,234.50 in all.", "1,234.50"),
        ("so x = −5", "-5"),
        ("17-25 = -8, I think", "-8"),
        ("between 10-12", "12"),
        (r"so we get \frac{1}{2}.", r"\frac{1}{2}"),
        (r"x = -\frac{3}{4} here", r"-\frac{3}{4}"),
        ("so it is 40%.", "40%"),
        ("so it is 40 %.", "40%"),
        ("5 pieces of 12cm", "12"),
        ("1.5e5 in all", "1.5e5"),
        (r"that is $1.5 \times 10^{-3}$ m", r"1.5 \times 10^{-3}"),
        ("take 3 1/2 cups", "3 1/2"),
        (r"take 3\frac{1}{2} cups", r"3\frac{1}{2}"),
        ("half of v2 is what we want, that is 12 apples", "12"),
        ("3 is what the 2nd gets", "3"),
        ("答えは42です", "42"),
        ("答案是42。也就是说", "42"),
    ],
)
def test_else_the_last_number_with_its_sign_and_unit(text, answer):
    assert final_answer(text) == answer


@given(st.integers(-(10**9), 10**9), st.sampled_from(["The answer is {}.", "#### {}", "so we get {}", "\\boxed{{{}}}"]))
def test_a_number_put_into_a_text_comes_back(number, form):
    assert final_answer("We think 12 and 13 first. " + form.format(number)) == str(number)


@given(st.integers(0, 10**9), st.sampled_from(["it is {}", "({})", "={}.", "about {}, or so", "**{}**", "$ {} $"]))
def test_thousands_decimals_and_fractions_come_back(number, form):
    for text in (f"{number:,}", f"{number}.25", f"{number}/7", f"-{number}"):
        assert final_answer("first 3 then " + form.format(text)) == text


@given(st.text(max_size=60))
def test_any_text_is_read_without_an_error_and_cleaning_is_idempotent(text):
    answer = final_answer(text)
    assert answer is None or answer.strip()
    assert clean(clean(text)) == clean(text)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" * 9000, "answer is" + "\n" * 50_000, "answer is\n" * 5000, "####\n" * 9000, "<answer>" * 9000,
        "**" * 30_000, "$" * 60_000, "1," * 30_000, "1/" * 30_000, "answer to " * 6000,
    ],
    ids=lambda text: text[:8].strip(),
)  # fmt: skip
def test_endless_repetition_is_read_in_no_time(text):
    final_answer(text)


def test_braces_are_balanced():
    assert last_boxed(r"\boxed{a{b}c}") == "a{b}c"
    assert last_boxed(r"\boxed{a") is None
    assert last_boxed("} } nothing") is None


def test_words_with_digits_are_no_numbers():
    assert NUMBER.findall("v2 a1b x_3 1.2.3") == ["1.2"]
