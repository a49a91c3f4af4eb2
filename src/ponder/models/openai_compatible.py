"""Any endpoint that speaks the OpenAI protocol: vLLM, SGLang, llama-server, Ollama, hosted services.

Endpoints differ in what they honour. `n`, seeds, log-probabilities and prefix continuation count as unknown
until `ponder check` (or a study's pre-flight) has tried them. One connection pool serves a model; failures
that may pass are retried with growing, jittered pauses, and `Retry-After` is obeyed. An error is never
an answer, and neither is anything that does not have the protocol's shape. A stream that breaks off after
its first token is not begun again: its watcher has seen it, and what it cost is booked.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import orjson

from ponder.core.model import Capabilities, Completion, Finish, Model, Request
from ponder.core.registry import MODELS, arguments_for, canonical, model
from ponder.core.spec import Term
from ponder.errors import CapabilityError, EndpointError, ModelError, ParameterError, SpecError
from ponder.models._chat_template import chat_template, template_digest
from ponder.models._openai_answers import as_object, cached, completions, count
from ponder.models._openai_calls import Calls, Tries
from ponder.models._openai_streams import BrokenStreamError, Streamed, events

DEFAULT_URL = "https://api.openai.com/v1"
_MOST_PROMPTS = 4096
_DRAIN_S = 0.1
"""How long a finished stream may take to close, so that its connection can be used again."""


@model("openai", aliases=("openai_compatible",))
@dataclass(frozen=True)
class OpenAICompatible(Model):
    """A model behind an OpenAI-compatible endpoint.

    Args:
        served: the model's name at the endpoint.
        url: base URL, up to and including `/v1`.
        api: `chat` sends messages, `completions` sends text, `auto` sends each prompt as what it is.
        key_env: environment variable that holds the key; a key is sent only if it is set.
        timeout_s: for one request, from sending to its last byte.
        max_retries: further tries of a request whose failure may pass.
        max_concurrency: requests under way at once.
        max_n: largest `n` that one request asks for.
        n: whether the endpoint honours `n`; none is unknown.
        logprobs: whether it gives log-probabilities; none is unknown.
        prefix: how a partial answer is continued in a chat: `vllm` (continue_final_message), `assistant` (a last
            assistant message is continued, as llama-server does), `marked` (a last assistant message with
            `prefix: true`, as Mistral and DeepSeek want it), or `none`. Plain completions always can.
        template: sends chats as plain completions, so that a partial answer is continued whatever the server does with
            messages: `chatml`, or a file with the model's own chat template (Jinja, as in tokenizer_config.json).
        size: the model's shape, by which FLOPs and bytes are counted: `qwen3-8b`, or a path to its `config.json`; see
            `ponder.costs.ModelShape.read`.
    """

    served: str
    url: str = DEFAULT_URL
    api: Literal["auto", "chat", "completions"] = "auto"
    key_env: str = "OPENAI_API_KEY"
    timeout_s: float = 600.0
    max_retries: int = 5
    max_concurrency: int = 64
    max_n: int = 128
    n: bool | None = None
    logprobs: bool | None = None
    prefix: Literal["none", "vllm", "assistant", "marked"] = "none"
    template: str | None = None
    size: str | None = None
    first_pause_s: float = field(default=0.5, repr=False)

    name: ClassVar[str]
    if_not_found: ClassVar[str] = "Does the URL end in /v1? Where only chats are taken, plain prompts need api=chat."
    _calls: ClassVar[Calls]
    _known_prompts: ClassVar[dict[int, int]]

    def __post_init__(self) -> None:
        for name, least in (("timeout_s", 1e-9), ("max_retries", 0), ("max_concurrency", 1), ("max_n", 1)):
            if getattr(self, name) < least:
                raise ParameterError(self, name, getattr(self, name), allowed=f"a number ≥ {least:g}")
        if not self.url.startswith(("http://", "https://")):
            raise ParameterError(self, "url", self.url, allowed="a URL", hint="openai:MODEL@http://localhost:8000/v1")
        if "@" in self.url.partition("://")[2].partition("/")[0]:
            raise ParameterError(
                self, "url", "…", allowed="a URL without a user or key", hint=f"Put the key into ${self.key_env}"
            )
        if self.template is not None and self.api == "chat":
            raise ParameterError(
                self,
                "template",
                self.template,
                allowed="none with api=chat",
                hint="A server's chat uses its own template",
            )
        object.__setattr__(self, "url", self.url.rstrip("/"))
        if self.template is not None:
            chat_template(self.template)  # one that cannot be read is refused now
        plain = self.api == "completions" or self.template is not None
        if self.size is not None:
            from ponder.costs.shape import ModelShape

            object.__setattr__(self, "shape", ModelShape.read(self.size))
        capabilities = Capabilities(
            chat=self.api != "completions" or self.template is not None,
            plain=True,
            n=self.n,
            max_n=self.max_n,
            seeds=None,
            logprobs=self.logprobs,
            max_top_logprobs=20,
            prefix=True if plain else self.prefix != "none" or None,
            prompt_cache=None,
            images=False if plain else None,
        )
        object.__setattr__(self, "capabilities", capabilities)
        object.__setattr__(self, "_calls", Calls(self))
        object.__setattr__(self, "_known_prompts", {})

    @classmethod
    def from_term(cls, term: Term) -> OpenAICompatible:
        """Read `openai:MODEL@URL(…)`; without a URL, OpenAI's own."""
        if not term.locator:
            raise SpecError(term.source, term.position, "a model is expected: openai:MODEL@http://localhost:8000/v1")
        served, sign, url = term.locator.partition("@http")
        options = Term(term.name, None, term.arguments, term.positional, term.position, term.source)
        given = arguments_for(MODELS.entry("openai"), options, term.source)
        return cls(served, **{**({"url": f"http{url}"} if sign else {}), **given})

    def __str__(self) -> str:
        where = "" if self.url == DEFAULT_URL else f"@{self.url}"
        rest = [p for p in _options(self) if not p.startswith(("served=", "url="))]
        return str(Term("openai", self.served + where)) + (f"({', '.join(rest)})" if rest else "")

    @property
    def identity(self) -> str:
        """Name and URL; the endpoint may change its weights behind them, which nobody can see from here."""
        rendered = "" if self.template is None else f"/template {template_digest(self.template)}"
        return f"openai:{self.served}@{self.url}/{self.api}{rendered}"

    # ------------------------------------------------------------------ sampling

    async def sample(self, request: Request) -> AsyncIterator[tuple[int, Completion]]:
        """Completions of one request, or of one stream each if they are watched or raced."""
        path, body, chat = self._body(request)
        if request.watch is not None or request.stream:
            for position in range(request.n):
                yield (
                    position,
                    await self._stream(path, {**body, "seed": request.seeds[position]}, chat, request, position),
                )
            return
        tries = Tries()
        try:
            answer = await self._calls.ask(path, body, tries)
        except EndpointError as error:
            if request.n == 1 or self.n is not None or error.status not in (400, 422, 501):
                raise
            # Some servers refuse n > 1. If one choice is welcome, the scheduler learns that n is not.
            answer = await self._calls.ask(path, {k: v for k, v in body.items() if k != "n"}, tries)
        if not answer["choices"] and request.lost is not None:  # nothing came, but it was a request and may cost
            usage = as_object(answer.get("usage"))
            told = count(usage.get("prompt_tokens")), cached(usage), tries.sent, tries.seconds
            request.lost(request.offset, Completion("", 0, "cancelled", None, None, *told))
        for item in completions(answer, request, chat, tries.sent, tries.seconds):
            yield item

    async def aclose(self) -> None:
        """Close this event loop's connections."""
        await self._calls.aclose()

    def _body(self, request: Request) -> tuple[str, dict[str, Any], bool]:
        """Path and body of a request, and whether it is a chat."""
        sampling = request.sampling
        asked: Any = request.prompt
        if self.template is not None and not isinstance(asked, str):
            asked = chat_template(self.template)(asked)
        chat = self.api == "chat" or (self.api == "auto" and not isinstance(asked, str))
        body: dict[str, Any] = {
            "model": self.served,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            _length_name(self.url, chat): sampling.max_new_tokens,
            "seed": request.seeds[0],
        }
        if request.n > 1:
            body["n"] = request.n
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        body.update({k: v for k, v in (("top_k", sampling.top_k), ("min_p", sampling.min_p)) if v is not None})
        body.update(sampling.extra)
        if not chat:
            if not isinstance(asked, str):
                raise CapabilityError(
                    f"{self} takes plain text (api=completions), and the prompt is a chat; use api=chat, or say with "
                    "template=chatml (or a file) how its chats are written"
                )
            body["prompt"] = asked + request.prefix
            if sampling.logprobs is not None:
                body["logprobs"] = max(sampling.logprobs, 1)
            return "/completions", body, False
        messages: list[dict[str, Any]] = (
            [{"role": "user", "content": asked}] if isinstance(asked, str) else [dict(m) for m in asked]
        )
        if request.prefix:
            if self.prefix == "none":
                raise CapabilityError(
                    f"{self} is not known to continue a partial answer, which what works in steps needs; say how with "
                    "prefix=vllm|assistant|marked, or send chats as plain text (template=chatml or a file). "
                    "Where the server cannot, use strategies on whole answers (best_of_n, …) or a model in this process"
                )
            messages.append({"role": "assistant", "content": request.prefix})
            if self.prefix == "marked":
                messages[-1]["prefix"] = True
            if self.prefix == "vllm":
                body.update(continue_final_message=True, add_generation_prompt=False)
        body["messages"] = messages
        if sampling.logprobs is not None:
            body["logprobs"] = True
            if sampling.logprobs:
                body["top_logprobs"] = min(sampling.logprobs, 20)
        return "/chat/completions", body, True

    async def _stream(
        self, path: str, body: Mapping[str, Any], chat: bool, request: Request, position: int
    ) -> Completion:
        """One completion as server-sent events; closing the connection is what stops it."""
        import aiohttp

        index, tries = request.offset + position, Tries()
        streamed = Streamed(chat, request.sampling.logprobs, self._prompt_tokens(request))
        sent = {**body, "stream": True, "stream_options": {"include_usage": True}}
        sent.pop("n", None)
        settled = False
        try:
            while True:
                try:
                    finish = await self._streamed(path, sent, streamed, request, index, tries)
                    settled = True
                    break
                except BrokenStreamError as broken:
                    error = EndpointError(f"{self}: {self._calls.clean(str(broken))}")
                except (aiohttp.ClientError, TimeoutError, OSError) as failure:
                    error = EndpointError(f"{self}: the stream broke off: {type(failure).__name__}: {failure}")
                except ModelError:
                    settled = True
                    raise
                if streamed.tokens or tries.sent > self.max_retries:
                    raise error
                await asyncio.sleep(self._calls.pause(tries.sent - 1))
        finally:
            if not settled and tries.sent and request.lost is not None:
                request.lost(index, streamed.completion("cancelled", tries.sent, tries.seconds))
        self._remember(request, streamed.usage)
        return streamed.completion(finish, tries.sent, tries.seconds)

    async def _streamed(
        self, path: str, sent: Mapping[str, Any], streamed: Streamed, request: Request, index: int, tries: Tries
    ) -> Finish:
        """Read one stream to its end, or until the watcher ends it."""
        response = await self._calls.open(path, sent, tries)
        try:
            async with aclosing(events(response.content)) as arriving:
                async for event in arriving:
                    chunk = streamed.add(event, index)
                    if chunk is not None and request.watch is not None and request.watch(chunk):
                        return "stopped_early"
            if streamed.finish is None:
                raise BrokenStreamError("the stream ended before the completion did")
            with suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN_S):
                    await response.content.readany()
            return streamed.finish
        finally:
            response.close()

    def _prompt_tokens(self, request: Request) -> int:
        """Tokens of a prompt: as the endpoint counted them before, else one for four bytes.

        A stream tells its usage at its end, which a stream that is closed does not reach.
        """
        found = self._known_prompts.get(_prompt_key(request))
        return self.count_tokens(request.prompt) // 4 if found is None else found

    def _remember(self, request: Request, usage: Mapping[str, Any]) -> None:
        known = self._known_prompts
        if told := count(usage.get("prompt_tokens")):
            if len(known) >= _MOST_PROMPTS:
                known.clear()
            known[_prompt_key(request)] = told


def _prompt_key(request: Request) -> int:
    prompt = request.prompt
    return hash((prompt if isinstance(prompt, str) else orjson.dumps(prompt, default=str), request.prefix))


def _length_name(url: str, chat: bool) -> str:
    """OpenAI's own chat models have come to refuse `max_tokens`; other servers know nothing else."""
    return "max_completion_tokens" if chat and "://api.openai.com/" in url else "max_tokens"


def _options(model: OpenAICompatible) -> list[str]:
    inside = canonical(model).partition("(")[2].removesuffix(")")
    return inside.split(", ") if inside else []
