"""Where finished model calls, and finished outputs that are no text, are kept, so that none is paid twice."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from hashlib import blake2b
from typing import Protocol

from ponder.core.model import Completion, Model, Request
from ponder.core.problem import Problem
from ponder.ledger.spend import Spend

_COST = struct.Struct("<dqqq")
"""Stands before a stored output: the seconds, function evaluations, transitions and model calls that it took."""


class Cache(Protocol):
    """Completions, and other outputs as bytes, by content key."""

    def get_many(self, keys: Sequence[bytes]) -> list[Completion | None]:
        """The stored completion of each key, or None."""

    async def put(self, items: Sequence[tuple[bytes, Completion]]) -> None:
        """Store completions; returns once they would survive the process being killed."""

    def get_outputs(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The stored output of each key, or None."""

    async def put_outputs(self, items: Sequence[tuple[bytes, bytes]]) -> None:
        """Store outputs; returns once they would survive the process being killed."""


class NoCache:
    """Keeps nothing."""

    def get_many(self, keys: Sequence[bytes]) -> list[Completion | None]:
        """Always None."""
        return [None] * len(keys)

    async def put(self, items: Sequence[tuple[bytes, Completion]]) -> None:
        """Forget at once."""
        return None

    def get_outputs(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Always None."""
        return [None] * len(keys)

    async def put_outputs(self, items: Sequence[tuple[bytes, bytes]]) -> None:
        """Forget at once."""
        return None


class MemoryCache:
    """Keeps completions and outputs for as long as the process lives."""

    def __init__(self) -> None:
        self._items: dict[bytes, Completion] = {}
        self._outputs: dict[bytes, bytes] = {}

    def get_many(self, keys: Sequence[bytes]) -> list[Completion | None]:
        """The kept completion of each key, or None."""
        return [self._items.get(key) for key in keys]

    async def put(self, items: Sequence[tuple[bytes, Completion]]) -> None:
        """Keep completions."""
        self._items.update(items)

    def get_outputs(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The kept output of each key, or None."""
        return [self._outputs.get(key) for key in keys]

    async def put_outputs(self, items: Sequence[tuple[bytes, bytes]]) -> None:
        """Keep outputs."""
        self._outputs.update(items)


def content_key(*parts: str | bytes) -> bytes:
    """One 16-byte key for what all the parts, in order, decide."""
    return _digest(parts).digest()


def prompt_key(prompt: object) -> str:
    """A prompt as a part of a key."""
    return prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True, default=str)


def whole_draw_key(process: str, problem: Problem, seed: int) -> bytes:
    """The key of a whole output that a process (its identity) draws by itself, with this seed."""
    return content_key("draw", process, prompt_key(problem.prompt), seed.to_bytes(8, "little"))


def content_keys(model: Model, request: Request) -> list[bytes]:
    """One 16-byte key for each completion of a request: model, prompt, prefix, settings, seed."""
    base = _digest((model.identity, prompt_key(request.prompt), request.prefix, request.sampling.key()))
    if request.stream or request.watch is not None:
        # A draw that may be ended early is not replaced by a stored whole one: that would hide what ending saves.
        base.update(b"\x00one by one")
    keys = []
    for seed in request.seeds:
        digest = base.copy()
        digest.update(seed.to_bytes(8, "little"))
        keys.append(digest.digest())
    return keys


def _digest(parts: Sequence[str | bytes]) -> blake2b:
    found = blake2b(digest_size=16)
    for part in parts:
        raw = part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass")
        found.update(len(raw).to_bytes(8, "little"))
        found.update(raw)
    return found


def priced(value: bytes, cost: Spend, seconds: float) -> bytes:
    """A value as it is stored: with what it took before it."""
    return _COST.pack(seconds, cost.function_evaluations, cost.transitions, cost.model_calls) + value


def price_of(stored: bytes) -> Spend:
    """What a stored output took, from its first bytes."""
    seconds, evaluations, transitions, calls = _COST.unpack_from(stored)
    return Spend(function_evaluations=evaluations, transitions=transitions, model_calls=calls, seconds=seconds)


def value_of(stored: bytes) -> bytes:
    """A stored output without its price."""
    return stored[_COST.size :]
