from __future__ import annotations

from typing import Any

import pytest

from ponder.errors import SpecError
from ponder.studies.search_space import Choice, Range, SearchSpace


class Fixed:
    """Answers as an Optuna trial does: with what it was given, else the upper end or the last choice."""

    def __init__(self, **values: Any) -> None:
        self.values = {k.replace("__", "."): v for k, v in values.items()}
        self.asked: list[tuple[Any, ...]] = []

    def suggest_int(self, name: str, low: int, high: int, log: bool) -> int:
        self.asked.append((name, low, high, log))
        return int(self.values.get(name, high))

    def suggest_float(self, name: str, low: float, high: float, log: bool) -> float:
        self.asked.append((name, low, high, log))
        return float(self.values.get(name, high))

    def suggest_categorical(self, name: str, options: list[str]) -> str:
        self.asked.append((name, *options))
        return str(self.values.get(name, options[-1]))


def filled(text: str, **values: Any) -> tuple[str, list[tuple[Any, ...]]]:
    trial = Fixed(**values)
    return SearchSpace.parse(text).suggest(trial), trial.asked  # type: ignore[arg-type]


def test_ranges_and_choices_are_filled_in_and_the_rest_stays() -> None:
    text, asked = filled("beam_search(n=4..32, branch=2|4|8, verifier=log_probability) | majority", beam_search__n=12)
    assert text == "beam_search(n=12, branch=8, verifier=log_probability) | majority"
    assert asked == [("beam_search.n", 4, 32, False), ("beam_search.branch", "2", "4", "8")]


def test_a_range_of_a_factor_of_ten_is_searched_on_a_logarithmic_scale() -> None:
    _, asked = filled("best_of_n(n=1..64)")
    assert asked == [("best_of_n.n", 1, 64, True)]
    assert filled("soft(beta=0..100)")[1] == [("soft.beta", 0, 100, False)], "0 has no logarithm"


def test_a_range_with_a_point_gives_numbers_with_one() -> None:
    text, asked = filled("with_settings(single, temperature=0.2..1.0)", with_settings__temperature=0.7)
    assert text == "with_settings(single, temperature=0.7)"
    assert asked == [("with_settings.temperature", 0.2, 1.0, False)]


def test_parameters_inside_a_choice_are_searched_only_where_it_is_taken() -> None:
    space = "best_of_n(n=4, verifier=log_probability|llm_judge(votes=1..5, model=sim:default))"
    text, asked = filled(space)
    assert text == "best_of_n(n=4, verifier=llm_judge(votes=5, model=sim:default))"
    assert [a[0] for a in asked] == ["best_of_n.verifier", "llm_judge.votes"]
    text, asked = filled(space, best_of_n__verifier="log_probability")
    assert text == "best_of_n(n=4, verifier=log_probability)" and len(asked) == 1


def test_choices_may_be_ranges_and_parameters_of_one_name_are_told_apart() -> None:
    space = SearchSpace.parse("x(n=1..4|16..32, m=[1..2, 3..4])")
    assert [p.name for p in space.parameters if isinstance(p, Range)] == ["x.n", "x.n#2", "value", "value#2"]
    assert [len(p.options) for p in space.parameters if isinstance(p, Choice)] == [2]


def test_quoted_text_and_selectors_are_left_alone() -> None:
    space = SearchSpace.parse('x(prompt="a|b, 1..2 (", n=2) | majority | first')
    assert space.parameters == [] and space.example() == space.text


def test_the_example_takes_the_lower_end_and_the_first_choice() -> None:
    assert SearchSpace.parse("x(n=4..8, v=a(b=0.5..1.0)|c)").example() == "x(n=4, v=a(b=0.5))"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a(n=4..2)", "4..2 is empty; the lower end comes first"),
        ("a(n=4..4)", "is empty"),
        ("a(n=1||2)", "a.n: a choice is missing beside '|'"),
        ("a(n=|2)", "a choice is missing"),
        ("a(n=1..3", "the text ends"),
        ("", "a name was expected"),
        ("a(n=1..3))", "unexpected"),
    ],
)
def test_malformed_spaces_are_refused(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message.replace("(", r"\(").replace("|", r"\|")):
        SearchSpace.parse(text)
