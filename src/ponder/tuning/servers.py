"""Servers that can be started for each configuration: their command, and the arguments worth tuning.

The arguments are from the servers' documentation as of 2025, from memory. vLLM and SGLang have not been run here: a
name that a newer version has changed makes the server end at once, and its own message is the trial's outcome.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING
from urllib.parse import urlsplit

from ponder.errors import EngineError, ParameterError, UnknownNameError

if TYPE_CHECKING:
    from ponder.tuning.space import Knob


@dataclass(frozen=True)
class Server:
    """A server that speaks the OpenAI protocol.

    Args:
        name: what it is called here.
        command: how it is started; `{model}`, `{host}` and `{port}` are filled in.
        model: what it serves.
        url: where it is to listen, up to `/v1`.
    """

    name: str
    command: str
    model: str = ""
    url: str = ""

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """Arguments that are tuned."""
        from ponder.tuning.space import Knob

        return tuple(Knob(n, d, v, "server", frozenset(lossy), flag) for n, d, v, flag, lossy in _ARGUMENTS[self.name])

    def words(self, flags: Sequence[str] = ()) -> list[str]:
        """The whole command.

        Raises:
            ParameterError: the URL has no port.
        """
        place = urlsplit(self.url)
        if place.port is None:
            raise ParameterError("server", "url", self.url, allowed="a URL with a port",
                                 hint="openai:MODEL@http://127.0.0.1:8000/v1")  # fmt: skip
        filled = {"model": self.model, "host": place.hostname or "127.0.0.1", "port": str(place.port)}
        return [*(word.format(**filled) for word in shlex.split(self.command)), *flags]

    def launch(self, flags: Sequence[str], environment: Mapping[str, str], timeout_s: float) -> Launched:
        """Start it and wait until it answers.

        Raises:
            EngineError: it is not installed, ends, or does not answer in time.
        """
        words = self.words(flags)
        if shutil.which(words[0]) is None:
            raise EngineError(f"{words[0]} is not installed here. The command would be: {shlex.join(words)}")
        return Launched(words, self.url, environment, timeout_s)

    def serving(self, model: str, url: str) -> Server:
        """The same server for a model at a URL."""
        return replace(self, model=model, url=url)


class Launched:
    """A server's process (and its children), until closed."""

    def __init__(self, words: Sequence[str], url: str, environment: Mapping[str, str], timeout_s: float) -> None:
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=self._said, stderr=self._said, env=dict(environment),
            start_new_session=True,
        )  # fmt: skip
        end = time.monotonic() + timeout_s
        while (refused := _refused(url)) is not None:
            if self._process.poll() is not None or time.monotonic() > end:
                ended = (
                    f"did not answer {url}/models within {timeout_s:.0f} s ({refused})"
                    if self._process.returncode is None
                    else f"ended with code {self._process.returncode}"
                )
                self._said.seek(0)
                tail = self._said.read().decode("utf-8", "replace").strip()[-800:]
                self.close()
                raise EngineError(f"{words[0]} {ended}; its last words: {tail or 'none'}")
            time.sleep(0.2)

    def close(self) -> None:
        """End it and what it started. Safe to call twice."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        self._said.close()


_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""It runs on this machine: no proxy of the environment stands between."""


def _refused(url: str) -> str | None:
    """Why the server does not answer yet; None when it does."""
    try:
        with _DIRECT.open(f"{url}/models", timeout=2):
            return None
    except urllib.error.HTTPError as error:
        return None if error.code < 500 else f"HTTP {error.code}"
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__


SERVERS: dict[str, Server] = {
    "vllm": Server("vllm", "vllm serve {model} --host {host} --port {port}"),
    "sglang": Server("sglang", "python -m sglang.launch_server --model-path {model} --host {host} --port {port}"),
    "llama-server": Server("llama-server", "llama-server -m {model} --host {host} --port {port}"),
}
"""By name. `openai:MODEL@http://127.0.0.1:PORT/v1` says what is served and where."""

_ARGUMENTS: dict[str, tuple[tuple[str, int | float | str | bool, tuple[int | float | str | bool, ...], str,
                                  tuple[str, ...]], ...]] = {
    "vllm": (
        ("max_num_seqs", 256, (16, 64, 128, 256, 512), "--max-num-seqs {}", ()),
        ("max_num_batched_tokens", 2048, (512, 2048, 4096, 8192), "--max-num-batched-tokens {}", ()),
        ("enable_prefix_caching", True, (True, False), "--enable-prefix-caching", ()),
        ("enable_chunked_prefill", True, (True, False), "--enable-chunked-prefill", ()),
        ("gpu_memory_utilization", 0.9, (0.8, 0.9, 0.95), "--gpu-memory-utilization {}", ()),
        ("tensor_parallel_size", 1, (1, 2, 4), "--tensor-parallel-size {}", ()),
        ("block_size", 16, (16, 32), "--block-size {}", ()),
        ("kv_cache_dtype", "auto", ("auto", "fp8"), "--kv-cache-dtype {}", ("fp8",)),
    ),
    "sglang": (
        ("max_running_requests", 256, (16, 64, 128, 256), "--max-running-requests {}", ()),
        ("chunked_prefill_size", 8192, (1024, 2048, 4096, 8192), "--chunked-prefill-size {}", ()),
        ("mem_fraction_static", 0.85, (0.7, 0.85, 0.9), "--mem-fraction-static {}", ()),
        ("schedule_policy", "fcfs", ("fcfs", "lpm"), "--schedule-policy {}", ()),
        ("tp_size", 1, (1, 2, 4), "--tp-size {}", ()),
        ("kv_cache_dtype", "auto", ("auto", "fp8_e5m2"), "--kv-cache-dtype {}", ("fp8_e5m2",)),
    ),
    "llama-server": (
        ("threads", 0, (0, 1, 2, 4, 8), "--threads {}", ()),
        ("slots", 1, (1, 2, 4, 8, 16), "--parallel {}", ()),
        ("n_batch", 2048, (256, 512, 2048), "--batch-size {}", ()),
        ("n_ubatch", 512, (64, 128, 256, 512), "--ubatch-size {}", ()),
        ("cache_type_k", "f16", ("f16", "q8_0"), "--cache-type-k {}", ("q8_0",)),
    ),
}  # fmt: skip
"""Name, default, values, flag, lossy values."""


def server_for(name: str, model: str) -> Server:
    """The server that serves an `openai:MODEL@URL` model.

    Raises:
        UnknownNameError: no such server.
        ParameterError: the model is no endpoint.
    """
    from ponder.core.spec import parse_term

    if name not in SERVERS:
        raise UnknownNameError("server", name, SERVERS)
    term = parse_term(model)
    served, sign, place = (term.locator or "").partition("@http")
    if term.name not in ("openai", "openai_compatible") or not sign:
        raise ParameterError("server", "model", model, allowed="openai:MODEL@http://127.0.0.1:PORT/v1")
    return SERVERS[name].serving(served, f"http{place}")
