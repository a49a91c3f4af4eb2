"""Fit a difficulty table to stored studies: bins, the best strategy of each, and its worth on held-out problems.

Source: Snell et al. 2024 (two-fold cross-validation inside each bin), Liu et al. 2025 (absolute bands).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ponder.api import run_sync
from ponder.core.difficulty import (
    BANDS,
    By,
    Cell,
    DifficultyTable,
    Level,
    carried,
    probe_difficulty,
    verifier_key,
)
from ponder.core.problem import Task
from ponder.core.registry import VERIFIERS
from ponder.core.seeds import generator
from ponder.core.strategy import Pipeline, parse_strategy
from ponder.core.verifier import Verifier
from ponder.errors import ParameterError, SpecError, StudyError
from ponder.laws.intervals import paired_difference
from ponder.ledger.spend import Spend
from ponder.studies.measured import Measured
from ponder.studies.offline import StoredStudy

Floats = npt.NDArray[np.float64]

_LEAST = 4
"""Problems of a bin: two in each fold."""


@dataclass(frozen=True)
class Arm:
    """A strategy at a number of samples, with its outcome on every problem."""

    text: str
    budget: int
    right: Floats


def fit_table(
    folders: Sequence[Path | str],
    *,
    by: By = "predicted",
    probe: int = 4,
    verifier: str | None = None,
    bins: int = 5,
    bands: bool = False,
    key: str = "",
    pool: str | None = None,
    seed: int = 0,
    task: Task | None = None,
) -> DifficultyTable:
    """Learn from studies of one model on one task's problems which strategy suits which difficulty.

    Args:
        folders: directories that `ponder bench` wrote.
        by: `predicted`: mean verifier score of `probe` samples; `vote`: share of their leading answer; `oracle`: pass@1
            of the pool of `pool`; `metadata`: the number `key` of each problem.
        probe: samples of a probe, ≥ 1; drawn again from the first study's store.
        verifier: scores the probe; None takes the only one in the strategies.
        bins: quantiles, ≥ 1; with `metadata` at most so many different values are bins of their own.
        bands: absolute bands of the difficulty (below 0.1, below 0.5, above) instead of quantiles.
        key: of the problems' metadata.
        pool: the strategy whose draws give pass@1; None takes the first that samples independently.
        seed: of the folds.
        task: instead of building the one that the first study names.

    Raises:
        StudyError: no shared problems, different models or tasks, or too few problems.
        ParameterError: a setting that makes no sense.
    """
    if probe < 1 or bins < 1:
        raise ParameterError("allocate", "probe/bins", (probe, bins), allowed="integers ≥ 1")
    studies = [Measured.load(folder) for folder in folders]
    if not studies:
        raise StudyError("give at least one directory that ponder bench wrote")
    ids, arms = _arms(studies)
    judges = verifier_key([parse_strategy(a.text) for a in arms])
    judge: Verifier | None = None
    cost = Spend()
    if by == "predicted":
        named = verifier or judges
        if not named or (verifier is None and ", " in judges):
            raise ParameterError(
                "allocate", "verifier", verifier, allowed=f"one verifier (the study has: {judges or 'none'})"
            )
        judge = VERIFIERS.build(named)
    if by == "oracle":
        values = _pass_rates(studies, ids, pool)
    else:
        values, cost = _difficulties(Path(folders[0]), ids, by, probe, judge, key, task)
    notes: list[str] = []
    edges = _edges(values, by, bins, bands, notes)
    levels, cells = _choose(arms, values, edges, seed, notes)
    for note in notes:
        if "merged" in note:
            warnings.warn(note, stacklevel=2)
    probing = by in ("predicted", "vote")
    return DifficultyTable(
        studies[0].models[0], studies[0].tasks[0], judges, by, tuple(edges), tuple(cells), tuple(levels),
        probe if probing else 0, str(judge or ""), key,
        dict(zip(ids, map(float, values), strict=True)) if by == "oracle" else {},
        {k: round(v / len(ids), 6) for k, v in cost.as_dict().items() if v} if probing else {}, tuple(notes),
    )  # fmt: skip


def _arms(studies: Sequence[Measured]) -> tuple[list[str], list[Arm]]:
    """The problems that all studies share, and every strategy of theirs on these."""
    for study in studies:
        for what in ("models", "tasks"):
            first, own = getattr(studies[0], what), getattr(study, what)
            if own != first or len(own) != 1:
                raise StudyError(
                    f"{study.folder}: {what[:-1]} {', '.join(own)} and {', '.join(first)}: a table is of one"
                )
        if not study.problem_ids or any(p.correct is None for p in study.points):
            raise StudyError(f"{study.folder} does not store the outcome of each problem; run ponder bench again")
    places = [{p: i for i, p in enumerate(study.problem_ids)} for study in studies]
    ids = [p for p in studies[0].problem_ids if all(p in place for place in places)]
    found: dict[str, Arm] = {}
    for study, place in zip(studies, places, strict=True):
        at = [place[p] for p in ids]
        for point in study.points:
            try:
                whole = parse_strategy(point.strategy).with_samples(point.budget)
            except SpecError:
                continue  # a row of an allocator is no strategy
            assert point.correct is not None
            found.setdefault(str(whole), Arm(str(whole), point.budget, point.correct[at]))
    rights = [arm.right for arm in found.values()]
    keep: npt.NDArray[np.bool_] = np.zeros(len(ids), dtype=bool)
    if rights:
        keep = np.asarray(~np.isnan(np.stack(rights)).any(axis=0))
    if keep.sum() < _LEAST:
        raise StudyError(f"the studies share {int(keep.sum())} finished problems; two folds need {_LEAST} or more")
    return [p for p, k in zip(ids, keep.tolist(), strict=True) if k], [
        Arm(a.text, a.budget, a.right[keep]) for a in found.values()
    ]


def _pass_rates(studies: Sequence[Measured], ids: Sequence[str], pool: str | None) -> Floats:
    for study in studies:
        for text, (n, c) in study.draws.items():
            strategy = parse_strategy(text)
            inner = strategy.strategy if isinstance(strategy, Pipeline) else strategy
            if text == pool or (pool is None and inner.name in ("repeated_sampling", "best_of_n")):
                place = {p: i for i, p in enumerate(study.problem_ids)}
                at = [place[p] for p in ids]
                return np.asarray(c[at] / np.maximum(n[at], 1), dtype=np.float64)
    allowed = "a strategy of the studies that samples independently, such as repeated_sampling"
    raise ParameterError("allocate", "pool", pool, allowed=allowed)


def _difficulties(
    folder: Path, ids: Sequence[str], by: By, probe: int, judge: Verifier | None, key: str, task: Task | None
) -> tuple[Floats, Spend]:
    """Of each problem, from its metadata or from a probe of stored draws, and what the probes cost together."""

    async def go() -> tuple[Floats, Spend]:
        with StoredStudy.open(folder, task=task) as stored:
            known = {p.id: p for p in stored.problems()}
            values, cost = [], Spend()
            for name in ids:
                if by == "metadata":
                    values.append(carried(known[name], key))
                    continue
                ctx = stored.context(known[name])
                probed = await probe_difficulty(known[name], ctx, probe, judge)
                value = probed.difficulty
                lost = [c.error for c in probed.candidates if c.error is not None]
                if lost:
                    raise StudyError(
                        f"the probe of {name} is not in the store of {folder}: {lost[0]}. Put a strategy that samples "
                        f"{probe} or more whole outputs into the study"
                    )
                if math.isnan(value) and ctx.failures:
                    raise StudyError(f"the probe of {name} could not be scored: {ctx.failures[-1].message}")
                values.append(value)
                cost = cost + ctx.ledger.total
            return np.asarray(values, dtype=np.float64), cost

    values, cost = run_sync(go)
    if np.isnan(values).any():
        missing = ids[int(np.flatnonzero(np.isnan(values))[0])]
        what = f"no number {key!r} in its metadata" if by == "metadata" else "no probe of it could be judged"
        raise StudyError(f"problem {missing} has no difficulty: {what}")
    return values, cost


def _edges(values: Floats, by: By, bins: int, bands: bool, notes: list[str]) -> list[float]:
    """Inner edges of the bins; neighbours are merged until each bin has two problems in each fold."""
    distinct = np.unique(values)
    if bands:
        edges = list(BANDS)
    elif by == "metadata" and len(distinct) <= bins:
        edges = [float(m) for m in (distinct[1:] + distinct[:-1]) / 2]
    else:
        quantiles = np.unique(np.quantile(values, np.arange(1, bins) / bins))
        edges = [float(q) for q in quantiles if q > distinct[0]]  # nothing lies below the smallest value
    while edges:
        counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
        small = int(counts.argmin())
        if counts[small] >= _LEAST:
            break
        beside = [i for i in (small - 1, small + 1) if 0 <= i <= len(edges)]
        other = min(beside, key=lambda i: (counts[i], i))
        if counts[small]:
            notes.append(f"a bin of {counts[small]} problems was merged with its neighbour of {counts[other]}")
        del edges[min(small, other)]
    if not edges:
        notes.append("all problems are in one bin: the table is the best single strategy of each budget")
    return edges


def _choose(
    arms: Sequence[Arm], values: Floats, edges: Sequence[float], seed: int, notes: list[str]
) -> tuple[list[Level], list[Cell]]:
    """The best of each bin and budget; where that loses on held-out problems, the best single one for all bins."""
    member = np.searchsorted(np.asarray(edges), values, side="right")
    fold = _folds(member, seed)
    levels: list[Level] = []
    cells: list[Cell] = []
    one = np.zeros_like(member)
    for budget in sorted({a.budget for a in arms}):
        within = sorted((a for a in arms if a.budget <= budget), key=lambda a: a.budget)
        table = np.stack([a.right for a in within], axis=1)
        binned, single = held_out(table, member, fold), held_out(table, one, fold)
        best = _best(table)
        gain = paired_difference(binned, single, seed=seed)
        degenerate = not edges or bool(binned.mean() <= single.mean())
        if degenerate and edges:
            notes.append(
                f"budget {budget}: choosing by difficulty brings nothing; all bins get the best single strategy"
            )
        for b in range(len(edges) + 1):
            inside = member == b
            chosen = best if degenerate else _best(table[inside])
            accuracy = float((single if degenerate else binned)[inside].mean())
            cells.append(Cell(b, budget, within[chosen].text, round(accuracy, 6), int(inside.sum())))
        accuracy = float((single if degenerate else binned).mean())
        reached = next((a.budget for a in sorted(arms, key=lambda a: a.budget) if a.right.mean() >= accuracy), None)
        low, high = (0.0, 0.0) if degenerate else (gain.low, gain.high)
        levels.append(
            Level(
                budget, round(accuracy, 6), within[best].text, round(float(single.mean()), 6),
                round(low, 6), round(high, 6), reached, degenerate,
            )
        )  # fmt: skip
    return levels, cells


def _folds(member: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
    """Fold 0 or 1 of each problem, half of each bin in each."""
    fold = np.zeros(len(member), dtype=np.int64)
    for b in np.unique(member):
        inside = np.flatnonzero(member == b)
        fold[generator(seed, "allocate", int(b)).permutation(inside)[::2]] = 1
    return fold


def held_out(table: Floats, member: npt.NDArray[np.int64], fold: npt.NDArray[np.int64]) -> Floats:
    """Outcome of each problem under the arm that was best on the other fold of its bin.

    Args:
        table: outcomes, shape (problems, arms); of equally good arms the first is taken.
        member: bin of each problem.
        fold: 0 or 1 for each.

    >>> table = np.array([[1, 0], [1, 0], [0, 1], [0, 1]])
    >>> held_out(table, np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])).tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    out = np.zeros(len(table))
    for b in np.unique(member):
        for side in (0, 1):
            learn, judge = (member == b) & (fold == side), (member == b) & (fold != side)
            if judge.any():
                out[judge] = table[judge, _best(table[learn]) if learn.any() else 0]
    return out


def _best(table: Floats) -> int:
    return int(table.mean(axis=0).argmax())


def as_rows(table: DifficultyTable) -> Mapping[str, Any]:
    """The table for people: a line per budget and one per cell."""
    edges = (-math.inf, *table.edges, math.inf)
    return {
        "levels": [
            {
                "budget": level.budget, "accuracy": level.accuracy, "fixed_accuracy": level.fixed_accuracy,
                "fixed": level.fixed, "difference": (level.accuracy - level.fixed_accuracy, level.low, level.high),
                "reached_at": level.reached_at,
            }
            for level in table.levels
        ],
        "cells": [
            {"difficulty": f"{edges[c.bin]:.3g} to {edges[c.bin + 1]:.3g}", **{k: getattr(c, k) for k in c.__slots__}}
            for c in table.cells
        ],
    }  # fmt: skip
