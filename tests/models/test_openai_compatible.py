import asyncio
import json
import math
import sys
from contextlib import aclosing
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import pytest

import ponder
from ponder import testing
from ponder.core.context import Context
from ponder.core.model import Request, Sampling
from ponder.errors import (
    AuthenticationError,
    CapabilityError,
    ContextLengthError,
    EndpointError,
    ParameterError,
    SpecError,
)
from ponder.models.openai_compatible import OpenAICompatible
from ponder.processes.text_steps import TextSteps

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))
from fake_endpoint import FakeEndpoint

CHAT = ({"role": "user", "content": "How much is 2+2?"},)


def model_at(server, **options):
    return OpenAICompatible("m", server.url, first_pause_s=0.001, **options)


async def ask(model, n=1, prompt=CHAT, sampling=None, **options):
    request = Request(prompt, sampling or Sampling(logprobs=0), tuple(range(7, 7 + n)), **options)
    try:
        async with aclosing(model.sample(request)) as landing:
            return [completion async for _, completion in landing]
    finally:
        await model.aclose()


def with_server(body, **options):
    async def go():
        async with FakeEndpoint(**options) as server:
            return await body(server), server

    return asyncio.run(go())


def context(model, budget=None, **sampling):
    problem = ponder.Problem("p", CHAT, "4")
    return Context(
        problem,
        TextSteps(model),
        task=testing.Sums(),
        budget=budget,
        sampling=Sampling(**sampling),
        runtime=ponder.Runtime(),
    )


@pytest.mark.parametrize(
    "text",
    [
        "openai:gpt-4o",
        "openai:m@http://localhost:8000/v1",
        "openai:org/m:tag@https://h/v1(max_n=4, prefix=vllm)",
        "openai:m@http://h/v1(api=completions, n=false)",
    ],
)
def test_the_text_form_round_trips(text):
    assert str(ponder.model(text)) == text
    assert ponder.model(str(ponder.model(text))) == ponder.model(text)


def test_impossible_forms_are_refused():
    with pytest.raises(SpecError, match="a model is expected"):
        ponder.model("openai")
    with pytest.raises(ParameterError, match="url"):
        OpenAICompatible("m", "localhost:8000")


def test_n_choices_come_from_one_request_and_carry_the_prompt_once():
    got, server = with_server(lambda s: ask(model_at(s), n=4))
    assert len(server.requests) == 1 and server.requests[0]["n"] == 4 and server.requests[0]["seed"] == 7
    assert [c.prompt_tokens > 0 for c in got] == [True, False, False, False]
    assert sum(c.n_tokens for c in got) == server.completion_tokens
    assert sum(c.requests for c in got) == 1 and got[0].cached_tokens == 1
    assert all(c.logprob == -0.5 * c.n_tokens for c in got)


def test_plain_text_goes_to_completions_with_its_prefix():
    got, server = with_server(lambda s: ask(model_at(s), prompt="Q: 2+2?\nA:", prefix=" Let"))
    assert server.requests[0]["prompt"] == "Q: 2+2?\nA: Let"
    assert got[0].logprob is not None


def test_a_partial_chat_answer_is_continued_as_the_server_wants_it():
    _, vllm = with_server(lambda s: ask(model_at(s, prefix="vllm"), prefix="So"))
    assert vllm.requests[0]["messages"][-1] == {"role": "assistant", "content": "So"}
    assert vllm.requests[0]["continue_final_message"] is True
    assert vllm.requests[0]["add_generation_prompt"] is False
    _, marked = with_server(lambda s: ask(model_at(s, prefix="marked"), prefix="So"))
    assert marked.requests[0]["messages"][-1] == {"role": "assistant", "content": "So", "prefix": True}
    with pytest.raises(CapabilityError, match=r"prefix=vllm.*strategies on whole answers"):
        with_server(lambda s: ask(model_at(s), prefix="So"))


