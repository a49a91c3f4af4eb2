"""How "n completions of this prompt" becomes calls, and what is known of those that were called off."""

import asyncio
from collections import Counter
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ponder.core.model import Capabilities, Completion, Model, Request, Sampling
from ponder.core.scheduler import Scheduler
from ponder.errors import AuthenticationError, EndpointError


@dataclass
class Scripted(Model):
    """Answers with the seed; `turns(seed)` is how often the event loop goes round before it does."""

    max_n: int = 8
    max_concurrency: int = 64
    ignore_n: bool = False
    turns: object = None
    error: Exception | None = None
    fails: frozenset = frozenset()
    calls: list = field(default_factory=list)
    running: int = 0
    running_most: int = 0

    name: ClassVar[str] = "scripted"
    identity = "scripted"

    def __post_init__(self):
        self.capabilities = Capabilities(n=None, max_n=self.max_n)

    async def sample(self, request):
        self.calls.append((request.offset, request.seeds))
        self.running += 1
        self.running_most = max(self.running_most, self.running)
        try:
            if self.fails & set(request.seeds):
                await asyncio.sleep(0)
                raise self.error
            for position, seed in enumerate(request.seeds[:1] if self.ignore_n else request.seeds):
                for _ in range(self.turns(seed) if self.turns else 0):
                    await asyncio.sleep(0)
                first = position == 0
                yield position, Completion(f"seed {seed}", 5, prompt_tokens=3 * first, requests=int(first))
        finally:
            self.running -= 1


def request(n, **options):
    return Request("one two", Sampling(max_new_tokens=50), tuple(range(100, 100 + n)), **options)


async def gather(scheduler, asked):
    async with aclosing(scheduler.sample(asked)) as landing:
        return dict([item async for item in landing])


def run(model, n, **options):
    return asyncio.run(gather(Scheduler(model), request(n, **options)))


def test_a_backend_that_takes_n_gets_one_call_for_each_full_load():
    model = Scripted(max_n=4)
    got = run(model, 10)
    assert model.calls == [(0, (100, 101, 102, 103)), (4, (104, 105, 106, 107)), (8, (108, 109))]
    assert {i: c.text for i, c in got.items()} == {i: f"seed {100 + i}" for i in range(10)}


def test_a_backend_that_ignores_n_is_asked_one_by_one_from_then_on():
    model = Scripted(ignore_n=True)
    scheduler = Scheduler(model)
    assert set(asyncio.run(gather(scheduler, request(4)))) == {0} and not scheduler.honours_n
    scheduler = Scheduler(model)
    scheduler.honours_n = False
    assert set(asyncio.run(gather(scheduler, request(4)))) == {0, 1, 2, 3}


@pytest.mark.parametrize("option", [{"stream": True}, {"watch": lambda chunk: False}])
def test_draws_that_may_be_ended_have_a_call_each(option):
    model = Scripted()
    assert len(run(model, 5, **option)) == len(model.calls) == 5


@pytest.mark.parametrize("limit", [1, 3, 64])
def test_no_more_calls_than_allowed_are_under_way_over_all_requests(limit):
    async def go():
        model = Scripted(max_n=1, max_concurrency=limit, turns=lambda seed: seed % 5)
        scheduler = Scheduler(model)
        got = await asyncio.gather(*(gather(scheduler, request(20)) for _ in range(4)))
        return model, got

    model, got = asyncio.run(go())
    assert model.running_most == min(limit, 80) and model.running == 0
    assert all({i: c.text for i, c in one.items()} == {i: f"seed {100 + i}" for i in range(20)} for one in got)


def test_many_waiting_draws_need_no_task_each():
    async def go():
        scheduler = Scheduler(Scripted(max_n=1, max_concurrency=4, turns=lambda seed: 1))
        most = 0
        async with aclosing(scheduler.sample(request(3000))) as landing:
            async for _ in landing:
                most = max(most, len(asyncio.all_tasks()))
        return most

    assert asyncio.run(go()) <= 6


