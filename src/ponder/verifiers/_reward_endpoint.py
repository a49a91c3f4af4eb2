"""A reward model behind an endpoint, as vLLM and servers like it offer them: `/pooling`, `/score`, `/classify`.

Text forms: `pooling:NAME@http://host:8000`, `score:NAME@URL`, `classify:NAME@URL`; the path is added to the URL.
Connections, retries and errors are those of the language models' endpoints.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, cast

from ponder.core.model import Capabilities, Completion, Model, Request
from ponder.errors import EndpointError, ParameterError
from ponder.models._openai_answers import as_list, as_object, cached, count
from ponder.models._openai_calls import Calls, Tries

Route = Literal["pooling", "score", "classify"]
_ROUTES = ("pooling", "score", "classify")


@dataclass(frozen=True)
class Access:
    """How an endpoint is reached.

    Args:
        key_env: environment variable that holds the key; a key is sent only if it is set.
        timeout_s: for one request.
        max_retries: further tries of a request whose failure may pass.
        max_concurrency: requests under way at once.
    """

    key_env: str = "OPENAI_API_KEY"
    timeout_s: float = 600.0
    max_retries: int = 5
    max_concurrency: int = 64


@dataclass(frozen=True)
class RewardEndpoint(Model):
    """One reward model at one route of an endpoint.

    A request's prompt is messages. For `/score` they are the question and the answer; `/classify` and `/pooling` get
    them as messages, or as plain text where there is a single one with the role `text`.

    The completion is a JSON list with a row of numbers for each place that the endpoint reads: for a whole answer one
    row, for steps one each.
    """

    route: Route
    served: str
    url: str
    access: Access = Access()
    first_pause_s: float = field(default=0.5, repr=False)

    name: ClassVar[str] = "reward_endpoint"
    capabilities: Capabilities = field(
        default=Capabilities(n=False, logprobs=False, streaming=False, seeds=True), init=False, repr=False
    )
    _calls: ClassVar[Calls]

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_concurrency", self.access.max_concurrency)
        object.__setattr__(self, "_calls", Calls(self, _no_data))

    def __str__(self) -> str:
        return f"{self.route}:{self.served}@{self.url}"

    @property
    def identity(self) -> str:
        """Route, name and URL; what stands behind them cannot be seen from here."""
        return str(self)

    @property
    def key_env(self) -> str:
        """Environment variable that holds the key."""
        return self.access.key_env

    @property
    def timeout_s(self) -> float:
        """For one request."""
        return self.access.timeout_s

    @property
    def max_retries(self) -> int:
        """Further tries of a request whose failure may pass."""
        return self.access.max_retries

    @property
    def if_not_found(self) -> str:
        """What a 404 should make the reader ask."""
        return (
            f"Does the server offer /{self.route} at {self.url}, and is this model's task that one "
            "(vllm serve NAME --runner pooling)?"
        )

    async def sample(self, request: Request) -> AsyncIterator[tuple[int, Completion]]:
        """One completion: the rows of numbers as JSON."""
        assert not isinstance(request.prompt, str)
        messages = [dict(message) for message in request.prompt]
        body: dict[str, Any] = {"model": self.served}
        if self.route == "score":
            body |= {"text_1": str(messages[0]["content"]), "text_2": str(messages[-1]["content"])}
        elif len(messages) == 1 and messages[0]["role"] == "text":
            body["input"] = str(messages[0]["content"])
        else:
            body |= {"messages": messages, "add_generation_prompt": False}
        tries = Tries()
        answer = await self._calls.ask(f"/{self.route}", body, tries)
        usage = as_object(answer.get("usage"))
        yield (
            0,
            Completion(
                json.dumps(_rows(answer)), 0, prompt_tokens=count(usage.get("prompt_tokens")),
                cached_tokens=cached(usage), requests=tries.sent, seconds=tries.seconds,
            ),
        )  # fmt: skip

    async def aclose(self) -> None:
        """Close this event loop's connections."""
        await self._calls.aclose()


def endpoint_of(owner: object, text: str, access: Access) -> RewardEndpoint | None:
    """The endpoint that a text names (`pooling:NAME@http://…`); None if it names none.

    Raises:
        ParameterError: it begins like one and is none.
    """
    route, colon, rest = text.partition(":")
    if not colon or route not in _ROUTES:
        return None
    served, sign, url = rest.partition("@http")
    if not served or not sign or "@" in url.partition("://")[2].partition("/")[0]:
        raise ParameterError(
            owner, "model", text, allowed=f"{route}:NAME@http://HOST:PORT, without a key in it",
            hint=f"The key stands in ${access.key_env}",
        )  # fmt: skip
    return RewardEndpoint(cast(Route, route), served, f"http{url}".rstrip("/"), access)


def _no_data(answer: Mapping[str, Any]) -> str | None:
    """Why a body holds no numbers; None if it does."""
    try:
        return None if _rows(answer) else "it has no data"
    except EndpointError as error:
        return str(error)


def _rows(answer: Mapping[str, Any]) -> list[list[float]]:
    """The numbers in an answer, one row for each place that was read.

    Servers write `{"data": [{"data": …}]}` (pooling), `{"data": [{"score": …}]}` and `{"data": [{"probs": …}]}`.
    """
    data = as_list(answer.get("data"))
    if not data:
        return []
    item = as_object(data[0])
    given = next((item[name] for name in ("data", "score", "probs", "embedding") if name in item), None)
    if isinstance(given, (int, float)):
        given = [given]
    rows = as_list(given)
    if rows and not isinstance(rows[0], list):
        rows = [rows]
    if not rows or not all(isinstance(row, list) and row and all(map(_finite, row)) for row in rows):
        raise EndpointError("there are no numbers in its data")
    return [[float(value) for value in row] for row in rows]


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
