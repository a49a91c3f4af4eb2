"""Limits and counts against an endpoint that fails at random: what it counts itself is what the ledger says."""

import asyncio
import sys
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import ponder
from ponder import testing
from ponder.core.context import Context
from ponder.core.model import Sampling
from ponder.models.openai_compatible import OpenAICompatible
from ponder.processes.text_steps import TextSteps

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))
from fake_endpoint import FakeEndpoint

PROBLEM = ponder.Problem("p", ({"role": "user", "content": "How much is 2+2?"},), "4")
FAULTS = [None, 429, (503, {"Retry-After": "0"}), 500, 400, "garbage", "error_200", "no_choices", "null", "null_first"]
STRATEGIES = [
    "repeated_sampling(n={n}) | majority",
    "best_of_n(n={n}, verifier=llm_judge(max_new_tokens=16))",
    "adaptive_consistency(n={n})",
    "repeated_sampling(n={n}) | universal_self_consistency",
]


def run(text, limits, options, **server_options):
    """Run a strategy at a fake endpoint: result, context, server, and the tasks that are left."""

    async def go():
        async with FakeEndpoint(**server_options) as server:
            model = OpenAICompatible("m", server.url, first_pause_s=0.0001, **options)
            ctx = Context(
                PROBLEM,
                TextSteps(model),
                task=testing.Sums(),
                budget=ponder.Budget(**limits),
                sampling=Sampling(max_new_tokens=16),
                runtime=ponder.Runtime(),
            )
            before = asyncio.all_tasks()
            result = await ponder.parse(text).run(PROBLEM, ctx)
            left = {task for task in asyncio.all_tasks() - before if "aiohttp/web_" not in str(task)}
            await model.aclose()
            for _ in range(1000):
                if not (server.in_flight or server.open_streams):
                    break
                await asyncio.sleep(0.002)
            return result, ctx, server, left

    return asyncio.run(go())


LIMITS = st.fixed_dictionaries(
    {},
    optional={
        "calls": st.integers(0, 12),
        "tokens": st.integers(0, 900),
        "generated_tokens": st.integers(0, 200),
    },
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    limits=LIMITS,
    n=st.integers(1, 10),
    faults=st.lists(st.sampled_from(FAULTS), max_size=12),
    text=st.sampled_from(STRATEGIES),
    quirk=st.sampled_from([{}, {"ignore_n": True}, {"at_most": 2}]),
    retries=st.integers(0, 3),
    concurrency=st.sampled_from([1, 4, 64]),
)
@example(
    limits={"calls": 4, "generated_tokens": 32},
    n=2,
    faults=[None, 429],
    text="best_of_n(n={n}, verifier=llm_judge(max_new_tokens=16))",
    quirk={},
    retries=1,
    concurrency=1,
)  # a judge's call that is not affordable must not leave another one running
def test_no_limit_is_passed_and_every_request_and_token_is_counted(
    limits, n, faults, text, quirk, retries, concurrency
):
    options = {"max_retries": retries, "max_concurrency": concurrency}
    result, ctx, server, left = run(text.format(n=n), limits, options, faults=faults, **quirk)
    total = ctx.ledger.total
    for name, limit in limits.items():
        assert getattr(total, name) <= limit, (name, ctx.ledger.stages)
    assert total.requests == len(server.requests)
    assert (total.generated_tokens, total.prompt_tokens) == (server.completion_tokens, server.prompt_tokens)
    assert not left and server.in_flight == 0
    assert all(amount == 0 for amount in ctx.meter._reserved.values()), "a reservation was not given back"
    answered = [c for c in result.candidates if c.error is None]
    assert all(c.output for c in answered) and all(c.output is None for c in result.candidates if c.error)
    assert result.status != "ok" or result.answer in {c.answer for c in answered}
    if not answered:
        assert result.status != "ok" and result.reason and not result.chosen


def answers(prompt, seed, index):
    """One to nine words and a number."""
    return "so " * (seed % 9) + f"it is {seed % 3}."


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    limits=LIMITS,
    n=st.integers(1, 8),
    faults=st.lists(st.sampled_from([None, None, 429, 500, 400, "cut", "event_error", "garbage"]), max_size=8),
    text=st.sampled_from(["first_finish(n={n})", "first_finish(n={n}, clock=arrival) | majority"]),
    retries=st.integers(0, 2),
    concurrency=st.sampled_from([1, 3, 64]),
)
@example(
    limits={},
    n=6,
    faults=[None, None, None, None, None, 429, 429],
    text="first_finish(n={n}, clock=arrival) | majority",
    retries=1,
    concurrency=64,
)  # a draw that failed for good after the race was over has been asked for all the same
def test_races_keep_to_their_limits_and_book_no_more_than_was_sent(limits, n, faults, text, retries, concurrency):
    options = {"max_retries": retries, "max_concurrency": concurrency}
    result, ctx, server, left = run(text.format(n=n), limits, options, faults=faults, answers=answers)
    total = ctx.ledger.total
    for name, limit in limits.items():
        assert getattr(total, name) <= limit, (name, ctx.ledger.stages)
    assert total.generated_tokens <= sum(sent for (sent,) in server.streamed)
    assert len(server.requests) <= total.requests <= len(server.requests) + n
    assert not left and server.in_flight == server.open_streams == 0
    assert all(c.output is None for c in result.candidates if c.error)
    if not result.candidates:
        assert result.status == "failed" and result.reason
