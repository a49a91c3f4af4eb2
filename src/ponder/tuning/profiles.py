"""What tunings have found, by model, workload, objective and machine."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from ponder.models.catalog import cache_dir

if TYPE_CHECKING:
    from ponder.tuning.tune import Tuned


def _profiles() -> Path:
    return cache_dir() / "engine_profiles.json"


def save_profile(tuned: Tuned, engine: str) -> Path:
    """Remember what came of a tuning, for `profile`."""
    path = _profiles()
    try:
        known = orjson.loads(path.read_bytes())
    except (OSError, ValueError):
        known = {}
    gain = tuned.gain
    known[_profile_key(tuned.model, tuned.workload, tuned.objective, tuned.host)] = {
        "engine": engine, "spec": tuned.spec, "environment": dict(tuned.environment), "flags": list(tuned.flags),
        "config": dict(tuned.config), "gain": None if gain is None else asdict(gain), "lossy": tuned.lossy,
        "at": time.time(),
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(f".{os.getpid()}")
    scratch.write_bytes(orjson.dumps(known, option=orjson.OPT_INDENT_2))
    scratch.replace(path)
    return path


def profile(model: str, workload: str, objective: str, host: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a tuning of this model, on this machine and for this workload, has found; None if there was none."""
    try:
        known: dict[str, dict[str, Any]] = orjson.loads(_profiles().read_bytes())
    except (OSError, ValueError):
        return None
    return known.get(_profile_key(model, workload, objective, host))


def _profile_key(model: str, workload: str, objective: str, host: Mapping[str, Any]) -> str:
    return "|".join([model, workload, objective, str(host.get("processor")), str(host.get("cores"))])
