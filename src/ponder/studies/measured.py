"""A finished study as reports and recommendations read it: rows, outcomes per problem, and what compute means."""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ponder import costs
from ponder.errors import ParameterError, StudyError
from ponder.laws.intervals import resampling_weights, wilson_interval

Floats = NDArray[np.float64]
Row = Mapping[str, Any]

ORACLE = re.compile(r"\b(exact|imperfect_oracle)\b")
"""Strategies that look at the reference."""


@dataclass(frozen=True)
class Axis:
    """One meaning of compute, per problem.

    Attributes:
        name: as the command line takes it.
        label: for people.
        unit: what one of it is called, in the plural.
        total: from a row to the amount over all problems; None if the row does not say.
    """

    name: str
    label: str
    unit: str
    total: Callable[[Row], float | None]


def _sum_of(*names: str) -> Callable[[Row], float | None]:
    def total(row: Row) -> float | None:
        values = [row.get(name) for name in names]
        return None if values[0] is None else float(sum(v for v in values if v is not None))

    return total


def _samples(row: Row) -> float | None:
    return float(row["budget"]) * float(row["n_problems"]) if row.get("budget") is not None else None


AXES: dict[str, Axis] = {
    a.name: a
    for a in (
        Axis("samples", "Samples", "samples", _samples),
        Axis("generated_tokens", "Generated tokens", "generated tokens", _sum_of("generated_tokens")),
        Axis("tokens", "All tokens", "tokens", _sum_of("generated_tokens", "prompt_tokens")),
        Axis("calls", "Calls", "model and verifier calls", _sum_of("model_calls", "verifier_calls")),
        Axis("function_evaluations", "Function evaluations", "function evaluations", _sum_of("function_evaluations")),
        Axis("flops", "FLOPs", "FLOPs", _sum_of("flops")),
        Axis("eflops", "eFLOPs", "equivalent FLOPs", _sum_of("eflops")),
        Axis("cost_usd", "Dollars", "dollars", _sum_of("cost_usd")),
        Axis("seconds", "Seconds", "seconds of model time", _sum_of("seconds")),
    )
}
"""Every meaning of compute that a comparison can be made on."""


def add_eflops(amounts: Mapping[str, Any], intensity: float) -> dict[str, Any]:
    """A row, or a stage's amounts, with eFLOPs: FLOPs, and `intensity` for each byte of key-value cache read.

    Rows of studies that did not count bytes are left as they are.
    """
    if "kv_bytes" not in amounts:
        return dict(amounts)
    return {**amounts, "eflops": amounts.get("flops", 0) + intensity * amounts["kv_bytes"]}


def axis_named(name: str) -> Axis:
    """The axis of a name.

    Raises:
        ParameterError: there is none; the names are given.
    """
    if name not in AXES:
        raise ParameterError("recommend", "axis", name, allowed=f"one of {', '.join(AXES)}")
    return AXES[name]


def sees_reference(strategy: str) -> bool:
    """Whether a strategy, by its text, looks at the reference answer."""
    return bool(ORACLE.search(strategy))


