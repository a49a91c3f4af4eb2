"""Any endpoint that speaks the OpenAI protocol: vLLM, SGLang, llama-server, Ollama, hosted services.

Endpoints differ in what they honour. `n`, seeds, log-probabilities and prefix continuation count as unknown
until `ponder check` (or a study's pre-flight) has tried them. One connection pool serves a model; failures
that may pass are retried with growing, jittered pauses, and `Retry-After` is obeyed. An error is never
an answer.
"""

from __future__ import annotations

import asyncio
import codecs
import errno
import math
import os
import random
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar, Literal

import orjson

from ponder.core.model import Capabilities, Chunk, Completion, Finish, Model, Request
from ponder.core.registry import MODELS, arguments_for, canonical, model
from ponder.core.spec import Term
from ponder.errors import (
    AuthenticationError,
    CapabilityError,
    ContextLengthError,
    EndpointError,
    ModelError,
    ParameterError,
    SpecError,
)

DEFAULT_URL = "https://api.openai.com/v1"
_PASSING = frozenset({408, 409, 425, 429})
_REFUSED = frozenset({errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH})
_LONGEST_PAUSE_S = 60.0
_MOST_PROMPTS = 4096
_FINISH: dict[str, Finish] = {"stop": "stop", "length": "length", "eos": "stop", "tool_calls": "stop"}


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
        prefix: how a partial answer is continued: `vllm` (continue_final_message), `assistant` (a last
            assistant message is continued, as llama-server does), or `none`. Plain completions always can.
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
    prefix: Literal["none", "vllm", "assistant"] = "none"
    first_pause_s: float = field(default=0.5, repr=False)

    name: ClassVar[str]

    def __post_init__(self) -> None:
        for name, least in (("timeout_s", 1e-9), ("max_retries", 0), ("max_concurrency", 1), ("max_n", 1)):
            if getattr(self, name) < least:
                raise ParameterError(self, name, getattr(self, name), allowed=f"a number ≥ {least:g}")
        if not self.url.startswith(("http://", "https://")):
            raise ParameterError(self, "url", self.url, allowed="a URL", hint="openai:MODEL@http://localhost:8000/v1")
        capabilities = Capabilities(
            chat=self.api != "completions",
            plain=True,
            n=self.n,
            max_n=self.max_n,
            seeds=None,
            logprobs=self.logprobs,
            max_top_logprobs=20,
            prefix=True if self.api == "completions" else self.prefix != "none" or None,
            prompt_cache=None,
        )
        object.__setattr__(self, "capabilities", capabilities)
        object.__setattr__(self, "_sessions", {})
        object.__setattr__(self, "_known_prompts", {})

    @classmethod
    def from_term(cls, term: Term) -> OpenAICompatible:
        """Read `openai:MODEL@URL(…)`; without a URL, OpenAI's own."""
        if not term.locator:
            raise SpecError(term.source, term.position, "a model is expected: openai:MODEL@http://localhost:8000/v1")
        served, sign, url = term.locator.partition("@http")
        options = Term(term.name, None, term.arguments, term.positional, term.position, term.source)
        given = arguments_for(MODELS.entry("openai"), options, term.source)
        return cls(served, **{**({"url": f"http{url}".rstrip("/")} if sign else {}), **given})

    def __str__(self) -> str:
        where = "" if self.url == DEFAULT_URL else f"@{self.url}"
        rest = [p for p in _options(self) if not p.startswith(("served=", "url="))]
        return str(Term("openai", self.served + where)) + (f"({', '.join(rest)})" if rest else "")

    @property
    def identity(self) -> str:
        """Name and URL; the endpoint may change its weights behind them, which nobody can see from here."""
        return f"openai:{self.served}@{self.url}/{self.api}"

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
        started = time.monotonic()
        answer = await self._retried(lambda: self._post(path, body))
        for position, completion in _completions(answer, request, chat, time.monotonic() - started):
            yield position, completion

    async def aclose(self) -> None:
        """Close this event loop's connections."""
        session = self._sessions.pop(id(asyncio.get_running_loop()), None)  # type: ignore[attr-defined]
        if session is not None:
            await session.close()

    def _body(self, request: Request) -> tuple[str, dict[str, Any], bool]:
        """Path and body of a request, and whether it is a chat."""
        sampling = request.sampling
        chat = self.api == "chat" or (self.api == "auto" and not isinstance(request.prompt, str))
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
            if not isinstance(request.prompt, str):
                raise CapabilityError(
                    f"{self} takes plain text (api=completions), and the prompt is a chat; use api=chat"
                )
            body["prompt"] = request.prompt + request.prefix
            if sampling.logprobs is not None:
                body["logprobs"] = max(sampling.logprobs, 1)
            return "/completions", body, False
        asked = request.prompt
        messages = [{"role": "user", "content": asked}] if isinstance(asked, str) else [dict(m) for m in asked]
        if request.prefix:
            if self.prefix == "none":
                raise CapabilityError(
                    f"{self} is not known to continue a partial answer; say how with prefix=vllm|assistant"
                )
            messages.append({"role": "assistant", "content": request.prefix})
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

        index, started = request.offset + position, time.monotonic()
        streamed = _Streamed(chat, request.sampling.logprobs, self._prompt_tokens(request))
        sent = {**body, "stream": True, "stream_options": {"include_usage": True}}
        sent.pop("n", None)
        opened = whole = False
        try:
            response = await self._retried(lambda: self._open(path, sent))
            opened = True
            try:
                async with aclosing(_events(response.content)) as events:
                    async for event in events:
                        chunk = streamed.add(event, index)
                        if chunk is not None and request.watch is not None and request.watch(chunk):
                            whole = True
                            return streamed.completion("stopped_early", time.monotonic() - started)
            finally:
                response.close()
            if streamed.finish is None:
                raise _Broken("the stream ended before the completion did")
            whole = True
        except _Broken as broken:
            raise EndpointError(f"{self}: {broken}") from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise EndpointError(f"{self}: the stream broke off: {type(error).__name__}: {error}") from error
        finally:
            if opened and not whole and request.lost is not None:
                request.lost(index, streamed.completion("cancelled", time.monotonic() - started))
        self._remember(request, streamed.usage)
        return streamed.completion(streamed.finish, time.monotonic() - started)

    async def _open(self, path: str, body: Mapping[str, Any]) -> Any:
        """A response whose body is still to come."""
        session = await self._session()
        response = await session.post(self.url + path, data=orjson.dumps(body))
        if response.status == 200:
            return response
        async with response:
            raise self._error(response.status, response.headers, await response.read())

    def _prompt_tokens(self, request: Request) -> int:
        """Tokens of a prompt: as the endpoint counted them before, else one for four bytes.

        A stream tells its usage at its end, which a stream that is closed does not reach.
        """
        known: dict[int, int] = self._known_prompts  # type: ignore[attr-defined]
        found = known.get(_prompt_key(request))
        return self.count_tokens(request.prompt) // 4 if found is None else found

    def _remember(self, request: Request, usage: Mapping[str, Any]) -> None:
        known: dict[int, int] = self._known_prompts  # type: ignore[attr-defined]
        if count := usage.get("prompt_tokens"):
            if len(known) >= _MOST_PROMPTS:
                known.clear()
            known[_prompt_key(request)] = int(count)

    # ------------------------------------------------------------------ requests

    async def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        session = await self._session()
        async with session.post(self.url + path, data=orjson.dumps(body)) as response:
            raw = await response.read()
            if response.status != 200:
                raise self._error(response.status, response.headers, raw)
        try:
            answer = orjson.loads(raw)
        except orjson.JSONDecodeError:
            raise _Passing(EndpointError(f"{self}: the answer is not JSON: {raw[:120]!r}", status=200)) from None
        if not isinstance(answer, dict) or not isinstance(answer.get("choices"), list):
            said = answer.get("error") if isinstance(answer, dict) else None
            raise _Passing(EndpointError(f"{self}: the answer has no choices: {said or raw[:120]!r}", status=200))
        return answer

    async def _retried(self, call: Any) -> Any:
        """Call until it succeeds, fails for good, or has failed too often."""
        import aiohttp

        pause = self.first_pause_s
        for attempt in range(self.max_retries + 1):
            wait: float | None = None
            try:
                return await call()
            except _Passing as passing:
                error: ModelError = passing.error
                wait = passing.wait_s
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as failure:
                if isinstance(failure, aiohttp.ClientConnectorError) and _is_nobody_there(failure.os_error):
                    raise EndpointError(
                        f"{self}: nothing answers at {self.url} ({failure.os_error or failure}). Start the server "
                        f"(for example: vllm serve {self.served}), or check the URL (it usually ends in /v1).",
                        fatal=True,
                    ) from None
                what = (
                    "no answer in time" if isinstance(failure, TimeoutError) else str(failure) or type(failure).__name__
                )
                error = EndpointError(f"{self}: {what} (timeout_s={self.timeout_s:g})")
            if attempt == self.max_retries:
                raise error
            if wait is None:
                wait = min(pause * (0.5 + random.random()), _LONGEST_PAUSE_S)
            await asyncio.sleep(min(wait, max(self.timeout_s, _LONGEST_PAUSE_S)))
            pause *= 2
        raise AssertionError("unreachable")

    def _error(self, status: int, headers: Mapping[str, str], raw: bytes) -> Exception:
        """The exception that an HTTP status stands for."""
        said = _said(raw)
        if secret := os.environ.get(self.key_env):
            said = said.replace(secret, f"${self.key_env}")
        if status in (401, 403):
            has = "is refused" if os.environ.get(self.key_env) else "is not set"
            return AuthenticationError(
                f"{self}: HTTP {status}: {said}. The key in ${self.key_env} {has}.", status=status, fatal=True
            )
        if status == 404:
            return EndpointError(
                f"{self}: HTTP 404: {said}. Is {self.served!r} served there, and does the URL end in /v1?",
                status=404,
                fatal=True,
            )
        lowered = said.lower()
        if (
            status in (400, 413, 422)
            and "context" in lowered
            and ("length" in lowered or "size" in lowered or "exceed" in lowered)
        ):
            return ContextLengthError(f"{self}: {said}")
        error = EndpointError(f"{self}: HTTP {status}: {said}", status=status)
        return _Passing(error, _retry_after(headers)) if status in _PASSING or status >= 500 else error

    async def _session(self) -> Any:
        """One connection pool per event loop."""
        import aiohttp

        sessions: dict[int, Any] = self._sessions  # type: ignore[attr-defined]
        key = id(asyncio.get_running_loop())
        if key not in sessions or sessions[key].closed:
            headers = {"Content-Type": "application/json"}
            if secret := os.environ.get(self.key_env):
                headers["Authorization"] = f"Bearer {secret}"
            sessions[key] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=self.timeout_s),
                headers=headers,
            )
        return sessions[key]


