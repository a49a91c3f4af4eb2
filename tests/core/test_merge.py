import asyncio
from contextlib import aclosing

import pytest

from ponder.core.merge import batches, merge


async def numbers(values, log=None, pause=0.0, error=None):
    try:
        if log is not None:
            log.append(f"begin {values[0]}")
        for value in values:
            await asyncio.sleep(pause)
            yield value
        if error is not None:
            raise error
    finally:
        if log is not None:
            log.append(f"end {values[0]}")


async def collect(arriving, got):
    async with aclosing(arriving):
        async for item in arriving:
            got.append(item)
    return got


async def gathered(sources, limit=None):
    return await collect(merge(sources, limit), [])


@pytest.mark.parametrize("limit", [None, 1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_every_item_of_every_source_comes_once(count, limit):
    sources = [numbers([10 * i, 10 * i + 1]) for i in range(count)]
    got = asyncio.run(gathered(sources, limit))
    assert sorted(got) == sorted(10 * i + j for i in range(count) for j in range(2))


@pytest.mark.parametrize(("limit", "most"), [(1, 1), (3, 3), (None, 8)])
def test_no_more_sources_are_begun_at_once_than_the_limit(limit, most):
    running, seen = set(), []

    async def source(i):
        running.add(i)
        seen.append(len(running))
        await asyncio.sleep(0.001)
        yield i
        running.discard(i)

    assert sorted(asyncio.run(gathered((source(i) for i in range(8)), limit))) == list(range(8))
    assert max(seen) == most


@pytest.mark.parametrize("limit", [None, 1, 2])
def test_an_error_is_raised_after_what_came_before_it_and_closes_the_rest(limit):
    log = []

    async def go():
        sources = [numbers([1, 2], log, error=ValueError("broken")), numbers([5] * 99, log, pause=10)]
        got = []
        with pytest.raises(ValueError, match="broken"):
            await collect(merge(sources, limit), got)
        return got, len(asyncio.all_tasks())

    assert asyncio.run(go()) == ([1, 2], 1)
    assert log == (["begin 1", "end 1"] if limit == 1 else ["begin 1", "begin 5", "end 1", "end 5"])


@pytest.mark.parametrize("count", [1, 3])
def test_leaving_closes_every_source_before_going_on(count):
    log = []

    async def go():
        async with aclosing(merge([numbers([i] * 9, log) for i in range(count)])) as merged:
            async for _ in merged:
                break
        assert len(asyncio.all_tasks()) == 1
        return sorted(log)

    assert asyncio.run(go()) == sorted([f"begin {i}" for i in range(count)] + [f"end {i}" for i in range(count)])


def test_items_that_come_together_are_one_batch_and_an_error_comes_after_them():
    async def together():
        yield 1
        yield 2
        await asyncio.sleep(0.001)
        yield 3
        raise ValueError("late")

    async def go():
        got = []
        with pytest.raises(ValueError, match="late"):
            await collect(batches(together()), got)
        return got

    assert asyncio.run(go()) == [[1, 2], [3]]


def test_a_deadline_closes_the_source_and_passes_on_what_has_come():
    async def go():
        log, got = [], []
        soon = asyncio.get_running_loop().time() + 0.05
        async with aclosing(batches(numbers(range(10**6), log, pause=0.001), deadline=soon)) as arriving:
            async for batch in arriving:
                got += batch
        return got, log

    got, log = asyncio.run(go())
    assert got == list(range(len(got))) and 0 < len(got) <= 60 and log == ["begin 0", "end 0"]


def test_a_deadline_never_interrupts_who_takes_the_items():
    async def go():
        log, slow = [], 0
        soon = asyncio.get_running_loop().time() + 0.02
        async with aclosing(batches(numbers(range(10**6), log, pause=0.001), deadline=soon)) as arriving:
            async for _ in arriving:
                await asyncio.sleep(0.06)
                assert log[-1] == "end 0", "the source went on beyond its deadline"
                slow += 1
        return slow, asyncio.current_task().cancelling()

    slow, cancelling = asyncio.run(go())
    assert slow >= 1 and cancelling == 0


def test_what_came_but_was_not_taken_is_handed_over_when_the_consumer_leaves():
    async def go():
        dropped, taken = [], []
        async with aclosing(batches(numbers(range(5)), dropped=dropped.extend)) as arriving:
            async for batch in arriving:
                taken += batch
                for _ in range(20):
                    await asyncio.sleep(0)
                break
        return taken, dropped

    taken, dropped = asyncio.run(go())
    assert taken + dropped == list(range(5)) and dropped
