"""What ponder asks of a language model, whatever runs it."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ponder.core.problem import Problem, Prompt
from ponder.core.registry import MODELS, REGISTRY_OF
from ponder.costs.shape import ModelShape
from ponder.errors import CapabilityError, ParameterError

Finish = Literal["stop", "length", "stopped_early", "cancelled", "error"]
"""Why a completion ended: by itself, by its length limit, by a watcher, by cancellation, by an error."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn.

    Args:
        temperature: logits are divided by it before any filter; 0 is greedy.
        top_p: keep the smallest set of tokens with at least this probability mass.
        top_k: keep this many tokens; None keeps all.
        min_p: keep tokens with at least this fraction of the largest probability.
        max_new_tokens: length limit of one completion.
        stop: generation ends before any of these texts.
        logprobs: None asks for no log-probabilities, 0 for those of the sampled tokens, k for the k
            most likely alternatives too (untempered, in nats).
        extra: settings passed to the backend as they are.
        experts: experts that a mixture-of-experts model asks for each token; None is the model's own number.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    min_p: float | None = None
    max_new_tokens: int = 256
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    extra: tuple[tuple[str, Any], ...] = ()
    experts: int | None = None

    def __post_init__(self) -> None:
        checks = [
            (self.temperature >= 0, "temperature", self.temperature, "a number ≥ 0"),
            (0 < self.top_p <= 1, "top_p", self.top_p, "in (0, 1]"),
            (self.top_k is None or self.top_k >= 1, "top_k", self.top_k, "an integer ≥ 1 or none"),
            (self.min_p is None or 0 <= self.min_p <= 1, "min_p", self.min_p, "in [0, 1] or none"),
            (self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "an integer ≥ 1"),
            (self.logprobs is None or self.logprobs >= 0, "logprobs", self.logprobs, "an integer ≥ 0 or none"),
            (self.experts is None or self.experts >= 1, "experts", self.experts, "an integer ≥ 1 or none"),
        ]
        for good, name, value, allowed in checks:
            if not good:
                raise ParameterError("sampling", name, value, allowed=allowed)

    def key(self) -> str:
        """Text that is equal exactly for equal settings; part of the content key of a draw."""
        values = dataclasses.astuple(self)
        return repr(values if self.experts is not None else values[:-1])  # as before there was such a setting


@dataclass(frozen=True, slots=True)
class Chunk:
    """What a running completion has just added, as a watcher sees it."""

    index: int
    text: str
    n_tokens: int
    logprobs: tuple[float, ...] | None = None
    top_logprobs: tuple[Mapping[str, float], ...] | None = None


Watcher = Callable[[Chunk], bool]
"""Called with each chunk of each completion; True ends that completion (finish "stopped_early")."""


@dataclass(frozen=True, slots=True)
class Request:
    """`len(seeds)` completions of one prompt.

    Args:
        prompt: text, or chat messages.
        prefix: the beginning of the answer, continued verbatim (never templated again).
        seeds: one per completion; a backend that takes a single seed uses the first.
        watch: sees completions while they grow; the backend must then stream.
        stream: stream each completion by itself, so that cancelling one stops only that one.
        lost: told `(position, what there was)` of each completion that was cancelled while streaming.
        offset: position of the first seed in the request that this one is a part of; watchers and
            `lost` are given positions counted from there.
        problem: what the completion is for. Only simulated models look at it (they know the truth);
            no backend is sent anything of it.
    """

    prompt: Prompt
    sampling: Sampling
    seeds: tuple[int, ...]
    prefix: str = ""
    watch: Watcher | None = None
    stream: bool = False
    lost: Callable[[int, Completion], None] | None = None
    offset: int = 0
    problem: Problem | None = None

    @property
    def n(self) -> int:
        """How many completions are asked for."""
        return len(self.seeds)


