"""Requests to an endpoint: connections, tries, and what its errors mean.

One connection pool serves an event loop. Failures that may pass are tried again with growing, jittered pauses,
and `Retry-After` is obeyed. An error is never an answer, and neither is a body without the protocol's shape.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Protocol, TypeVar

import orjson

from ponder.errors import AuthenticationError, ContextLengthError, EndpointError, ModelError
from ponder.models._openai_answers import as_object, count, has_text, loads, said

_T = TypeVar("_T")

_PASSING = frozenset({408, 409, 425, 429})
_REFUSED = frozenset({errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH})
_LONGEST_PAUSE_S = 60.0


@dataclass(slots=True)
class Tries:
    """How often one call was sent, how often nobody was there to take it, and since when."""

    sent: int = 0
    unsent: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def all(self) -> int:
        """Tries of either kind."""
        return self.sent + self.unsent

    @property
    def seconds(self) -> float:
        """Since the first."""
        return time.monotonic() - self.started


class Endpoint(Protocol):
    """Who is called: address, key, limits, and what messages say."""

    @property
    def served(self) -> str:
        """The model's name at the endpoint."""

    @property
    def url(self) -> str:
        """What paths are added to."""

    @property
    def key_env(self) -> str:
        """Environment variable that holds the key."""

    @property
    def timeout_s(self) -> float:
        """For one request."""

    @property
    def max_retries(self) -> int:
        """Further tries of a request whose failure may pass."""

    @property
    def first_pause_s(self) -> float:
        """Before the first of them."""

    @property
    def if_not_found(self) -> str:
        """What a 404 should make the reader ask."""


def no_choices(answer: Mapping[str, Any]) -> str | None:
    """Why a body holds no completions; None if it does.

    Choices without any text of which the endpoint does not say that they cost something are garbage, too.
    """
    choices = answer.get("choices")
    if not isinstance(choices, list):
        return "it has no choices"
    free = not count(as_object(answer.get("usage")).get("completion_tokens"))
    return "no choice has text" if choices and free and not has_text(answer) else None


