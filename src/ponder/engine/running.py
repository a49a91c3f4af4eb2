"""A model in memory: its vocabulary, its decoders, and what was written lately."""

from __future__ import annotations

import atexit
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

from ponder.engine.backend import Backend
from ponder.engine.decoder import Counters, Decoder
from ponder.engine.one_thread import OneThread
from ponder.engine.vocabulary import Vocabulary

_WRITTEN = 1 << 22
"""Tokens of the texts that are remembered as they were written."""


class Running:
    """What runs a model, whatever backends it has.

    Args:
        vocabulary: the model's.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._decoders: dict[str, Decoder] = {}
        self._lock = threading.Lock()
        self._written: OrderedDict[str, tuple[int, ...]] = OrderedDict()
        self._held = 0

    def _started(
        self,
        kind: str,
        make: Callable[[], Backend],
        seconds: Callable[[Backend], Mapping[int, float]] = lambda _: {},
    ) -> Decoder:
        """The decoder of that kind, started if need be; `seconds` says what its steps cost."""
        with self._lock:
            found = self._decoders.get(kind)
            if found is None:
                backend = OneThread(make)
                found = self._decoders[kind] = Decoder(backend, self.vocabulary, seconds(backend))
            return found

    def counters(self) -> dict[str, Counters]:
        """What each decoder has done."""
        return {kind: decoder.counters for kind, decoder in self._decoders.items()}

    def tokens(self, text: str) -> tuple[int, ...]:
        """The tokens of a text; those it was written with, if it was written here."""
        with self._lock:
            found = self._written.get(text)
            if found is not None:
                self._written.move_to_end(text)
                return found
        return self.vocabulary.tokens(text)

    def wrote(self, text: str, tokens: tuple[int, ...]) -> None:
        """Remember the tokens of a text, so that continuing it finds them in the cache."""
        with self._lock:
            self._held += len(tokens) - len(self._written.pop(text, ()))
            self._written[text] = tokens
            while self._held > _WRITTEN:
                self._held -= len(self._written.popitem(last=False)[1])

    def close(self) -> None:
        """Stop all decoders."""
        for decoder in self._decoders.values():
            decoder.close()


_S = TypeVar("_S", bound=Hashable)
_R = TypeVar("_R", bound=Running)
_RUNNING: dict[Hashable, Running] = {}
_LOCK = threading.Lock()


def running(settings: _S, make: Callable[[_S], _R]) -> _R:
    """What runs with these settings, started if need be; it stays until the process ends."""
    with _LOCK:
        found = _RUNNING.get(settings)
        if found is None:
            if not _RUNNING:
                atexit.register(_close_all)
            found = _RUNNING[settings] = make(settings)
        return found  # type: ignore[return-value]


def is_running(settings: Hashable) -> Running | None:
    """What runs with these settings, None if nothing does."""
    return _RUNNING.get(settings)


def _close_all() -> None:
    for one in _RUNNING.values():
        one.close()
