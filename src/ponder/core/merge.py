"""Several asynchronous iterators as one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from itertools import chain, islice
from typing import TypeVar

T = TypeVar("T")


async def gather_all(sources: Iterable[Awaitable[T]]) -> list[T]:
    """Results of all, in order. If one fails, the others are waited for before its error is raised."""
    outcomes = await asyncio.gather(*sources, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]


async def merge(sources: Iterable[AsyncIterator[T]], limit: int | None = None) -> AsyncGenerator[T, None]:
    """Items of all sources as they come. Closing it, or an error in one source, closes all of them.

    Args:
        sources: taken in order, each when it is begun.
        limit: how many are under way at once; None for all.
    """
    waiting = iter(sources)
    begun = list(islice(waiting, limit))
    if len(begun) == 1:  # one at a time needs no task
        for source in chain(begun, waiting):
            try:
                async for item in source:
                    yield item
            finally:
                await _close(source)
        return
    arrived: deque[T] = deque()
    woken = asyncio.Event()
    broken: list[BaseException] = []
    running = len(begun)

    async def pump(source: AsyncIterator[T] | None) -> None:
        nonlocal running
        try:
            while source is not None and not broken:
                try:
                    async for item in source:
                        arrived.append(item)
                        woken.set()
                finally:
                    await _close(source)
                source = next(waiting, None)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # handed to the consumer, which raises it
            broken.append(error)
        finally:
            running -= 1
            woken.set()

    tasks = [asyncio.create_task(pump(source)) for source in begun]
    try:
        while True:
            while arrived:
                yield arrived.popleft()
            if broken:
                raise broken[0]
            if not running:
                return
            woken.clear()
            await woken.wait()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def batches(
    source: AsyncIterator[T],
    *,
    deadline: float | None = None,
    dropped: Callable[[list[T]], object] | None = None,
) -> AsyncGenerator[list[T], None]:
    """Items of a source, those that come together (without a wait in between) as one list.

    Closing it, or an error in the source, closes the source; items that came before an error are passed on.

    Args:
        source: read in a task of its own, however slowly its items are taken.
        deadline: on the event loop's clock; then the source is closed, and what has come is passed on. Whoever
            takes the items is never interrupted.
        dropped: is given what had come, but was not passed on before this was closed.
    """
    gathered: list[T] = []
    woken = asyncio.Event()

    async def pump() -> None:
        try:
            async with asyncio.timeout_at(deadline) as limit:
                async for item in source:
                    gathered.append(item)
                    woken.set()
        except TimeoutError:
            if not limit.expired():
                raise
        finally:
            await _close(source)

    task = asyncio.create_task(pump())
    task.add_done_callback(lambda _: woken.set())
    try:
        while True:
            await woken.wait()
            woken.clear()
            if gathered:
                batch = gathered[:]
                gathered.clear()
                yield batch
            if task.done() and not gathered:
                task.result()
                return
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if gathered and dropped is not None:
            dropped(gathered)


async def one_by_one(source: AsyncIterator[T]) -> AsyncGenerator[list[T], None]:
    """Each item as a list of its own. Closing it closes the source."""
    try:
        async for item in source:
            yield [item]
    finally:
        await _close(source)


async def _close(source: AsyncIterator[T]) -> None:
    close = getattr(source, "aclose", None)
    if close is not None:
        await close()