class Calls:
    """What a model sends, and how it takes what comes back.

    Args:
        model: its address, key, limits and name for messages.
        flaw: says why a body is no answer, or None if it is one.
    """

    def __init__(self, model: Endpoint, flaw: Callable[[Mapping[str, Any]], str | None] = no_choices) -> None:
        self._model, self._flaw = model, flaw
        self._sessions: dict[int, tuple[asyncio.AbstractEventLoop, Any]] = {}
        self._answered = False
        self._urls: dict[str, Any] = {}

    async def ask(self, path: str, body: Mapping[str, Any], tries: Tries) -> Mapping[str, Any]:
        """The answer to a request: an object without a flaw.

        Raises:
            ModelError: it failed for good, or too often.
        """
        return await self._retried(self._post, path, body, tries)

    async def open(self, path: str, body: Mapping[str, Any], tries: Tries) -> Any:
        """A response that streams; whoever opens it closes it.

        Raises:
            ModelError: it failed for good, or too often.
        """
        return await self._retried(self._open, path, body, tries)

    async def aclose(self) -> None:
        """Close this event loop's connections."""
        _, session = self._sessions.pop(id(asyncio.get_running_loop()), (None, None))
        if session is not None:
            await session.close()

    def pause(self, attempt: int) -> float:
        """Seconds before the next try: doubling, jittered by half, at most a minute."""
        return min(self._model.first_pause_s * 2.0**attempt * (0.5 + random.random()), _LONGEST_PAUSE_S)

    def clean(self, text: str) -> str:
        """A server's words without the key that it may repeat."""
        secret = self._key()
        return text.replace(secret, f"${self._model.key_env}") if secret else text

    # ------------------------------------------------------------------ one try

    async def _post(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        response = await self._session().post(self._url(path), data=orjson.dumps(body))
        try:
            raw = await response.read()  # to its end, which frees the connection
        except BaseException:
            response.close()
            raise
        if response.status != 200:
            raise self._error(response.status, response.headers, raw)
        return self._answer(raw, response.headers)

    async def _open(self, path: str, body: Mapping[str, Any]) -> Any:
        """A response whose body is still to come."""
        response = await self._session().post(self._url(path), data=orjson.dumps(body))
        if response.status == 200 and response.content_type != "application/json":
            return response
        async with response:
            raw = await response.read()
            if response.status != 200:
                raise self._error(response.status, response.headers, raw)
            self._answer(raw, response.headers)
            raise EndpointError(f"{self._model}: the endpoint does not stream (it sent a whole answer)", status=200)

    def _answer(self, raw: bytes, headers: Mapping[str, str]) -> Mapping[str, Any]:
        """The object that a body holds, if it is an answer at all."""
        try:
            answer = loads(raw)
        except ValueError:
            raise self._garbage("it is not JSON", raw) from None
        if not isinstance(answer, dict):
            raise self._garbage("it is not an object", raw)
        if told := answer.get("error"):
            code = told.get("code") if isinstance(told, dict) else None
            if isinstance(code, int) and 400 <= code < 600:
                raise self._error(code, headers, raw)
            raise _PassingError(
                EndpointError(f"{self._model}: {self.clean(said(raw))}", status=200), _retry_after(headers)
            )
        if (why := self._flaw(answer)) is not None:
            raise self._garbage(why, raw)
        return answer

    def _garbage(self, why: str, raw: bytes) -> _PassingError:
        start = self.clean(raw[:120].decode("utf-8", "replace"))
        return _PassingError(
            EndpointError(f"{self._model}: garbage instead of an answer ({why}): {start!r}", status=200)
        )

    # ------------------------------------------------------------------ tries

    async def _retried(
        self, send: Callable[[str, Mapping[str, Any]], Awaitable[_T]], path: str, body: Mapping[str, Any], tries: Tries
    ) -> _T:
        """Send until it succeeds, fails for good, or has failed too often."""
        import aiohttp

        model = self._model
        while True:
            wait: float | None = None
            gone = False
            tries.sent += 1
            try:
                got = await send(path, body)
                self._answered = True
                return got
            except _PassingError as passing:
                error: ModelError = passing.error
                wait = passing.wait_s
            except ModelError as failure:
                failure.requests = tries.sent
                raise
            except (aiohttp.InvalidURL, aiohttp.ClientSSLError) as failure:
                raise EndpointError(f"{model}: {model.url} cannot be used: {failure}", fatal=True) from None
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as failure:
                if gone := isinstance(failure, aiohttp.ClientConnectorError) and _is_nobody_there(failure.os_error):
                    tries.sent -= 1
                    tries.unsent += 1
                    error = self._nobody(failure)
                else:
                    what = "no answer in time" if isinstance(failure, TimeoutError) else str(failure)
                    error = EndpointError(f"{model}: {what or type(failure).__name__} (timeout_s={model.timeout_s:g})")
            # Who has answered before may be starting again; where nobody ever did, waiting is of no use.
            if tries.all > model.max_retries or (gone and not self._answered):
                error.requests = tries.sent
                raise error
            longest = max(model.timeout_s, _LONGEST_PAUSE_S)
            await asyncio.sleep(self.pause(tries.all - 1) if wait is None else min(wait, longest))

    def _nobody(self, failure: Any) -> EndpointError:
        return EndpointError(
            f"{self._model}: nothing answers at {self._model.url} ({failure.os_error or failure}). Start the server "
            f"(for example: vllm serve {self._model.served}), or check the URL.",
            fatal=True,
        )

    def _error(self, status: int, headers: Mapping[str, str], raw: bytes) -> Exception:
        """The exception that an HTTP status stands for."""
        model, told = self._model, self.clean(said(raw))
        if status in (401, 403):
            has = "is refused" if self._key() else "is not set"
            return AuthenticationError(
                f"{model}: HTTP {status}: {told}. The key in ${model.key_env} {has}.", status=status, fatal=True
            )
        if status == 404:
            return EndpointError(
                f"{model}: HTTP 404: {told}. Is {model.served!r} served there? {model.if_not_found}",
                status=404,
                fatal=True,
            )
        if status == 402 or (status == 429 and b"insufficient_quota" in raw):
            return EndpointError(f"{model}: HTTP {status}: {told}. Waiting does not help.", status=status, fatal=True)
        lowered = told.lower()
        if (
            status in (400, 413, 422)
            and "context" in lowered
            and ("length" in lowered or "size" in lowered or "exceed" in lowered)
        ):
            return ContextLengthError(f"{model}: {told}")
        error = EndpointError(f"{model}: HTTP {status}: {told}", status=status)
        return _PassingError(error, _retry_after(headers)) if status in _PASSING or status >= 500 else error

    # ------------------------------------------------------------------ connections

    def _key(self) -> str:
        """The secret; empty if there is none."""
        return os.environ.get(self._model.key_env, "").strip()

    def _url(self, path: str) -> Any:
        """The parsed address of a path."""
        found = self._urls.get(path)
        if found is None:
            from yarl import URL

            try:
                found = self._urls[path] = URL(self._model.url + path)
            except ValueError as error:
                raise EndpointError(f"{self._model}: {self._model.url} cannot be used: {error}", fatal=True) from None
        return found

    def _session(self) -> Any:
        """One connection pool per event loop."""
        loop = asyncio.get_running_loop()
        owner, session = self._sessions.get(id(loop), (None, None))
        if owner is loop and session is not None and not session.closed:
            return session
        import aiohttp

        headers = {"Content-Type": "application/json"}
        if secret := self._key():
            headers["Authorization"] = f"Bearer {secret}"
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=self._model.timeout_s),
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._sessions[id(loop)] = (loop, session)
        return session


class _PassingError(Exception):
    """A failure that may pass, and how long to wait if the endpoint said so."""

    def __init__(self, error: EndpointError, wait_s: float | None = None) -> None:
        self.error, self.wait_s = error, wait_s
        super().__init__(str(error))


def _is_nobody_there(error: OSError | None) -> bool:
    """Whether trying again in a moment would find the same: no such host, or no server at the port."""
    return isinstance(error, socket.gaierror) or (error is not None and error.errno in _REFUSED)


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
