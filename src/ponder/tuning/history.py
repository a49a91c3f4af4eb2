"""What was measured, kept as JSON lines: a tuner resumes from it, and `ponder engine choose` learns from it."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from ponder.errors import StoreError
from ponder.models.catalog import cache_dir
from ponder.tuning.space import Value


@dataclass(frozen=True)
class Row:
    """One configuration, measured on one workload.

    Attributes:
        run: what belongs to one tuning; equal if it is resumed.
        stage: `search`, `validation`, or `repetition` (one of a validation that may be interrupted).
        engine: with its version; rows of other versions are other groups.
        model: text form of the base.
        model_features: numbers that tell models apart.
        host: where it was (see `host`).
        workload: text form.
        workload_features: see `Workload.features`.
        objective: what `value` is.
        settings: every knob.
        config: those that differ from the default.
        value: the objective; 0 if infeasible. On the whole workload, or on the share that it came to.
        ratio: to the default.
        share: of the workload.
        failure: why it is infeasible.
        values: the objective by share, or by repetition.
        measured: all that was seen.
        lossy: whether it may change what is written.
        spent_s: seconds that it took, starting included.
    """

    run: str
    stage: str
    engine: str
    model: str
    model_features: Mapping[str, float]
    host: Mapping[str, Any]
    workload: str
    workload_features: Mapping[str, float]
    objective: str
    settings: Mapping[str, Value]
    config: Mapping[str, Value]
    value: float
    ratio: float
    share: float = 1.0
    seconds: float = 0.0
    failure: str = ""
    values: Mapping[str, float] = field(default_factory=dict)
    measured: Mapping[str, Any] | None = None
    lossy: bool = False
    spent_s: float = 0.0
    at: float = field(default_factory=time.time)

    @property
    def group(self) -> tuple[str, ...]:
        """Rows of one group differ in nothing but the settings."""
        return (self.engine, self.model, str(self.host.get("processor")), str(self.host.get("cores")), self.workload,
                self.objective)  # fmt: skip


def history_path() -> Path:
    """Where tunings of this user are kept."""
    return cache_dir() / "engine_history.jsonl"


def append(path: Path, row: Row) -> None:
    """Add a row; other processes may do so too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as f:
        f.write(orjson.dumps(asdict(row)) + b"\n")


def read(path: Path) -> list[Row]:
    """All rows; none if there is no file. A last line that was cut off is left out.

    Raises:
        StoreError: a line in the middle that is not a row.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines()
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(Row(**orjson.loads(line)))
        except (ValueError, TypeError) as error:
            if number == len(lines):
                break
            raise StoreError(f"{path}, line {number} is not a row of a history: {error}") from None
    return rows


def groups(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Rows by group: one a configuration, the latest and surest (validation before search) of each."""
    by_group: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in sorted((r for r in rows if r.stage != "repetition"), key=lambda r: (r.stage == "validation", r.at)):
        by_group.setdefault(row.group, {})[repr(sorted(row.config.items()))] = row
    return (list(found.values()) for found in by_group.values())


def host(*, measure: bool = True) -> dict[str, Any]:
    """The machine, and how busy it is now.

    Args:
        measure: peak and bandwidth too, which are measured once on each machine.
    """
    from ponder.costs.hardware_probe import memory_bytes, processor, remembered
    from ponder.engine.threads import available

    found: dict[str, Any] = {
        "processor": processor(), "cores": available(), "memory_bytes": memory_bytes(), "load": load_average(),
        "python": platform.python_version(), "system": platform.system(),
    }  # fmt: skip
    if measure:
        profile = remembered()[0]
        found |= {"peak_flops": profile.peak_flops, "memory_bandwidth": profile.memory_bandwidth}
    return found


def load_average() -> float | None:
    """Of the last minute; None where the system does not tell."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def engine_version(engine: str) -> str:
    """The engine with the version of the package that runs it; without one for endpoints."""
    from importlib.metadata import PackageNotFoundError, version

    package = {"llamacpp": "xllamacpp", "embedded": "xllamacpp", "transformers": "transformers", "vllm": "vllm",
               "sglang": "sglang"}.get(engine)  # fmt: skip
    try:
        return f"{engine} {version(package)}" if package else engine
    except PackageNotFoundError:
        return engine
