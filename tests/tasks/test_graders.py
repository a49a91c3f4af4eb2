from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ponder
from ponder.errors import GraderError, ParameterError, TaskError, UnknownNameError
from ponder.tasks.graders import GRADERS
from ponder.tasks.graders.numeric import parse_number


def credit(grader, reference, output, **metadata):
    rule = GRADERS.build(grader) if isinstance(grader, str) else grader
    answer = rule.extract(output)
    return 0.0 if answer is None else rule.score(ponder.Problem("p", "q", reference, metadata), output, answer)


@pytest.mark.parametrize(
    ("grader", "reference", "output", "expected"),
    [
        ("exact", "Paris", "  paris ", 1),
        ("exact", "Paris", "London", 0),
        ("exact(whole=true)", "a  b", "A b", 1),
        ("numeric", 42, "The answer is 42.0", 1),
        ("numeric", "1,234.5", "that makes $1,234.50", 1),
        ("numeric", 0.5, r"\boxed{\frac{1}{2}}", 1),
        ("numeric", "40%", "The answer is 0.4", 1),
        ("numeric", 42, "The answer is unknown", 0),
        ("numeric", "40%", "The answer is 40", 1),
        ("numeric", 40, "The answer is 40%.", 1),
        ("numeric", 0.4, "40 %", 1),
        ("numeric", "40%", "50%", 0),
        ("numeric", 3.5, "3 1/2 cups", 1),
        ("numeric", 3.5, r"\boxed{3\frac{1}{2}}", 1),
        ("numeric", 1500, r"$1.5 \times 10^3$", 1),
        ("numeric", 5, r"The answer is 5 cm^2.", 1),
        ("numeric", 2, r"\boxed{\frac{\sqrt{2}}{2}}", 0),
        ("numeric", 3, r"\boxed{2\sqrt{3}}", 0),
        ("numeric", 12, r"\boxed{(1,2)}", 0),
        ("numeric", 5, "5/0", 0),
        ("numeric", "She has 3 and 4.\n#### 7", "7", 1),
        ("numeric(absolute=0.5)", 10, "10.4", 1),
        ("numeric", 10, "10.4", 0),
        ("multiple_choice", "B", "I think (B) is best.", 1),
        ("multiple_choice", "B", "Answer: b", 1),
        ("multiple_choice", "B", "B.", 1),
        ("multiple_choice", "C", "The answer is A.", 0),
        ("multiple_choice", "B", "b", 1),
        ("multiple_choice", "B", "B, I think", 1),
        ("multiple_choice", "B", "**Answer: B**", 1),
        ("multiple_choice", "B", r"\boxed{\text{(B)}}", 1),
        ("multiple_choice", "B", "(A) is tempting, but the answer is B because of C.", 1),
        ("multiple_choice", "A", "The answer is A because it is.", 1),
        ("multiple_choice", "A", "A good question, and the answer is a bit unclear.", 0),
        ("multiple_choice", "Paris", "The answer is Paris.", 1),
        ("multiple_choice", "B", "none of these seems right to me", 0),
        ("regex", "42", "I say 42!", 1),
        ("regex(pattern='^yes')", None, "yes, it is", 1),
        ("regex(pattern='^yes')", None, "no", 0),
        (r"regex(pattern='=([0-9]+)')", "5", "x=4, then x=5", 1),
    ],
)
def test_credit(grader, reference, output, expected):
    assert credit(grader, reference, output) == expected


@pytest.mark.parametrize(
    ("reference", "output", "expected"),
    [
        (r"\frac{1}{2}", "The answer is 0.5", 1),
        ("x+1", r"\boxed{1+x}", 1),
        ("2", "The answer is 3", 0),
        ("2", "???", 0),
    ],
)
def test_mathematics_is_compared_as_mathematics(reference, output, expected):
    assert credit("math", reference, output) == expected
    assert GRADERS.build("math").same("1/2", "0.5")


