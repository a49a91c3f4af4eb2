"""Turns "n completions of this prompt" into the calls that a backend is best at."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace

from ponder.core.merge import merge
from ponder.core.model import Completion, Model, Request
from ponder.errors import AuthenticationError, EndpointError, ModelError, ModelNotFoundError


class Scheduler:
    """One per model: bounds its concurrency and splits requests by what it can do.

    A backend that honours `n` gets one call for up to `max_n` completions; others get parallel
    calls. A backend that returns a single choice where several were asked for is remembered as one
    that ignores `n`. Completions that have to be watched or raced are streamed one by one.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.honours_n = model.capabilities.n is not False
        self.tokens_per_second: float | None = None
        self._slots = asyncio.Semaphore(model.max_concurrency)

    async def sample(self, request: Request) -> AsyncGenerator[tuple[int, Completion], None]:
        """Yield completions as they land; fewer than asked for may come.

        A call that failed for good yields completions with `error` set. An error that every further
        call would meet as well (no such host, a wrong key) is raised.
        """
        n = request.n
        single = request.watch is not None or request.stream or not self.honours_n
        size = 1 if single else self.model.capabilities.max_n
        starts = range(0, n, size)
        begun: set[int] = set()
        waiting: dict[int, Completion] = {}
        calls = (self._call(request, range(start, min(start + size, n)), begun, waiting) for start in starts)
        try:
            async with aclosing(merge(calls, self.model.max_concurrency)) as merged:
                async for position, completion in merged:
                    waiting.pop(position, None)
                    yield position, completion
        finally:
            # Cancelled: what had arrived unseen is reported in full; what was not sent, or not returned, cost nothing.
            if request.lost is not None:
                for position, completion in waiting.items():
                    request.lost(position, replace(completion, finish="cancelled"))
                for position in set(range(n)) - begun:
                    request.lost(position, Completion("", 0, "cancelled", error="nothing was generated"))

    async def _call(
        self, request: Request, indices: range, begun: set[int], waiting: dict[int, Completion]
    ) -> AsyncIterator[tuple[int, Completion]]:
        part = (
            request
            if len(indices) == request.n
            else Request(
                request.prompt,
                request.sampling,
                request.seeds[indices.start : indices.stop],
                request.prefix,
                request.watch,
                request.stream,
                request.lost,
                indices.start,
                request.problem,
            )
        )
        landed: set[int] = set()
        async with self._slots:
            started = time.monotonic()
            begun.update(indices)
            try:
                async with aclosing(self.model.sample(part)) as completions:  # type: ignore[type-var]
                    async for position, completion in completions:
                        landed.add(position)
                        self._note_rate(completion, time.monotonic() - started)
                        waiting[indices.start + position] = completion
                        yield indices.start + position, completion
            except ModelError as error:
                if is_fatal(error):
                    begun.difference_update(indices)
                    raise
                for position in range(part.n):
                    if position not in landed:
                        yield indices.start + position, failed(error)
                return
        begun.difference_update(i for i in indices if i - indices.start not in landed)
        if part.n > 1 and len(landed) == 1:
            self.honours_n = False

    def _note_rate(self, completion: Completion, elapsed: float) -> None:
        if completion.n_tokens and elapsed > 0:
            rate = completion.n_tokens / elapsed
            self.tokens_per_second = (
                rate if self.tokens_per_second is None else 0.8 * self.tokens_per_second + 0.2 * rate
            )


def failed(error: BaseException) -> Completion:
    """The record of a call that failed for good; never stored, never an answer."""
    return Completion("", 0, "error", error=f"{type(error).__name__}: {error}")


def is_fatal(error: BaseException) -> bool:
    """Whether every further call would fail the same way."""
    if isinstance(error, EndpointError):
        return error.fatal or isinstance(error, AuthenticationError)
    return isinstance(error, ModelNotFoundError)