def test_a_call_that_fails_costs_only_its_own_draws_and_its_requests_are_counted_once():
    error = EndpointError("broken")
    error.requests = 3
    got = run(Scripted(max_n=2, error=error, fails=frozenset({102})), 6)
    assert [got[i].error for i in range(6)] == [
        None,
        None,
        "EndpointError: broken",
        "EndpointError: broken",
        None,
        None,
    ]
    assert [got[i].requests for i in range(6)] == [1, 0, 3, 0, 1, 0]


@pytest.mark.parametrize("error", [AuthenticationError("no"), EndpointError("gone", fatal=True)])
def test_what_every_call_would_meet_is_raised_and_leaves_nothing_running(error):
    async def go():
        model = Scripted(max_n=1, error=error, fails=frozenset({101}), turns=lambda seed: 50)
        with pytest.raises(type(error)):
            await gather(Scheduler(model), request(6))
        return model.running, len(asyncio.all_tasks())

    assert asyncio.run(go()) == (0, 1)


@settings(max_examples=150, deadline=None)
@given(
    n=st.integers(1, 12),
    max_n=st.integers(1, 5),
    limit=st.integers(1, 4),
    speeds=st.lists(st.integers(0, 6), min_size=12, max_size=12),
    failing=st.sets(st.integers(100, 111), max_size=2),
    taken=st.integers(0, 12),
    ignore_n=st.booleans(),
)
def test_every_position_is_yielded_or_lost_exactly_once(n, max_n, limit, speeds, failing, taken, ignore_n):
    """However early the consumer leaves: nothing is counted twice, nothing that was sent is forgotten."""
    lost = {}

    async def go():
        model = Scripted(
            max_n, limit, ignore_n, lambda seed: speeds[seed - 100], EndpointError("broken"), frozenset(failing)
        )
        times = Counter()

        def told(position, completion):
            times[position] += 1
            lost[position] = completion

        yielded = Counter()
        async with aclosing(Scheduler(model).sample(request(n, lost=told))) as landing:
            while taken:
                try:
                    position, _ = await anext(landing)
                except StopAsyncIteration:
                    break
                yielded[position] += 1
                if yielded.total() == taken:
                    break
        assert model.running == 0 and len(asyncio.all_tasks()) == 1
        return model, yielded, times

    model, yielded, times = asyncio.run(go())
    counts = yielded + times
    if yielded or taken == 0:
        assert all(count == 1 for count in counts.values())
    if yielded:
        assert set(counts) == set(range(n))
        sent = {offset for offset, _ in model.calls}
        booked = sum(c.requests for c in lost.values()) + sum(p in sent for p in yielded)
        failed = {offset for offset, seeds in model.calls if failing & set(seeds)}
        assert len(sent - failed) - len(failed) <= booked <= len(sent)
    for completion in lost.values():
        assert completion.finish in ("cancelled", "error") and completion.n_tokens <= 50


def test_what_was_under_way_is_booked_by_its_own_time_and_what_was_not_sent_as_nothing():
    async def go():
        model = Scripted(max_n=2, max_concurrency=2, turns=lambda seed: 0 if seed < 102 else 10**9)
        lost = {}
        async with aclosing(Scheduler(model).sample(request(6, lost=lambda *seen: lost.update([seen])))) as landing:
            assert {(await anext(landing))[0], (await anext(landing))[0]} == {0, 1}
            await asyncio.sleep(0.02)
        return lost

    lost = asyncio.run(go())
    assert set(lost) == {2, 3, 4, 5}
    under_way = [lost[i] for i in range(2, 6) if lost[i].error is None]
    assert [(c.requests, c.prompt_tokens) for c in under_way[:2]] == [(1, 3), (0, 0)]
    assert all(c.seconds > 0 for c in under_way)
    assert all((c.n_tokens, c.requests, c.prompt_tokens) == (0, 0, 0) for c in lost.values() if c.error is not None)
