"""How hard a problem is, and the table that says which strategy suits which difficulty at which budget."""

from __future__ import annotations

import dataclasses
import json
import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np

from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.growth import answer_votes
from ponder.core.problem import Problem
from ponder.core.verifier import Verifier
from ponder.errors import StudyError
from ponder.ledger.spend import Spend

T = TypeVar("T")

By = Literal["predicted", "vote", "oracle", "metadata"]
"""Mean verifier score of a probe; leader's share of its votes; pass@1 in a study; a number that the problem carries."""

BANDS = (0.1, 0.5)
"""Absolute edges of pass@1: hard below 0.1, medium below 0.5, easy from 0.5 on (Liu et al. 2025)."""

FORMAT = "ponder difficulty table 1"


@dataclass(frozen=True, slots=True)
class Cell:
    """What one bin gets at one budget.

    Attributes:
        bin: 0 is the lowest difficulty value (the hardest, where values are pass rates).
        budget: samples.
        strategy: complete text.
        accuracy: cross-validated, of the choice and not of this one strategy.
        n: problems of the bin.
    """

    bin: int
    budget: int
    strategy: str
    accuracy: float
    n: int


@dataclass(frozen=True, slots=True)
class Level:
    """One budget, over all bins.

    Attributes:
        budget: samples.
        accuracy: of choosing by bin, cross-validated.
        fixed: the best single strategy.
        fixed_accuracy: of choosing one for all, cross-validated on the same folds.
        low: 95 % interval of the difference, over problems.
        high: the other end.
        reached_at: the smallest budget at which a single strategy reaches `accuracy`; None: none in the study.
        degenerate: every bin gets `fixed`, because choosing by bin brought nothing on held-out problems.
    """

    budget: int
    accuracy: float
    fixed: str
    fixed_accuracy: float
    low: float
    high: float
    reached_at: int | None = None
    degenerate: bool = False


