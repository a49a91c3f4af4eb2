"""Any endpoint that speaks the OpenAI protocol: vLLM, SGLang, llama-server, Ollama, hosted services.

Endpoints differ in what they honour. `n`, seeds, log-probabilities and prefix continuation count as unknown
until `ponder check` (or a study's pre-flight) has tried them. One connection pool serves a model; failures
that may pass are retried with growing, jittered pauses, and `Retry-After` is obeyed. An error is never
an answer, and neither is anything that does not have the protocol's shape. A stream that breaks off after
its first token is not begun again: its watcher has seen it, and what it cost is booked.
"""

from __future__ import annotations

import asyncio
import codecs
import errno
import json
import math
import os
import random
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar, Literal, TypeVar

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

_T = TypeVar("_T")

DEFAULT_URL = "https://api.openai.com/v1"
_PASSING = frozenset({408, 409, 425, 429})
_REFUSED = frozenset({errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH})
_LONGEST_PAUSE_S = 60.0
_MOST_PROMPTS = 4096
_DRAIN_S = 0.1
"""How long a finished stream may take to close, so that its connection can be used again."""
_LENGTHS = ("length", "max_tokens")
_NO_FINISH = ("content_filter", "error", "abort")


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
        if "@" in self.url.partition("://")[2].partition("/")[0]:
            raise ParameterError(
                self, "url", "…", allowed="a URL without a user or key", hint=f"Put the key into ${self.key_env}"
            )
        object.__setattr__(self, "url", self.url.rstrip("/"))
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
        object.__setattr__(self, "_met", set())

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
        tries = _Tries()
        try:
            answer = await self._retried(lambda: self._post(path, body), tries)
        except EndpointError as error:
            if request.n == 1 or self.n is not None or error.status not in (400, 422, 501):
                raise
            # Some servers refuse n > 1. If one choice is welcome, the scheduler learns that n is not.
            answer = await self._retried(lambda: self._post(path, {k: v for k, v in body.items() if k != "n"}), tries)
        if not answer["choices"] and request.lost is not None:  # nothing came, but it was a request and may cost
            usage = _object(answer.get("usage"))
            prompt_tokens, cached = _count(usage.get("prompt_tokens")), _cached(usage)
            request.lost(
                request.offset,
                Completion("", 0, "cancelled", None, None, prompt_tokens, cached, tries.sent, tries.seconds),
            )
        for position, completion in _completions(answer, request, chat, tries):
            yield position, completion

    async def aclose(self) -> None:
        """Close this event loop's connections."""
        _, session = self._sessions.pop(id(asyncio.get_running_loop()), (None, None))  # type: ignore[attr-defined]
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

        index, tries = request.offset + position, _Tries()
        streamed = _Streamed(chat, request.sampling.logprobs, self._prompt_tokens(request), tries)
        sent = {**body, "stream": True, "stream_options": {"include_usage": True}}
        sent.pop("n", None)
        settled = False
        try:
            while True:
                try:
                    finish = await self._streamed(path, sent, streamed, request, index)
                    settled = True
                    break
                except _Broken as broken:
                    error = EndpointError(f"{self}: {self._clean(str(broken))}")
                except (aiohttp.ClientError, TimeoutError, OSError) as failure:
                    error = EndpointError(f"{self}: the stream broke off: {type(failure).__name__}: {failure}")
                except ModelError:
                    settled = True
                    raise
                if streamed.tokens or tries.sent > self.max_retries:
                    raise error
                await asyncio.sleep(self._pause(tries.sent - 1))
        finally:
            if not settled and tries.sent and request.lost is not None:
                request.lost(index, streamed.completion("cancelled"))
        self._remember(request, streamed.usage)
        return streamed.completion(finish)

    async def _streamed(
        self, path: str, sent: Mapping[str, Any], streamed: _Streamed, request: Request, index: int
    ) -> Finish:
        """Read one stream to its end, or until the watcher ends it."""
        response = await self._retried(lambda: self._open(path, sent), streamed.tries)
        try:
            async with aclosing(_events(response.content)) as events:
                async for event in events:
                    chunk = streamed.add(event, index)
                    if chunk is not None and request.watch is not None and request.watch(chunk):
                        return "stopped_early"
            if streamed.finish is None:
                raise _Broken("the stream ended before the completion did")
            with suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN_S):
                    await response.content.readany()
            return streamed.finish
        finally:
            response.close()

    async def _open(self, path: str, body: Mapping[str, Any]) -> Any:
        """A response whose body is still to come."""
        session = self._session()
        response = await session.post(self.url + path, data=orjson.dumps(body))
        if response.status == 200 and response.content_type != "application/json":
            return response
        async with response:
            raw = await response.read()
            if response.status != 200:
                raise self._error(response.status, response.headers, raw)
            self._answer(raw, response.headers)
            raise EndpointError(f"{self}: the endpoint does not stream (it sent a whole answer)", status=200)

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

    async def _post(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        async with self._session().post(self.url + path, data=orjson.dumps(body)) as response:
            raw = await response.read()
            if response.status != 200:
                raise self._error(response.status, response.headers, raw)
        return self._answer(raw, response.headers)

    def _answer(self, raw: bytes, headers: Mapping[str, str]) -> Mapping[str, Any]:
        """The object that a body holds, if it is an answer at all.

        Choices without any text of which the endpoint does not say that they cost something are garbage, too.
        """
        try:
            answer = _loads(raw)
        except ValueError:
            raise self._garbage("it is not JSON", raw) from None
        if not isinstance(answer, dict):
            raise self._garbage("it is not an object", raw)
        if said := answer.get("error"):
            code = said.get("code") if isinstance(said, dict) else None
            if isinstance(code, int) and 400 <= code < 600:
                raise self._error(code, headers, raw)
            raise _Passing(EndpointError(f"{self}: {self._clean(_said(raw))}", status=200), _retry_after(headers))
        choices = answer.get("choices")
        if not isinstance(choices, list):
            raise self._garbage("it has no choices", raw)
        free = not _count(_object(answer.get("usage")).get("completion_tokens"))
        if choices and free and all(_choice_text(_object(c), k) is None for c in choices for k in (True, False)):
            raise self._garbage("no choice has text", raw)
        return answer

    def _garbage(self, why: str, raw: bytes) -> _Passing:
        start = self._clean(raw[:120].decode("utf-8", "replace"))
        return _Passing(EndpointError(f"{self}: garbage instead of an answer ({why}): {start!r}", status=200))

    async def _retried(self, call: Callable[[], Awaitable[_T]], tries: _Tries) -> _T:
        """Call until it succeeds, fails for good, or has failed too often."""
        import aiohttp

        met: set[int] = self._met  # type: ignore[attr-defined]
        while True:
            wait: float | None = None
            gone = False
            tries.sent += 1
            try:
                got = await call()
                met.add(1)
                return got
            except _Passing as passing:
                error: ModelError = passing.error
                wait = passing.wait_s
            except ModelError as failure:
                failure.requests = tries.sent
                raise
            except (aiohttp.InvalidURL, aiohttp.ClientSSLError) as failure:
                raise EndpointError(f"{self}: {self.url} cannot be used: {failure}", fatal=True) from None
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as failure:
                if gone := isinstance(failure, aiohttp.ClientConnectorError) and _is_nobody_there(failure.os_error):
                    tries.sent -= 1
                    tries.unsent += 1
                    error = self._nobody(failure)
                else:
                    what = "no answer in time" if isinstance(failure, TimeoutError) else str(failure)
                    error = EndpointError(f"{self}: {what or type(failure).__name__} (timeout_s={self.timeout_s:g})")
            # Who has answered before may be starting again; where nobody ever did, waiting is of no use.
            if tries.all > self.max_retries or (gone and not met):
                error.requests = tries.sent
                raise error
            await asyncio.sleep(self._pause(tries.all - 1) if wait is None else min(wait, self._longest_pause()))

    def _nobody(self, failure: Any) -> EndpointError:
        return EndpointError(
            f"{self}: nothing answers at {self.url} ({failure.os_error or failure}). Start the server "
            f"(for example: vllm serve {self.served}), or check the URL (it usually ends in /v1).",
            fatal=True,
        )

    def _pause(self, attempt: int) -> float:
        """Doubling, jittered by half, at most a minute."""
        return min(self.first_pause_s * 2.0**attempt * (0.5 + random.random()), _LONGEST_PAUSE_S)

    def _longest_pause(self) -> float:
        return max(self.timeout_s, _LONGEST_PAUSE_S)

    def _key(self) -> str:
        """The secret; empty if there is none."""
        return os.environ.get(self.key_env, "").strip()

    def _clean(self, text: str) -> str:
        """A server's words without the key that it may repeat."""
        secret = self._key()
        return text.replace(secret, f"${self.key_env}") if secret else text

    def _error(self, status: int, headers: Mapping[str, str], raw: bytes) -> Exception:
        """The exception that an HTTP status stands for."""
        said = self._clean(_said(raw))
        if status in (401, 403):
            has = "is refused" if self._key() else "is not set"
            return AuthenticationError(
                f"{self}: HTTP {status}: {said}. The key in ${self.key_env} {has}.", status=status, fatal=True
            )
        if status == 404:
            return EndpointError(
                f"{self}: HTTP 404: {said}. Is {self.served!r} served there, and does the URL end in /v1? "
                "Where only chats are taken, plain prompts need api=chat.",
                status=404,
                fatal=True,
            )
        if status == 402 or (status == 429 and b"insufficient_quota" in raw):
            return EndpointError(f"{self}: HTTP {status}: {said}. Waiting does not help.", status=status, fatal=True)
        lowered = said.lower()
        if (
            status in (400, 413, 422)
            and "context" in lowered
            and ("length" in lowered or "size" in lowered or "exceed" in lowered)
        ):
            return ContextLengthError(f"{self}: {said}")
        error = EndpointError(f"{self}: HTTP {status}: {said}", status=status)
        return _Passing(error, _retry_after(headers)) if status in _PASSING or status >= 500 else error

    def _session(self) -> Any:
        """One connection pool per event loop."""
        import aiohttp

        sessions: dict[int, tuple[Any, Any]] = self._sessions  # type: ignore[attr-defined]
        loop = asyncio.get_running_loop()
        owner, session = sessions.get(id(loop), (None, None))
        if owner is not loop or session.closed:
            headers = {"Content-Type": "application/json"}
            if secret := self._key():
                headers["Authorization"] = f"Bearer {secret}"
            session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=self.timeout_s),
                headers=headers,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
            sessions[id(loop)] = (loop, session)
        return session


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


