"""What models on ponder's own engine share: jobs for its decoder, and completions from what it tells."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from ponder.core.model import Chunk, Completion, Model, Request, Sampling
from ponder.core.problem import Prompt
from ponder.engine.constraints import constraint_of
from ponder.engine.decoder import Decoder
from ponder.engine.job import Event, Job
from ponder.engine.leaf import Leaf
from ponder.engine.running import Running
from ponder.engine.vocabulary import by_name
from ponder.models._local_model import too_long


class EngineModel(Model):
    """A model whose texts are decoded by an engine's decoder."""

    context: int

    @abstractmethod
    def running(self) -> Running:
        """The engine, loaded if need be and shared by all models of these settings."""

    @abstractmethod
    async def _begin(self, *jobs: Job) -> Decoder:
        """Submit jobs; the decoder that has them."""

    def count_tokens(self, prompt: Prompt) -> int:
        """The exact number, chat template included (reads the vocabulary if it is not loaded)."""
        vocabulary = self.running().vocabulary
        return len(vocabulary.tokens(vocabulary.text(prompt)))

    async def sample(self, request: Request) -> AsyncIterator[tuple[int, Completion]]:
        """Completions as they end."""
        self.require_experts(request.sampling)
        running = await asyncio.to_thread(self.running)
        text = running.vocabulary.text(request.prompt) + request.prefix
        tokens = running.tokens(text)
        self._fit(tokens)
        room = min(request.sampling.max_new_tokens, self._limit - len(tokens))
        sampling = replace(request.sampling, max_new_tokens=room)
        constrain = await asyncio.to_thread(constraint_of, sampling, running.vocabulary) if sampling.extra else None
        inbox = _Inbox()
        job = Job(tokens, sampling, request.seeds, inbox.put, request.watch is not None, constrain)
        decoder = await self._begin(job)
        started, first = time.monotonic(), True
        ended: set[int] = set()
        seen = [0] * request.n
        try:
            while len(ended) < request.n:
                for event in await inbox.get():
                    if event.position in ended:
                        continue
                    if event.error is not None:
                        raise event.error
                    leaf = event.leaf
                    assert leaf is not None
                    if event.token is not None:
                        seen[event.position] += 1
                        if request.watch is None or not request.watch(_chunk(request, event)):
                            continue
                        decoder.cancel(job, event.position)
                        leaf = leaf.first(seen[event.position], "stopped_early")
                    ended.add(event.position)
                    _note(running, text, tokens, leaf)
                    seconds = (time.monotonic() - started) / request.n
                    yield event.position, _completion(running, leaf, job if first else None, seconds)
                    first = False
        except (asyncio.CancelledError, GeneratorExit):
            if request.lost is not None:
                for position, leaf in decoder.partial(job).items():
                    if position not in ended:
                        seconds = (time.monotonic() - started) / request.n
                        so_far = leaf.first(len(leaf.drawn), "cancelled")  # the decoder may go on for a step
                        part = _completion(running, so_far, job if first else None, seconds)
                        first = False
                        request.lost(request.offset + position, part)
            raise
        finally:
            if len(ended) < request.n:
                decoder.cancel(job)

    async def score(self, prompt: Prompt, texts: Sequence[str], prefix: str = "") -> list[tuple[float, ...]]:
        """Log-probabilities in nats of each text's tokens after the prompt; nothing is drawn.

        The texts are tokenised by themselves. An empty text has none.

        Raises:
            ContextLengthError: one does not fit.
        """
        running = await asyncio.to_thread(self.running)
        begin = running.tokens(running.vocabulary.text(prompt) + prefix)
        given = [running.vocabulary.plain(text) for text in texts]
        asked = [i for i, tokens in enumerate(given) if tokens]
        out: list[tuple[float, ...]] = [() for _ in texts]
        if not asked:
            return out
        inbox = _Inbox()
        jobs = []
        for i in asked:
            self._fit((*begin, *given[i][:-1]))
            job = Job(begin, Sampling(), (i,), inbox.put, given=given[i])
            jobs.append(job)
        decoder = await self._begin(*jobs)
        left = len(jobs)
        try:
            while left:
                for event in await inbox.get():
                    if event.error is not None:
                        raise event.error
                    left -= 1
        finally:
            for job in jobs if left else ():
                decoder.cancel(job)
        for i, job in zip(asked, jobs, strict=True):
            out[i] = tuple(job.read)
        return out

    def _fit(self, tokens: Sequence[int]) -> None:
        if len(tokens) >= self._limit:
            raise too_long(str(self), len(tokens), self._limit)

    @property
    def _limit(self) -> int:
        return self.capabilities.context_tokens or self.context


class _Inbox:
    """Events from the decoder's thread, for one coroutine."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: list[Event] = []
        self._some = asyncio.Event()

    def put(self, events: Sequence[Event]) -> None:
        """From any thread."""
        try:
            self._loop.call_soon_threadsafe(self._land, events)
        except RuntimeError:
            return  # the loop is closed: nobody waits any more

    def _land(self, events: Sequence[Event]) -> None:
        self._events.extend(events)
        self._some.set()

    async def get(self) -> Sequence[Event]:
        """What has come since last time, at least one."""
        await self._some.wait()
        self._some.clear()
        events, self._events = self._events, []
        return events


def _chunk(request: Request, event: Event) -> Chunk:
    token = event.token
    logprobs = None if token is None or token.logprob is None else (token.logprob,)
    top = None if token is None or not token.top else (token.top,)
    return Chunk(request.offset + event.position, event.added, 1, logprobs, top)


def _note(running: Running, text: str, tokens: tuple[int, ...], leaf: Leaf) -> None:
    """Remember how the text with its completion, or any one token listed for it, is written in tokens."""
    if leaf.sampling.max_new_tokens == 1 and leaf.drawn and leaf.drawn[0].top:
        numbers, ends = by_name(running.vocabulary), running.vocabulary.ends
        for name in leaf.drawn[0].top:
            if numbers.get(name, -1) not in ends and name in numbers:
                running.wrote(text + name, (*tokens, numbers[name]))
        return
    readable = leaf.readable
    if readable is not None and readable[0]:
        running.wrote(text + readable[0], (*tokens, *readable[1]))


def _completion(running: Running, leaf: Leaf, job: Job | None, seconds: float) -> Completion:
    wanted = leaf.sampling.logprobs
    logprobs = leaf.logprobs
    known = logprobs is not None
    return Completion(
        leaf.text,
        len(leaf.drawn),
        leaf.finish or "stop",
        leaf.stop_reason,
        logprob=leaf.logprob,
        prompt_tokens=len(job.prompt) if job is not None else 0,
        cached_tokens=(job.reused or 0) if job is not None else 0,
        requests=int(job is not None),
        seconds=seconds,
        tokens=tuple(running.vocabulary.named([t.number for t in leaf.drawn])) if known else None,
        token_logprobs=tuple(logprobs) if logprobs is not None else None,
        top_logprobs=tuple(t.top or {} for t in leaf.drawn) if known and wanted else None,
    )