def _is_nobody_there(error: OSError | None) -> bool:
    """Whether trying again in a moment would find the same: no such host, or no server at the port."""
    return isinstance(error, socket.gaierror) or (error is not None and error.errno in _REFUSED)


class _Passing(Exception):
    """A failure that may pass, and how long to wait if the endpoint said so."""

    def __init__(self, error: EndpointError, wait_s: float | None = None) -> None:
        self.error, self.wait_s = error, wait_s
        super().__init__(str(error))


class _Broken(Exception):
    """A stream that cannot be read to its end."""


class _Streamed:
    """What a stream has brought so far."""

    def __init__(self, chat: bool, wanted: int | None, prompt_tokens: int) -> None:
        self.chat, self.wanted, self.prompt_guess = chat, wanted, prompt_tokens
        self.pieces: list[str] = []
        self.logprobs: list[float] = []
        self.tops: list[Mapping[str, float]] = []
        self.tokens = 0
        self.usage: Mapping[str, Any] = {}
        self.finish: Finish | None = None
        self.reason: str | None = None

    @property
    def n_tokens(self) -> int:
        """As the endpoint counts, or one for each piece until it says."""
        return int(self.usage.get("completion_tokens") or self.tokens)

    def add(self, event: Mapping[str, Any], index: int) -> Chunk | None:
        """Take in one event; the chunk it brings, if it brings text."""
        if "error" in event:
            raise _Broken(f"the stream reported an error: {str(event['error'])[:200]}")
        self.usage = event.get("usage") or self.usage
        for choice in event.get("choices") or ():
            piece = ((choice.get("delta") or {}).get("content") if self.chat else choice.get("text")) or ""
            new, tops = _logprobs(choice, self.chat, self.wanted)
            if choice.get("finish_reason"):
                self.finish = _FINISH.get(choice["finish_reason"], "stop")
                self.reason = _stop_reason(choice)
            if piece or new:
                count = len(new) or 1
                self.pieces.append(piece)
                self.logprobs += new
                self.tops += tops
                self.tokens += count
                return Chunk(index, piece, count, tuple(new) if new else None, tuple(tops) if tops else None)
        return None

    def completion(self, finish: Finish, seconds: float) -> Completion:
        """What there is, as a completion."""
        return Completion(
            "".join(self.pieces),
            self.n_tokens,
            finish,
            self.reason,
            logprob=math.fsum(self.logprobs) if self.logprobs else None,
            prompt_tokens=int(self.usage.get("prompt_tokens") or self.prompt_guess),
            cached_tokens=_cached(self.usage),
            requests=1,
            seconds=seconds,
            token_logprobs=tuple(self.logprobs) if self.logprobs else None,
            top_logprobs=tuple(self.tops) if self.tops else None,
        )