@dataclass(frozen=True)
class Point:
    """One strategy at one budget.

    Attributes:
        strategy: canonical text.
        budget: samples.
        row: its row of `results.json`.
        correct: per problem 1.0 or 0.0, NaN where the problem was not finished; None if only the row is known.
        stages: what each stage cost over all problems, if the study says.
        tokens: prompt and generated tokens of each problem, NaN where it was not finished; None if not stored.
    """

    strategy: str
    budget: int
    row: Row
    correct: Floats | None = field(default=None, repr=False)
    stages: Mapping[str, Mapping[str, float]] = field(default_factory=dict, repr=False)
    tokens: Floats | None = field(default=None, repr=False)

    @property
    def n_problems(self) -> int:
        """Problems measured."""
        return int(self.row["n_problems"])

    @property
    def accuracy(self) -> float:
        """Share of problems answered rightly."""
        return float(self.row["accuracy"])

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy: the row's own, else Wilson's."""
        low, high = self.row.get("ci_low"), self.row.get("ci_high")
        if low is None or high is None:
            _, low, high = wilson_interval(self.accuracy * self.n_problems, self.n_problems)
        return float(low), float(high)

    @property
    def oracle(self) -> bool:
        """Whether it looks at the reference answer, so that nobody can use it on an open question."""
        return sees_reference(self.strategy)

    @property
    def label(self) -> str:
        """Strategy and budget, for people."""
        return f"{self.strategy} at {self.budget} sample{'s' if self.budget != 1 else ''}"

    def cost(self, axis: Axis) -> float | None:
        """Mean compute per problem; None if the row does not say."""
        total = axis.total(self.row)
        return None if total is None else total / self.n_problems


@dataclass(frozen=True)
class Measured:
    """What a study's directory holds.

    Attributes:
        folder: the directory.
        points: every strategy at every budget, in the order of the study.
        draws: per strategy, drawn and right samples per problem (`n`, `c`).
        plan: the study file as text; empty if there is none.
        failures: messages of lost or ungraded samples.
        notes: what the searches in it should make one think about.
        problem_ids: in the order of every list of outcomes and draws; empty if they are not stored.
    """

    folder: Path
    points: tuple[Point, ...]
    draws: Mapping[str, tuple[NDArray[np.int64], NDArray[np.int64]]]
    plan: str = ""
    failures: tuple[str, ...] = ()
    problem_ids: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def load(cls, folder: Path | str, *, hardware: str | None = None) -> Measured:
        """Read a directory that `ponder bench` wrote.

        Args:
            folder: the directory.
            hardware: count eFLOPs on this instead of on what the study says; see `ponder.costs.hardware`.

        Raises:
            StudyError: no such directory, no results in it, or results that cannot be read.
            ParameterError: no such hardware.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise StudyError(f"{folder} is not a directory; give one that ponder bench wrote (its --out)")
        rows = _read_json(folder / "results.json")
        if rows is None:
            raise StudyError(f"{folder} holds no results.json; run ponder bench with --out {folder} first")
        if not isinstance(rows, list) or not rows:
            raise StudyError(f"{folder / 'results.json'} holds no rows; the study has not finished a single problem")
        outcomes = _read_json(folder / "outcomes.json") or {}
        series = {(s["strategy"], s["budget"]): s for s in outcomes.get("series", ())}
        points = []
        if hardware is not None:
            intensity = costs.hardware(hardware).intensity
            rows = [add_eflops(row, intensity) for row in rows]
            for stages in (s.get("stages") or {} for s in series.values()):
                stages.update({name: add_eflops(amounts, intensity) for name, amounts in stages.items()})
        for at, row in enumerate(rows):
            point = _point(row, series, folder / "results.json", at)
            if point is not None:
                points.append(point)
        if not points:
            raise StudyError(f"{folder / 'results.json'} holds no problems; the study has not finished a single one")
        plan = folder / "study.toml"
        return cls(
            folder,
            tuple(points),
            {
                name: (np.asarray(d["n"], dtype=np.int64), np.asarray(d["c"], dtype=np.int64))
                for name, d in outcomes.get("draws", {}).items()
            },
            plan.read_text(encoding="utf-8", errors="replace") if plan.is_file() else "",
            tuple(str(f) for f in outcomes.get("failures", ())),
            tuple(str(p) for p in outcomes.get("problem_ids", ())),
            tuple(str(n) for n in outcomes.get("notes", ())),
        )

    @property
    def strategies(self) -> list[str]:
        """The strategies in order."""
        return list(dict.fromkeys(p.strategy for p in self.points))

    @property
    def models(self) -> list[str]:
        """The models in order."""
        return list(dict.fromkeys(str(p.row.get("model", "")) for p in self.points))

    @property
    def tasks(self) -> list[str]:
        """The tasks in order."""
        return list(dict.fromkeys(str(p.row.get("task", "")) for p in self.points))

    @property
    def settings(self) -> dict[str, Any]:
        """The study file as data; empty if it is missing or damaged."""
        try:
            return tomllib.loads(self.plan)
        except tomllib.TOMLDecodeError:
            return {}

    @property
    def baseline(self) -> Point:
        """What more compute has to beat: `single`, else the cheapest point."""
        for point in self.points:
            if point.strategy == "single":
                return point
        return min(self.points, key=lambda p: (p.oracle, p.budget, p.cost(AXES["generated_tokens"]) or 0.0))

    def usable_axes(self) -> list[Axis]:
        """Axes on which every point has a cost, and not all the same 0."""
        out = []
        for axis in AXES.values():
            costs = [p.cost(axis) for p in self.points]
            if all(c is not None for c in costs) and any(c for c in costs):
                out.append(axis)
        return out

    def axis(self, name: str | None = None) -> Axis:
        """The axis of a name, if the study measured it; without a name what the study says, else the best there is.

        Raises:
            ParameterError: no such axis.
            StudyError: the study did not measure it.
        """
        usable = self.usable_axes()
        name = name or self.settings.get("compute") or None
        if name is None:
            if not usable:
                raise StudyError(f"{self.folder} says nothing about cost; its rows need generated_tokens or budget")
            preferred = ("generated_tokens", "function_evaluations")
            return next((a for name in preferred for a in usable if a.name == name), usable[0])
        axis = axis_named(name)
        if axis not in usable:
            hint = " Give prices with ponder bench --price." if name == "cost_usd" else ""
            if name in ("flops", "eflops"):
                hint = " The model's shape is unknown: give it, as in openai:NAME@URL(size=qwen3-8b)."
            known = ", ".join(a.name for a in usable) or "none"
            raise StudyError(f"{self.folder} did not measure {name} (all zero or missing). It has: {known}.{hint}")
        return axis

    def shared(self, points: Sequence[Point]) -> Floats | None:
        """Outcomes of some points on the problems that all of them finished, shape (problems, points).

        None if a point's outcomes are not stored, or no problem is shared.
        """
        columns = [p.correct for p in points if p.correct is not None]
        if not points or len(columns) != len(points) or len({c.size for c in columns}) != 1:
            return None
        table = np.stack(columns, axis=1)
        table = table[~np.isnan(table).any(axis=1)]
        return table if len(table) else None

    def resampled(self, points: Sequence[Point], *, resamples: int, seed: int) -> tuple[Floats, bool]:
        """Accuracies of the points over bootstrapped problems, shape (resamples, points), and whether paired.

        Without stored outcomes each point is drawn on its own from its row, which makes comparisons less sharp
        than they could be.
        """
        table = self.shared(points)
        if table is not None:
            return resampling_weights(len(table), resamples=resamples, seed=seed) @ table / len(table), True
        rng = np.random.default_rng(seed)
        columns = [rng.binomial(p.n_problems, p.accuracy, size=resamples) / p.n_problems for p in points]
        return np.stack(columns, axis=1), False


