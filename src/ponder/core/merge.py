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


async def _close(source: AsyncIterator[T]) -> None:
    close = getattr(source, "aclose", None)
    if close is not None:
        await close()
