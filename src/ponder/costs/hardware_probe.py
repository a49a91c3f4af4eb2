"""This machine's speed, measured once and remembered: a matrix product for the peak, a large copy for the bandwidth."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ponder.costs.profiles import HERE, HardwareProfile
from ponder.errors import ParameterError

_SIDE = 2048
_COPIED_BYTES = 256 << 20
"""More than any cache holds."""


def measure_hardware(
    *, repetitions: int = 7, side: int = _SIDE, copied_bytes: int = _COPIED_BYTES, torch: bool | None = None
) -> tuple[HardwareProfile, float]:
    """Measure this machine.

    Args:
        repetitions: of each measurement, 5 or more; the median counts, after one that warms up.
        side: of the square 32-bit matrices that are multiplied.
        copied_bytes: of the array that is copied; reading and writing both count.
        torch: measure with torch; None does if it is installed and the faster of both counts.

    Returns:
        The profile, and the spread of its repetitions: the largest interquartile range over its median. Above 0.2
        the machine was busy with something else.

    Raises:
        ParameterError: fewer than 5 repetitions.
    """
    if repetitions < 5:
        raise ParameterError("measure_hardware", "repetitions", repetitions, allowed="an integer ≥ 5")
    tools = [_numpy(side, copied_bytes), *([_torch(side, copied_bytes)] if torch or torch is None else [])]
    results = []
    for name, product, copy in (t for t in tools if t is not None):
        peak, peak_spread = _rates(product, 2.0 * side**3, repetitions)
        bandwidth, bandwidth_spread = _rates(copy, 2.0 * copied_bytes, repetitions)
        results.append((peak, bandwidth, peak_spread, bandwidth_spread, name))
    fastest = max(results)
    widest = max(results, key=lambda r: r[1])
    source = f"measured: {processor()}, {os.cpu_count()} cores, 32-bit product with {fastest[4]}, copy with {widest[4]}"
    profile = HardwareProfile(HERE, fastest[0], widest[1], float(memory_bytes()), None, source)
    return profile, max(fastest[2], widest[3])


def measured_here(*, again: bool = False) -> HardwareProfile:
    """This machine's profile, from the cache directory, else measured and remembered there.

    Args:
        again: measure even if it is remembered.
    """
    return remembered(again=again)[0]


def remembered(*, again: bool = False) -> tuple[HardwareProfile, float, bool]:
    """The profile, its spread, and whether it was measured just now."""
    path, key = _place(), f"{processor()}|{os.cpu_count()}"
    try:
        known: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        known = {}
    if not again and key in known:
        try:
            return HardwareProfile(**known[key]["profile"]), float(known[key]["spread"]), False
        except (KeyError, TypeError, ValueError):
            pass  # written by another version: measure anew
    profile, spread = measure_hardware()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(f".{os.getpid()}")
        scratch.write_text(json.dumps({**known, key: {"profile": asdict(profile), "spread": spread}}, indent=2))
        scratch.replace(path)
    except OSError:
        pass  # only costs measuring again next time
    return profile, spread, True


def _rates(run: Callable[[], Any], amount: float, repetitions: int) -> tuple[float, float]:
    """Median rate, and interquartile range over the median."""
    run()
    rates = []
    for _ in range(repetitions):
        started = time.perf_counter()
        run()
        rates.append(amount / (time.perf_counter() - started))
    low, middle, high = statistics.quantiles(rates, n=4)
    return middle, (high - low) / middle


def _numpy(side: int, copied_bytes: int) -> tuple[str, Callable[[], Any], Callable[[], Any]]:
    import numpy as np

    a = np.random.default_rng(0).random((side, side), dtype=np.float32)
    out = np.empty_like(a)
    source = np.ones(copied_bytes // 8)
    target = np.empty_like(source)
    return "numpy", lambda: np.matmul(a, a, out=out), lambda: np.copyto(target, source)


def _torch(side: int, copied_bytes: int) -> tuple[str, Callable[[], Any], Callable[[], Any]] | None:
    try:
        import torch
    except ImportError:
        return None
    a = torch.rand(side, side)
    out = torch.empty_like(a)
    source = torch.ones(copied_bytes // 8, dtype=torch.float64)
    target = torch.empty_like(source)
    return "torch", lambda: torch.mm(a, a, out=out), lambda: target.copy_(source)


def _place() -> Path:
    from ponder.models.catalog import cache_dir

    return cache_dir() / "hardware.json"


def processor() -> str:
    """The processor's name, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "unknown processor"


def memory_bytes() -> int:
    """Memory of the machine; 0 if the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0