def _completions(
    answer: Mapping[str, Any], request: Request, chat: bool, seconds: float
) -> list[tuple[int, Completion]]:
    """The choices of an answer; those without text are failed ones."""
    usage = answer.get("usage") or {}
    choices = sorted(answer["choices"], key=lambda choice: choice.get("index") or 0)[: request.n]
    wanted = request.sampling.logprobs
    parsed = [_logprobs(choice, chat, wanted) for choice in choices]
    texts = [((choice.get("message") or {}).get("content") if chat else choice.get("text")) for choice in choices]
    counts = _share_tokens(int(usage.get("completion_tokens") or 0), texts, [len(p[0]) for p in parsed])
    out = []
    for i, (choice, text, (logprobs, tops), count) in enumerate(zip(choices, texts, parsed, counts, strict=True)):
        first = i == 0
        out.append(
            (
                i,
                Completion(
                    text if isinstance(text, str) else "",
                    count,
                    _FINISH.get(choice.get("finish_reason") or "stop", "stop") if isinstance(text, str) else "error",
                    _stop_reason(choice),
                    logprob=math.fsum(logprobs) if logprobs else None,
                    prompt_tokens=int(usage.get("prompt_tokens") or 0) if first else 0,
                    cached_tokens=_cached(usage) if first else 0,
                    requests=1 if first else 0,
                    seconds=seconds / len(choices),
                    token_logprobs=tuple(logprobs) if logprobs else None,
                    top_logprobs=tuple(tops) if tops else None,
                    error=None if isinstance(text, str) else "EndpointError: the choice has no text",
                ),
            )
        )
    return out


