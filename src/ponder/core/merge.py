"""Several asynchronous iterators as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import TypeVar

T = TypeVar("T")


async def merge(sources: Sequence[AsyncIterator[T]]) -> AsyncGenerator[T, None]:
    """Items of all sources as they come. Closing it, or an error in one source, closes all of them."""
    if len(sources) == 1:
        source = sources[0]
        try:
            async for item in source:
                yield item
        finally:
            await _close(source)
        return
    queue: asyncio.Queue[tuple[bool, T | BaseException | None]] = asyncio.Queue()

    async def pump(source: AsyncIterator[T]) -> None:
        try:
            async for item in source:
                queue.put_nowait((True, item))
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # handed to the consumer, which raises it
            queue.put_nowait((False, error))
        else:
            queue.put_nowait((False, None))
        finally:
            await _close(source)

    tasks = [asyncio.create_task(pump(source)) for source in sources]
    try:
        open_sources = len(tasks)
        while open_sources:
            is_item, value = await queue.get()
            if is_item:
                yield value  # type: ignore[misc]
            elif value is None:
                open_sources -= 1
            else:
                raise value  # type: ignore[misc]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def batches(source: AsyncIterator[T]) -> AsyncGenerator[list[T], None]:
    """Items of a source, those that come together (without a wait in between) as one list.

    Closing it, or an error in the source, closes the source; items that came before an error are passed on.
    """
    gathered: list[T] = []
    woken = asyncio.Event()

    async def pump() -> None:
        try:
            async for item in source:
                gathered.append(item)
                woken.set()
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
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


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
