"""llama.cpp's server inside this process: started once per file and settings, shared, and freed.

It listens on the loopback interface under a key that only this process knows. Two things are kept here
that the server itself does not do: it is never given more sequences, or more key-value cache, than it
has (it would fail all of them), and a prompt's tokens are remembered.
"""

from __future__ import annotations

import asyncio
import http.client
import secrets
import threading
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from ponder.core.problem import Prompt
from ponder.engine.threads import available, quiet_threads
from ponder.errors import EndpointError, MissingExtraError, ModelError
from ponder.models._local_model import too_long

_REMEMBERED = 512


@dataclass(frozen=True)
class Settings:
    """What a server is started with; equal settings share one server.

    The fields are those of `LlamaCpp`.
    """

    path: Path
    context: int
    parallel: int
    threads: int | None
    batch_threads: int | None = None
    batch: int = 2048
    ubatch: int = 512
    kv: str = "f16"
    flash: str = "auto"
    unified: bool = True


class Room:
    """Sequences and cells of the key-value cache that are still free; callers wait their turn.

    Usable from several event loops at once.
    """

    def __init__(self, slots: int, cells: int) -> None:
        self.slots, self.cells = slots, cells
        self._free = [slots, cells]
        self._lock = threading.Lock()
        self._waiting: deque[tuple[int, int, asyncio.AbstractEventLoop, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def take(self, slots: int, cells: int) -> AsyncIterator[None]:
        """Hold so many of each; both are capped at what there is in all."""
        slots, cells = min(slots, self.slots), min(cells, self.cells)
        loop = asyncio.get_running_loop()
        with self._lock:
            turn: asyncio.Future[None] | None = None
            if self._waiting or slots > self._free[0] or cells > self._free[1]:
                turn = loop.create_future()
                self._waiting.append((slots, cells, loop, turn))
            else:
                self._give(slots, cells, -1)
        if turn is not None:
            await self._wait(turn, slots, cells)
        try:
            yield
        finally:
            with self._lock:
                self._give(slots, cells, +1)
                self._admit()

    async def _wait(self, turn: asyncio.Future[None], slots: int, cells: int) -> None:
        try:
            await asyncio.shield(turn)
        except asyncio.CancelledError:
            with self._lock:
                still = [w for w in self._waiting if w[3] is not turn]
                if len(still) == len(self._waiting):  # it was admitted meanwhile
                    self._give(slots, cells, +1)
                self._waiting = deque(still)
                self._admit()
            raise

    def _give(self, slots: int, cells: int, sign: int) -> None:
        self._free[0] += sign * slots
        self._free[1] += sign * cells

    def _admit(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free[0] and self._waiting[0][1] <= self._free[1]:
            slots, cells, loop, turn = self._waiting.popleft()
            if loop.is_closed():
                continue
            self._give(slots, cells, -1)
            loop.call_soon_threadsafe(_wake, turn)


def _wake(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)


class Running:
    """One loaded model.

    Args:
        settings: the file, and how it is run.

    Raises:
        MissingExtraError: xllamacpp is not installed.
        ModelError: llama.cpp cannot load the file.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.room = Room(settings.parallel, settings.context)
        self._key = secrets.token_hex(16)
        self._memory: OrderedDict[str, Any] = OrderedDict()
        self._server = _start(settings, self._key)
        self.address: str = self._server.listening_address
        self.headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}

    def text(self, prompt: Prompt) -> str:
        """Text as it is; messages through the model's own chat template."""
        if isinstance(prompt, str):
            return prompt
        body = orjson.dumps({"messages": [dict(m) for m in prompt]})
        return str(self._remembered("/apply-template", body)["prompt"])

    def tokens(self, text: str) -> list[int]:
        """The tokens of a prompt, the ones that begin every text included."""
        body = orjson.dumps({"content": text, "add_special": True, "parse_special": True})
        tokens: list[int] = self._remembered("/tokenize", body)["tokens"]
        return tokens

    def get(self, path: str) -> Any:
        """What the server tells of itself."""
        return self._call("GET", path, None)

    def _remembered(self, path: str, body: bytes) -> Any:
        key = path + body.decode("utf-8")
        if key not in self._memory:
            self._memory[key] = self._call("POST", path, body)
            if len(self._memory) > _REMEMBERED:
                self._memory.popitem(last=False)
        return self._memory[key]

    def _call(self, method: str, path: str, body: bytes | None) -> Any:
        """A call that takes the server about a millisecond, so that it need not be asynchronous."""
        host = self.address.removeprefix("http://")
        connection = http.client.HTTPConnection(host, timeout=60)
        try:
            connection.request(method, path, body, self.headers)
            answer = connection.getresponse()
            raw = answer.read()
        except OSError as error:
            raise EndpointError(f"{self.settings.path.name}: the model's server does not answer: {error}") from error
        finally:
            connection.close()
        if answer.status != 200:
            raise refusal(raw, self.settings.path.name)
        return orjson.loads(raw)


_RUNNING: dict[Settings, Running] = {}
_LOCK = threading.Lock()


def running(settings: Settings) -> Running:
    """The server with these settings, started if need be.

    It stays until the process ends: llama.cpp's own shutting down has been seen to wait for itself,
    and keeping the model saves its next user the load.
    """
    with _LOCK:
        found = _RUNNING.get(settings)
        if found is None:
            found = _RUNNING[settings] = Running(settings)
        return found


def refusal(raw: bytes, who: str) -> ModelError:
    """The server's error answer as an exception."""
    try:
        said = orjson.loads(raw)["error"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return EndpointError(f"{who}: unexpected answer {raw[:200]!r}")
    if said.get("type") == "exceed_context_size_error":
        return too_long(who, said.get("n_prompt_tokens"), said.get("n_ctx"))
    return EndpointError(f"{who}: {said.get('message', said)}", status=said.get("code"))


def _start(settings: Settings, key: str) -> Any:
    try:
        with quiet_threads():
            import xllamacpp
    except ImportError:
        raise MissingExtraError("llamacpp models", "xllamacpp", "llamacpp") from None
    wanted = xllamacpp.CommonParams()
    wanted.model.path = str(settings.path)
    wanted.n_ctx, wanted.n_parallel, wanted.kv_unified = settings.context, settings.parallel, settings.unified
    threads = settings.threads or available()
    wanted.cpuparams.n_threads, wanted.cpuparams_batch.n_threads = threads, settings.batch_threads or threads
    wanted.n_batch, wanted.n_ubatch = settings.batch, settings.ubatch
    wanted.cache_type_k = wanted.cache_type_v = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{settings.kv.upper()}")
    flash = {"auto": "AUTO", "on": "ENABLED", "off": "DISABLED"}[settings.flash]
    wanted.flash_attn_type = getattr(xllamacpp.llama_flash_attn_type, f"LLAMA_FLASH_ATTN_TYPE_{flash}")
    wanted.n_threads_http = settings.parallel + 8  # one for each call under way, and some for small questions
    wanted.cache_ram_mib = 0  # a copy of every idle sequence, up to 8 GiB; the cells themselves are kept anyway
    wanted.verbosity, wanted.warmup, wanted.api_keys = -1, False, [key]
    try:
        return xllamacpp.Server(wanted)
    except RuntimeError as error:
        raise ModelError(f"llama.cpp cannot load {settings.path}: {error}") from error
