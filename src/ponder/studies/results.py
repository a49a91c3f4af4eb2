"""The tables of a study: rows for people and programs, outcomes per problem for laws and comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from ponder import costs
from ponder.errors import StoreError
from ponder.laws.intervals import wilson_interval
from ponder.laws.pass_at_k import pass_at_k
from ponder.ledger.spend import FIELDS
from ponder.studies.calibration import confidence_table, measure_table
from ponder.studies.measured import add_eflops
from ponder.studies.outcome import Outcome

Row = dict[str, Any]


@dataclass
class Series:
    """One row of the results, problem by problem, in the order of the task.

    Attributes:
        strategy: canonical text.
        budget: number of samples.
        outcomes: by problem id.
    """

    strategy: str
    budget: int
    outcomes: dict[str, Outcome] = field(default_factory=dict)


@dataclass(frozen=True)
class StudyResults:
    """What a study found.

    Attributes:
        rows: as in `results.json`.
        folder: where everything lies; None if nothing was written.
        warnings: what the pre-flight and the run had to say.
        complete: False if the run was stopped before its end.
    """

    rows: list[Row]
    folder: Path | None = None
    warnings: tuple[str, ...] = ()
    complete: bool = True

    def row(self, strategy: str, budget: int) -> Row:
        """The row of a strategy (canonical text) at a budget; KeyError if there is none."""
        for row in self.rows:
            if (row["strategy"], row["budget"]) == (strategy, budget):
                return row
        raise KeyError((strategy, budget))


def make_row(
    model: str, task: str, series: Series, draws: Mapping[str, tuple[int, int]], intensity: float | None = None
) -> Row:
    """One row.

    Args:
        model: text form.
        task: text form.
        series: the problems' outcomes.
        draws: per problem, candidates and right candidates at the strategy's largest budget: what the
            unbiased pass@k is estimated from.
        intensity: FLOPs that a byte read counts as, in eFLOPs; None: the default hardware's.
    """
    outcomes = list(series.outcomes.values())
    n = len(outcomes)
    accuracy = sum(o.correct for o in outcomes) / n if n else 0.0
    _, low, high = wilson_interval(sum(o.correct for o in outcomes), n) if n else (0.0, 0.0, 1.0)
    spent = {name: sum(stage.get(name, 0) for o in outcomes for stage in o.spend.values()) for name in FIELDS}
    return {
        "model": model,
        "task": task,
        "strategy": series.strategy,
        "budget": series.budget,
        "n_problems": n,
        "accuracy": round(accuracy, 6),
        "ci_low": round(float(low), 6),
        "ci_high": round(float(high), 6),
        "coverage": round(sum(o.covered for o in outcomes) / n, 6) if n else 0.0,
        "pass_at_k": _pass_at_k(series, draws),
        **add_eflops({name: _tidy(name, value) for name, value in spent.items()}, _intensity(intensity)),
        "errors": sum(o.errors for o in outcomes),
        "abstained": sum(o.status == "abstain" for o in outcomes),
        "failed": sum(o.status == "failed" for o in outcomes),
        "lost": sum(o.lost for o in outcomes),
        "cut": sum(o.cut for o in outcomes),
        "unparsed": sum(o.unparsed for o in outcomes),
        "ties": sum(o.tie for o in outcomes),
        "leaked": sum(o.leaked for o in outcomes),
        "candidates": sum(o.drawn for o in outcomes),
        "calibration": confidence_table([o.confidence for o in outcomes], [o.correct for o in outcomes]),
        "measures": measure_table([o.measures for o in outcomes]),
    }


def _pass_at_k(series: Series, draws: Mapping[str, tuple[int, int]]) -> float | None:
    pools = [draws[p] for p in series.outcomes if p in draws]
    if not pools or min(n for n, _ in pools) < series.budget:
        return None
    n, c = np.asarray(pools).T
    return round(float(np.mean(pass_at_k(n, c, series.budget))), 6)


def _tidy(name: str, value: float) -> float:
    """An amount as it is written: whole numbers as integers, seconds to a thousandth, others to a billionth.

    Sums of floating-point numbers depend a little on the order of arrival; what is written does not.
    """
    rounded = round(value, 3 if name == "seconds" else 9)
    return int(rounded) if float(rounded).is_integer() else rounded


def _intensity(given: float | None) -> float:
    return costs.hardware().intensity if given is None else given


def write_tables(
    folder: Path,
    rows: Sequence[Row],
    series: Sequence[Series],
    problem_ids: Sequence[str],
    intensity: float | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Write `results.json` and `outcomes.json`, each whole or not at all; `intensity` as in `make_row`."""
    largest: dict[str, Series] = {}
    for s in series:
        if s.strategy not in largest or s.budget > largest[s.strategy].budget:
            largest[s.strategy] = s
    outcomes = {
        "problem_ids": list(problem_ids),
        "series": [
            {
                "strategy": s.strategy,
                "budget": s.budget,
                "correct": [int(s.outcomes[p].correct) if p in s.outcomes else None for p in problem_ids],
                "covered": [int(s.outcomes[p].covered) if p in s.outcomes else None for p in problem_ids],
                "status": [s.outcomes[p].status if p in s.outcomes else None for p in problem_ids],
                "tokens": [_tokens(s.outcomes[p]) if p in s.outcomes else None for p in problem_ids],
                "score": [s.outcomes[p].score if p in s.outcomes else None for p in problem_ids],
                "stages": {k: add_eflops(v, _intensity(intensity)) for k, v in _by_stage(s).items()},
            }
            for s in series
        ],
        "draws": {
            name: {
                "n": [s.outcomes[p].drawn - s.outcomes[p].lost if p in s.outcomes else 0 for p in problem_ids],
                "c": [s.outcomes[p].right if p in s.outcomes else 0 for p in problem_ids],
            }
            for name, s in largest.items()
        },
        "difficulty": {name: difficulty([s.outcomes[p] for p in problem_ids]) for name, s in largest.items()},
        "notes": list(notes),
        "failures": sorted({f for s in series for o in s.outcomes.values() for f in o.failures})[:50],
    }
    write_whole(folder / "outcomes.json", orjson.dumps(outcomes))
    write_whole(folder / "results.json", orjson.dumps(list(rows), option=orjson.OPT_INDENT_2))


