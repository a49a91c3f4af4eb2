"""vqa_judge against an endpoint that decodes the picture it is sent and answers about it."""

import base64
import io
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

import ponder
from ponder.api import run_sync
from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.model import PICTURE_TOKENS
from ponder.core.problem import Problem
from ponder.errors import CapabilityError, ParameterError
from ponder.models.diffusers import Diffusers
from ponder.models.openai_compatible import OpenAICompatible
from ponder.processes.denoising import Denoising
from ponder.verifiers.vqa_judge import VqaJudge

Image = pytest.importorskip("PIL.Image")
sys.path.insert(0, str(Path(__file__).parent.parent / "support"))
from fake_endpoint import FakeEndpoint  # noqa: E402

WHITE, BLACK, GREY = (np.full((8, 8, 3), value) for value in (1.0, 0.0, 0.5))


def seen(prompt):
    """The picture in a request's messages, and its question."""
    ((message),) = json.loads(prompt)
    picture, text = message["content"]
    kind, data = picture["image_url"]["url"].split(",", 1)
    assert message["role"] == "user" and kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), text["text"]


def brightness(prompt, seed, index):
    """Yes of bright pictures to what asks for bright ones; a rating of how bright."""
    picture, question = seen(prompt)
    if "Score: N" in question:
        return f"It is this bright.\nScore: {picture.mean() / 25.5:.1f}"
    bright = picture.mean() > 127
    return "Yes." if bright == ("bright" in question) else "No, it is not."


def judged(outputs, answers=brightness, faults=(), budget=None, **options):
    async def run():
        async with FakeEndpoint(answers, faults) as server:
            verifier = VqaJudge(OpenAICompatible("eyes", server.url, max_retries=0, first_pause_s=0.001), **options)
            ctx = Context(Problem("x", "a bright seven"), Denoising(Diffusers("digits")), budget=budget)
            found = await ctx.score(ctx.problem, [Candidate(o, index=i) for i, o in enumerate(outputs)], verifier)
            await verifier.model.aclose()
            return [float(v) for v in found], ctx, server

    return run_sync(run)


def test_the_endpoint_sees_the_very_picture_and_its_yes_is_the_score():
    scores, ctx, server = judged([WHITE, BLACK])
    assert scores == [1.0, 0.0] and ctx.ledger.total.verifier_calls == 2 and ctx.ledger.total.model_calls == 0
    pictures = [seen(json.dumps(body["messages"]))[0] for body in server.requests]
    assert sorted(int(p[0, 0, 0]) for p in pictures) == [0, 255] and pictures[0].shape == (8, 8, 3)
    assert all('show "a bright seven"' in seen(json.dumps(b["messages"]))[1] for b in server.requests)


def test_questions_are_averaged_and_a_rating_is_a_tenth_of_its_number():
    scores, _, server = judged([WHITE, BLACK], questions=["Is it bright?", "Is it dark?", "As {prompt}?"])
    assert scores == [pytest.approx(2 / 3), pytest.approx(1 / 3)] and len(server.requests) == 6
    scores, *_ = judged([WHITE, GREY, BLACK], scale="rating")
    assert scores == [1.0, 0.5, 0.0]


def test_large_pictures_are_made_smaller_and_small_ones_left_alone():
    _, _, server = judged([np.ones((40, 80))], size=20)
    assert seen(json.dumps(server.requests[0]["messages"]))[0].shape == (10, 20, 3)


def test_votes_are_averaged_and_an_unreadable_one_is_no_vote():
    replies = ["yes", "no", "hm", "yes"]
    scores, *_ = judged([WHITE], lambda prompt, seed, index: replies.pop(), votes=4)
    assert scores == [pytest.approx(2 / 3)]


def test_what_fails_is_recorded_for_its_picture_alone():
    scores, ctx, _ = judged([WHITE, "nowhere.png", BLACK], lambda *a: "yes" if brightness(*a) == "Yes." else "hm")
    assert scores[0] == 1.0 and all(math.isnan(v) for v in scores[1:])
    assert sorted(f.index for f in ctx.failures) == [1, 2]
    assert any("'hm'" in f.message for f in ctx.failures) and any("no picture" in f.message for f in ctx.failures)


def test_a_picture_is_not_counted_by_the_letters_that_encode_it():
    model = OpenAICompatible("eyes")
    parts = [{"type": "image_url", "image_url": {"url": "x" * 10**6}}, {"type": "text", "text": "abc"}]
    assert model.count_tokens(({"role": "user", "content": parts},)) == PICTURE_TOKENS + 3 + 32


def test_models_that_cannot_see_are_refused_and_the_text_form_reads_back():
    for blind in ("sim:strong", "openai:x@http://h/v1(api=completions)", "openai:x@http://h/v1(template=chatml)"):
        with pytest.raises(CapabilityError, match="needs images"):
            VqaJudge(ponder.model(blind))
    with pytest.raises(ParameterError, match="questions"):
        VqaJudge(OpenAICompatible("eyes"), questions=())
    text = 'vqa_judge(model=openai:eyes@http://h/v1, scale=rating, questions=["Is it red?"], votes=2)'
    verifier = ponder.verifier(text)
    assert verifier.questions == ("Is it red?",) and str(ponder.verifier(str(verifier))) == str(verifier)