@dataclass
class _Tries:
    """How often one call was sent, how often nobody was there to take it, and since when."""

    sent: int = 0
    unsent: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def all(self) -> int:
        return self.sent + self.unsent

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started


class _Streamed:
    """What a stream has brought so far."""

    def __init__(self, chat: bool, wanted: int | None, prompt_tokens: int, tries: _Tries) -> None:
        self.chat, self.wanted, self.prompt_guess, self.tries = chat, wanted, prompt_tokens, tries
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
        return _count(self.usage.get("completion_tokens")) or self.tokens

    def add(self, event: Mapping[str, Any], index: int) -> Chunk | None:
        """Take in one event; the chunk it brings, if it brings text."""
        if event.get("error"):
            raise _Broken(f"the stream reported an error: {str(event['error'])[:200]}")
        self.usage = _object(event.get("usage")) or self.usage
        for choice in map(_object, _list(event.get("choices"))):
            piece = _choice_text({"message": choice.get("delta")} if self.chat else choice, self.chat) or ""
            new, tops = _logprobs(choice, self.wanted)
            if reason := choice.get("finish_reason"):
                if reason in _NO_FINISH:
                    raise _Broken(f"the endpoint gave the completion up (finish_reason {reason!r})")
                self.finish = "length" if reason in _LENGTHS else "stop"
                self.reason = _stop_reason(choice)
            if piece or new:
                count = len(new) or 1
                self.pieces.append(piece)
                self.logprobs += new
                self.tops += tops
                self.tokens += count
                return Chunk(index, piece, count, tuple(new) if new else None, tuple(tops) if tops else None)
        return None

    def completion(self, finish: Finish) -> Completion:
        """What there is, as a completion."""
        return Completion(
            "".join(self.pieces),
            self.n_tokens,
            finish,
            self.reason,
            logprob=math.fsum(self.logprobs) if self.logprobs else None,
            prompt_tokens=_count(self.usage.get("prompt_tokens")) or self.prompt_guess,
            cached_tokens=_cached(self.usage),
            requests=self.tries.sent,
            seconds=self.tries.seconds,
            token_logprobs=tuple(self.logprobs) if self.logprobs else None,
            top_logprobs=tuple(self.tops) if self.tops else None,
        )


