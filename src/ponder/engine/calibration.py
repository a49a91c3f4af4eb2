"""Which backend is faster on this machine, measured once and remembered."""

from __future__ import annotations

import importlib.util
import platform
import time
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from ponder.engine.backend import Backend, Row
from ponder.engine.one_thread import there
from ponder.models.catalog import cache_dir, model_digest

if TYPE_CHECKING:
    from ponder.engine.engine import Settings

WIDTHS = (1, 4, 16, 32, 64)
_PROMPT, _STEPS = 64, 3
_REVISION = 5
"""Goes up when a backend gets faster, so that what was measured before counts no more."""
_MARGIN = 1.1
"""Torch must be so much faster before it is preferred: it needs more memory."""


@dataclass(frozen=True)
class Calibration:
    """Tokens a second that texts after one prompt are decoded at, by backend and width.

    Attributes:
        speeds: of `llamacpp` and `torch`, each by the number of texts.
        crossover: number of texts from which on torch is faster; None if it never is, or is not installed.
    """

    speeds: dict[str, dict[int, float]]
    crossover: int | None


@lru_cache(32)
def calibration(settings: Settings) -> Calibration:
    """This machine's, for this model: read from the cache, measured if it is not there (some seconds)."""
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("gguf") is None:
        return Calibration({}, None)
    known = remembered(settings)
    if known is None:
        known = there(_measure, settings)
        _remember(_key(settings), known)
    return known


def step_seconds(settings: Settings, kind: str, backend: Backend) -> dict[int, float]:
    """Seconds of a step by its number of tokens: as remembered, else measured on this backend, which holds nothing."""
    for key in (_key(settings), f"{_key(settings)}|{kind}"):
        known = _known(key)
        if known is not None and known.speeds.get(kind):
            return {n: n / speed for n, speed in known.speeds[kind].items()}
    speeds = _speeds(backend, settings.parallel)
    _remember(f"{_key(settings)}|{kind}", Calibration({kind: speeds}, None))
    return {n: n / speed for n, speed in speeds.items()}


def remembered(settings: Settings) -> Calibration | None:
    """What was measured before, None if nothing."""
    return _known(_key(settings))


def _known(key: str) -> Calibration | None:
    raw = _read().get(key)
    if raw is None:
        return None
    speeds = {kind: {int(n): float(v) for n, v in by.items()} for kind, by in raw["speeds"].items()}
    return Calibration(speeds, raw["crossover"])


def crossover(speeds: dict[str, dict[int, float]]) -> int | None:
    """The smallest measured width from which on torch is clearly faster, at it and at all larger ones."""
    found = None
    for n in sorted(speeds["llamacpp"], reverse=True):
        if speeds["torch"].get(n, 0.0) < _MARGIN * speeds["llamacpp"][n]:
            break
        found = n
    return found


def decode_speed(backend: Backend, width: int, steps: int = _STEPS) -> float:
    """Tokens a second of so many texts after one prompt, all in one batch; the median of the steps."""
    prompt = [100 + i for i in range(_PROMPT)]
    backend.evaluate([Row(0, 0, prompt, 1)])
    for i in range(1, width):
        backend.fork(0, i, _PROMPT)
    seconds = []
    for step in range(steps + 1):
        rows = [Row(i, _PROMPT + step, [200 + i + step], 1) for i in range(width)]
        begin = time.perf_counter()
        backend.evaluate(rows)
        seconds.append(time.perf_counter() - begin)
    for i in range(width):
        backend.free(i)
    return width / sorted(seconds[1:])[steps // 2]


def _measure(settings: Settings) -> Calibration:
    from ponder.engine.engine import BACKENDS

    small = replace(settings, context=max(2048, 16 * settings.parallel))
    speeds: dict[str, dict[int, float]] = {}
    for kind in ("llamacpp", "torch"):
        backend = BACKENDS[kind](small)
        speeds[kind] = _speeds(backend, settings.parallel)
        backend.close()
    return Calibration(speeds, crossover(speeds))


def _speeds(backend: Backend, parallel: int) -> dict[int, float]:
    """By the number of texts, as far as they fit."""
    most = min(parallel, backend.sequences, (backend.cells - _PROMPT) // (_STEPS + 1))
    return {n: decode_speed(backend, n) for n in WIDTHS if n <= most}


def _key(settings: Settings) -> str:
    parts = [
        _REVISION,
        model_digest(settings.path)[:24],
        _processor(),
        settings.workers,
        settings.parallel,
        settings.precision,
    ]
    for package in ("torch", "xllamacpp"):
        try:
            parts.append(version(package))
        except PackageNotFoundError:
            parts.append("none")
    return "|".join(map(str, parts))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    wide = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in facts.get("flags", "").split()]
    return " ".join([facts.get("model name", platform.machine()), facts.get("model", ""), *wide]).strip()


def _place() -> Path:
    return cache_dir() / "engines.json"


def _read() -> dict[str, Any]:
    try:
        found: dict[str, Any] = orjson.loads(_place().read_bytes())
        return found
    except (OSError, orjson.JSONDecodeError):
        return {}


def _remember(key: str, found: Calibration) -> None:
    whole = {**_read(), key: asdict(found)}
    try:
        _place().parent.mkdir(parents=True, exist_ok=True)
        scratch = _place().with_suffix(".new")
        scratch.write_bytes(orjson.dumps(whole, option=orjson.OPT_NON_STR_KEYS))
        scratch.replace(_place())
    except OSError:
        pass  # only costs measuring again next time