@dataclass(frozen=True, slots=True)
class Completion:
    """One finished completion and what it cost.

    `prompt_tokens` and `cached_tokens` are this completion's share: of several completions of one
    prompt only the first carries the prompt. `logprob` is the sum over tokens in nats, None if the
    backend gave none. `stop_reason` is the stop text that ended it, "" if it ended by itself, None if
    the backend does not say. `error` is set, and `text` empty, if the call failed for good.
    """

    text: str
    n_tokens: int
    finish: Finish = "stop"
    stop_reason: str | None = None
    logprob: float | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    requests: int = 0
    seconds: float = 0.0
    tokens: tuple[str, ...] | None = None
    token_logprobs: tuple[float, ...] | None = None
    top_logprobs: tuple[Mapping[str, float], ...] | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do. None means "not known before it is tried".

    `experts` is the largest number of experts that a request may ask for, 0 if it cannot choose one.
    """

    chat: bool = True
    plain: bool = True
    n: bool | None = True
    max_n: int = 128
    seeds: bool | None = True
    logprobs: bool | None = False
    max_top_logprobs: int = 0
    prefix: bool | None = False
    prompt_cache: bool | None = False
    streaming: bool = True
    context_tokens: int | None = None
    experts: int = 0
    images: bool | None = False
    """Whether a chat's content may be a list of parts with pictures among them."""


PICTURE_TOKENS = 4096
"""What a picture in a prompt is taken to need at most, before the backend says what it did need."""


class Model(ABC):
    """A language model backend.

    Implementations are text forms too: `str(model)` is what `ponder.model(...)` reads.
    """

    name: ClassVar[str]
    capabilities: Capabilities
    max_concurrency: int = 64
    """Calls that may be under way at once; the scheduler keeps to it."""
    shape: ModelShape | None = None
    """Its size, for FLOPs and bytes; None if unknown."""
    process: ClassVar[str | None] = None
    """The process that builds outputs with it, if it does not write text."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """Text that changes whenever the same request could be answered by other weights."""

    @abstractmethod
    def sample(self, request: Request) -> AsyncIterator[tuple[int, Completion]]:
        """Yield `(position in request.seeds, completion)` as each lands, in any order.

        Fewer than asked may come (the scheduler asks again for the rest). Closing the iterator
        cancels what is under way: the backend must stop generating. With `request.watch` set, every
        completion is streamed through the watcher.

        Raises:
            ModelError: the call failed as a whole, after the backend's own retries.
        """

    def count_tokens(self, prompt: Prompt) -> int:
        """An upper bound of the prompt's length in tokens, exact where the tokenizer is at hand."""
        if isinstance(prompt, str):
            return len(prompt.encode("utf-8", "replace")) + 8
        return sum(_content_bound(m.get("content", "")) + 16 for m in prompt) + 16

    def require(self, capability: str, needed_by: str, instead: str = "") -> None:
        """Raise a CapabilityError if the backend is known to lack a capability."""
        if getattr(self.capabilities, capability) is False:
            hint = f" {instead}" if instead else ""
            raise CapabilityError(f"{needed_by} needs {capability}; model {self} does not offer it.{hint}")

    def require_experts(self, sampling: Sampling) -> None:
        """Refuse a number of experts that the model cannot be run with.

        Raises:
            CapabilityError: the number cannot be chosen.
            ParameterError: it is out of range.
        """
        k, most = sampling.experts, self.capabilities.experts
        if k is None:
            return
        if not most:
            raise CapabilityError(
                f"experts={k} was asked of {self}: the model has no router that ponder can set; use variants=, or a "
                "mixture-of-experts model as transformers:PATH"
            )
        if not 1 <= k <= most:
            raise ParameterError("sampling", "experts", k, allowed=f"an integer from 1 to {most} for {self}")

    def notes(self) -> list[str]:
        """Lines that `ponder check` shows besides its own findings: what the backend has measured of itself."""
        return []

    async def aclose(self) -> None:
        """Free connections, threads and memory. Safe to call twice."""
        return None


REGISTRY_OF[Model] = MODELS


def _content_bound(content: Any) -> int:
    """Most tokens of a message's content; a picture's are not those of the text that encodes it."""
    if not isinstance(content, (list, tuple)):
        return len(str(content).encode("utf-8", "replace"))
    return sum(
        PICTURE_TOKENS if part.get("type") == "image_url" else len(str(part.get("text", "")).encode("utf-8", "replace"))
        for part in content
    )
