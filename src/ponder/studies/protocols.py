"""Evaluation protocols that bound what a model could do: independent runs, and attempts with feedback.

Paper    Balachandran et al. 2025, "Inference-Time Scaling for Complex Tasks: Where We Stand and What Lies Ahead".
Equal    N independent runs of every problem: their average and its standard deviation over runs, worst-of-N, majority,
         best-of-N (a perfect verifier), unbiased pass@k. Attempts in sequence, of which attempt i counts as solved if
         one up to i is right. Tokens: the mean of a run for the average, the sum of all runs for the others. How much
         of the gap to another model best-of-N closes.
Differs  Length and correctness are correlated within a difficulty level. A majority's tie is broken by a seed of its
         problem. Levels come from the task's metadata, else from how often the runs were right.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from ponder.api import run_sync
from ponder.core.answers import group_answers
from ponder.core.problem import Problem, Task
from ponder.core.seeds import generator
from ponder.core.strategy import Strategy
from ponder.errors import ParameterError, RaggedRunsError, StudyError
from ponder.laws.pass_at_k import log_spaced_k, pass_at_k
from ponder.studies.measured import AXES, Floats, Measured, Point
from ponder.studies.offline import StoredStudy
from ponder.studies.results import write_whole

FILE = "protocol.json"

PROTOCOLS: Mapping[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
    "parallel": (("single", "repeated_sampling | majority", "best_of_n(verifier=exact)"), (1, 2, 3, 4, 5)),
    "sequential": (
        ("feedback_attempts(verifier=exact)", "feedback_attempts(verifier=exact, feedback=off)"), (1, 2, 3),
    ),
}  # fmt: skip
"""By name the strategies of a protocol and its points: the paper's five runs, and its three attempts."""

_INDEPENDENT = ("repeated_sampling", "best_of_n")
_SEQUENTIAL = "feedback_attempts"


@dataclass(frozen=True)
class Runs:
    """Independent runs of problems.

    Attributes:
        ids: of the problems.
        grades: per problem one number in [0, 1] for each of its runs; NaN where grading failed.
        answers: what each run answered, the same for the same answer; None where there is none.
        tokens: generated tokens of each run.
        levels: difficulty of each problem; empty where it is not known.
    """

    ids: Sequence[str]
    grades: Sequence[Sequence[float]]
    answers: Sequence[Sequence[Hashable | None]]
    tokens: Sequence[Sequence[float]]
    levels: Sequence[str] = ()

    def common(self) -> Runs:
        """The first runs of every problem, as many as all have."""
        n = min(map(len, self.grades), default=0)
        grades, tokens = ([row[:n] for row in table] for table in (self.grades, self.tokens))
        return Runs(self.ids, grades, [row[:n] for row in self.answers], tokens, self.levels)

    def only(self, chosen: Sequence[int]) -> Runs:
        """Some of the problems."""
        grades, tokens = ([table[i] for i in chosen] for table in (self.grades, self.tokens))
        answers, levels = [self.answers[i] for i in chosen], [self.levels[i] for i in chosen if self.levels]
        return Runs([self.ids[i] for i in chosen], grades, answers, tokens, levels)


@dataclass(frozen=True)
class Bounds:
    """What N independent runs say, over problems.

    Attributes:
        n_problems: problems.
        n_runs: runs of each.
        average: mean over runs of a run's accuracy.
        average_std: sample standard deviation of the runs' accuracies; None for one run.
        worst: every run right (the mean over problems of the worst grade).
        majority: the grade of the most frequent answer; a problem without any answer counts 0.
        best: some run right: what a perfect verifier would reach.
        best_std: sample standard deviation over problems; None for one problem.
        pass_at_k: unbiased, by k.
        unanswered: problems without an answer in any run.
        ungraded: runs whose grading failed; they are in no mean, maximum or minimum.
        tokens: generated tokens of a run, mean.
        tokens_all: of all runs of a problem, mean.
        tokens_std: sample standard deviation within a problem, mean over problems; None for one run.
        length_correlation: of tokens and grade over runs, within this level; None where one does not vary.
    """

    n_problems: int
    n_runs: int
    average: float
    average_std: float | None
    worst: float
    majority: float
    best: float
    best_std: float | None
    pass_at_k: Mapping[int, float] = field(default_factory=dict)
    unanswered: int = 0
    ungraded: int = 0
    tokens: float = 0.0
    tokens_all: float = 0.0
    tokens_std: float | None = None
    length_correlation: float | None = None


