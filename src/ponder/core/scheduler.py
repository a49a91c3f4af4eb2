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

        When it is closed early, `request.lost` hears of every position that was not yielded: what had arrived
        is reported in full, what was under way by the time it took and the rate seen so far (unless the
        backend knew better), and what was not sent, or not returned, as nothing (`error` is set).
        """
        n = request.n
        single = request.watch is not None or request.stream or not self.honours_n
        size = 1 if single else self.model.capabilities.max_n
        starts = range(0, n, size)
        begun: dict[int, float] = {}
        waiting: dict[int, Completion] = {}
        told: set[int] = set()
        report, prompt_tokens = request.lost, 0

        def lost(position: int, completion: Completion) -> None:
            told.add(position)
            if report is not None:
                report(position, completion)

        request = replace(request, lost=lost)
        calls = (self._call(request, range(start, min(start + size, n)), begun, waiting) for start in starts)
        try:
            async with aclosing(merge(calls, self.model.max_concurrency)) as merged:
                async for position, completion in merged:
                    waiting.pop(position, None)
                    told.add(position)
                    if completion.prompt_tokens > prompt_tokens:
                        prompt_tokens = completion.prompt_tokens
                    yield position, completion
        finally:
            for position, completion in waiting.items():
                lost(position, replace(completion, finish="cancelled"))
            for position in range(n) if len(told) < n else ():
                if position not in told:
                    lost(position, self._unknown(request, begun.get(position), position % size, prompt_tokens))

    def _unknown(self, request: Request, began: float | None, place: int, prompt_tokens: int) -> Completion:
        """What a cancelled completion that nobody has seen may have cost; the first of its call has the prompt."""
        if began is None:
            return Completion("", 0, "cancelled", error="nothing was generated")
        elapsed = time.monotonic() - began
        guess = min(int(elapsed * (self.tokens_per_second or 0.0)), request.sampling.max_new_tokens)
        if place:
            return Completion("", guess, "cancelled", seconds=elapsed)
        known = prompt_tokens or self.model.count_tokens(request.prompt)
        return Completion("", guess, "cancelled", prompt_tokens=known, requests=1, seconds=elapsed)

    async def _call(
        self, request: Request, indices: range, begun: dict[int, float], waiting: dict[int, Completion]
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
            begun.update(dict.fromkeys(indices, started))
            try:
                async with aclosing(self.model.sample(part)) as completions:  # type: ignore[type-var]
                    async for position, completion in completions:
                        landed.add(position)
                        self._note_rate(completion, time.monotonic() - started)
                        waiting[indices.start + position] = completion
                        yield indices.start + position, completion
            except ModelError as error:
                for position in indices:
                    begun.pop(position, None)
                if is_fatal(error):
                    raise
                requests = error.requests
                for position in range(part.n):
                    if position not in landed:
                        at = indices.start + position
                        waiting[at] = failed(error, requests)
                        yield at, waiting[at]
                        requests = 0
                return
        for position in indices:
            begun.pop(position, None)
        if part.n > 1 and len(landed) == 1:
            self.honours_n = False

    def _note_rate(self, completion: Completion, elapsed: float) -> None:
        if completion.n_tokens and elapsed > 0:
            rate = completion.n_tokens / elapsed
            self.tokens_per_second = (
                rate if self.tokens_per_second is None else 0.8 * self.tokens_per_second + 0.2 * rate
            )


def failed(error: BaseException, requests: int = 0) -> Completion:
    """The record of a call that failed for good; never stored, never an answer."""
    return Completion("", 0, "error", requests=requests, error=f"{type(error).__name__}: {error}")


def is_fatal(error: BaseException) -> bool:
    """Whether every further call would fail the same way."""
    if isinstance(error, EndpointError):
        return error.fatal or isinstance(error, AuthenticationError)
    return isinstance(error, ModelNotFoundError)