def _completions(
    answer: Mapping[str, Any], request: Request, chat: bool, tries: _Tries
) -> list[tuple[int, Completion]]:
    """The choices of an answer; those without text are failed ones."""
    usage = _object(answer.get("usage"))
    choices = [_object(choice) for choice in answer["choices"]]
    if len(choices) > 1:
        places = [choice.get("index") for choice in choices]
        if all(isinstance(place, int) for place in places):
            choices.sort(key=lambda choice: choice["index"])
    choices = choices[: request.n]
    wanted = request.sampling.logprobs
    texts = [_choice_text(choice, chat) for choice in choices]
    parsed = [_logprobs(choice, wanted) if wanted is not None else _NO_LOGPROBS for choice in choices]
    counts = _share_tokens(_count(usage.get("completion_tokens")), texts, [len(p[0]) for p in parsed])
    prompt_tokens, cached_tokens, requests = _count(usage.get("prompt_tokens")), _cached(usage), tries.sent
    seconds = tries.seconds / max(len(choices), 1)
    out = []
    for i, (choice, text, (logprobs, tops), count) in enumerate(zip(choices, texts, parsed, counts, strict=True)):
        reason = choice.get("finish_reason")
        if text is None or reason in _NO_FINISH:
            what = "the choice has no text" if text is None else "the endpoint gave the choice up"
            completion = Completion(
                "", count, "error", None, None, prompt_tokens, cached_tokens, requests, seconds,
                error=f"EndpointError: {what} (finish_reason {reason!r})",
            )  # fmt: skip
        else:
            completion = Completion(
                text,
                count,
                "length" if reason in _LENGTHS else "stop",
                _stop_reason(choice),
                math.fsum(logprobs) if logprobs else None,
                prompt_tokens,
                cached_tokens,
                requests,
                seconds,
                None,
                tuple(logprobs) if logprobs else None,
                tuple(tops) if tops else None,
            )
        out.append((i, completion))
        prompt_tokens = cached_tokens = requests = 0
    return out


