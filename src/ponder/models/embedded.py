"""A GGUF file decoded in this process by ponder's own engine: every shared prefix is evaluated once.

All texts under way, of all problems, are decoded in one batch. The samples of a prompt, the continuations of a
partial output, and prompts that begin alike share what they have in common; a text that a search continues is found in
the cache token by token. A text that is stopped frees its place within one step.

Few texts are fastest on llama.cpp's quantised weights, many on PyTorch's matrix products: `engine=auto` measures once
on each machine from how many on (`ponder check` shows it) and decides for what arrives together.

Each completion draws with its own seed and so gives the same text whatever else is decoded with it, up to the rounding
of the products, which depends on the size of a batch and now and then changes a token.

Log-probabilities are of the distribution before temperature, filters and constraints, one for each token drawn, the
one that ends the text included.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from ponder.core.model import Capabilities, Chunk, Completion, Request, Sampling
from ponder.core.problem import Prompt
from ponder.core.registry import model
from ponder.engine.constraints import constraint_of
from ponder.engine.decoder import Decoder
from ponder.engine.engine import Engine, Settings, engine
from ponder.engine.job import Event, Job
from ponder.engine.leaf import Leaf
from ponder.engine.weights import Precision
from ponder.models._gguf_model import GgufModel, too_long

if TYPE_CHECKING:
    from ponder.engine.whitebox import WhiteBox


@model("embedded")
@dataclass(frozen=True)
class Embedded(GgufModel):
    """A GGUF model on this machine.

    `Sampling.extra` may hold one of `json_schema`, `regex` or `grammar` (Lark): every text keeps to it.

    Args:
        source: a name from `ponder models list`, or a path to a `.gguf` file.
        engine: `llamacpp`, `torch`, or whichever is measured to be faster for as many texts as come together.
        context: tokens of key-value cache, shared by all texts under way and those kept for being continued.
        parallel: most texts decoded together (llama.cpp holds at most 256).
        threads: processor threads; None takes all cores that this process may use.
        precision: of torch's products; `auto` is bfloat16 where the processor multiplies it natively.
    """

    source: str
    engine: Literal["auto", "llamacpp", "torch"] = "auto"
    context: int = 32768
    parallel: int = 256
    threads: int | None = None
    precision: Precision | Literal["auto"] = "auto"
    max_concurrency: int = field(default=1024, init=False)

    name: ClassVar[str]

    def __post_init__(self) -> None:
        found, limit = self.checked_shape()
        can = Capabilities(
            max_n=1024,
            logprobs=True,
            max_top_logprobs=100,
            prefix=True,
            prompt_cache=True,
            context_tokens=limit,
        )
        object.__setattr__(self, "shape", found)
        object.__setattr__(self, "capabilities", can)

    def count_tokens(self, prompt: Prompt) -> int:
        """The exact number, chat template included (reads the vocabulary if it is not loaded)."""
        vocabulary = self.running().vocabulary
        return len(vocabulary.tokens(vocabulary.text(prompt)))

    def notes(self) -> list[str]:
        """How fast each backend decodes here, and which one `engine=auto` takes."""
        from ponder.engine.calibration import calibration

        if self.engine != "auto":
            return [f"engine {self.engine}, as asked"]
        found = calibration(self._settings())
        if not found.speeds:
            return ["engine llamacpp (torch is not installed)"]
        lines = [
            f"engine {kind}: "
            + ", ".join(f"{speed:.0f} tokens/s with {n} text{'s' * (n > 1)}" for n, speed in sorted(by.items()))
            for kind, by in found.speeds.items()
        ]
        start = f"from {found.crossover} texts on" if found.crossover is not None else "never"
        return [*lines, f"engine auto takes torch {start}"]

    def running(self) -> Engine:
        """The engine, loaded if need be and shared by all models of these settings."""
        return engine(self._settings())

    def whitebox(self) -> WhiteBox:
        """The same weights in full precision, open: states, gradients, masks, caches that can be cut and joined.

        Raises:
            MissingExtraError: torch is not installed.
        """
        from ponder.engine.weights import from_gguf
        from ponder.engine.whitebox import WhiteBox

        return WhiteBox(from_gguf(self.path))

    def _settings(self) -> Settings:
        return Settings(self.path.resolve(), self.context, self.parallel, self.threads, self.precision)

    async def sample(self, request: Request) -> AsyncIterator[tuple[int, Completion]]:
        """Completions as they end."""
        running = await asyncio.to_thread(self.running)
        text = running.vocabulary.text(request.prompt) + request.prefix
        tokens = running.tokens(text)
        self._fit(tokens)
        room = min(request.sampling.max_new_tokens, self._limit - len(tokens))
        sampling = replace(request.sampling, max_new_tokens=room)
        constrain = await asyncio.to_thread(constraint_of, sampling, running.vocabulary) if sampling.extra else None
        inbox = _Inbox()
        job = Job(tokens, sampling, request.seeds, inbox.put, request.watch is not None, constrain)
        decoder = await self._decoder(running, job)
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
        decoder = await self._decoder(running, *jobs)
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

    async def _decoder(self, running: Engine, *jobs: Job) -> Decoder:
        if self.engine != "auto":
            decoder = await asyncio.to_thread(running.decoder, self.engine)
            decoder.submit(jobs)
            return decoder
        return await running.gather(jobs)

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


def _note(running: Engine, text: str, tokens: tuple[int, ...], leaf: Leaf) -> None:
    """Remember how the text with its completion, or any one token listed for it, is written in tokens."""
    if leaf.sampling.max_new_tokens == 1 and leaf.drawn and leaf.drawn[0].top:
        numbers, ends = running.vocabulary.numbers, running.vocabulary.ends
        for name in leaf.drawn[0].top:
            if numbers.get(name, -1) not in ends and name in numbers:
                running.wrote(text + name, (*tokens, numbers[name]))
        return
    readable = leaf.readable
    if readable is not None and readable[0]:
        running.wrote(text + readable[0], (*tokens, *readable[1]))


def _completion(running: Engine, leaf: Leaf, job: Job | None, seconds: float) -> Completion:
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
