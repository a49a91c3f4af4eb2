"""A GGUF file ready to decode: a decoder for each backend in use, and which of them takes what comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from weakref import WeakKeyDictionary

from ponder.engine.backend import Backend
from ponder.engine.calibration import calibration, step_seconds
from ponder.engine.decoder import Decoder
from ponder.engine.gguf_vocabulary import GgufVocabulary
from ponder.engine.job import Job
from ponder.engine.llama_backend import LlamaBackend
from ponder.engine.running import Running, running
from ponder.engine.threads import available
from ponder.engine.weights import Precision, from_gguf, native_precision

Kind = Literal["llamacpp", "torch"]

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


class Engine(Running):
    """One GGUF file in memory.

    Args:
        settings: the file and how it is run.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(GgufVocabulary(str(settings.path)))
        self.settings = settings
        self._gathering: WeakKeyDictionary[asyncio.AbstractEventLoop, list[_Waiting]] = WeakKeyDictionary()
        self._flushes: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[None]] = WeakKeyDictionary()

    def decoder(self, kind: Kind) -> Decoder:
        """The decoder on a backend, started if need be."""
        return self._started(
            kind, lambda: BACKENDS[kind](self.settings), lambda backend: step_seconds(self.settings, kind, backend)
        )

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


def _llama(settings: Settings) -> Backend:
    return LlamaBackend(str(settings.path), settings.context, settings.parallel, settings.workers)


def _torch(settings: Settings) -> Backend:
    from ponder.engine.torch_backend import TorchBackend

    weights = from_gguf(settings.path, native_precision() if settings.precision == "auto" else settings.precision)
    return TorchBackend(weights, settings.context, settings.parallel, settings.workers)


BACKENDS: dict[Kind, Callable[[Settings], Backend]] = {"llamacpp": _llama, "torch": _torch}


def engine(settings: Settings) -> Engine:
    """The engine with these settings, started if need be; it stays until the process ends."""
    return running(settings, Engine)