def bounds(runs: Runs, *, seed: int = 0) -> Bounds:
    """The parallel protocol's numbers.

    Args:
        runs: at least one run of at least one problem.
        seed: breaks ties of the majority, by problem.

    Raises:
        RaggedRunsError: problems have unequal numbers of runs.
        StudyError: there is no run.
    """
    lengths = {len(row) for table in (runs.grades, runs.answers, runs.tokens) for row in table}
    if not lengths or 0 in lengths:
        raise StudyError("a protocol needs at least one run of every problem")
    if len(lengths) > 1:
        raise RaggedRunsError(min(lengths), max(lengths))
    grades, tokens = np.asarray(runs.grades, dtype=float), np.asarray(runs.tokens, dtype=float)
    known = ~np.isnan(grades)
    if not known.any():
        raise StudyError("not a single run could be graded")
    graded = known.any(axis=1)
    best = np.nanmax(grades[graded], axis=1)
    per_run = [mean for column in grades.T if (mean := _mean(column)) is not None]
    voted = [_majority(*problem, seed) for problem in zip(runs.ids, grades, runs.answers, strict=True)]
    n = known.sum(axis=1)
    right = (np.where(known, grades, 0) >= 1).sum(axis=1)
    return Bounds(
        n_problems=len(grades),
        n_runs=grades.shape[1],
        average=float(np.mean(per_run)),
        average_std=_std(per_run),
        worst=float(np.nanmin(grades[graded], axis=1).mean()),
        majority=_mean(voted) or 0.0,
        best=float(best.mean()),
        best_std=_std(best),
        pass_at_k={
            int(k): float(np.mean(pass_at_k(n[graded], right[graded], k))) for k in log_spaced_k(int(n[graded].min()))
        },
        unanswered=sum(all(a is None for a in row) for row in runs.answers),
        ungraded=int((~known).sum()),
        tokens=float(tokens.mean()),
        tokens_all=float(tokens.sum(axis=1).mean()),
        tokens_std=None if tokens.shape[1] < 2 else float(tokens.std(axis=1, ddof=1).mean()),
        length_correlation=_correlation(tokens[known], grades[known]),
    )


def _majority(name: str, grades: Floats, answers: Sequence[Hashable | None], seed: int) -> float:
    """The grade of the most frequent answer; 0 without any, NaN if it could not be graded."""
    counts = Counter(a for a in answers if a is not None)
    if not counts:
        return 0.0
    top = max(counts.values())
    tied = [a for a, count in counts.items() if count == top]
    chosen = tied[int(generator(seed, "majority", name).integers(len(tied)))]
    grade = _mean([g for a, g in zip(answers, grades, strict=True) if a == chosen])
    return math.nan if grade is None else grade


def _mean(values: Sequence[float] | Floats) -> float | None:
    """Over what is known; None if nothing is."""
    known = [v for v in values if not math.isnan(v)]
    return float(np.mean(known)) if known else None


def _std(values: Sequence[float] | Floats) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _correlation(first: Floats, second: Floats) -> float | None:
    return float(np.corrcoef(first, second)[0, 1]) if len(first) > 1 and first.std() and second.std() else None


def gap_closed(ours: Bounds, other: Bounds) -> float | None:
    """(best - average) / (the other's average - average); None where the other is not better.

    >>> one = Bounds(1, 5, average=0.2, average_std=None, worst=0, majority=0.2, best=0.5, best_std=None)
    >>> gap_closed(one, Bounds(1, 5, average=0.8, average_std=None, worst=0, majority=0.8, best=1, best_std=None))
    0.5
    """
    gap = other.average - ours.average
    return round((ours.best - ours.average) / gap, 12) if gap > 0 else None


MEASURED_LEVELS = ("never right", "up to a third", "up to two thirds", "more than that", "always right")


def measured_level(share: float) -> str:
    """How hard a problem is, by the share of runs that are right."""
    if share in (0.0, 1.0):
        return MEASURED_LEVELS[-1 if share else 0]
    return MEASURED_LEVELS[1 + min(2, int(3 * share - 1e-9))]


def by_level(runs: Runs, *, seed: int = 0) -> dict[str, Bounds]:
    """The bounds of each difficulty level, in order of the levels (numbers as numbers)."""
    levels = runs.levels or [measured_level(_mean(row) or 0.0) for row in runs.grades]
    order = MEASURED_LEVELS if not runs.levels else sorted(set(levels), key=_as_number)
    found = {level: [i for i, own in enumerate(levels) if own == level] for level in order}
    return {level: bounds(runs.only(own), seed=seed) for level, own in found.items() if own}


