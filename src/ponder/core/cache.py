"""Where finished model calls are kept, so that none is paid twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import blake2b
from typing import Protocol

from ponder.core.model import Completion, Model, Request


class Cache(Protocol):
    """Completions by content key."""

    def get_many(self, keys: Sequence[bytes]) -> list[Completion | None]:
        """The stored completion of each key, or None."""

    async def put(self, items: Sequence[tuple[bytes, Completion]]) -> None:
        """Store completions; returns once they would survive the process being killed."""


class NoCache:
    """Keeps nothing."""

    def get_many(self, keys: Sequence[bytes]) -> list[Completion | None]:
        """Always None."""
        return [None] * len(keys)

    async def put(self, items: Sequence[tuple[bytes, Completion]]) -> None:
        """Forget at once."""
        return None


class MemoryCache:
    """Keeps completions for as long as the process lives."""

    def __init__(self) -> None:
        self._items: dict[bytes, Completion] = {}

    def get_many(self, keys: Sequence[bytes]) -> list[Completion | None]:
        """The kept completion of each key, or None."""
        return [self._items.get(key) for key in keys]

    async def put(self, items: Sequence[tuple[bytes, Completion]]) -> None:
        """Keep completions."""
        self._items.update(items)


def content_keys(model: Model, request: Request) -> list[bytes]:
    """One 16-byte key for each completion of a request: model, prompt, prefix, settings, seed."""
    base = blake2b(digest_size=16)
    prompt = (
        request.prompt if isinstance(request.prompt, str) else json.dumps(request.prompt, sort_keys=True, default=str)
    )
    for part in (model.identity, prompt, request.prefix, request.sampling.key()):
        raw = part.encode("utf-8", "surrogatepass")
        base.update(len(raw).to_bytes(8, "little"))
        base.update(raw)
    if request.stream or request.watch is not None:
        # A draw that may be ended early is not replaced by a stored whole one: that would hide what ending saves.
        base.update(b"\x00one by one")
    keys = []
    for seed in request.seeds:
        digest = base.copy()
        digest.update(seed.to_bytes(8, "little"))
        keys.append(digest.digest())
    return keys
