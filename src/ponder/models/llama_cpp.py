"""A GGUF file run in this process by llama.cpp, through the package `xllamacpp`.

Completions of one prompt share its evaluation, concurrent requests share batches, and a prompt (or the
beginning of one, such as its examples) that was seen lately is not evaluated again.

Seeds: completion i of a call draws with (the call's first seed + i), what it would draw alone with that
seed. llama.cpp's arithmetic rounds differently with the size of a batch and with how much of a prompt is
cached, and now and then that changes a token. `repeatable=true` rules it out: no prompt cache, one call at
a time, and so the same texts for the same call every time, at a fraction of the speed. What a study
has stored is never drawn again, so its results do not depend on this.

Log-probabilities are of the distribution before temperature and filters, one for each generated token,
the one that ends the text (or the stop text's) included. llama.cpp reports none for the parts of a
character that takes several tokens, such as an emoji; a completion with one carries no log-probability.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import orjson

from ponder.core.merge import merge
from ponder.core.model import Capabilities, Chunk, Completion, Finish, Request
from ponder.core.problem import Prompt
from ponder.core.registry import model
from ponder.errors import EndpointError, ParameterError
from ponder.models._gguf_model import GgufModel
from ponder.models._llama_server import Running, Settings, refusal, running
from ponder.models._local_model import too_long

_FINISH: dict[str, Finish] = {"eos": "stop", "word": "stop", "limit": "length"}
_LARGEST_EVENT = 1 << 24


@model("llamacpp", aliases=("llama_cpp",))
@dataclass(frozen=True)
class LlamaCpp(GgufModel):
    """A GGUF model in this process.

    Args:
        source: a name from `ponder models list`, or a path to a `.gguf` file.
        context: tokens of key-value cache, shared by all sequences under way; one sequence uses at most
            what the model was trained for.
        parallel: sequences decoded together.
        threads: processor threads; None takes all cores that this process may use.
        repeatable: the same call gives the same texts every time, slowly.
        batch_threads: threads that read prompts; None is as many as `threads`.
        batch: tokens of one logical batch.
        ubatch: tokens that are evaluated at once, at most `batch`.
        kv: kind of number in the key-value cache; `q8_0` and `q4_0` change what is written.
        flash: flash attention; `auto` leaves it to llama.cpp. A quantised cache needs it.
        unified: one cache for all sequences; without it each has `context / parallel` tokens of its own, and reads
            a prompt that others have read again.
        prompt_cache: prompts that were seen lately are not read again.
    """

    source: str
    context: int = 16384
    parallel: int = 32
    threads: int | None = None
    repeatable: bool = False
    batch_threads: int | None = None
    batch: int = 2048
    ubatch: int = 512
    kv: Literal["f16", "bf16", "f32", "q8_0", "q4_0"] = "f16"
    flash: Literal["auto", "on", "off"] = "auto"
    unified: bool = True
    prompt_cache: bool = True
    max_concurrency: int = field(default=32, init=False)

    name: ClassVar[str]

    def __post_init__(self) -> None:
        if self.batch_threads is not None and self.batch_threads < 1:
            raise ParameterError(self, "batch_threads", self.batch_threads, allowed="an integer ≥ 1 or none")
        if not 1 <= self.ubatch <= self.batch:
            raise ParameterError(self, "ubatch", self.ubatch, allowed=f"an integer from 1 to batch={self.batch}")
        if self.flash == "off" and self.kv.startswith("q"):
            raise ParameterError(self, "flash", self.flash, allowed=f"auto or on, because of kv={self.kv}")
        found, limit = self.checked_shape()
        if not self.unified:
            limit = min(limit, self.context // self.parallel)
        can = Capabilities(
            max_n=self.parallel,
            logprobs=True,
            max_top_logprobs=100,
            prefix=True,
            prompt_cache=self._keeps_prompts,
            context_tokens=limit,
        )
        object.__setattr__(self, "shape", found)
        object.__setattr__(self, "capabilities", can)
        object.__setattr__(self, "max_concurrency", self.parallel)

    def count_tokens(self, prompt: Prompt) -> int:
        """The exact number, chat template included (loads the model if it is not)."""
        server = self._running()
        return len(server.tokens(server.text(prompt)))

    async def sample(self, request: Request) -> AsyncIterator[tuple[int, Completion]]:
        """Completions as they end; those of one call share the prompt's evaluation.

        Watched or raced ones are streams of their own, each with its own seed, so that one can be
        stopped without the others.
        """
        server = await asyncio.to_thread(self._running)
        tokens = server.tokens(server.text(request.prompt) + request.prefix)
        limit = self.capabilities.context_tokens or self.context
        if len(tokens) >= limit:
            raise too_long(str(self), len(tokens), limit)
        length = min(request.sampling.max_new_tokens, limit - len(tokens))
        together = min(self.parallel, max(1, (self.context - len(tokens)) // length))
        if request.watch is not None or request.stream:
            together = 1
        parts = [range(i, min(i + together, request.n)) for i in range(0, request.n, together)]
        calls = [self._call(server, request, tokens, length, part) for part in parts]
        async with aclosing(merge(calls)) as merged:
            async for item in merged:
                yield item

    # ------------------------------------------------------------------ one call

    def _settings(self) -> Settings:
        return Settings(
            self.path.resolve(), self.context, self.parallel, self.threads, self.batch_threads, self.batch, self.ubatch,
            self.kv, self.flash, self.unified,
        )  # fmt: skip

    @property
    def _keeps_prompts(self) -> bool:
        return self.prompt_cache and not self.repeatable

    def _running(self) -> Running:
        return running(self._settings())

    def _body(self, request: Request, tokens: Sequence[int], length: int, part: range) -> bytes:
        sampling = request.sampling
        body = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or 0,
            "min_p": sampling.min_p or 0.0,
            "samplers": ["temperature", "top_k", "top_p", "min_p"],
            "cache_prompt": self._keeps_prompts,
            **dict(sampling.extra),
            "prompt": tokens,
            "n_cmpl": len(part),
            "n_predict": length,
            "seed": request.seeds[part.start],
            "stop": list(sampling.stop),
            "n_probs": 0 if sampling.logprobs is None else max(sampling.logprobs, 1),
            "post_sampling_probs": False,
            "stream": True,
            "return_progress": False,
            "timings_per_token": len(part) == 1,
        }
        return orjson.dumps(body)

    async def _call(
        self, server: Running, request: Request, tokens: Sequence[int], length: int, part: range
    ) -> AsyncIterator[tuple[int, Completion]]:
        """Completions of the positions in `part`, always streamed: only so does hanging up stop the work."""
        growing = {i: _Growing(request, i == part.start, len(part)) for i in part}
        slots = self.parallel if self.repeatable else len(part)
        try:
            async with server.room.take(slots, len(tokens) + len(part) * length):
                growing[part.start].prompt_tokens = len(tokens)
                async with aclosing(_events(server, self._body(request, tokens, length, part), str(self))) as events:  # type: ignore[type-var]
                    async for event in events:
                        position = part.start + int(event["index"])
                        one = growing[position]
                        if event.get("stop"):
                            del growing[position]
                            yield position, one.ended(event)
                            continue
                        chunk = one.add(event, request.offset + position)
                        if request.watch is not None and request.watch(chunk):
                            del growing[position]
                            yield position, one.completion("stopped_early")
                            return
        except (asyncio.CancelledError, GeneratorExit):
            if request.lost is not None:
                for position, one in growing.items():
                    request.lost(request.offset + position, one.completion("cancelled"))
            raise
        if growing:
            raise EndpointError(f"{self}: the stream ended before {len(growing)} of {len(part)} completions did")


class _Growing:
    """A completion under way.

    Args:
        request: what it answers.
        first: whether it carries the prompt's cost.
        share: how many completions the call has; each is charged its part of the time.
    """

    def __init__(self, request: Request, first: bool, share: int) -> None:
        self.wanted = request.sampling.logprobs
        self.first, self.share = first, share
        self.pieces: list[str] = []
        self.tokens: list[str] = []
        self.logprobs: list[float] = []
        self.tops: list[Mapping[str, float]] = []
        self.n_tokens = self.prompt_tokens = self.cached_tokens = 0
        self.started = time.monotonic()

    def add(self, event: Mapping[str, Any], index: int) -> Chunk:
        """Take in one event: a token, or the last of several that make a character."""
        new = int(event.get("tokens_predicted", self.n_tokens + 1)) - self.n_tokens
        self.n_tokens += new
        text = str(event.get("content", ""))
        self.pieces.append(text)
        self._note_cached(event)
        seen = list(_alternatives(event)) if self.wanted is not None else []
        for token, logprob, top in seen:
            self.tokens.append(token)
            self.logprobs.append(logprob)
            self.tops.append(top)
        if len(seen) != new:
            return Chunk(index, text, new)
        logprobs = tuple(logprob for _, logprob, _ in seen)
        return Chunk(index, text, new, logprobs, tuple(top for *_, top in seen) if self.wanted else None)

    def ended(self, event: Mapping[str, Any]) -> Completion:
        """The completion, by the event that ends it."""
        self.pieces.append(str(event.get("content", "")))
        self.n_tokens = int(event.get("tokens_predicted", self.n_tokens))
        self._note_cached(event)
        kind = str(event.get("stop_type", "none"))
        reason = {"word": str(event.get("stopping_word", "")), "eos": ""}.get(kind)
        return self.completion(_FINISH.get(kind, "stop"), reason)

    def completion(self, finish: Finish, reason: str | None = None) -> Completion:
        """What there is so far."""
        known = self.wanted is not None and len(self.logprobs) == self.n_tokens
        known = known and not any(map(math.isnan, self.logprobs))
        return Completion(
            "".join(self.pieces),
            self.n_tokens,
            finish,
            reason,
            logprob=math.fsum(self.logprobs) if known else None,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            requests=int(self.first and self.prompt_tokens > 0),
            seconds=(time.monotonic() - self.started) / self.share,
            tokens=tuple(self.tokens) if known else None,
            token_logprobs=tuple(self.logprobs) if known else None,
            top_logprobs=tuple(self.tops) if known and self.wanted else None,
        )

    def _note_cached(self, event: Mapping[str, Any]) -> None:
        timings = event.get("timings")
        if timings and self.first:
            self.cached_tokens = min(int(timings.get("cache_n", 0)), self.prompt_tokens)


def _alternatives(event: Mapping[str, Any]) -> Iterator[tuple[str, float, Mapping[str, float]]]:
    """Per token its text, its log-probability (NaN if there is none) and the most likely ones' by text.

    Tokens that share a text, as incomplete characters do, count as the likeliest of them.
    """
    for token in event.get("completion_probabilities") or ():
        top: dict[str, float] = {}
        for other in token.get("top_logprobs", ()):
            if other.get("logprob") is not None:
                top[other["token"]] = max(float(other["logprob"]), top.get(other["token"], -math.inf))
        logprob = token.get("logprob")
        yield token["token"], math.nan if logprob is None else float(logprob), top


async def _events(server: Running, body: bytes, who: str) -> AsyncIterator[Mapping[str, Any]]:
    """What the server sends; leaving the loop hangs up, and it stops generating within a step.

    A session belongs to one event loop, and several loops may share a server; opening one for each call
    costs far less than a token does.
    """
    import aiohttp

    try:
        async with (
            aiohttp.ClientSession(
                server.address, timeout=aiohttp.ClientTimeout(total=None), read_bufsize=_LARGEST_EVENT
            ) as session,
            session.post("/completion", data=body, headers=server.headers) as response,
        ):
            try:
                if response.status != 200:
                    raise refusal(await response.read(), who)
                async for line in response.content:
                    if not line.startswith((b"data: {", b"error: {")):
                        continue
                    event = orjson.loads(line.partition(b": ")[2])
                    if "error" in event:
                        raise refusal(orjson.dumps(event), who)
                    yield event
            finally:
                response.close()
    except aiohttp.ClientError as error:
        raise EndpointError(f"{who}: the model's server broke off: {error}") from error
