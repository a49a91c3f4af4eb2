"""What a study is: read from flags or a TOML file, checked before anything is spent, written back."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ponder.core.allocator import Allocator, samples_of
from ponder.core.model import Sampling
from ponder.core.registry import ALLOCATORS
from ponder.core.strategy import Strategy, parse_strategy
from ponder.costs.profiles import HERE, hardware
from ponder.errors import ParameterError, StudyError
from ponder.ledger.budget import Budget
from ponder.ledger.prices import Price, Prices
from ponder.studies.measured import AXES

DEFAULT_SAMPLES = (1, 2, 4, 8, 16)
_SAMPLING = tuple(f.name for f in fields(Sampling) if f.name != "extra")


@dataclass(frozen=True)
class Study:
    """Strategies on a task with a model.

    Args:
        model: text form of the model.
        task: text form of the task.
        strategies: text forms; one without its own number of samples gets a row for each of `samples`.
        samples: the points of the curve, as numbers of samples.
        limit: how many problems; None takes what the task gives.
        seed: fixes problems, examples and every draw.
        sampling: settings over the task's own (`temperature`, `max_new_tokens`, …).
        budget: hard limit for each problem and row, such as `tokens=2000`.
        study_budget: hard limit over the whole study.
        concurrency: problems under way at once.
        prices: dollars per million prompt, cached and generated tokens, by model text.
        process: how outputs are built: `text_steps` is whole answers, `text_steps(step=line)` line by line. Empty is
            whole answers, or paragraph by paragraph if a strategy works on steps.
        compute: what compute means in its report and recommendation (`eflops`, `flops`, `tokens`, …); empty is
            generated tokens.
        hardware: what eFLOPs are counted on: `h100`, `here`, …; empty is `b200`. See `ponder.costs.hardware`.
        allocators: text forms of what splits compute over the problems; each is a row (or one for each of `samples`)
            that may spend `budget` times the number of problems.
        baselines: whether step-wise searches bring what they have to beat: best-of-N by their verifier, and a vote.
    """

    model: str
    task: str
    strategies: tuple[str, ...]
    samples: tuple[int, ...] = DEFAULT_SAMPLES
    limit: int | None = None
    seed: int = 0
    sampling: Mapping[str, Any] = field(default_factory=dict)
    budget: str = ""
    study_budget: str = ""
    concurrency: int = 8
    prices: Mapping[str, Price] = field(default_factory=dict)
    process: str = ""
    compute: str = ""
    hardware: str = ""
    allocators: tuple[str, ...] = ()
    baselines: bool = True

    def __post_init__(self) -> None:
        if not self.strategies and not self.allocators:
            raise StudyError(
                "a study needs at least one strategy, for example --strategy 'repeated_sampling | majority'"
            )
        if not self.samples or min(self.samples) < 1 or any(not isinstance(k, int) for k in self.samples):
            raise ParameterError("study", "samples", self.samples, allowed="a list of integers ≥ 1")
        if self.limit is not None and self.limit < 1:
            raise ParameterError("study", "limit", self.limit, allowed="an integer ≥ 1, or none for all problems")
        if self.concurrency < 1:
            raise ParameterError("study", "concurrency", self.concurrency, allowed="an integer ≥ 1")
        for name in self.sampling:
            if name not in _SAMPLING:
                raise StudyError(_unknown("sampling setting", name, _SAMPLING))
        Sampling(**dict(self.sampling))
        Budget.parse(self.budget), Budget.parse(self.study_budget), self.everything
        if self.compute and self.compute not in AXES:
            raise StudyError(_unknown("meaning of compute", self.compute, list(AXES)))
        if self.hardware and self.hardware.partition(",")[0] != HERE:
            hardware(self.hardware)

    @property
    def parsed(self) -> tuple[Strategy, ...]:
        """The strategies as objects, duplicates left out."""
        return tuple(dict.fromkeys(parse_strategy(text) for text in self.strategies))

    @property
    def parsed_allocators(self) -> tuple[Allocator, ...]:
        """The allocators as objects, duplicates left out."""
        return tuple(dict.fromkeys(ALLOCATORS.build(text) for text in self.allocators))

    @property
    def everything(self) -> tuple[Strategy, ...]:
        """All strategies that may be run: the study's, then those of its allocators."""
        return (*self.parsed, *(s for a in self.parsed_allocators for s in a.strategies))

    def allocator_rows(self) -> list[tuple[Allocator, int]]:
        """Every allocator, with its number of samples a problem: further rows of the results."""
        out: list[tuple[Allocator, int]] = []
        for allocator in self.parsed_allocators:
            points = sorted(set(self.samples)) if allocator.takes_samples else [allocator.n or 1]
            out += [(allocator, k) for k in points]
        return out

    def rows(self) -> list[tuple[Strategy, int]]:
        """Every strategy, complete with its number of samples, and that number: the rows of the results."""
        out: list[tuple[Strategy, int]] = []
        for strategy in self.parsed:
            points = sorted(set(self.samples)) if strategy.takes_samples else [samples_of(strategy)]
            out += [(strategy, k) for k in points]
        return out

    @property
    def intensity(self) -> float:
        """FLOPs that a byte read counts as, in eFLOPs."""
        return hardware(self.hardware or "b200").intensity

    @property
    def price_table(self) -> Prices:
        """Prices by model text."""
        return Prices(dict(self.prices))

    def to_toml(self) -> str:
        """The study as the text that `from_toml` reads."""
        lines = ["# A ponder study. Run it again with: ponder bench --study THIS_FILE --out DIR", ""]
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name in ("sampling", "prices") or value is None or value in ("", ()):
                continue
            lines.append(f"{f.name} = {_toml(value)}")
        for name in ("sampling", "prices"):
            table = getattr(self, name)
            if table:
                lines += ["", f"[{name}]", *(f"{_toml(k)} = {_toml(v)}" for k, v in table.items())]
        return "\n".join(lines) + "\n"

    @classmethod
    def from_toml(cls, path: Path, **overrides: Any) -> Study:
        """Read a study file; `overrides` that are not None win.

        Raises:
            StudyError: no such file, not TOML, or a key that a study does not have.
        """
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise StudyError(f"the study file {path} cannot be read: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise StudyError(f"{path} is not TOML: {error}") from None
        return cls.of(data, where=str(path), **overrides)

    @classmethod
    def of(cls, data: Mapping[str, Any], *, where: str = "study", **overrides: Any) -> Study:
        """A study from plain data."""
        known = [f.name for f in fields(cls)]
        merged = {**data, **{k: v for k, v in overrides.items() if v is not None}}
        for key in merged:
            if key not in known:
                raise StudyError(f"{where}: {_unknown('key', key, known)}")
        for key in ("model", "task", "strategies"):
            if not merged.get(key) and not (key == "strategies" and merged.get("allocators")):
                raise StudyError(f"{where}: {key} is missing; a study needs model, task and strategies")
        merged.setdefault("strategies", ())
        for key in ("strategies", "samples", "allocators"):
            if key in merged:
                value = merged[key]
                merged[key] = (value,) if isinstance(value, (str, int)) else tuple(value)
        for key, (fits, allowed) in _KINDS.items():
            if merged.get(key) is not None and not fits(merged[key]):
                raise StudyError(f"{where}: {key} = {merged[key]!r} is not allowed; it must be {allowed}")
        if "stop" in merged.get("sampling", {}):
            stop = merged["sampling"]["stop"]
            merged["sampling"] = {**merged["sampling"], "stop": (stop,) if isinstance(stop, str) else tuple(stop)}
        if "prices" in merged:
            merged["prices"] = {k: tuple(map(float, v)) for k, v in merged["prices"].items()}
        try:
            return cls(**merged)
        except TypeError as error:
            raise StudyError(f"{where}: {error}") from None


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_price(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) == 3
        and all(isinstance(x, (int, float)) and not isinstance(x, bool) and x >= 0 for x in value)
    )


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping)


_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("model", "task", "budget", "study_budget", "process", "compute", "hardware"), (_is_text, "text")),
    **dict.fromkeys(("limit", "seed", "concurrency"), (_is_whole, "a whole number")),
    **dict.fromkeys(("strategies", "allocators"), (lambda v: all(map(_is_text, v)), "a list of texts")),
    "samples": (lambda v: all(map(_is_whole, v)), "a list of whole numbers"),
    "baselines": (lambda v: isinstance(v, bool), "true or false"),
    "sampling": (_is_table, "a table such as {temperature = 0.8}"),
    "prices": (
        lambda v: _is_table(v) and all(map(_is_price, v.values())),
        "a table of model = [prompt, cached, generated] in dollars per million tokens",
    ),
}
"""What each key of a study may hold."""


def _unknown(kind: str, name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"unknown {kind} {name!r}" + (f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}")


def _toml(value: Any) -> str:
    import json

    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_toml(v) for v in value)}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