def _prompt_key(request: Request) -> int:
    prompt = request.prompt
    return hash((prompt if isinstance(prompt, str) else orjson.dumps(prompt, default=str), request.prefix))


def _length_name(url: str, chat: bool) -> str:
    """OpenAI's own chat models have come to refuse `max_tokens`; other servers know nothing else."""
    return "max_completion_tokens" if chat and "://api.openai.com/" in url else "max_tokens"


def _share_tokens(total: int, texts: list[Any], seen: list[int]) -> list[int]:
    """Tokens of each choice: those seen if they add up, else the total in proportion to length, to the token.

    An endpoint that tells neither usage nor log-probabilities is taken to need a token for four bytes.
    """
    if sum(seen) == total and total:
        return seen
    if not total:
        return [
            count or (-(-len(text.encode("utf-8", "replace")) // 4) if isinstance(text, str) else 0)
            for count, text in zip(seen, texts, strict=True)
        ]
    lengths = [len(t) if isinstance(t, str) else 0 for t in texts]
    weights = lengths if sum(lengths) else [1] * len(texts)
    ends, running = [], 0
    for weight in weights:
        running += weight
        ends.append(round(total * running / sum(weights)))
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def _logprobs(
    choice: Mapping[str, Any], chat: bool, wanted: int | None
) -> tuple[list[float], list[Mapping[str, float]]]:
    """Log-probabilities in either shape of the protocol; a missing number is NaN."""
    found = choice.get("logprobs")
    if wanted is None or not found:
        return [], []
    if isinstance(found.get("content"), list):
        chosen = [_float(t.get("logprob")) for t in found["content"]]
        tops: list[Mapping[str, float]] = [
            {a["token"]: _float(a.get("logprob")) for a in t.get("top_logprobs") or ()} for t in found["content"]
        ]
    else:
        chosen = [_float(x) for x in found.get("token_logprobs") or ()]
        tops = [{k: _float(v) for k, v in (t or {}).items()} for t in found.get("top_logprobs") or ()]
    return chosen, tops if wanted else []


def _float(value: Any) -> float:
    return math.nan if value is None else float(value)


def _stop_reason(choice: Mapping[str, Any]) -> str | None:
    """Some servers (vLLM) name the stop text (or the id of the token) that ended a choice."""
    if "stop_reason" not in choice:
        return None
    reason = choice["stop_reason"]
    return reason if isinstance(reason, str) else ""


def _cached(usage: Mapping[str, Any]) -> int:
    return int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)


async def _events(content: Any) -> AsyncGenerator[Mapping[str, Any], None]:
    """Server-sent events as objects, however the bytes were cut."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    buffer = ""
    raw = b"\n"
    while raw:
        raw = await content.readany()
        buffer += decoder.decode(raw) if raw else "\n"
        *lines, buffer = buffer.split("\n")
        for line in lines:
            if not line.startswith("data:"):
                continue
            data = line[5:].strip()
            if data == "[DONE]":
                return
            try:
                yield orjson.loads(data)
            except orjson.JSONDecodeError:
                raise _Broken(f"an event of the stream is not JSON: {data[:120]!r}") from None


def _said(raw: bytes) -> str:
    """The message in an error's body, in one line."""
    try:
        body = orjson.loads(raw)
        error = body.get("error", body) if isinstance(body, dict) else body
        text = error.get("message", error) if isinstance(error, dict) else error
    except orjson.JSONDecodeError:
        text = raw.decode("utf-8", "replace")
    return " ".join(str(text).split())[:300]


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from a number or a date."""
    value = headers.get("Retry-After")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _options(model: OpenAICompatible) -> list[str]:
    inside = canonical(model).partition("(")[2].removesuffix(")")
    return inside.split(", ") if inside else []