def _loads(raw: bytes | str) -> Any:
    """JSON, also with the NaN, Infinity and half characters that Python's own servers write."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return json.loads(raw)


def _list(value: Any) -> list[Any]:
    """A JSON array; an empty one for anything else."""
    return value if isinstance(value, list) else []


def _object(value: Any) -> Mapping[str, Any]:
    """A JSON object; an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int:
    """A number of tokens; 0 for anything that cannot be one."""
    return int(value) if isinstance(value, (int, float)) and 0 < value < 1e15 else 0


def _choice_text(choice: Mapping[str, Any], chat: bool) -> str | None:
    """A choice's text, also where a message comes in parts; None if there is none."""
    text = _object(choice.get("message")).get("content") if chat else choice.get("text")
    if isinstance(text, list):
        parts = [part["text"] for part in map(_object, text) if isinstance(part.get("text"), str)]
        return "".join(parts) if parts else None
    return text if isinstance(text, str) else None


def _prompt_key(request: Request) -> int:
    prompt = request.prompt
    return hash((prompt if isinstance(prompt, str) else orjson.dumps(prompt, default=str), request.prefix))


def _length_name(url: str, chat: bool) -> str:
    """OpenAI's own chat models have come to refuse `max_tokens`; other servers know nothing else."""
    return "max_completion_tokens" if chat and "://api.openai.com/" in url else "max_tokens"


