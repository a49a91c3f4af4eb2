"""The one door to models: counts, limits, seeds, storing and cancelling, against an endpoint that keeps its own log."""

import asyncio
import math
import sys
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import ponder
from ponder import testing
from ponder.core.cache import MemoryCache
from ponder.core.context import Context
from ponder.core.model import Sampling
from ponder.core.verifier import Verifier
from ponder.errors import AuthenticationError
from ponder.ledger.prices import Prices
from ponder.models.openai_compatible import OpenAICompatible
from ponder.models.simulated import Simulated
from ponder.processes.text_steps import TextSteps

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))
from fake_endpoint import FakeEndpoint

PROBLEM = ponder.Problem("p", ({"role": "user", "content": "How much is 2+2?"},), "4")


def context(model, *, budget=None, runtime=None, seed=0, **sampling):
    return Context(
        PROBLEM,
        TextSteps(model),
        task=testing.Sums(),
        budget=budget,
        seed=seed,
        sampling=Sampling(**sampling),
        runtime=runtime or ponder.Runtime(),
    )


def at_endpoint(body, model_options=None, **options):
    """Run `body(ctx, server)` at a fake endpoint; what it returns, and the server."""

    async def go():
        async with FakeEndpoint(**options) as server:
            model = OpenAICompatible("m", server.url, first_pause_s=0.001, **(model_options or {}))
            ctx = context(model)
            try:
                return await body(ctx, server), server
            finally:
                await model.aclose()

    return asyncio.run(go())


def simulated(body, model=None, **options):
    async def go():
        ctx = context(model or Simulated(), **options)
        return await body(ctx), ctx

    return asyncio.run(go())


def own_tasks(before):
    """Tasks begun since that are not the test server's."""
    return {task for task in asyncio.all_tasks() - before if "aiohttp/web_" not in str(task)}


# ---------------------------------------------------------------------------------------------- counting


@pytest.mark.parametrize("quirk", [{}, {"ignore_n": True}, {"at_most": 3}])
@pytest.mark.parametrize(
    "text",
    [
        "repeated_sampling(n=7) | majority",
        "best_of_n(n=4, verifier=llm_judge)",
        "best_of_n(n=3, verifier=llm_judge(votes=3))",
        "first_finish(n=5)",
        "repeated_sampling(n=5) | universal_self_consistency",
    ],
)
def test_the_ledger_equals_the_endpoints_own_count(text, quirk):
    async def body(ctx, server):
        result = await ponder.parse(text).run(ctx.problem, ctx)
        await asyncio.sleep(0.01)
        return result

    result, server = at_endpoint(body, **quirk)
    total, streamed = result.total, sum(sent for (sent,) in server.streamed)
    assert total.requests == len(server.requests)
    if not streamed:
        assert total.generated_tokens == server.completion_tokens
        assert total.prompt_tokens == server.prompt_tokens
        assert total.cached_tokens == total.requests
    else:
        assert total.generated_tokens <= streamed
    assert result.candidates and not result.failures


def test_draws_that_never_reached_the_endpoint_are_no_calls():
    async def body(ctx, server):
        before = asyncio.all_tasks()
        async with aclosing(ctx.stream(ctx.problem, 12, race=True)) as landing:
            async for _ in landing:
                break
        assert not own_tasks(before)
        return ctx.ledger.total

    total, server = at_endpoint(body, {"max_concurrency": 2}, token_delay_s=0.001)
    assert total.model_calls == len(server.streamed) < 12


def test_totals_are_the_sums_over_the_trace():
    lines = []

    async def go():
        ctx = context(Simulated())
        ctx.ledger._trace = lines.append
        result = await ponder.parse("best_of_n(n=6, verifier=llm_judge) | majority").run(ctx.problem, ctx)
        return result

    result = asyncio.run(go())
    assert sum((line.spend.generated_tokens for line in lines), 0) == result.total.generated_tokens
    assert sum((line.spend.model_calls for line in lines), 0) == result.total.model_calls == 6


def test_a_retry_that_succeeds_is_one_call_and_no_failure():
    async def body(ctx, server):
        drawn = await ctx.draw(ctx.problem, 2)
        return drawn, ctx.ledger.total, ctx.failures

    (drawn, total, failures), server = at_endpoint(body, faults=[429, 503])
    assert [c.error for c in drawn] == [None, None] and not failures
    assert total.model_calls == server.completions == 2


