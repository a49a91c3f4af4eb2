"""Functions that may never end, called in a process of their own.

Algebra packages compute `9^{9^9}` if a model writes it, in C code that no thread can interrupt. Here the kernel ends
such a computation: the child sets timers on itself whose signals have no handler.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import pickle
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from ponder.errors import GraderError

_HEAD = struct.Struct("!I")
_CHILD = Path(__file__).with_name("_limited_child.py")


class LimitExceededError(GraderError):
    """A call needed more processor time or memory than it may."""


class Limited:
    """Calls one function in a child process that is started when needed and kept; safe to use from any thread.

    What the function prints goes nowhere, and an exception it raises is raised here as a GraderError.

    Args:
        function: `module:function`, importable; arguments must be picklable, results plain JSON.
        cpu_s: processor seconds of one call; imports are not counted. Twenty times as many seconds on the clock
            also end it.
        memory_bytes: address space of the child.
    """

    def __init__(self, function: str, *, cpu_s: float = 1.0, memory_bytes: int = 4 << 30) -> None:
        self.function, self.cpu_s, self.memory_bytes = function, cpu_s, memory_bytes
        self._child: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._lock = threading.Lock()
        atexit.register(self.close)

    def __call__(self, *arguments: Any) -> Any:
        """The function's result.

        Raises:
            LimitExceededError: it took too long or too much memory, or its process died.
            GraderError: it raised.
        """
        with self._lock:
            child = self._running()
            try:
                _send(child, arguments)
                kind, value = _receive(child)
            except (EOFError, OSError):
                self._forget()
                raise LimitExceededError(
                    f"{self.function} needed more than {self.cpu_s:g} s or {self.memory_bytes >> 20} MiB"
                ) from None
            except BaseException:  # an interrupt between question and answer: the next answer would be this one's
                self._forget()
                raise
        if kind == "memory":
            raise LimitExceededError(f"{self.function} needed more than {self.memory_bytes >> 20} MiB")
        if kind == "error":
            raise GraderError(value)
        return value

    def close(self) -> None:
        """End the child; the next call starts another."""
        with self._lock:
            self._forget()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is not None and self._owner == os.getpid():
            return self._child
        if self._child is not None:  # a fork of the process that started it: the pipe is the parent's
            _OTHERS.append(self._child)
        self._owner = os.getpid()
        self._child = subprocess.Popen(
            [sys.executable, "-P", str(_CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        _send(self._child, (list(sys.path), self.function, self.cpu_s, self.memory_bytes))
        try:
            kind, value = _receive(self._child)
        except (EOFError, OSError):
            self._forget()
            raise GraderError(f"{self.function}: its process ended while starting") from None
        if kind == "error":
            self._forget()
            raise GraderError(f"{self.function} cannot be loaded: {value}")
        return self._child

    def _forget(self) -> None:
        child, self._child = self._child, None
        if child is None or self._owner != os.getpid():
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


_OTHERS: list[subprocess.Popen[bytes]] = []
"""Children of the process that this one was forked from; kept so that nobody waits for them."""


def _send(child: subprocess.Popen[bytes], message: Any) -> None:
    data = pickle.dumps(message)
    assert child.stdin is not None
    child.stdin.write(_HEAD.pack(len(data)) + data)
    child.stdin.flush()


def _receive(child: subprocess.Popen[bytes]) -> tuple[str, Any]:
    assert child.stdout is not None
    head = child.stdout.read(_HEAD.size)
    if len(head) < _HEAD.size:
        raise EOFError
    (length,) = _HEAD.unpack(head)
    data = child.stdout.read(length)
    if len(data) < length:
        raise EOFError
    kind, value = json.loads(data)  # not a pickle: the child may have evaluated what a model wrote
    return kind, value