def test_chats_go_to_plain_completions_by_a_template_of_the_users(tmp_path):
    def at(server, template):
        model = model_at(server, template=template)
        assert model.capabilities.chat and model.capabilities.prefix
        return model

    _, server = with_server(lambda s: ask(at(s, "chatml"), prefix="So"))
    expected = "<|im_start|>user\nHow much is 2+2?<|im_end|>\n<|im_start|>assistant\nSo"
    assert server.requests[0]["prompt"] == expected and "messages" not in server.requests[0]
    own = tmp_path / "own.jinja"
    own.write_text(
        "{%- for m in messages -%}\n[{{ m.role }}] {{ m.content }}\n{%- endfor -%}\n"
        "{% if add_generation_prompt %} [bot] {% endif %}"
    )
    _, server = with_server(lambda s: ask(at(s, str(own)), prefix="So"))
    assert server.requests[0]["prompt"] == "[user] How much is 2+2? [bot] So"
    names = [OpenAICompatible("m", template=name).identity for name in ("chatml", str(own))]
    assert len({*names, OpenAICompatible("m").identity}) == 3
    _, server = with_server(lambda s: ask(at(s, "chatml"), prompt="Q:", prefix=" A"))
    assert server.requests[0]["prompt"] == "Q: A"


def test_a_template_that_is_none_is_refused(tmp_path):
    broken = tmp_path / "broken.jinja"
    broken.write_text("{% for m in messages %}")
    strict = tmp_path / "strict.jinja"
    strict.write_text("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(ParameterError, match="a readable file"):
        OpenAICompatible("m", template=str(tmp_path / "nowhere"))
    with pytest.raises(ParameterError, match="a Jinja template"):
        OpenAICompatible("m", template=str(broken))
    with pytest.raises(ParameterError, match="none with api=chat"):
        OpenAICompatible("m", api="chat", template="chatml")
    with pytest.raises(ParameterError, match="roles must alternate"):
        with_server(lambda s: ask(model_at(s, template=str(strict))))


def test_a_search_in_steps_runs_on_plain_completions_with_a_template():
    def steps(prompt, seed, index):
        return "Add.\n\nCarry on." if prompt[-10:] == "assistant\n" else "The answer is 4."

    async def body(server):
        model = model_at(server, template="chatml", logprobs=True)
        return await ponder.asolve("2+2?", model=model, strategy="beam_search(n=2, branch=2)", task=testing.Sums())

    result, server = with_server(body, answers=steps)
    assert result.answer == "4" and all("prompt" in sent for sent in server.requests)
    assert any(sent["prompt"].endswith("assistant\nAdd.\n\n") for sent in server.requests)


def test_messages_need_a_chat_endpoint():
    with pytest.raises(CapabilityError, match="use api=chat"):
        with_server(lambda s: ask(model_at(s, api="completions")))


def test_sampling_settings_are_sent_only_when_set():
    _, plain = with_server(lambda s: ask(model_at(s), sampling=Sampling()))
    assert not {"top_k", "min_p", "stop", "logprobs", "n"} & set(plain.requests[0])
    full = Sampling(temperature=0.3, top_p=0.9, top_k=5, min_p=0.1, stop=("x",), logprobs=2, extra=(("best", 1),))
    _, server = with_server(lambda s: ask(model_at(s), sampling=full))
    sent = server.requests[0]
    assert (sent["temperature"], sent["top_p"], sent["top_k"], sent["min_p"]) == (0.3, 0.9, 5, 0.1)
    assert (sent["stop"], sent["logprobs"], sent["top_logprobs"], sent["best"]) == (["x"], True, 2, 1)


@pytest.mark.parametrize("fault", [429, 500, 502, 503, "garbage", "error_200", (429, {"Retry-After": "0"})])
def test_a_failure_that_passes_is_tried_again(fault):
    got, server = with_server(lambda s: ask(model_at(s)), faults=[fault, fault])
    assert len(server.requests) == 3 and got[0].text.startswith("The answer")


def test_retry_after_is_obeyed_as_seconds_and_as_a_date(monkeypatch):
    waits = []
    real = asyncio.sleep

    async def sleep(seconds, *rest):
        waits.append(seconds)
        await real(0)

    monkeypatch.setattr("ponder.models._openai_calls.asyncio.sleep", sleep)
    monkeypatch.setattr("ponder.models._openai_calls.time.time", lambda: 1_000_000.0)
    faults = [(429, {"Retry-After": "7"}), (503, {"Retry-After": formatdate(1_000_009, usegmt=True)})]
    with_server(lambda s: ask(model_at(s)), faults=faults)
    assert [w for w in waits if w > 1] == [7.0, 9.0]


@pytest.mark.parametrize("fault", [500, "garbage", "error_200"])
def test_a_failure_that_stays_is_an_error_and_never_an_answer(fault):
    async def go(server):
        ctx = context(model_at(server, max_retries=1))
        candidates = await ctx.draw(ctx.problem, 2)
        await ctx.runtime.aclose()
        return candidates, ctx

    (candidates, ctx), _ = with_server(go, faults=[fault] * 20)
    assert len(candidates) == 2
    assert all(c.error and c.output is None and c.finish == "error" for c in candidates)
    assert len(ctx.failures) == 2 and ctx.ledger.total.model_calls == 0


def test_a_choice_without_text_is_lost_and_the_others_count():
    got, _ = with_server(lambda s: ask(model_at(s), n=3), faults=["null_first"])
    assert [(bool(c.error), c.finish) for c in got] == [(True, "error"), (False, "stop"), (False, "stop")]
    assert got[0].text == "" and got[1].text.startswith("The answer")


def test_a_closed_connection_is_tried_again():
    got, server = with_server(lambda s: ask(model_at(s)), faults=["reset"])
    assert got[0].text.startswith("The answer") and len(server.requests) == 2


def test_an_answer_that_takes_too_long_is_tried_again():
    got, server = with_server(lambda s: ask(model_at(s, timeout_s=0.2)), faults=["slow"])
    assert got[0].text.startswith("The answer") and len(server.requests) == 2


def test_without_usage_and_log_probabilities_tokens_are_estimated_and_never_nothing():
    got, _ = with_server(lambda s: ask(model_at(s), n=2), usage=False, logprobs=False, answers=lambda *_: "x" * 10)
    assert [c.n_tokens for c in got] == [3, 3]


def test_openai_itself_is_told_the_length_limit_by_its_new_name():
    request = Request(CHAT, Sampling(max_new_tokens=9), (1,))
    assert OpenAICompatible("m")._body(request)[1]["max_completion_tokens"] == 9
    assert OpenAICompatible("m", "http://h/v1")._body(request)[1]["max_tokens"] == 9


def test_a_key_that_the_endpoint_repeats_is_not_passed_on(monkeypatch):
    monkeypatch.setenv("PONDER_TEST_KEY", "sk-secret")
    model = OpenAICompatible("m", "http://h/v1", key_env="PONDER_TEST_KEY")
    assert "sk-secret" not in str(model._calls._error(401, {}, b'{"error": {"message": "bad key sk-secret"}}'))


def test_a_host_that_does_not_exist_is_said_at_once():
    with pytest.raises(EndpointError, match=r"nothing answers at http://no-such-host\.invalid/v1.*vllm serve m"):
        asyncio.run(ask(OpenAICompatible("m", "http://no-such-host.invalid/v1", max_retries=0)))


@pytest.mark.parametrize(
    ("fault", "error", "says"),
    [
        (401, AuthenticationError, r"\$PONDER_TEST_KEY is not set"),
        (404, EndpointError, "Is 'm' served there"),
        (400, EndpointError, "HTTP 400: fault 400"),
        ("too_long", ContextLengthError, "maximum context length"),
    ],
)
def test_a_refusal_says_what_to_do(fault, error, says):
    with pytest.raises(error, match=says):
        with_server(lambda s: ask(model_at(s, key_env="PONDER_TEST_KEY")), faults=[fault])


def test_nothing_at_the_address_is_said_at_once():
    with pytest.raises(EndpointError, match=r"nothing answers at http://127\.0\.0\.1:9/v1") as caught:
        asyncio.run(ask(OpenAICompatible("m", "http://127.0.0.1:9/v1")))
    assert caught.value.fatal


def test_the_key_is_sent_and_shown_nowhere(monkeypatch):
    monkeypatch.setenv("PONDER_TEST_KEY", "sk-secret")
    with pytest.raises(AuthenticationError) as caught:
        with_server(lambda s: ask(model_at(s, key_env="PONDER_TEST_KEY")), faults=[401])
    model = OpenAICompatible("m", "http://h/v1", key_env="PONDER_TEST_KEY")
    for shown in (str(caught.value), str(model), repr(model), model.identity):
        assert "sk-secret" not in shown
    _, server = with_server(lambda s: ask(model_at(s, key_env="PONDER_TEST_KEY")))
    assert server.keys == {"Bearer sk-secret"}


def test_fewer_choices_than_asked_for_are_topped_up():
    async def go(server):
        ctx = context(model_at(server))
        candidates = await ctx.draw(ctx.problem, 10)
        await ctx.runtime.aclose()
        return candidates, ctx

    (candidates, ctx), server = with_server(go, at_most=3)
    assert [c.index for c in candidates] == list(range(10))
    assert ctx.ledger.total.requests == len(server.requests) == 4


def test_an_endpoint_that_ignores_n_is_asked_in_parallel():
    async def go(server):
        ctx = context(model_at(server))
        candidates = await ctx.draw(ctx.problem, 64)
        await ctx.runtime.aclose()
        return candidates

    candidates, server = with_server(go, ignore_n=True, latency_s=0.02)
    assert len(candidates) == 64 and len(server.requests) == 64
    assert server.in_flight_most == 63, "after the first answer the rest must be under way at once"


def test_an_endpoint_without_choices_gives_up_with_a_reason():
    async def go(server):
        ctx = context(model_at(server))
        candidates = await ctx.draw(ctx.problem, 2)
        await ctx.runtime.aclose()
        return candidates

    candidates, _ = with_server(go, at_most=0)
    assert all(c.error.startswith("EmptyResponseError") for c in candidates)


def test_nan_log_probabilities_are_recorded_on_the_sample():
    async def go(server):
        ctx = context(model_at(server), logprobs=0)
        await ctx.draw(ctx.problem, 2)
        await ctx.runtime.aclose()
        return ctx.failures

    failures, _ = with_server(go, logprobs="nan")
    assert [f.kind for f in failures] == ["nan_logprob"] * 2


def test_best_of_4_with_a_judge_is_eight_calls_here_and_at_the_endpoint():
    async def go(server):
        model = model_at(server)
        ctx = context(model)
        result = await ponder.parse("best_of_n(n=4, verifier=llm_judge)").run(ctx.problem, ctx)
        await model.aclose()
        return result

    result, server = with_server(go)
    total = result.total
    assert (total.model_calls, total.verifier_calls, total.calls) == (4, 4, 8)
    assert server.completions == 8
    assert total.generated_tokens == server.completion_tokens
    assert total.prompt_tokens == server.prompt_tokens
    assert total.requests == len(server.requests) == 5


def test_a_watcher_ends_a_stream_and_the_server_stops():
    async def go(server):
        seen = []

        def watch(chunk):
            seen.append(chunk.text)
            return len(seen) == 2

        (completion,) = await ask(model_at(server), watch=watch)
        for _ in range(200):
            await asyncio.sleep(0.005)
            if not server.open_streams:
                break
        return completion

    completion, server = with_server(go, answers=lambda *_: " ".join(["wörd"] * 400), token_delay_s=0.002)
    assert (completion.text, completion.finish, completion.n_tokens) == ("wörd wörd", "stopped_early", 2)
    assert server.open_streams == 0 and server.streamed[0][0] < 100


def test_losers_of_a_race_are_cancelled_and_charged_what_they_generated():
    async def go(server):
        ctx = context(model_at(server))
        async with aclosing(ctx.stream(ctx.problem, 3, race=True)) as landing:
            async for _ in landing:
                break
        await asyncio.sleep(0.1)
        await ctx.runtime.aclose()
        return ctx.ledger.stages

    def answers(_, seed, __):
        lengths = answers.lengths
        return " ".join(["w"] * lengths.setdefault(seed, 5 if not lengths else 4000))

    answers.lengths = {}
    stages, server = with_server(go, answers=answers, token_delay_s=0.001)
    assert server.open_streams == 0
    assert 0 < stages["cancelled"].generated_tokens < 4000


@pytest.mark.parametrize(("fault", "says"), [("cut", "stream"), ("event_error", "out of memory")])
def test_a_stream_that_breaks_is_an_error_of_that_sample_and_what_came_is_counted(fault, says):
    async def go(server):
        ctx = context(model_at(server, max_retries=0))
        async with aclosing(ctx.stream(ctx.problem, 1, race=True)) as landing:
            drawn = [c async for c in landing]
        await ctx.runtime.aclose()
        return drawn, ctx.ledger.total

    ((candidate,), spent), server = with_server(go, faults=[fault], answers=lambda *_: "a b c d e f")
    assert candidate.error and says in candidate.error and candidate.output is None
    assert (spent.generated_tokens, spent.requests) == (2, 1) and spent.prompt_tokens > 0
    assert server.open_streams == 0


def test_a_deadline_cancels_and_keeps_what_is_there():
    async def go(server):
        model = replace(model_at(server), max_concurrency=2, n=False)
        ctx = context(model, budget=ponder.Budget(seconds=0.35))
        result = await ponder.parse("repeated_sampling(n=40) | majority").run(ctx.problem, ctx)
        await model.aclose()
        return result

    result, server = with_server(go, latency_s=0.1)
    assert 0 < len(result.candidates) < 40 and result.status == "ok"
    assert "time limit" in result.reason
    assert server.in_flight == 0


@pytest.mark.parametrize("limit", [0, 5, 20, 60, 300])
@pytest.mark.parametrize("ignore_n", [False, True])
def test_a_token_budget_holds_at_an_endpoint_nobody_knows(limit, ignore_n):
    async def go(server):
        ctx = context(model_at(server), budget=ponder.Budget(generated_tokens=limit), max_new_tokens=20)
        await ctx.draw(ctx.problem, 30)
        await ctx.runtime.aclose()
        return ctx.ledger.total.generated_tokens

    spent, server = with_server(go, ignore_n=ignore_n)
    assert spent <= limit and server.completion_tokens <= limit


SHAPES = [
    [],
    None,
    {"choices": "abc"},
    {"choices": ["a"]},
    {"choices": [None]},
    {"choices": [{"message": "hi"}]},
    {"choices": [{"message": {"content": 5}}]},
    {"choices": [{"message": {"content": None}}]},
    {"choices": [{"message": {"content": "4"}}], "error": {"message": "oops"}},
]


@pytest.mark.parametrize("shape", SHAPES, ids=json.dumps)
def test_what_has_not_the_protocols_shape_is_tried_again_and_never_an_answer(shape):
    body = json.dumps(shape).encode()
    got, server = with_server(lambda s: ask(model_at(s)), faults=[body])
    assert got[0].text.startswith("The answer") and got[0].requests == len(server.requests) == 2
    with pytest.raises(EndpointError, match=r"garbage|oops") as caught:
        with_server(lambda s: ask(model_at(s, max_retries=2)), faults=[body] * 3)
    assert caught.value.requests == 3


ODD_PARTS = [
    {"usage": [1]},
    {"usage": {"prompt_tokens": "x", "completion_tokens": -3, "prompt_tokens_details": 7}},
    {"choices": [{"index": "b", "message": {"content": "4"}, "finish_reason": ["?"], "logprobs": "x"}]},
    {"choices": [{"message": {"content": "4"}, "logprobs": {"content": ["x", {"logprob": "y", "top_logprobs": 1}]}}]},
    {"choices": [{"message": {"content": [{"type": "text", "text": "4"}]}, "logprobs": {"token_logprobs": 3}}]},
]


@pytest.mark.parametrize("part", ODD_PARTS, ids=json.dumps)
def test_odd_counts_and_log_probabilities_do_not_cost_the_answer(part):
    body = json.dumps({"choices": [{"message": {"content": "4"}}], **part}).encode()
    got, _ = with_server(lambda s: ask(model_at(s), sampling=Sampling(logprobs=1)), faults=[body])
    assert (got[0].text, got[0].error) == ("4", None)
    assert got[0].n_tokens >= 1 and got[0].prompt_tokens == 0 and (got[0].logprob is None or math.isnan(got[0].logprob))


def test_bodies_as_pythons_own_servers_write_them_are_read():
    logprobs = rb'{"content": [{"token": "4", "logprob": NaN}]}'
    body = rb'{"choices": [{"message": {"content": "\ud800 4"}, "logprobs": ' + logprobs + b"}]}"
    got, _ = with_server(lambda s: ask(model_at(s)), faults=[body])
    assert got[0].text == "\ud800 4" and math.isnan(got[0].logprob)


@pytest.mark.parametrize("reason", ["content_filter", "error", "abort"])
def test_a_choice_that_the_endpoint_gave_up_is_no_answer_but_is_counted(reason):
    usage = {"prompt_tokens": 5, "completion_tokens": 3}
    body = {"choices": [{"message": {"content": "4"}, "finish_reason": reason}], "usage": usage}
    got, _ = with_server(lambda s: ask(model_at(s)), faults=[json.dumps(body).encode()])
    assert (got[0].text, got[0].finish, got[0].n_tokens, got[0].prompt_tokens) == ("", "error", 3, 5)
    assert reason in got[0].error


def test_a_status_inside_an_answer_counts_as_that_status():
    body = json.dumps({"error": {"code": 401, "message": "no such key"}}).encode()
    with pytest.raises(AuthenticationError, match="no such key"):
        with_server(lambda s: ask(model_at(s)), faults=[body])


def test_an_exhausted_quota_is_said_at_once():
    body = json.dumps({"error": {"code": 429, "type": "insufficient_quota", "message": "pay"}}).encode()
    with pytest.raises(EndpointError, match="Waiting does not help") as caught:
        with_server(lambda s: ask(model_at(s)), faults=[body] * 9)
    assert caught.value.fatal and caught.value.requests == 1


def test_an_endpoint_that_refuses_n_is_asked_one_by_one():
    async def go(server):
        ctx = context(model_at(server))
        candidates = await ctx.draw(ctx.problem, 5)
        await ctx.runtime.aclose()
        return candidates, ctx

    (candidates, ctx), server = with_server(go, faults=[400])
    assert [c.error for c in candidates] == [None] * 5
    assert [r.get("n", 1) for r in server.requests] == [5, 1, 1, 1, 1, 1]
    assert ctx.ledger.total.requests == 6


def test_tokens_are_shared_out_exactly_by_what_was_seen_of_each():
    def choice(i, n):
        logprobs = {"content": [{"token": "t", "logprob": -1.0}] * n}
        return {"index": i, "message": {"content": "x" * (9 - n)}, "logprobs": logprobs}

    body = {"choices": [choice(0, 2), choice(1, 6)], "usage": {"prompt_tokens": 3, "completion_tokens": 12}}
    got, _ = with_server(lambda s: ask(model_at(s), n=2), faults=[json.dumps(body).encode()])
    assert [c.n_tokens for c in got] == [3, 9]


def test_a_stream_is_read_however_it_is_cut():
    whole = (
        b": a comment\r\n\r\n"
        b'data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}\r\n\r\n'
        b'data: {"choices":\ndata: [{"delta": {"content": "W\xc3\xb6rter "}}]}\n\n'
        b'data: {"choices": [{"delta": {"content": "\xe2\x82\xac"}}]}\n'
        b'data: {"choices": [{"delta": {}, "finish_reason": "length"}]}\n\n'
        b'data: {"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 7}}\n\ndata: [DONE]\n\n'
    )
    pieces = [whole[i : i + 7] for i in range(0, len(whole), 7)]
    (got,), _ = with_server(lambda s: ask(model_at(s), stream=True), faults=[pieces])
    assert (got.text, got.finish, got.n_tokens, got.prompt_tokens) == ("Wörter €", "length", 7, 4)


@pytest.mark.parametrize("first", [[], [b'data: {"error": {"message": "busy"}}\n\n'], [b"data: 3\n\n"], b"{}", 503])
def test_a_stream_that_breaks_before_its_first_token_is_begun_again(first):
    seen = []
    (got,), server = with_server(
        lambda s: ask(model_at(s), watch=lambda chunk: bool(seen.append(chunk.text))), faults=[first, first]
    )
    assert got.text == "".join(seen) and got.text.startswith("The answer") and got.requests == len(server.requests) == 3


def test_an_endpoint_that_does_not_stream_says_so():
    body = json.dumps({"choices": [{"message": {"content": "4"}}]}).encode()
    with pytest.raises(EndpointError, match="does not stream"):
        with_server(lambda s: ask(model_at(s), stream=True), faults=[body])


def test_streams_use_their_connections_again():
    async def go(server):
        model = model_at(server)
        request = Request(CHAT, Sampling(), (1,), stream=True)
        for _ in range(4):
            assert [c.finish async for _, c in model.sample(request)] == ["stop"]
        await model.aclose()

    _, server = with_server(go)
    assert server.connections == 1


def test_a_stream_cancelled_before_its_first_token_is_a_request():
    async def go(server):
        lost = []
        model = model_at(server)
        request = Request(CHAT, Sampling(), (1,), stream=True, offset=3, lost=lambda *seen: lost.append(seen))
        asking = asyncio.create_task(anext(model.sample(request)))
        for _ in range(1000):
            await asyncio.sleep(0.002)
            if server.requests:
                break
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await model.aclose()
        return lost

    ((at, completion),), _ = with_server(go, latency_s=5.0)
    assert (at, completion.finish, completion.n_tokens, completion.requests) == (3, "cancelled", 0, 1)


def test_a_server_that_has_answered_before_is_waited_for():
    async def go():
        async with FakeEndpoint() as server:
            model = replace(model_at(server), first_pause_s=0.05)
            request = Request(CHAT, Sampling(), (1,))
            assert [c.error async for _, c in model.sample(request)] == [None]
        asking = asyncio.create_task(anext(model.sample(request)))
        await asyncio.sleep(0.02)
        async with FakeEndpoint(port=int(server.url.split(":")[2].split("/")[0])):
            _, completion = await asking
            await model.aclose()
            return completion

    assert asyncio.run(go()).text.startswith("The answer")


def test_one_model_serves_one_event_loop_after_another():
    async def go(model=None):
        async with FakeEndpoint() as server:
            request = Request(CHAT, Sampling(), (1,))
            model = model_at(server)
            got = [c.error async for _, c in model.sample(request)]
            await model.aclose()
            return got

    assert [asyncio.run(go()) for _ in range(3)] == [[None]] * 3


def test_a_url_with_a_key_in_it_is_refused_and_not_repeated():
    with pytest.raises(ParameterError, match="OPENAI_API_KEY") as caught:
        ponder.model("openai:m@http://me:sk-secret@h/v1")
    assert "sk-secret" not in str(caught.value)


def test_a_key_in_garbage_is_not_passed_on(monkeypatch):
    monkeypatch.setenv("PONDER_TEST_KEY", "sk-secret\n")
    body = b'{"oops": "sk-secret"}'
    with pytest.raises(EndpointError) as caught:
        with_server(lambda s: ask(model_at(s, key_env="PONDER_TEST_KEY", max_retries=0)), faults=[body])
    assert "sk-secret" not in str(caught.value) and "$PONDER_TEST_KEY" in str(caught.value)
