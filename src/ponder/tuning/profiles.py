"""What tunings have found, by model, workload, objective and machine; and a model's text with it.

A model whose text gives no settings of its own takes the newest profile that was proved better than the default on
this machine and with this version of the engine, for a workload such as strategies make: many completions of a prompt
(`samples`), or a recorded trace (`replay`). What is best for others can be far slower there, so theirs are taken by
name: `profile=search` takes the one of that kind, beside settings that the text gives. `profile=none`, or
`PONDER_PROFILES=off`, takes none.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from ponder.core.spec import Term
from ponder.models.catalog import cache_dir

if TYPE_CHECKING:
    from ponder.tuning.tune import Tuned

SWITCH = "PONDER_PROFILES"
"""Environment variable; `off` takes no profile."""

MOST_SPREAD = 0.2
"""Of the default's repetitions in the validation; above it nothing was proved."""

BY_THEMSELVES = ("samples", "replay")
"""Kinds of workload whose profiles are taken without being asked for."""

_WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def save_profile(tuned: Tuned, engine: str) -> Path:
    """Remember what came of a tuning, for `profile` and `with_profile`; `engine` with its version."""
    path = _profiles()
    known = _known()
    gain = tuned.gain
    known[_profile_key(tuned.model, tuned.workload, tuned.objective, tuned.host)] = {
        "engine": engine, "model": tuned.model, "workload": tuned.workload, "objective": tuned.objective,
        "processor": tuned.host.get("processor"), "cores": tuned.host.get("cores"), "spec": tuned.spec,
        "environment": dict(tuned.environment), "flags": list(tuned.flags), "config": dict(tuned.config),
        "gain": None if gain is None else asdict(gain), "spread": tuned.spread, "lossy": tuned.lossy, "at": time.time(),
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(f".{os.getpid()}")
    scratch.write_bytes(orjson.dumps(known, option=orjson.OPT_INDENT_2))
    scratch.replace(path)
    return path


def profile(model: str, workload: str, objective: str, host: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a tuning of this model, on this machine and for this workload, has found; None if there was none."""
    return _known().get(_profile_key(model, workload, objective, host))


def with_profile(term: Term) -> tuple[Term, str]:
    """A model's term with the settings of its profile, and without `profile`; and the line that says so.

    Args:
        term: of a model that runs in this process.

    Returns:
        The term, and an empty line if no profile was taken.
    """
    arguments = dict(term.arguments)
    wanted = arguments.pop("profile", None if arguments or term.positional else "auto")
    bare = Term(term.name, term.locator, arguments, term.positional, term.position, term.source)
    if wanted is None or str(wanted) == "off" or os.environ.get(SWITCH) == "off":
        return bare, ""
    found = _find(str(Term(term.name, term.locator)), str(wanted))
    if found is None:
        return bare, ""
    note = _told(found)
    if not _environment_holds(found["environment"]):
        _say(f"{note} is not used: this process' threads wait in another way already")
        return bare, ""
    os.environ.update(found["environment"])
    model_settings = {n: v for n, v in found["config"].items() if n not in found["environment"]}
    _say(f"{note}; profile=none leaves it")
    return Term(
        bare.name, bare.locator, {**model_settings, **arguments}, bare.positional, bare.position, bare.source
    ), note  # fmt: skip


# ---------------------------------------------------------------- what is known


def _find(model: str, wanted: str) -> dict[str, Any] | None:
    """The newest entry of a model that was proved better on this machine, for a kind of workload."""
    kinds = BY_THEMSELVES if wanted == "auto" else (wanted,)
    mine = [e for e in _known().values() if e.get("model") == model and _proved(e) and kind_of(e["workload"]) in kinds]
    return max((e for e in mine if _here(e)), key=lambda e: float(e["at"]), default=None)


def kind_of(workload: str) -> str:
    """The kind of a workload's text.

    >>> kind_of("samples(samples=16)"), kind_of("replay:trace.jsonl(digest=ab)")
    ('samples', 'replay')
    """
    return workload.partition("(")[0].partition(":")[0]


def _proved(entry: Mapping[str, Any]) -> bool:
    gain = entry.get("gain")
    quiet = float(entry.get("spread", 1.0)) <= MOST_SPREAD
    better = gain is not None and float(gain["low"]) > 1
    return bool(better and quiet and entry["config"] and not entry["lossy"] and not entry["flags"])


def _here(entry: Mapping[str, Any]) -> bool:
    from ponder.tuning.history import engine_version, host

    where = host(measure=False)
    same_engine = entry["engine"] == engine_version(str(entry["engine"]).partition(" ")[0])
    return bool(same_engine and entry["processor"] == where["processor"] and entry["cores"] == where["cores"])


def _environment_holds(wanted: Mapping[str, str]) -> bool:
    """Whether these variables can still take effect: OpenMP reads them once, when its library is loaded."""
    given = {n: os.environ[n] for n in _WAITING if n in os.environ}
    if not wanted or given == dict(wanted):
        return True
    return not given and not _openmp_is_loaded()


def _openmp_is_loaded() -> bool:
    try:
        return "libgomp" in Path("/proc/self/maps").read_text()
    except OSError:
        return "torch" in sys.modules or "xllamacpp" in sys.modules


def _told(entry: Mapping[str, Any]) -> str:
    from ponder.tuning.space import told

    gain = entry["gain"]
    return (
        f"{entry['model']}: {told(entry['config'])}, as tuned here for {entry['workload']} "
        f"({gain['value']:.2f} times the default, {gain['low']:.2f} to {gain['high']:.2f})"
    )


_SAID: set[str] = set()


def _say(line: str) -> None:
    """Once in a process."""
    if line not in _SAID:
        _SAID.add(line)
        logging.getLogger("ponder").warning(line)


def _known() -> dict[str, dict[str, Any]]:
    try:
        known: dict[str, dict[str, Any]] = orjson.loads(_profiles().read_bytes())
    except (OSError, ValueError):
        return {}
    return known


def _profiles() -> Path:
    return cache_dir() / "engine_profiles.json"


def _profile_key(model: str, workload: str, objective: str, host: Mapping[str, Any]) -> str:
    return "|".join([model, workload, objective, str(host.get("processor")), str(host.get("cores"))])
