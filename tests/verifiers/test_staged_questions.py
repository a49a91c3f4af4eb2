"""staged_questions with a language model that splits the prompt into scene, motion and ending."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import ponder
from ponder.api import run_sync
from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.core.verifier import Verifier
from ponder.models.openai_compatible import OpenAICompatible
from ponder.processes.sim_frames import SimFrameChain
from ponder.strategies.tree_of_frames import TreeOfFrames
from ponder.tasks.sim_frames import SimFrames
from ponder.verifiers.staged_questions import StagedQuestions

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))
from fake_endpoint import FakeEndpoint

PROMPT = "A ball on a hill rolls down and falls into the lake."
THREE = ["a ball on a hill", "the ball rolls down", "the ball is in the lake"]


@dataclass(frozen=True)
class Heard(Verifier):
    """Says yes, and remembers what it was asked about at which depth."""

    heard: list = field(default_factory=list, compare=False)
    name = "heard"

    async def score(self, problem, items, ctx):
        self.heard.extend(
            (problem.prompt, problem.metadata.get("question"), getattr(item, "depth", None)) for item in items
        )
        return [1.0] * len(items)


def grown(replies, metadata=None):
    """A tree of frames whose questions remember; what they were asked about, the run, and the splitter's requests."""
    left, heard = list(replies), Heard()

    async def run():
        async with FakeEndpoint(lambda *_: left.pop(0)) as server:
            splitter = OpenAICompatible("llm", server.url, max_retries=0, first_pause_s=0.001)
            verifier = StagedQuestions([[heard], [heard], [heard]], until=(1, 2), splitter=splitter)
            task = SimFrames(frames=3)
            world = task.problems(1)[0]
            problem = Problem("x", PROMPT, metadata={**world.metadata, **(metadata or {})})
            ctx = Context(problem, SimFrameChain(), task=task)
            result = await TreeOfFrames(n=2, branch=(1, 1), prune=(1, 2), verifier=verifier).run(problem, ctx)
            await splitter.aclose()
            return result, server

    result, server = run_sync(run)
    return heard.heard, result, server


def test_each_stage_is_asked_about_its_own_text():
    heard, result, server = grown(["Here: " + json.dumps(THREE)])
    assert len(server.requests) == 1, "one split for the whole search"
    by_depth = {depth: {text for text, _, d in heard if d == depth} for depth in (1, 2)}
    assert by_depth[1] == {THREE[0]} and by_depth[2] == {THREE[1]}
    assert {text for text, _, depth in heard if depth not in (1, 2)} == {THREE[2]}, "outputs are in the last stage"
    assert result.spend["verify"].generated_tokens > 0 and not result.failures
    sent = server.requests[0]["messages"][0]["content"]
    assert PROMPT in sent and "exactly 3 strings" in sent and "static scene" in sent


def test_invalid_json_and_a_wrong_number_are_asked_for_again():
    heard, _, server = grown(["I cannot.", json.dumps(THREE[:2]), json.dumps(THREE)])
    assert len(server.requests) == 3 and {text for text, _, _ in heard} == set(THREE)


def test_after_three_replies_of_no_use_every_stage_has_the_whole_prompt():
    heard, result, server = grown(["I cannot.", "[1, 2, 3]", json.dumps(["", "a", "b"])])
    assert len(server.requests) == 3 and {text for text, _, _ in heard} == {PROMPT}
    assert [f.kind for f in result.failures] == ["staged_questions"]


def test_a_task_that_keeps_its_question_apart_gets_the_text_there_too():
    heard, _, _ = grown([json.dumps(THREE)], {"question": PROMPT})
    assert {question for _, question, _ in heard} == set(THREE)


def test_without_a_splitter_or_with_one_stage_nothing_is_split():
    ctx = Context(Problem("x", PROMPT), SimFrameChain())
    one = StagedQuestions([[Heard()]], splitter=OpenAICompatible("llm"))
    many = StagedQuestions([[Heard()], [Heard()]], until=(1,))
    assert run_sync(lambda: one.texts(ctx.problem, ctx)) == [] == run_sync(lambda: many.texts(ctx.problem, ctx))


def test_the_text_form_reads_back():
    verifier = ponder.verifier(
        "staged_questions(questions=[[constant], [constant]], until=[1], splitter=openai:llm@http://h/v1)"
    )
    assert str(ponder.verifier(str(verifier))) == str(verifier)
    assert pytest.approx(verifier.range) == (-1.0, 1.0)
