"""Configurations started as processes and measured; what a tuner needs of an engine, real or simulated."""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Protocol

import orjson

from ponder.errors import EngineError
from ponder.tuning.measure import SLO, Measured
from ponder.tuning.profiles import SWITCH
from ponder.tuning.servers import Server
from ponder.tuning.space import Space, Value
from ponder.tuning.workload import Workload

_TAIL = 800
"""Characters of stderr that a message carries."""


class Session(Protocol):
    """One configuration, running and warm."""

    def measure(self, *, seed: int, repetition: int, fraction: float, timeout_s: float) -> Measured:
        """Run the workload once.

        Raises:
            EngineError: it crashed, failed, or took too long.
        """
        ...

    def greedy(self) -> list[str]:
        """What it writes after fixed prompts at temperature 0."""
        ...

    def close(self) -> None:
        """End it. Safe to call twice."""
        ...


class Bench(Protocol):
    """Starts configurations."""

    several: bool
    """Whether several may run side by side (idle but for the one that is measured)."""

    def open(self, config: Mapping[str, Value], timeout_s: float) -> Session:
        """Start one afresh and warm it up.

        Raises:
            EngineError: it does not start.
        """
        ...


class ProcessBench:
    """Each configuration in a process of its own; a server of its own too, if one is to be launched.

    Args:
        space: writes a configuration as a model's text and environment.
        workload: what is measured.
        slo: for the goodput.
        server: launched for each configuration; None measures in the process, or an endpoint that runs already.
    """

    def __init__(self, space: Space, workload: Workload, slo: SLO, server: Server | None = None) -> None:
        self.space, self.workload, self.slo, self.server = space, workload, slo, server
        self.several = server is None

    def open(self, config: Mapping[str, Value], timeout_s: float) -> Session:
        """See `Bench`."""
        return _Process(self, config, timeout_s)


class _Process:
    def __init__(self, bench: ProcessBench, config: Mapping[str, Value], timeout_s: float) -> None:
        self._bench = bench
        environment = {**os.environ, SWITCH: "off", **bench.space.environment(config)}
        flags = bench.space.flags(config)
        self._server = bench.server.launch(flags, environment, timeout_s) if bench.server is not None else None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ponder.tuning.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=environment,
        )  # fmt: skip
        try:
            self._ask({"do": "load", "model": bench.space.spec(config), "natural": bench.workload.natural,
                       "width": bench.workload.width}, timeout_s)  # fmt: skip
        except EngineError:
            self.close()
            raise

    def measure(self, *, seed: int, repetition: int, fraction: float, timeout_s: float) -> Measured:
        """See `Session`."""
        asked = {"do": "measure", "workload": str(self._bench.workload), "slo": asdict(self._bench.slo), "seed": seed,
                 "repetition": repetition, "fraction": fraction}  # fmt: skip
        return Measured(**self._ask(asked, timeout_s))

    def greedy(self) -> list[str]:
        """See `Session`."""
        texts: list[str] = self._ask({"do": "greedy"}, 600)
        return texts

    def close(self) -> None:
        """See `Session`."""
        process = self._process
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
        self._errors.close()
        if self._server is not None:
            self._server.close()

    def _ask(self, asked: dict[str, Any], timeout_s: float) -> Any:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        try:
            stdin.write(orjson.dumps(asked) + b"\n")
            stdin.flush()
        except OSError:
            raise EngineError(f"the process ended; its last words: {self._tail()}") from None
        line, end = b"", time.monotonic() + timeout_s
        with selectors.DefaultSelector() as ready:
            ready.register(stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not ready.select(max(0.0, end - time.monotonic())):
                    self._process.kill()
                    raise EngineError(f"no answer within {timeout_s:.0f} s")
                piece = os.read(stdout.fileno(), 1 << 16)
                if not piece:
                    code = self._process.wait()
                    raise EngineError(f"the process ended with code {code}; its last words: {self._tail()}")
                line += piece
        answer = orjson.loads(line)
        if "error" in answer:
            raise EngineError(answer["error"])
        return answer["ok"]

    def _tail(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode("utf-8", "replace").strip()[-_TAIL:] or "none"