def test_the_text_of_an_option_names_its_letter():
    assert credit("multiple_choice", "blue", "(B)", options=["red", "blue"]) == 1
    with pytest.raises(GraderError, match="neither a letter nor an option"):
        credit("multiple_choice", "green", "(B)", options=["red", "blue"])


def test_options_may_be_answered_and_referred_to_by_letter_text_label_or_number():
    texts = ["red", "blue"]
    for options in (texts, {"A": "red", "B": "blue"}, {"text": texts, "label": ["A", "B"]}):
        for reference in ("B", "blue", 1, "1"):
            for output in ("(B)", "The answer is blue.", "Blue"):
                assert credit("multiple_choice", reference, output, options=options) == 1
            assert credit("multiple_choice", reference, "red", options=options) == 0
    assert credit("multiple_choice", "2", "B", options={"text": texts, "label": ["1", "2"]}) == 1
    with pytest.raises(GraderError, match="neither a letter nor an option: 1"):
        credit("multiple_choice", 1, "B")


def test_numbers_are_voted_on_however_they_are_written():
    numeric = GRADERS.build("numeric")
    outputs = ["The answer is $1,234.50.", "it is 1234.5", r"\boxed{2469/2}", "1234.5 metres", "no idea"]
    assert [numeric.extract(o) for o in outputs] == ["1234.5"] * 4 + [None]
    assert numeric.extract("the answer is 123456789012345678") == "123456789012345678"
    assert parse_number("9" * 6000) is None or parse_number("9" * 6000) == float("inf")


def test_a_computation_without_end_is_a_different_answer():
    pytest.importorskip("math_verify")
    rule = GRADERS.build("math")
    assert credit(rule, "2", r"\boxed{9^{9^{9^{9}}}}") == 0
    assert not rule.same("9^{9^{9^{8}}}", "2")
    assert rule.same(r"\frac{1}{2}", "0.5")  # the next comparison finds a working process


def test_mathematics_is_compared_in_any_thread():
    pytest.importorskip("math_verify")
    rule = GRADERS.build("math")
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda i: rule.same(f"{i}+x", f"x+{i}"), range(8))) == [True] * 8


def test_a_reference_that_is_no_mathematics_is_the_graders_error():
    pytest.importorskip("math_verify")
    with pytest.raises(GraderError, match="cannot be read"):
        credit("math", "", "2")


def test_a_reference_without_a_number_is_the_graders_error_not_a_wrong_answer():
    with pytest.raises(GraderError, match="no number"):
        credit("numeric", "none", "42")


@given(st.floats(-1e9, 1e9, allow_nan=False))
def test_numbers_come_back_from_their_text(value):
    assert parse_number(f"it is {value!r}") == pytest.approx(value)


def test_a_users_function_grades_and_its_faults_are_named(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "def good(output, answer, reference, metadata):\n    return answer == reference\n"
        "def bad(output, answer, reference, metadata):\n    raise KeyError('x')\n"
        "def much(output, answer, reference, metadata):\n    return 7\n"
        "def none(output, answer, reference, metadata):\n    pass\n"
    )
    assert credit(GRADERS.build(f'python(path="{file}:good")'), "42", "42") == 1
    with pytest.raises(GraderError, match="KeyError"):
        credit(GRADERS.build(f'python(path="{file}:bad")'), "42", "42")
    for name in ("much", "none"):
        with pytest.raises(GraderError, match="lies in"):
            credit(GRADERS.build(f'python(path="{file}:{name}")'), "42", "42")
    with pytest.raises(TaskError, match="cannot be loaded"):
        GRADERS.build(f'python(path="{file}:missing")')
    with pytest.raises(TaskError, match="is float, not a function"):
        GRADERS.build('python(path="math:pi")')
    with pytest.raises(TaskError, match=r"file\.py:function"):
        GRADERS.build('python(path="nothing")')


@pytest.mark.parametrize(
    ("text", "error"),
    [("numerc", UnknownNameError), ("numeric(relative=-1)", ParameterError), ("regex(pattern='(')", ParameterError)],
)
def test_impossible_graders_are_refused(text, error):
    with pytest.raises(error):
        GRADERS.build(text)
