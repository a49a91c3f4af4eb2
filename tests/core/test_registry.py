from dataclasses import dataclass

import pytest

import ponder
from ponder.core.registry import STRATEGIES, Registry, canonical
from ponder.errors import ParameterError, SpecError, UnknownNameError


def test_canonical_text_leaves_defaults_out_and_keeps_the_order_of_the_parameters():
    assert str(ponder.parse("best_of_n(verifier=log_probability, n=4)")) == "best_of_n(n=4)"
    assert str(ponder.parse("best_of_n(4, llm_judge(votes=3, temperature=0))")) == (
        "best_of_n(n=4, verifier=llm_judge(votes=3))"
    )


def test_an_alias_reads_as_the_name():
    assert str(ponder.parse("bon(n=2) | self_consistency")) == "best_of_n(n=2) | majority"


def test_the_nested_model_of_a_judge_round_trips():
    text = "best_of_n(n=2, verifier=llm_judge(model=sim:strong))"
    assert str(ponder.parse(text)) == text
    assert ponder.parse(text).verifier.model == ponder.model("sim:strong")


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("best_of_m(n=8)", UnknownNameError, "did you mean best_of_n"),
        ("best_of_n(m=8)", UnknownNameError, "parameter of best_of_n"),
        ("best_of_n | majorty", UnknownNameError, "did you mean majority"),
        ("best_of_n(n=8.5)", ParameterError, "an integer or none"),
        ("best_of_n(n=0)", ParameterError, "≥ 1"),
        ("best_of_n(n=true)", ParameterError, "an integer"),
        ("best_of_n(verifier=exakt)", UnknownNameError, "did you mean exact"),
        ("best_of_n(1, log_probability, 3)", SpecError, "at most 2"),
        ("best_of_n(1, n=1)", SpecError, "given twice"),
        ("best_of_n:x", SpecError, "takes no ':'"),
        ("sim:defalt", UnknownNameError, "strategy"),
    ],
)
def test_what_cannot_be_built_says_why(text, error, says):
    with pytest.raises(error, match=says.replace("(", r"\(")):
        ponder.parse(text)


def test_the_position_of_an_unknown_name_is_that_in_the_whole_text():
    with pytest.raises(UnknownNameError) as caught:
        ponder.parse("best_of_n(n=8) | majorty")
    assert caught.value.position == 17


def test_an_unknown_profile_or_model_names_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean default"):
        ponder.model("sim:defalt")
    with pytest.raises(UnknownNameError, match="did you mean openai"):
        ponder.model("opnai:x")


def test_a_name_cannot_be_taken_twice():
    registry = Registry("thing", "ponder.strategies")

    @registry.register("one")
    @dataclass(frozen=True)
    class One:
        pass

    with pytest.raises(ParameterError, match="not taken"):

        @registry.register("one")
        @dataclass(frozen=True)
        class Other:
            pass

    assert canonical(One()) == "one"


def test_every_registered_technique_has_a_summary():
    for entry in STRATEGIES.entries():
        assert entry.summary and entry.summary.endswith(".")


def test_everything_public_exists():
    for name in ponder.__all__:
        assert getattr(ponder, name) is not None
    assert dir(ponder) == ponder.__all__
    with pytest.raises(AttributeError, match="nonsense"):
        _ = ponder.nonsense