def _as_number(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return math.inf, text


def level_of(problem: Problem, key: str) -> str:
    """A problem's value of a metadata key; dots lead inwards (`entry.metadata.difficulty`).

    Raises:
        StudyError: it has none; the keys that there are are given.
    """
    value: Any = problem.metadata
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            have = ", ".join(map(str, value)) if isinstance(value, Mapping) and value else "none"
            raise StudyError(f"problem {problem.id} has no {key!r} to group by; at {part!r} there are: {have}")
        value = value[part]
    return str(value)


async def arun(
    folder: str | Path, *, by: str | None = None, strategy: str | None = None, common: bool = False,
    task: Task | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Both protocols of a stored study, as far as it ran them, as plain data; nothing is sent.

    Args:
        folder: a directory that `ponder bench` wrote.
        by: metadata key of the difficulty; None groups by how often the runs were right.
        strategy: whose candidates are the independent runs; None takes the study's independent draws.
        common: use the first runs that all problems have, instead of refusing unequal numbers.
        task: instead of building the one that the study names.

    Raises:
        StudyError: the study ran neither protocol, or a problem lacks the key.
        RaggedRunsError: problems have unequal numbers of runs.
    """
    folder = Path(folder)
    data = Measured.load(folder)
    found: dict[str, Any] = {"by": by or "share of runs that are right", "parallel": None, "sequential": None}
    with StoredStudy.open(folder, task=task) as stored:
        source = _source(stored, strategy)
        if source is not None:
            runs, same = await _runs(stored, source, by)
            runs, seed = runs.common() if common else runs, stored.study.seed
            found["parallel"] = {
                "strategy": str(source),
                "all": asdict(bounds(runs, seed=seed)),
                "levels": {level: asdict(b) for level, b in by_level(runs, seed=seed).items()},
                "warnings": ["all runs of every problem are the same text: runs are not independent"] if same else [],
            }
    found["sequential"] = _sequential(data) or None
    if not found["parallel"] and not found["sequential"]:
        raise StudyError(
            f"{folder} ran no protocol; run one with ponder bench --protocol parallel (or sequential) --out {folder}"
        )
    return found


def protocol(folder: str | Path, **options: Any) -> dict[str, Any]:
    """`arun`, and the result written beside the study, where reports find it."""
    found = run_sync(lambda: arun(folder, **options))
    write_whole(Path(folder) / FILE, orjson.dumps(found, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS))
    return found


def _source(stored: StoredStudy, strategy: str | None) -> Strategy | None:
    if strategy is not None:
        return stored.source(strategy)
    rows = [(s, k) for s, k in stored.study.rows() if getattr(s, "strategy", s).name in _INDEPENDENT]
    return stored.source(str(max(rows, key=lambda row: row[1])[0])) if rows else None


async def _runs(stored: StoredStudy, source: Strategy, by: str | None) -> tuple[Runs, bool]:
    """The runs that are stored, and whether all runs of every problem are the same text."""
    ids, levels, same = [], [], True
    grades: list[list[float]] = []
    answers: list[list[Hashable | None]] = []
    tokens: list[list[float]] = []
    for problem in stored.problems():
        _, candidates = await stored.candidates(problem, source)
        if not candidates:
            continue
        ids.append(problem.id)
        levels += [level_of(problem, by)] if by else []
        right = [stored.right(problem, c.output) for c in candidates]
        grades.append([math.nan if r is None else float(r) for r in right])
        groups = group_answers([c.answer if c.valid else None for c in candidates], stored.task.same)
        answers.append([None if group < 0 else group for group in groups])
        tokens.append([float(c.n_tokens or 0) for c in candidates])
        same = same and len(candidates) > 1 and len({str(c.output) for c in candidates}) == 1
    return Runs(ids, grades, answers, tokens, levels), same and bool(ids)


def _sequential(data: Measured) -> list[dict[str, Any]]:
    """Each feedback strategy's attempts: solved at or before each, tokens of student and teacher."""
    out = []
    for name in data.strategies:
        points = [p for p in data.points if p.strategy == name and _SEQUENTIAL in name]
        if points:
            attempts = [_attempt(p) for p in sorted(points, key=lambda p: p.budget)]
            out.append({"strategy": name, "attempts": attempts})
    return out


def _attempt(point: Point) -> dict[str, Any]:
    return {
        "attempts": point.budget,
        "solved": float(point.row.get("coverage") or 0.0),
        "generated_tokens": point.cost(AXES["generated_tokens"]),
        "tokens": point.cost(AXES["tokens"]),
        "teacher_tokens": point.stages.get("critique", {}).get("generated_tokens", 0.0) / point.n_problems,
        "leaked": int(point.row.get("leaked") or 0),
    }


def preset(names: Sequence[str], runs: int | None = None) -> tuple[list[str], list[int]]:
    """Strategies and points of protocols, together.

    Args:
        names: `parallel`, `sequential`.
        runs: instead of the papers' numbers of runs and attempts.

    Raises:
        ParameterError: another name.
    """
    strategies: list[str] = []
    points: set[int] = set()
    for name in names:
        if name not in PROTOCOLS:
            raise ParameterError("bench", "protocol", name, allowed=f"one of {', '.join(PROTOCOLS)}")
        own, default = PROTOCOLS[name]
        strategies += own
        points |= set(default if runs is None else range(1, runs + 1))
    return strategies, sorted(points)