# ---------------------------------------------------------------------------------------------- limits


def check_meter(ctx):
    """Nothing is reserved any more, and the meter has counted what the ledger has."""
    for name, spent in ctx.meter._spent.items():
        assert abs(ctx.meter._reserved[name]) < 1e-9, f"reserved {name} were not given back"
        assert spent == pytest.approx(getattr(ctx.ledger.total, name)), name


LIMITS = st.fixed_dictionaries(
    {},
    optional={
        "calls": st.integers(0, 12),
        "tokens": st.integers(0, 600),
        "generated_tokens": st.integers(0, 300),
        "cost_usd": st.floats(0, 0.02),
    },
)
PRICE = Prices({"sim": (10.0, 5.0, 50.0)})


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    LIMITS,
    st.integers(1, 12),
    st.integers(1, 40),
    st.sampled_from(
        [
            "repeated_sampling(n={n}) | majority",
            "best_of_n(n={n}, verifier=llm_judge(max_new_tokens=16))",
            "first_finish(n={n})",
            "adaptive_consistency(n={n})",
        ]
    ),
    st.booleans(),
    st.integers(1, 12),
)
@example({"tokens": 11}, 3, 1, "repeated_sampling(n={n}) | majority", True, 12)
def test_no_budget_is_ever_passed(limits, n, max_new_tokens, text, ignore_n, max_n):
    budget = ponder.Budget(**limits)

    async def body(ctx):
        return await ponder.parse(text.format(n=n)).run(ctx.problem, ctx)

    class Narrow(Simulated):
        capabilities = replace(Simulated.capabilities, max_n=max_n)

    model = Narrow(ignore_n=ignore_n)
    result, ctx = simulated(
        body, model, budget=budget, runtime=ponder.Runtime(prices=PRICE), max_new_tokens=max_new_tokens
    )
    for name, limit in limits.items():
        assert getattr(ctx.ledger.total, name) <= limit + 1e-9, (name, ctx.ledger.stages)
    check_meter(ctx)
    if not result.candidates:
        assert result.reason


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 30),
    st.integers(1, 12),
    st.integers(1, 5),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["leave", "cancel"]),
)
def test_whoever_leaves_early_leaves_no_reservation_task_or_unbooked_token(turns, n, slots, race, ignore_n, how):
    class Narrow(Simulated):
        max_concurrency = slots

    async def go():
        model = Narrow(ignore_n=ignore_n, latency_s=0.0001)
        ctx = context(model, budget=ponder.Budget(calls=40, tokens=10_000, generated_tokens=9_000), max_new_tokens=30)

        async def draw():
            async with aclosing(ctx.stream(ctx.problem, n, race=race)) as landing:
                async for _ in landing:
                    if how == "leave":
                        return

        drawing = asyncio.create_task(draw())
        for _ in range(turns):
            await asyncio.sleep(0)
        if how == "cancel":
            drawing.cancel()
        await asyncio.gather(drawing, return_exceptions=True)
        assert len(asyncio.all_tasks()) == 1
        return ctx

    check_meter(asyncio.run(go()))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10), st.integers(1, 10), st.booleans(), st.booleans())
def test_an_endpoint_never_sees_more_calls_than_the_budget_allows(calls, n, ignore_n, judged):
    text = f"best_of_n(n={n}, verifier=llm_judge)" if judged else f"repeated_sampling(n={n})"

    async def go():
        async with FakeEndpoint(ignore_n=ignore_n) as server:
            model = OpenAICompatible("m", server.url)
            ctx = context(model, budget=ponder.Budget(calls=calls))
            result = await ponder.parse(text).run(ctx.problem, ctx)
            await model.aclose()
            return result, server

    result, server = asyncio.run(go())
    assert server.completions == result.total.calls <= calls


def test_a_budget_over_all_problems_holds_while_they_run_at_once():
    meter = ponder.ledger.budget.Meter(ponder.Budget(calls=10))

    async def go():
        runtime = ponder.Runtime(meter=meter)
        runs = [context(Simulated(latency_s=0.001), runtime=runtime, seed=i) for i in range(6)]
        drawn = await asyncio.gather(*(ctx.draw(ctx.problem, 4) for ctx in runs))
        return sum(map(len, drawn)), sum(ctx.ledger.total.calls for ctx in runs)

    assert asyncio.run(go()) == (10, 10)


