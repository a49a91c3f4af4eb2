"""Processor threads: how many there are, and that idle ones sleep."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


def available() -> int:
    """Cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return cores or 1


@contextmanager
def quiet_threads() -> Iterator[None]:
    """Let idle OpenMP threads sleep: spinning ones make a busy machine ten times slower.

    OpenMP reads the variable once, when the library is loaded; a value the user has set stays.
    """
    name = "OMP_WAIT_POLICY"
    if name in os.environ:
        yield
        return
    os.environ[name] = "passive"
    try:
        yield
    finally:
        del os.environ[name]
