"""Sweeps: the same methods on several tasks while one trick after the other is changed, or all together.

A sweep file is a study file with `tasks`, `axes` and templates. Each template in `strategies` is filled with values of
the axes that it names; one value at a time differs from the first of its axis (`mode = "one_at_a_time"`), or every
combination is run (`"grid"`). Each task is a study of its own, so a sweep that was killed goes on where it stopped.

Source: Liu et al. 2025, "Bag of Tricks for Inference-time Computation of LLM Reasoning" (one trick at a time).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from string import Formatter
from typing import Any, Literal, get_args

from ponder.core.strategy import parse_strategy
from ponder.errors import StudyError
from ponder.studies.plan import Study
from ponder.studies.results import Row, StudyResults
from ponder.studies.runner import bench

Mode = Literal["one_at_a_time", "grid"]


@dataclass(frozen=True)
class Cell:
    """One filled template: the strategy's text, and which axis differs from its first value."""

    template: str
    strategy: str
    values: Mapping[str, str]
    changed: str | None


@dataclass(frozen=True)
class Sweep:
    """A sweep.

    Args:
        tasks: text forms of the tasks.
        templates: strategies with axes in braces, such as `with_settings(single, temperature={temperature})`.
        axes: values of each axis, as texts; the first is what the others are compared with.
        mode: `one_at_a_time` or `grid`.
        study: everything else of a study.
    """

    tasks: tuple[str, ...]
    templates: tuple[str, ...]
    axes: Mapping[str, tuple[str, ...]]
    mode: Mode = "one_at_a_time"
    study: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.tasks or not self.templates:
            raise StudyError("a sweep needs tasks and strategies: tasks = [...] and strategies = [...]")
        if self.mode not in get_args(Mode):
            raise StudyError(f"mode = {self.mode!r} is not allowed; it must be one of {', '.join(get_args(Mode))}")
        for name, values in self.axes.items():
            if not values:
                raise StudyError(f"the axis {name!r} has no values")
        for template in self.templates:
            unknown = [name for name in _named(template) if name not in self.axes]
            if unknown:
                raise StudyError(
                    f"{template}: there is no axis {unknown[0]!r}; axes are {', '.join(self.axes) or 'none'}"
                )
        unused = [name for name in self.axes if not any(name in _named(t) for t in self.templates)]
        if unused:
            raise StudyError(f"no strategy uses the axis {unused[0]!r}; write it in braces: {{{unused[0]}}}")

    @classmethod
    def from_toml(cls, path: Path, **overrides: Any) -> Sweep:
        """Read a sweep file; `overrides` that are not None win.

        Raises:
            StudyError: no such file, not TOML, or not a sweep.
        """
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise StudyError(f"the sweep file {path} cannot be read: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise StudyError(f"{path} is not TOML: {error}") from None
        data |= {k: v for k, v in overrides.items() if v is not None}
        axes = {
            name: tuple(str(v) for v in (values if isinstance(values, list) else [values]))
            for name, values in data.pop("axes", {}).items()
        }
        tasks = data.pop("tasks", None) or [data.pop("task", None)]
        return cls(
            tuple(t for t in tasks if t),
            tuple(data.pop("strategies", ())),
            axes,
            data.pop("mode", "one_at_a_time"),
            data,
        )

    def cells(self) -> list[Cell]:
        """Every filled template, each strategy once."""
        found: dict[tuple[str, str], Cell] = {}
        for template in self.templates:
            for values, changed in self._settings(_named(template)):
                text = str(parse_strategy(template.format(**values)))
                found.setdefault((template, text), Cell(template, text, values, changed))
        return list(found.values())

    def _settings(self, names: Sequence[str]) -> Iterator[tuple[dict[str, str], str | None]]:
        first = {name: self.axes[name][0] for name in names}
        if self.mode == "grid":
            for combination in product(*(self.axes[name] for name in names)):
                values = dict(zip(names, combination, strict=True))
                differing = [n for n in names if values[n] != first[n]]
                yield values, differing[0] if len(differing) == 1 else "+".join(differing) or None
            return
        yield first, None
        for name in names:
            for value in self.axes[name][1:]:
                yield {**first, name: value}, name

    def studies(self) -> dict[str, Study]:
        """A study per task, by the name of its directory."""
        strategies = list(dict.fromkeys(cell.strategy for cell in self.cells()))
        return {
            f"{i + 1}-{re.sub(r'[^A-Za-z0-9]+', '-', task)[:40].strip('-')}": Study.of(
                {"baselines": False, **self.study, "task": task, "strategies": strategies}
            )
            for i, task in enumerate(self.tasks)
        }

    def run(self, out: Path, **options: Any) -> dict[str, StudyResults]:
        """Run what is not finished yet, task by task; results by task."""
        return {study.task: bench(study, out / name, **options) for name, study in self.studies().items()}

    def effects(self, results: Mapping[str, StudyResults]) -> list[dict[str, Any]]:
        """A line per task, strategy, number of samples and value, with the difference to the axis' first value."""
        lines: list[dict[str, Any]] = []
        for task, found in results.items():
            rows: dict[str, list[Row]] = {}
            for row in found.rows:
                rows.setdefault(str(row["strategy"]), []).append(row)
            base = {(c.template, r["budget"]): r for c in self.cells() if c.changed is None for r in rows[c.strategy]}
            for cell in self.cells():
                for row in rows[cell.strategy]:
                    first = base.get((cell.template, row["budget"]))
                    lines.append(
                        {
                            "task": task,
                            "strategy": cell.template,
                            "budget": row["budget"],
                            "changed": cell.changed,
                            "value": None if cell.changed is None else ", ".join(
                                cell.values[name] for name in cell.changed.split("+")
                            ),
                            "accuracy": row["accuracy"],
                            "ci_low": row["ci_low"],
                            "ci_high": row["ci_high"],
                            "generated_tokens": row["generated_tokens"],
                            "difference": None if cell.changed is None or first is None
                            else row["accuracy"] - first["accuracy"],
                        }
                    )  # fmt: skip
        return lines


def _named(template: str) -> list[str]:
    """The axes in a template, each once, in order."""
    try:
        return list(dict.fromkeys(name for _, name, _, _ in Formatter().parse(template) if name))
    except ValueError as error:
        raise StudyError(
            f"{template}: {error}; axes are written in braces, as in temperature={{temperature}}"
        ) from None