def difficulty(outcomes: Sequence[Outcome]) -> dict[str, list[float | None] | list[int | None]]:
    """How hard each problem is by one strategy's candidates, and its bin of five: 0 the easiest fifth, 4 the hardest.

    `oracle` is the share of right candidates (pass@1 if they are independent draws), `predicted` their mean score,
    which needs no reference. Equal values share a bin; a problem without a value has none.
    """
    oracle = [o.right / o.drawn if o.drawn else None for o in outcomes]
    predicted = [o.mean_score for o in outcomes]
    return {
        "oracle": oracle, "oracle_bin": fifths(oracle), "predicted": predicted, "predicted_bin": fifths(predicted),
    }  # fmt: skip


def fifths(values: Sequence[float | None]) -> list[int | None]:
    """The fifth that each value belongs to, from the largest (0) to the smallest (4).

    >>> fifths([0.9, None, 0.1, 0.5, 0.5, 0.7])
    [0, None, 4, 2, 2, 1]
    """
    known = sorted((v for v in values if v is not None), reverse=True)
    first = {v: i for i, v in reversed(list(enumerate(known)))}
    return [None if v is None else 5 * first[v] // len(known) for v in values]


def _tokens(outcome: Outcome) -> int:
    return int(sum(s.get("prompt_tokens", 0) + s.get("generated_tokens", 0) for s in outcome.spend.values()))


def _by_stage(series: Series) -> dict[str, dict[str, float]]:
    """What each stage cost, over all problems."""
    stages: dict[str, dict[str, float]] = {}
    for outcome in series.outcomes.values():
        for stage, spend in outcome.spend.items():
            total = stages.setdefault(stage, dict.fromkeys(FIELDS, 0.0))
            for name, value in spend.items():
                total[name] += value
    return {stage: {k: _tidy(k, v) for k, v in total.items() if v} for stage, total in sorted(stages.items())}


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or as it was before.

    Raises:
        StoreError: the disk is full or the directory cannot be written.
    """
    scratch = path.with_name(f".{path.name}.part")
    try:
        scratch.write_bytes(data)
        scratch.replace(path)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}; what is finished is in the store") from error


def load_rows(folder: Path) -> list[Row]:
    """The rows of a study's directory.

    Raises:
        StoreError: there are none, or they cannot be read.
    """
    path = folder / "results.json"
    try:
        rows: list[Row] = orjson.loads(path.read_bytes())
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}; give a directory that ponder bench wrote") from None
    except orjson.JSONDecodeError as error:
        raise StoreError(f"{path} is damaged ({error}); run the study again, nothing is paid twice") from None
    return rows
