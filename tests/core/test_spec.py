import pytest
from hypothesis import given
from hypothesis import strategies as st

from ponder.core.spec import Term, format_value, parse_term, parse_terms
from ponder.errors import SpecError

words = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3).map(tuple)
        | st.builds(Term, words, st.none(), st.dictionaries(words, inner, max_size=2))
    ),
    max_leaves=6,
)


def as_text(value):
    """Bare words come back as terms; whoever receives them turns them into text."""
    if isinstance(value, Term) and value.is_word:
        return value.name
    if isinstance(value, tuple):
        return tuple(as_text(v) for v in value)
    return value


def plain(value):
    if isinstance(value, Term):
        return value.name if value.is_word else ("term", value.name, {k: plain(v) for k, v in value.arguments.items()})
    return tuple(plain(v) for v in value) if isinstance(value, tuple) else value


@given(words, st.dictionaries(words, values, max_size=4))
def test_a_term_written_as_text_reads_back_equal(name, arguments):
    term = Term(name, None, arguments)
    again = parse_term(str(term))
    constants = {"true": True, "false": False, "none": None}
    expected = {k: plain(v) for k, v in arguments.items()}
    got = {k: plain(v) for k, v in again.arguments.items()}
    fold = lambda v: constants.get(v.lower(), v) if isinstance(v, str) else v  # noqa: E731
    assert {k: fold(v) for k, v in got.items()} == {k: fold(v) for k, v in expected.items()} or str(again) == str(term)
    assert str(again) == str(parse_term(str(again)))


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_with_a_position_inside_it(text):
    try:
        terms = parse_terms(text)
    except SpecError as error:
        position = error.position
    else:
        position = terms[0].position
    assert 0 <= position <= len(text)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("majority", ["majority"]),
        (" best_of_n ( n = 8 , ) | majority ", ["best_of_n", "majority"]),
        ("openai:gpt-4o@http://localhost:8000/v1", ["openai"]),
        ('jsonl:"my file.jsonl"(grader=numeric)', ["jsonl"]),
    ],
)
def test_white_space_trailing_commas_urls_and_quoted_paths_are_read(text, names):
    assert [t.name for t in parse_terms(text)] == names


def test_a_url_is_a_locator_up_to_its_options():
    term = parse_term("openai:m@http://h:1/v1(max_n=4)")
    assert (term.locator, term.arguments) == ("m@http://h:1/v1", {"max_n": 4})


def test_numbers_constants_lists_and_nested_terms_have_their_types():
    term = parse_term("s(a=1, b=-2.5e3, c=true, d=none, e=[1, x], f=judge(model=sim:default))")
    assert term.arguments["a"] == 1 and isinstance(term.arguments["a"], int)
    assert term.arguments["b"] == -2500.0
    assert term.arguments["c"] is True and term.arguments["d"] is None
    assert str(term.arguments["f"]) == "judge(model=sim:default)"


@pytest.mark.parametrize(
    ("text", "position", "says"),
    [
        ("", 0, "a name was expected"),
        ("best_of_n(n=8", 13, "')' or ','"),
        ("best_of_n(n=)", 12, "a name was expected"),
        ("best_of_n(n=8) majority", 15, "unexpected 'm'"),
        ("best_of_n(n=8) |", 16, "a name was expected"),
        ("a(n=1, n=2)", 7, "given twice"),
        ("a(n=1, 2)", 7, "without a name"),
        ('a(n="x)', 4, "not closed"),
        ("a(n=[1, 2)", 9, "']' or ','"),
        ("jsonl:", 6, "after ':'"),
    ],
)
def test_malformed_text_marks_the_position(text, position, says):
    with pytest.raises(SpecError) as caught:
        parse_terms(text)
    assert caught.value.position == position
    assert says in str(caught.value)
    assert str(caught.value).splitlines()[-1] == "  " + " " * position + "^"


@pytest.mark.parametrize("text", ["7", "-1.5", "true", "None", "a b", "", 'quo"te', "tab\t", "ü", "a(b)", "x=y"])
def test_text_values_that_look_like_something_else_are_quoted(text):
    assert parse_term(f"t(v={format_value(text)})").arguments["v"] in (text, Term(text) if text == "ü" else text)