def test_a_time_limit_cancels_what_is_under_way_and_still_answers():
    async def go():
        async with FakeEndpoint(latency_s=0.15) as server:
            model = OpenAICompatible("m", server.url, max_concurrency=3, n=False)
            before = asyncio.all_tasks()
            ctx = context(model, budget=ponder.Budget(seconds=0.4))
            result = await ponder.parse("repeated_sampling(n=60) | majority").run(ctx.problem, ctx)
            left = own_tasks(before)
            await model.aclose()
            return result, left, server

    result, left, server = asyncio.run(go())
    assert 0 < len(result.candidates) < 60 and result.status == "ok" and result.answer is not None
    assert "time limit" in (result.reason or "") and not left and server.in_flight == 0


@pytest.mark.parametrize("slow", ["waits", "scores"])
def test_a_time_limit_does_not_interrupt_who_looks_at_a_draw(slow):
    async def go():
        async with FakeEndpoint(latency_s=0.02) as server:
            model = OpenAICompatible("m", server.url, max_concurrency=2, n=False)
            ctx = context(model, budget=ponder.Budget(seconds=0.15))
            seen, sent_late = 0, 0
            async with aclosing(ctx.stream(ctx.problem, 500)) as landing:
                async for candidate in landing:
                    seen += 1
                    if slow == "waits" and seen == 1:
                        await asyncio.sleep(0.2)
                        sent_late = max(sent_late, server.in_flight)
                    elif slow == "scores":
                        await ctx.score(ctx.problem, [candidate], ponder.verifier("llm_judge"))
            await model.aclose()
            return seen, sent_late, ctx

    seen, sent_late, ctx = asyncio.run(go())
    assert 0 < seen < 500 and sent_late == 0 and "the time limit was reached" in ctx.shortfalls


# ---------------------------------------------------------------------------------------------- concurrency


def test_64_draws_reach_an_endpoint_that_ignores_n_at_once():
    async def body(ctx, server):
        await ctx.draw(ctx.problem, 1)
        return [c.index for c in await ctx.draw(ctx.problem, 64)]

    indices, server = at_endpoint(body, {"n": False}, ignore_n=True, latency_s=0.05)
    assert server.in_flight_most == 64 and indices == list(range(1, 65))


@pytest.mark.parametrize("streaming", [False, True])
def test_cancelling_leaves_no_task_and_no_connection(streaming):
    async def body(ctx, server):
        before = asyncio.all_tasks()
        drawing = asyncio.create_task(ctx.draw(ctx.problem, 16, race=streaming))
        for _ in range(400):
            await asyncio.sleep(0.005)
            if len(server.requests) == 16:
                break
        drawing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await drawing
        assert not own_tasks(before)
        for _ in range(400):
            await asyncio.sleep(0.005)
            if not (server.in_flight or server.open_streams):
                return server.completions
        raise AssertionError(f"still open: {server.in_flight} requests, {server.open_streams} streams")

    completions, _ = at_endpoint(
        body, {"n": False}, latency_s=0.0 if streaming else 30.0, token_delay_s=0.5, answers=lambda *_: "w " * 99
    )
    assert completions == 0


def test_same_seed_gives_the_same_candidates_at_any_concurrency():
    async def body(ctx, server):
        return [(c.index, c.output) for c in await ctx.draw(ctx.problem, 24)]

    runs = [at_endpoint(body, {"n": False, "max_concurrency": k})[0] for k in (1, 7, 64)]
    assert runs[0] == runs[1] == runs[2]


def test_draws_go_on_where_the_last_ones_stopped():
    async def parts(ctx):
        return [*await ctx.draw(ctx.problem, 3), *await ctx.draw(ctx.problem, 2)]

    async def whole(ctx):
        return await ctx.draw(ctx.problem, 5)

    (split, _), (once, _) = simulated(parts), simulated(whole)
    assert [(c.index, c.output) for c in split] == [(c.index, c.output) for c in once]


# ---------------------------------------------------------------------------------------------- storing


def test_a_stored_call_is_not_sent_again_and_counts_the_same():
    async def go():
        async with FakeEndpoint() as server:
            model = OpenAICompatible("m", server.url)
            runtime = ponder.Runtime(cache=MemoryCache())
            runs = []
            for _ in range(2):
                ctx = context(model, runtime=runtime)
                result = await ponder.parse("best_of_n(n=4, verifier=llm_judge)").run(ctx.problem, ctx)
                runs.append((result.output, result.total.calls, result.total.tokens, len(server.requests)))
            await model.aclose()
            return runs

    first, second = asyncio.run(go())
    assert first == second