@dataclass(frozen=True)
class DifficultyTable:
    """The artefact that `ponder allocate fit` writes and `compute_optimal` reads.

    Attributes:
        model: text of the policy that it was fitted with.
        task: text of the task.
        verifier: texts of the verifiers in its strategies; they are part of its key.
        by: what difficulty is.
        edges: inner edges of the bins, ascending; a value on an edge belongs above it.
        cells: one for each bin and budget.
        levels: one for each budget.
        probe: samples that estimating takes; 0 where it takes none.
        probe_verifier: text of the verifier that scores them.
        key: metadata key, for `by="metadata"`.
        difficulties: of the study's problems, for `by="oracle"`.
        probe_cost: mean cost of a probe, in the ledger's amounts.
        notes: what the fit had to say.
    """

    model: str
    task: str
    verifier: str
    by: By
    edges: tuple[float, ...]
    cells: tuple[Cell, ...]
    levels: tuple[Level, ...]
    probe: int = 0
    probe_verifier: str = ""
    key: str = ""
    difficulties: Mapping[str, float] = field(default_factory=dict)
    probe_cost: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def budgets(self) -> list[int]:
        """The budgets, ascending."""
        return sorted(level.budget for level in self.levels)

    @property
    def bins(self) -> int:
        """How many there are."""
        return len(self.edges) + 1

    def bin_of(self, difficulty: float) -> int:
        """The bin of a difficulty."""
        return bisect_right(self.edges, difficulty)

    def nearest(self, budget: int) -> int:
        """The largest budget of the table that is not above `budget`.

        Raises:
            StudyError: all are above it.
        """
        known = [b for b in self.budgets if b <= budget]
        if not known:
            raise StudyError(f"the table's smallest budget is {self.budgets[0]}, above n={budget}; give a larger n")
        return known[-1]

    def level(self, budget: int) -> Level:
        """The line of a budget of the table."""
        return next(level for level in self.levels if level.budget == budget)

    def strategy(self, difficulty: float | None, budget: int) -> str:
        """What a difficulty gets at a budget of the table; the best single strategy if it is not known."""
        if difficulty is not None and not math.isnan(difficulty):
            wanted = self.bin_of(difficulty)
            return next(c.strategy for c in self.cells if (c.bin, c.budget) == (wanted, budget))
        return self.level(budget).fixed

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> DifficultyTable:
        """Read what `save` wrote.

        Raises:
            StudyError: no such file, or not such a table.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise StudyError(f"the table {path} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise StudyError(f"{path} is no JSON: {error}") from None
        if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
            raise StudyError(f"{path} is no difficulty table; ponder allocate fit writes one")
        try:
            data |= {"edges": tuple(map(float, data["edges"])), "notes": tuple(data["notes"])}
            data |= {"cells": tuple(Cell(**c) for c in data["cells"])}
            data |= {"levels": tuple(Level(**c) for c in data["levels"])}
            table = cls(**data)
            whole = {(c.bin, c.budget) for c in table.cells}
            if table.by not in get_args(By) or not table.levels:
                raise ValueError("unknown kind of difficulty, or no budgets")
            if any((b, budget) not in whole for b in range(table.bins) for budget in table.budgets):
                raise ValueError("a cell is missing")
        except (KeyError, TypeError, ValueError) as error:
            raise StudyError(f"{path} is damaged ({error}); fit it again") from None
        return table


@dataclass(frozen=True)
class Probe:
    """What a probe found.

    Attributes:
        difficulty: larger is easier; NaN if no sample says anything.
        candidates: the samples.
        scores: the verifier's of each, NaN where there is none; empty without a verifier.
    """

    difficulty: float = math.nan
    candidates: tuple[Candidate, ...] = ()
    scores: tuple[float, ...] = ()


async def probe_difficulty(problem: Problem, ctx: Context, n: int, verifier: Verifier | None) -> Probe:
    """Estimate a problem's difficulty from `n` samples.

    Args:
        problem: the problem of `ctx`.
        ctx: pays.
        n: samples.
        verifier: their mean score is the difficulty; None takes the leading answer's share of all samples.
    """
    candidates = tuple(await ctx.draw(problem, n, hold=Spend(verifier_calls=1) if verifier else Spend()))
    if verifier is None:
        counts, invalid = answer_votes(candidates, ctx)
        drawn = sum(counts) + invalid
        return Probe(max(counts, default=0) / drawn if drawn else math.nan, candidates)
    scores = await ctx.score(problem, candidates, verifier) if candidates else np.empty(0)
    known = scores[~np.isnan(scores)]
    return Probe(float(known.mean()) if known.size else math.nan, candidates, tuple(scores.tolist()))


def carried(problem: Problem, key: str) -> float:
    """A number in a problem's metadata; NaN if there is none. `a.b` is key b inside a."""
    value: Any = problem.metadata
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, (int, float)) else math.nan


def verifiers_in(part: object) -> Iterator[Verifier]:
    """The verifiers in a strategy and in what it contains."""
    if isinstance(part, Verifier):
        yield part
    elif isinstance(part, (tuple, list)):
        for item in part:
            yield from verifiers_in(item)
    elif dataclasses.is_dataclass(part):
        for f in dataclasses.fields(part):
            yield from verifiers_in(getattr(part, f.name))


def with_verifier(part: T, verifier: Verifier) -> T:
    """The same strategy with every verifier in it replaced."""
    if isinstance(part, Verifier):
        return verifier  # type: ignore[return-value]
    if isinstance(part, tuple):
        return tuple(with_verifier(item, verifier) for item in part)  # type: ignore[return-value]
    if dataclasses.is_dataclass(part) and not isinstance(part, type) and any(verifiers_in(part)):
        changed = {
            f.name: with_verifier(getattr(part, f.name), verifier)
            for f in dataclasses.fields(part)
            if f.init and any(verifiers_in(getattr(part, f.name)))
        }
        return dataclasses.replace(part, **changed)
    return part


def verifier_key(strategies: Sequence[object]) -> str:
    """Texts of all verifiers in some strategies, each once, sorted."""
    return ", ".join(sorted({str(v) for s in strategies for v in verifiers_in(s)}))
