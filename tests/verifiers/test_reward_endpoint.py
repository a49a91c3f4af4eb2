"""Reward models behind an endpoint: what is sent, what is read, what becomes of faults, what it costs."""

import asyncio
import json
import math
import sys
from pathlib import Path

import pytest

import ponder
from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.errors import AuthenticationError, EndpointError
from ponder.processes.text_steps import TextSteps
from ponder.verifiers import _reward_model
from ponder.verifiers._reward_endpoint import RewardEndpoint

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))
from fake_endpoint import FakeEndpoint

PROBLEM = ponder.Problem("p", ({"role": "user", "content": "What is 2+2?"},), "4")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    made = RewardEndpoint.__post_init__

    def quick(self):
        object.__setattr__(self, "first_pause_s", 0.001)
        made(self)

    monkeypatch.setattr(RewardEndpoint, "__post_init__", quick)
    monkeypatch.setattr(_reward_model, "_LOADED", {})


def steps_at(body):
    """Rows of two classes, as vLLM gives them for each separator: the k-th step of an answer is good by 1/(k+1)."""
    n = body["messages"][-1]["content"].count("<extra_0>") if "messages" in body else body["input"].count("ки")
    return [[1 - 1 / (k + 1), 1 / (k + 1)] for k in range(1, n + 1)]


def rewards(path, body):
    if path.endswith("score"):
        return [{"index": 0, "score": len(body["text_2"]) / 100}]
    if path.endswith("classify"):
        return [{"index": 0, "label": "LABEL_1", "probs": [0.3, 0.7]}]
    return [{"index": 0, "data": steps_at(body)}]


def score(text, answers, faults=(), reply=rewards):
    async def go():
        async with FakeEndpoint(faults=faults) as server:
            server.rewards = reply
            verifier = ponder.verifier(text.replace("URL", server.url))
            runtime = ponder.Runtime()
            ctx = Context(PROBLEM, TextSteps(ponder.model("sim:strong")), runtime=runtime)
            try:
                items = [Candidate(answer, index=i) for i, answer in enumerate(answers)]
                return (await ctx.score(PROBLEM, items, verifier)).tolist(), ctx, server
            finally:
                await runtime.aclose()

    return asyncio.run(go())


def test_steps_are_sent_as_messages_and_each_has_a_score():
    scores, ctx, server = score("process_reward(model=pooling:m@URL, how=mean)", ["One.\n\nTwo.", "One."])
    assert scores == pytest.approx([(1 / 2 + 1 / 3) / 2, 1 / 2])
    sent = next(body for body in server.requests if "Two." in json.dumps(body))
    assert sent["model"] == "m" and sent["add_generation_prompt"] is False
    assert [m["role"] for m in sent["messages"]] == ["system", "user", "assistant"]
    assert sent["messages"][-1]["content"] == "One.<extra_0>Two.<extra_0>"
    spent = ctx.ledger.stages["verify"]
    assert spent.prompt_tokens == spent.verifier_tokens == server.prompt_tokens
    assert spent.verifier_calls == spent.requests == 2 and spent.model_calls == 0


def test_math_shepherd_is_sent_as_text_and_its_first_class_is_the_good_one():
    scores, _, server = score("process_reward(model=pooling:m@URL, format=math_shepherd)", ["One.\n\nTwo."])
    assert server.requests[0]["input"] == "What is 2+2? One. ки\nTwo. ки"
    assert scores == pytest.approx([1 - 1 / 3])


def test_logits_of_two_classes_are_made_probabilities():
    scores, _, _ = score("process_reward(model=pooling:m@URL)", ["One."], reply=lambda *_: [{"data": [[-1.0, 2.0]]}])
    assert scores == pytest.approx([1 / (1 + math.exp(-3))])


@pytest.mark.parametrize(
    ("route", "expected", "sent"),
    [
        ("score", 0.05, {"model": "m", "text_1": "What is 2+2?", "text_2": "Four!"}),
        ("classify", 0.7, None),
        ("pooling", 3.5, None),
    ],
)
def test_an_outcome_is_read_from_whatever_route_the_server_has(route, expected, sent):
    def reply(path, body):
        assert path.endswith(route)
        return [{"data": [3.5]}] if route == "pooling" else rewards(path, body)

    scores, _, server = score(f"outcome_reward(model={route}:m@URL)", ["Four!"], reply=reply)
    assert scores == pytest.approx([expected])
    if sent:
        assert server.requests == [sent]
    else:
        assert server.requests[0]["messages"][-1] == {"role": "assistant", "content": "Four!"}


@pytest.mark.parametrize(
    "fault", [429, 500, "garbage", "error_200", "reset", (503, {"Retry-After": "0"}), b'{"data": []}']
)
def test_a_fault_that_passes_costs_a_request_and_no_score(fault):
    scores, ctx, server = score("process_reward(model=pooling:m@URL)", ["One."], [fault])
    assert scores == [0.5] and not ctx.failures
    assert ctx.ledger.total.requests == len(server.requests) == 2


def test_a_fault_that_stays_is_that_items_failure_and_no_low_score():
    scores, ctx, _ = score("process_reward(model=pooling:m@URL, max_retries=1)", ["One."], [500] * 8)
    assert math.isnan(scores[0]) and "HTTP 500" in ctx.failures[0].message


def test_too_few_scores_are_an_error_that_counts_them():
    def short(path, body):
        return [{"data": steps_at(body)[:1]}]

    scores, ctx, _ = score("process_reward(model=pooling:m@URL)", ["One.\n\nTwo.\n\nThree.", "One."], reply=short)
    assert math.isnan(scores[0]) and scores[1] == 0.5
    assert "the verifier returned 1 score for 3 steps" in ctx.failures[0].message


@pytest.mark.parametrize(
    "data", [[{"data": [["good"]]}], [{"data": [[None]]}], [{"nothing": 1}], "text", [{"data": [[]]}]]
)
def test_what_are_no_numbers_is_garbage(data):
    scores, ctx, _ = score("outcome_reward(model=pooling:m@URL, max_retries=0)", ["One."], reply=lambda *_: data)
    assert math.isnan(scores[0]) and "garbage" in ctx.failures[0].message


def test_three_numbers_for_an_answer_are_no_reward():
    scores, ctx, _ = score(
        "outcome_reward(model=classify:m@URL)", ["One."], reply=lambda *_: [{"probs": [0.2, 0.3, 0.5]}]
    )
    assert math.isnan(scores[0]) and "gave 3 numbers" in ctx.failures[0].message


def test_a_missing_route_and_a_wrong_key_end_the_run_with_what_to_do():
    with pytest.raises(EndpointError, match="Does the server offer /pooling"):
        score("process_reward(model=pooling:m@URL)", ["One."], [404])
    with pytest.raises(AuthenticationError, match="OPENAI_API_KEY"):
        score("process_reward(model=pooling:m@URL)", ["One."], [401])
