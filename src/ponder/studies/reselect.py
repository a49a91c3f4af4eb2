"""Selectors on a study's stored samples: no model, the same draws for all, paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ponder.api import run_sync
from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.problem import Problem, Task
from ponder.core.registry import SELECTORS, VERIFIERS
from ponder.core.selector import Selector, check_k
from ponder.core.verifier import Verifier
from ponder.errors import StoreError
from ponder.laws.intervals import paired_difference, wilson_interval
from ponder.studies.calibration import Measures, confidence_table, measure_table, measures
from ponder.studies.offline import StoredStudy


@dataclass
class Reselection:
    """One selector's outcome on stored samples, filled problem by problem.

    Attributes:
        selector: canonical text.
        k: answers submitted per problem; right if any of them is.
        right: per problem, in the order of the task.
        abstained: problems without an answer.
        ties: problems whose choice was between equals.
        fallbacks: problems in which another rule than the asked one decided.
        reasons: why problems could not be decided, with how many of them.
        confidence: per problem, the selector's in its answer; None if it has none, or k > 1.
    """

    selector: str
    k: int
    right: list[bool] = field(default_factory=list)
    abstained: int = 0
    ties: int = 0
    fallbacks: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    confidence: list[float | None] = field(default_factory=list)


async def areselect(
    folder: str | Path,
    selectors: Sequence[str | Selector],
    *,
    ks: Sequence[int] = (1,),
    n: int | None = None,
    verifiers: Sequence[str | Verifier] = (),
    strategy: str | None = None,
    task: Task | None = None,
) -> list[dict[str, Any]]:
    """Rows of a table: one per selector and k, with the difference to the first selector.

    Each row also says how calibrated the selector's confidence is (`calibration`) and, the same in all rows, how
    often each score, a shorter length or a higher probability tells a right sample from a wrong one (`measures`).

    Args:
        folder: a study's directory.
        selectors: text forms or objects.
        ks: numbers of answers to submit.
        n: how many of the stored samples to use; None takes the study's largest number.
        verifiers: score the samples anew before selecting (those that call a model ask it for real).
        strategy: whose candidates; None takes the study's strategy with the most samples.
        task: instead of building the one that the study names.

    Raises:
        StoreError: no study there, or its samples are not stored.
        SpecError: an unknown selector.
        ParameterError: more samples than the study drew, a strategy that it did not run, k < 1.
    """
    chosen = [SELECTORS.build(s) if isinstance(s, str) else s for s in selectors]
    judges = [VERIFIERS.build(v) if isinstance(v, str) else v for v in verifiers]
    for k in ks:
        check_k("select", k)
    with StoredStudy.open(Path(folder), task=task) as stored:
        source = stored.source(strategy, n)
        found = [Reselection(str(s), k) for k in ks for s in chosen]
        pairs = [(s, k) for k in ks for s in chosen]
        covered: list[bool] = []
        measured: list[Measures] = []
        for problem in stored.problems():
            ctx, candidates = await stored.candidates(problem, source, n)
            if not candidates:
                continue
            candidates = await _rescored(problem, candidates, judges, ctx)
            graded = [bool(stored.right(problem, c.output)) for c in candidates]
            covered.append(any(graded))
            measured.append(measures(candidates, graded))
            for (selector, k), outcome in zip(pairs, found, strict=True):
                await _select(selector, k, problem, candidates, graded, ctx, outcome)
    if not covered:
        raise StoreError(f"{folder} holds no stored samples of {source} to select from")
    wanted = int(getattr(source, "n", None) or 1)
    table = measure_table(measured)
    rows = [_row(f, next(o for o in found if o.k == f.k), float(np.mean(covered)), wanted) for f in found]
    return [row | {"measures": table} for row in rows]


def reselect(folder: str | Path, selectors: Sequence[str | Selector], **options: Any) -> list[dict[str, Any]]:
    """`areselect` for scripts."""
    return run_sync(lambda: areselect(folder, selectors, **options))


async def _rescored(
    problem: Problem, candidates: list[Candidate], judges: Sequence[Verifier], ctx: Context
) -> list[Candidate]:
    for judge in judges:
        scores = await ctx.score(problem, candidates, judge)
        candidates = [
            c if np.isnan(s) else replace(c, scores={**c.scores, judge.name: float(s)})
            for c, s in zip(candidates, scores, strict=True)
        ]
    return candidates


async def _select(
    selector: Selector,
    k: int,
    problem: Problem,
    candidates: list[Candidate],
    graded: Sequence[bool],
    ctx: Context,
    outcome: Reselection,
) -> None:
    """One problem, in the same way as a study selects; what cannot be decided is an abstention with its reason."""
    plain = ctx.result(candidates, None)
    chosen = await ctx.select(plain, selector, k)
    outcome.right.append(any(graded[i] for i in chosen.chosen))
    outcome.confidence.append(chosen.selection.confidence if chosen.selection and k == 1 else None)
    outcome.abstained += not chosen.chosen
    if chosen.selection is None:
        outcome.reasons[chosen.reason or "unknown"] = outcome.reasons.get(chosen.reason or "unknown", 0) + 1
        return
    outcome.ties += chosen.selection.tie
    outcome.fallbacks += chosen.selection.fallback is not None and bool(chosen.chosen)


def _row(found: Reselection, base: Reselection, covered: float, n: int) -> dict[str, Any]:
    accuracy = wilson_interval(sum(found.right), len(found.right))
    difference = paired_difference(np.asarray(found.right, dtype=float), np.asarray(base.right, dtype=float))
    return {
        "selector": found.selector,
        "k": found.k,
        "samples": n,
        "n_problems": len(found.right),
        "accuracy": round(accuracy.estimate, 6),
        "ci_low": round(accuracy.low, 6),
        "ci_high": round(accuracy.high, 6),
        "coverage": round(covered, 6),
        "difference": round(difference.estimate, 6),
        "difference_low": round(difference.low, 6),
        "difference_high": round(difference.high, 6),
        "abstained": found.abstained,
        "ties": found.ties,
        "fallbacks": found.fallbacks,
        "undecided": found.reasons,
        "calibration": confidence_table(found.confidence, found.right),
    }
