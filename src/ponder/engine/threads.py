"""Processor threads: how many there are, and how idle ones wait."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


def available() -> int:
    """Cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return cores or 1


_SPINS = "10000"
"""Rounds, about a tenth of a millisecond: longer than the gap between two products, shorter than a time slice."""


@contextmanager
def quiet_threads() -> Iterator[None]:
    """Let idle OpenMP threads wait for a moment before they sleep.

    Threads that always sleep at once are woken thousands of times a second, and decode at half the speed; those that
    wait long take the processor from whoever they wait for on a busy machine (docs/guide/engine.md has the figures).
    OpenMP reads the variable once, when the library is loaded; what the user has set stays.
    """
    if {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
        yield
        return
    os.environ["GOMP_SPINCOUNT"] = _SPINS
    try:
        yield
    finally:
        del os.environ["GOMP_SPINCOUNT"]
