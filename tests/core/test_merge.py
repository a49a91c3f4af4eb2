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