def _point(row: Any, series: Mapping[tuple[str, int], Any], path: Path, at: int) -> Point | None:
    """One row as a point; None if it holds no problem."""
    try:
        strategy, budget = str(row["strategy"]), int(row["budget"])
        n, accuracy = int(row["n_problems"]), float(row["accuracy"])
    except (KeyError, TypeError, ValueError) as error:
        raise StudyError(
            f"{path}: row {at} is not a result ({type(error).__name__}: {error}); "
            "a row needs strategy, budget, n_problems and accuracy"
        ) from None
    if n < 1:
        return None
    if not 0 <= accuracy <= 1 or math.isnan(accuracy):
        raise StudyError(f"{path}: row {at} has accuracy {accuracy!r}; it must lie between 0 and 1")
    stored = series.get((strategy, budget), {})
    values, tokens = _column(stored.get("correct")), _column(stored.get("tokens"))
    return Point(strategy, budget, dict(row), values, stored.get("stages") or {}, tokens)


def _column(stored: Any) -> Floats | None:
    """One number a problem, NaN where it is missing; None if there is none at all."""
    values = None if stored is None else np.array([math.nan if x is None else float(x) for x in stored])
    return None if values is None or np.isnan(values).all() else values


def _read_json(path: Path) -> Any:
    """A JSON file, None if it is missing."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StudyError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise StudyError(f"{path} is damaged ({error}); run the study again, nothing finished is paid twice") from None