def test_a_failed_call_is_not_stored():
    async def go():
        async with FakeEndpoint(faults=[400]) as server:
            model = OpenAICompatible("m", server.url)
            runtime = ponder.Runtime(cache=MemoryCache())
            drawn = [(await c.draw(c.problem, 1))[0] for c in (context(model, runtime=runtime) for _ in range(2))]
            await model.aclose()
            return drawn

    failed, fine = asyncio.run(go())
    assert failed.error and failed.output is None and fine.error is None


# ---------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize("fault", [400, "garbage", "error_200", "null", 500])
def test_an_error_never_becomes_an_answer(fault):
    async def body(ctx, server):
        return await ponder.parse("repeated_sampling(n=3) | majority").run(ctx.problem, ctx)

    result, _ = at_endpoint(body, {"max_retries": 1}, faults=[fault] * 50)
    assert result.status == "failed" and result.output is None and result.answer is None and result.reason
    assert all(c.error and c.answer is None for c in result.candidates) and len(result.failures) == 3
    assert result.total.model_calls == 0


def test_a_wrong_key_ends_the_run_at_once():
    async def body(ctx, server):
        with pytest.raises(AuthenticationError, match="OPENAI_API_KEY"):
            await ctx.draw(ctx.problem, 8)

    _, server = at_endpoint(body, {"n": False, "max_concurrency": 1}, faults=[401] * 20)
    assert len(server.requests) <= 2


def test_a_nan_log_probability_is_recorded_and_kept():
    async def body(ctx, server):
        ctx.sampling = Sampling(logprobs=0)
        return await ctx.draw(ctx.problem, 2), ctx.failures

    (drawn, failures), _ = at_endpoint(body, logprobs="nan")
    assert all(math.isnan(c.logprob) for c in drawn)
    assert [(f.stage, f.index, f.kind) for f in failures] == [("draw", 0, "nan_logprob"), ("draw", 1, "nan_logprob")]


@dataclass(frozen=True)
class FailsOnThird(Verifier):
    """1.0 for each item, but an exception for the one with index 2."""

    name = "fails_on_third"

    async def score(self, problem, items, ctx):
        if any(item.index == 2 for item in items):
            raise RuntimeError("no")
        return [1.0] * len(items)


def test_a_verifier_that_raises_costs_only_the_sample_that_caused_it():
    async def body(ctx):
        drawn = await ctx.draw(ctx.problem, 5)
        return await ctx.score(ctx.problem, drawn, FailsOnThird())

    scores, ctx = simulated(body)
    assert [math.isnan(s) for s in scores] == [False, False, True, False, False]
    assert [(f.stage, f.index, f.kind) for f in ctx.failures] == [("verify", 2, "RuntimeError")]


def test_an_extractor_that_raises_costs_only_the_answer():
    class Broken(testing.Sums):
        def extract(self, output):
            raise ValueError("cannot read")

    async def body(ctx):
        ctx.task = Broken()
        return await ctx.draw(ctx.problem, 2)

    drawn, ctx = simulated(body)
    assert all(c.output and c.answer is None and c.error is None for c in drawn)
    assert [(f.stage, f.kind) for f in ctx.failures] == [("extract", "ValueError")] * 2


# ---------------------------------------------------------------------------------------------- watching


def test_a_watcher_sees_each_draw_by_its_index_and_ends_only_the_one_it_wants():
    seen = {}

    def watch(chunk):
        seen.setdefault(chunk.index, []).append(chunk.text)
        return chunk.index == 1 and len(seen[1]) == 2

    async def body(ctx, server):
        await ctx.draw(ctx.problem, 1)
        return await ctx.draw(ctx.problem, 3, watch=watch), ctx.ledger.total

    (drawn, total), _ = at_endpoint(body, answers=lambda *_: "a b c d e", token_delay_s=0.002)
    assert [(c.index, c.output, c.finish) for c in drawn] == [
        (1, "a b", "stopped_early"),
        (2, "a b c d e", "stop"),
        (3, "a b c d e", "stop"),
    ]
    assert set(seen) == {1, 2, 3} and total.generated_tokens == 17