def _share_tokens(total: int, texts: list[str | None], seen: list[int]) -> list[int]:
    """Tokens of each choice: those seen if they add up, else the total shared out, to the token.

    It is shared in proportion to the tokens seen, or to the lengths of the texts where none were seen. An
    endpoint that tells neither usage nor log-probabilities is taken to need a token for four bytes.
    """
    if len(texts) == 1 and total:
        return [total]
    if not total:
        return [
            count or (0 if text is None else -(-len(text.encode("utf-8", "replace")) // 4))
            for count, text in zip(seen, texts, strict=True)
        ]
    if sum(seen) == total:
        return seen
    weights = seen if all(seen) else [len(text or "") for text in texts]
    whole = sum(weights)
    if not whole:
        weights, whole = [1] * len(texts), len(texts)
    counts, running, before = [], 0, 0
    for weight in weights:
        running += weight
        end = round(total * running / whole)
        counts.append(end - before)
        before = end
    return counts


_NO_LOGPROBS: tuple[list[float], list[Mapping[str, float]]] = ([], [])


def _logprobs(choice: Mapping[str, Any], wanted: int | None) -> tuple[list[float], list[Mapping[str, float]]]:
    """Log-probabilities in either shape of the protocol; a missing number is NaN."""
    found = _object(choice.get("logprobs"))
    if wanted is None or not found:
        return _NO_LOGPROBS
    tops: list[Mapping[str, float]] = []
    if tokens := [_object(token) for token in _list(found.get("content"))]:
        chosen = [_float(token.get("logprob")) for token in tokens]
        if wanted:
            named = [[a for a in map(_object, _list(token.get("top_logprobs"))) if "token" in a] for token in tokens]
            tops = [{str(a["token"]): _float(a.get("logprob")) for a in few} for few in named]
    else:
        chosen = [_float(value) for value in _list(found.get("token_logprobs"))]
        if wanted:
            given = map(_object, _list(found.get("top_logprobs")))
            tops = [{token: _float(value) for token, value in top.items()} for top in given]
    return chosen, tops


def _float(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def _stop_reason(choice: Mapping[str, Any]) -> str | None:
    """Some servers (vLLM) name the stop text (or the id of the token) that ended a choice."""
    if "stop_reason" not in choice:
        return None
    reason = choice["stop_reason"]
    return reason if isinstance(reason, str) else ""


def _cached(usage: Mapping[str, Any]) -> int:
    return _count(_object(usage.get("prompt_tokens_details")).get("cached_tokens"))


async def _events(content: Any) -> AsyncGenerator[Mapping[str, Any], None]:
    """Server-sent events as objects, however the bytes were cut; an event's data may go over several lines."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    buffer = ""
    data: list[str] = []
    raw = b"\n"
    while raw:
        raw = await content.readany()
        buffer += decoder.decode(raw) if raw else "\n\n"
        *lines, buffer = buffer.split("\n")
        for line in lines:
            if line.startswith("data:"):
                data.append(line[5:].strip())
            elif not line.strip() and data:
                for event in _parsed(data):
                    if event is None:
                        return
                    yield event
                data = []


def _parsed(data: list[str]) -> list[Mapping[str, Any] | None]:
    """The objects in the lines of an event, None for the end: one object, or one for each line."""
    out: list[Mapping[str, Any] | None] = []
    for texts in (["\n".join(data)], data):
        try:
            out = [None if text == "[DONE]" else _loads(text) for text in texts]
            break
        except ValueError:
            continue
    if not out or not all(event is None or isinstance(event, dict) for event in out):
        raise _Broken(f"an event of the stream is not a JSON object: {' '.join(data)[:120]!r}")
    return out


def _said(raw: bytes) -> str:
    """The message in an error's body, in one line."""
    try:
        body = _loads(raw)
        error = body.get("error", body) if isinstance(body, dict) else body
        text = (error.get("message") or error) if isinstance(error, dict) else error
    except ValueError:
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
