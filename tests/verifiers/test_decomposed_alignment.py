"""decomposed_alignment: prompts taken apart by hand-worked rules and by a model, and answered by a fake endpoint."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ponder
from ponder.api import run_sync
from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.errors import CapabilityError, ParameterError
from ponder.models.diffusers import Diffusers
from ponder.models.openai_compatible import OpenAICompatible
from ponder.processes.denoising import Denoising
from ponder.verifiers._prompt_parts import Part, read_parts, split_prompt
from ponder.verifiers.decomposed_alignment import DecomposedAlignment

pytest.importorskip("PIL.Image")
sys.path.insert(0, str(Path(__file__).parent.parent / "support"))
from fake_endpoint import FakeEndpoint

PROMPT = "a red cube left of a blue ball; three cats"
WHITE, BLACK = (np.full((8, 8, 3), value) for value in (1.0, 0.0))


@pytest.mark.parametrize(
    ("prompt", "questions"),
    [
        (
            PROMPT,
            ["Is there a cube?", "Is there a ball?", "Are there any cats?", "Is the cube red?", "Is the ball blue?",
             "Are there exactly three cats?", "Is the cube left of the ball?"],
        ),
        ("a fox", ["Is there a fox?"]),
        ("snow", ["Is there snow?"]),
        ("a photo of an apple on top of a wooden table",
         ["Is there an apple?", "Is there a table?", "Is the table wooden?", "Is the apple on top of the table?"]),
        ("two black and white cats",
         ["Are there any cats?", "Are the cats black?", "Are the cats white?", "Are there exactly two cats?"]),
        ("a red cube and a blue cube", ["Is there a red cube?", "Is there a blue cube?"]),
        ("a cube on a table. The cube is red and shiny.",
         ["Is there a cube?", "Is there a table?", "Is the cube red?", "Is the cube shiny?",
          "Is the cube on the table?"]),
        ("a man riding a horse in the snow",
         ["Is there a man?", "Is there a horse?", "Is the snow visible?", "Is the man riding the horse?",
          "Is the horse in the snow?"]),
        ("a dog running", ["Is there a dog?", "Is the dog running?"]),
        ("a building next to a fire truck",
         ["Is there a building?", "Is there a fire truck?", "Is the building next to the fire truck?"]),
        ("a single fox and 2 dogs",
         ["Is there a fox?", "Are there any dogs?", "Is there exactly one fox?", "Are there exactly 2 dogs?"]),
        ("ein Würfel, 日本", ["Is there ein würfel?", "Is there 日本?"]),
        ("", []),
        ("7", []),
    ],
)  # fmt: skip
def test_prompts_are_taken_apart_as_by_hand(prompt, questions):
    assert [part.question for part in split_prompt(prompt)] == questions


def test_parts_know_which_objects_they_are_about():
    parts = split_prompt(PROMPT)
    assert [part.kind for part in parts] == ["object"] * 3 + ["attribute"] * 2 + ["count", "relation"]
    assert [part.about for part in parts] == [(), (), (), (0,), (1,), (2,), (0, 1)]


@given(st.text(alphabet=st.sampled_from("ab red cube and a, two; left of .the"), max_size=60) | st.text(max_size=40))
def test_any_text_gives_parts_that_are_about_objects_before_them(text):
    parts = split_prompt(text)
    for part in parts:
        assert all(parts[i].kind == "object" and not parts[i].about for i in part.about)
        assert part.question.endswith("?") and (part.kind == "object") == (not part.about)


# ------------------------------------------------------------------ against an endpoint


def asked_of(body):
    """The question in a request; the whole text of one without a picture."""
    content = body["messages"][0]["content"]
    return content if isinstance(content, str) else content[-1]["text"].partition("\n")[0]


def judged(no=(), outputs=(WHITE,), prompt=PROMPT, split=None, **options):
    """Scores where the endpoint says no to some questions; `split` are its replies as the splitter."""
    replies = iter(split or ())

    def answers(text, seed, index):
        body = {"messages": json.loads(text)}
        question = asked_of(body)
        if "Take the prompt apart" in question:
            return next(replies)
        return "hm" if question in no and no[question] is None else "no" if question in no else "yes"

    async def run():
        async with FakeEndpoint(answers) as server:
            eyes = OpenAICompatible("eyes", server.url, max_retries=0, first_pause_s=0.001)
            verifier = DecomposedAlignment(eyes, splitter=eyes if split else None, **options)
            ctx = Context(Problem("x", prompt), Denoising(Diffusers("digits")))
            candidates = [Candidate(o, index=i) for i, o in enumerate(outputs)]
            found = await ctx.score(ctx.problem, candidates, verifier)
            await eyes.aclose()
            return [float(v) for v in found], ctx, [asked_of(body) for body in server.requests], candidates

    return run_sync(run)


def test_the_score_is_the_share_of_questions_with_yes():
    assert judged()[0] == [1.0]
    scores, ctx, asked, candidates = judged(no={"Is the ball blue?": 0})
    assert scores == [pytest.approx(6 / 7)] and len(asked) == 7 and ctx.ledger.total.verifier_calls == 1
    assert "Is the ball blue? 0.00" in ctx.remark_on(candidates[0]), "refiners are told what is amiss"


def test_what_depends_on_a_missing_object_counts_as_no_and_is_not_asked():
    scores, _, asked, _ = judged(no={"Is there a ball?": 0})
    assert scores == [pytest.approx(4 / 7)], "the ball, its colour and the relation are no"
    assert len(asked) == 5 and "Is the ball blue?" not in asked


def test_weights_are_by_kind():
    no = {"Is the cube left of the ball?": 0}
    assert judged(no, weights=(1, 1, 1, 3))[0] == [pytest.approx(6 / 9)]
    assert judged(no, weights=(1, 1, 1, 0))[0] == [1.0]
    assert judged({"Is there a fox?": 0}, prompt="a fox", weights=(0, 1, 1, 1))[0] == [0.0], "nothing else is there"


def test_a_prompt_in_which_nothing_is_found_is_asked_about_as_a_whole():
    scores, _, asked, _ = judged(prompt="7")
    assert scores == [1.0] and asked == ['Does this picture show "7"?']


def test_a_model_takes_the_prompt_apart_once_for_all_pictures():
    own = [
        {"kind": "object", "question": "Any dragon?", "about": []},
        {"kind": "attribute", "question": "Does it sleep?", "about": [0]},
    ]
    reply = "Sure: " + json.dumps(own) + " Done."
    scores, ctx, asked, _ = judged({"Does it sleep?": 0}, [WHITE, BLACK], split=[reply])
    assert scores == [0.5, 0.5] and sum("Take the prompt apart" in q for q in asked) == 1
    assert ctx.ledger.total.verifier_calls == 2 and not ctx.failures


def test_after_three_replies_of_no_use_the_rules_take_over():
    bad = ["no list here", '[{"kind": "mood", "question": "?"}]', "[]"]
    scores, ctx, asked, _ = judged(split=bad)
    assert scores == [1.0] and "Is the ball blue?" in asked and sum("Take the prompt apart" in q for q in asked) == 3
    assert [f.kind for f in ctx.failures] == ["decomposed_alignment"] and "3 replies" in ctx.failures[0].message
    good = json.dumps([{"kind": "object", "question": "Any dragon?"}])
    assert judged(split=[bad[0], good])[2][2:] == ["Any dragon?"], "the second reply was of use"


@pytest.mark.parametrize(
    "rows",
    [{}, [], [3], [{"kind": "object"}], [{"kind": "object", "question": " "}], [{"kind": "x", "question": "A?"}],
     [{"kind": "count", "question": "A?", "about": [0]}], [{"kind": "count", "question": "A?", "about": [7]}],
     [{"kind": "object", "question": "A?", "about": [0]}]],
)  # fmt: skip
def test_lists_of_another_form_are_refused(rows):
    with pytest.raises((ValueError, TypeError, KeyError)):
        read_parts(rows)


def test_a_question_without_an_answer_costs_its_picture_the_score():
    scores, ctx, _, _ = judged({"Is the ball blue?": None})
    assert np.isnan(scores[0]) and "no answer" in ctx.failures[0].message


def test_settings_and_text_form():
    text = "decomposed_alignment(model=openai:eyes@http://h/v1, splitter=openai:llm@http://h/v1, weights=[1, 2, 1, 1])"
    verifier = ponder.verifier(text)
    assert verifier.weights == (1, 2, 1, 1) and str(ponder.verifier(str(verifier))) == str(verifier)
    assert ponder.verifier("da_score(model=openai:eyes@http://h/v1)") == DecomposedAlignment(
        ponder.model("openai:eyes@http://h/v1")
    )
    with pytest.raises(CapabilityError, match="needs images"):
        ponder.verifier("da_score(model=sim:strong)")
    for bad in ((1, 1), (0, 0, 0, 0), (1, 1, 1, -1), (float("nan"), 1, 1, 1)):
        with pytest.raises(ParameterError, match="weights"):
            DecomposedAlignment(OpenAICompatible("eyes"), weights=bad)
    with pytest.raises(ParameterError, match="votes"):
        DecomposedAlignment(OpenAICompatible("eyes"), votes=0)


def test_every_kind_is_a_parts_kind():
    assert {part.kind for part in split_prompt(PROMPT)} == {"object", "attribute", "count", "relation"}
    assert read_parts([{"kind": "object", "question": " Any? "}]) == [Part("object", "Any?")]
