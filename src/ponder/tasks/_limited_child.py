"""What `Limited` runs: answers calls on its standard input until that ends. Run as a file; needs nothing of ponder."""

import importlib
import json
import os
import pickle
import signal
import struct
import sys
import warnings
from typing import Any, BinaryIO

HEAD = struct.Struct("!I")
WALL_PER_CPU_SECOND = 20


def main() -> None:
    """Read who is to be called, then answer calls."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    source = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)

    sys.path[:], where, cpu_s, memory_bytes = receive(source)
    try:
        module, _, name = where.partition(":")
        function = getattr(importlib.import_module(module), name)
        getattr(sys.modules[module], "prepare", lambda: None)()
        limit_memory(memory_bytes)
    except BaseException as error:
        answer(answers, "error", f"{type(error).__name__}: {error}")
        return
    answer(answers, "ready", None)
    while (arguments := receive(source)) is not None:
        set_timers(cpu_s)
        kind, value = "value", None
        try:
            value = function(*arguments)
        except MemoryError:
            kind = "memory"
        except BaseException as error:  # also SystemExit, which evaluated text may ask for
            kind, value = "error", f"{type(error).__name__}: {error}"
        set_timers(0)
        try:
            answer(answers, kind, value)
        except (TypeError, ValueError) as error:
            answer(answers, "error", f"{type(error).__name__}: {error}")


def receive(source: BinaryIO) -> Any:
    """The next message; None when there will be none."""
    head = source.read(HEAD.size)
    if len(head) < HEAD.size:
        return None
    return pickle.loads(source.read(*HEAD.unpack(head)))  # noqa: S301  (only the parent process writes here)


def answer(answers: BinaryIO, kind: str, value: Any) -> None:
    """Send an answer."""
    data = json.dumps((kind, value)).encode()
    answers.write(HEAD.pack(len(data)) + data)
    answers.flush()


def set_timers(cpu_s: float) -> None:
    """Let the kernel end this process after that much processor time; 0 takes it back."""
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        signal.setitimer(signal.ITIMER_REAL, WALL_PER_CPU_SECOND * cpu_s)


def limit_memory(memory_bytes: int) -> None:
    """Bound the address space, where the system can."""
    try:
        import resource
    except ImportError:
        return
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    bound = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (bound, hard))


if __name__ == "__main__":
    main()
