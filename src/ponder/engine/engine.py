"""A model file ready to decode: its vocabulary, a decoder for each backend in use, and what was written lately."""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from weakref import WeakKeyDictionary

from ponder.engine.backend import Backend
from ponder.engine.calibration import calibration
from ponder.engine.decoder import Counters, Decoder
from ponder.engine.job import Job
from ponder.engine.llama_backend import LlamaBackend
from ponder.engine.one_thread import OneThread
from ponder.engine.threads import available
from ponder.engine.vocabulary import Vocabulary
from ponder.engine.weights import Precision, from_gguf, native_precision

Kind = Literal["llamacpp", "torch"]

_WRITTEN = 1 << 22
"""Tokens of the texts that are remembered as they were written."""
_MOMENT = 0.002
"""Seconds in which requests count as coming together."""
_Waiting = tuple[Sequence[Job], "asyncio.Future[Decoder]"]


@dataclass(frozen=True)
class Settings:
    """What an engine is started with; equal settings share one.

    Args:
        path: the GGUF file.
        context: tokens of key-value cache of each backend.
        parallel: most texts decoded together.
        threads: processor threads; None takes all cores that this process may use.
        precision: of the torch backend's products; `auto` is what the processor multiplies natively.
    """

    path: Path
    context: int
    parallel: int
    threads: int | None
    precision: Precision | Literal["auto"] = "auto"

    @property
    def workers(self) -> int:
        """The number of threads."""
        return self.threads or available()


class Engine:
    """One model file in memory.

    Args:
        settings: the file and how it is run.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.vocabulary = Vocabulary(str(settings.path))
        self._decoders: dict[Kind, Decoder] = {}
        self._lock = threading.Lock()
        self._gathering: WeakKeyDictionary[asyncio.AbstractEventLoop, list[_Waiting]] = WeakKeyDictionary()
        self._flushes: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[None]] = WeakKeyDictionary()
        self._written: OrderedDict[str, tuple[int, ...]] = OrderedDict()
        self._held = 0

    def decoder(self, kind: Kind) -> Decoder:
        """The decoder on a backend, started if need be."""
        with self._lock:
            found = self._decoders.get(kind)
            if found is None:
                backend = OneThread(lambda: BACKENDS[kind](self.settings))
                found = self._decoders[kind] = Decoder(backend, self.vocabulary)
            return found

    def submit(self, jobs: Sequence[Job]) -> Decoder:
        """Begin jobs that came together where as many texts are decoded fastest on this machine.

        A torch decoder that is at work takes what comes, so that two do not compete for the same cores.
        """
        with self._lock:
            busy = {kind: d.width for kind, d in self._decoders.items()}
        width = sum(busy.values()) + sum(len(job.seeds) for job in jobs)
        crossover = calibration(self.settings).crossover
        wide = crossover is not None and (busy.get("torch", 0) > 0 or width >= crossover)
        decoder = self.decoder("torch" if wide else "llamacpp")
        decoder.submit(jobs)
        return decoder

    async def gather(self, jobs: Sequence[Job]) -> Decoder:
        """As `submit`, with what else comes within a moment: together they may be wide enough for torch."""
        loop = asyncio.get_running_loop()
        waiting = self._gathering.setdefault(loop, [])
        turn: asyncio.Future[Decoder] = loop.create_future()
        waiting.append((jobs, turn))
        if len(waiting) == 1:
            self._flushes[loop] = loop.create_task(self._flush(loop))
        return await turn

    async def _flush(self, loop: asyncio.AbstractEventLoop) -> None:
        await asyncio.sleep(_MOMENT)
        waiting = [(jobs, turn) for jobs, turn in self._gathering.pop(loop) if not turn.cancelled()]
        try:
            decoder = await asyncio.to_thread(self.submit, [job for jobs, _ in waiting for job in jobs])
        except Exception as error:
            for _, turn in waiting:
                if not turn.done():
                    turn.set_exception(error)
            return
        for jobs, turn in waiting:
            if turn.cancelled():
                for job in jobs:
                    decoder.cancel(job)
            else:
                turn.set_result(decoder)

    def counters(self) -> dict[Kind, Counters]:
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


def _llama(settings: Settings) -> Backend:
    return LlamaBackend(str(settings.path), settings.context, settings.parallel, settings.workers)


def _torch(settings: Settings) -> Backend:
    from ponder.engine.torch_backend import TorchBackend

    weights = from_gguf(settings.path, native_precision() if settings.precision == "auto" else settings.precision)
    return TorchBackend(weights, settings.context, settings.parallel, settings.workers)


BACKENDS: dict[Kind, Callable[[Settings], Backend]] = {"llamacpp": _llama, "torch": _torch}
_ENGINES: dict[Settings, Engine] = {}
_LOCK = threading.Lock()


def engine(settings: Settings) -> Engine:
    """The engine with these settings, started if need be; it stays until the process ends."""
    with _LOCK:
        found = _ENGINES.get(settings)
        if found is None:
            if not _ENGINES:
                atexit.register(_close_all)
            found = _ENGINES[settings] = Engine(settings)
        return found


def _close_all() -> None:
    for one in _ENGINES.values():
        one.close()
