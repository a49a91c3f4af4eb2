"""What became of one problem in one row: graded, counted, small enough to keep for all problems."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ponder.core.candidate import Failure
from ponder.core.problem import Task
from ponder.core.strategy import Result
from ponder.ledger.spend import Spend
from ponder.recipes.prompt_pairs import refinement
from ponder.studies.calibration import measures

_EXAMPLES = 3
"""How many failures of one problem are kept with their messages."""


@dataclass(frozen=True)
class Outcome:
    """One problem under one strategy at one budget.

    Attributes:
        correct: whether the chosen output is right; abstaining and failing are not.
        covered: whether any candidate is right.
        drawn: candidates that came, failed ones included.
        right: how many of them are right.
        status: `ok`, `abstain` or `failed`.
        errors: samples that could not be drawn, read, graded or scored.
        lost: how many of those were never drawn: a later run tries them again.
        cut: candidates that ended at their length limit.
        unparsed: candidates in which no answer was found.
        tie: whether the choice was between equals.
        spend: per stage.
        failures: the first few, as `stage: message`.
        confidence: the selector's in its choice; None if it has none.
        measures: how well scores, length and probability tell right candidates from wrong ones.
        leaked: hints that held the reference answer and were discarded.
        score: the verifier's of the chosen output; None if it has none.
        mean_score: the verifier's, over all candidates that have one.
        new_siblings: of the steps that a search drew beside another one, the share that said something new.
        refined: of a prompt that was rewritten: the prompt that was asked, the best one, and its gain; see
            `ponder.recipes.prompt_pairs`.
    """

    correct: bool
    covered: bool
    drawn: int
    right: int
    status: str
    errors: int = 0
    lost: int = 0
    cut: int = 0
    unparsed: int = 0
    tie: bool = False
    spend: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    failures: tuple[str, ...] = ()
    confidence: float | None = None
    measures: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    leaked: int = 0
    score: float | None = None
    mean_score: float | None = None
    new_siblings: float | None = None
    refined: Mapping[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain data for the store."""
        return asdict(self)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Outcome:
        """From the store's plain data."""
        return cls(**{**data, "failures": tuple(data["failures"])})


def grade_result(result: Result, task: Task) -> Outcome:
    """Grade a result's candidates, each different output once; a grader that raises costs only its sample."""
    failures = list(result.failures)
    right: dict[Any, bool] = {}
    graded: list[bool] = []
    for candidate in result.candidates:
        if candidate.error is not None:
            graded.append(False)
            continue
        key = candidate.output if isinstance(candidate.output, str) else id(candidate)
        if key not in right:
            try:
                right[key] = task.grade(result.problem, candidate.output).correct
            except Exception as error:  # a grader's fault: recorded on the sample, never counted as right
                right[key] = False
                failures.append(Failure("grade", candidate.index, type(error).__name__, str(error)))
        graded.append(right[key])
    best = result.chosen[0] if result.chosen else None
    samples = {f.index for f in failures if f.index is not None}
    scores = [next(iter(c.scores.values()), None) for c in result.candidates]
    known = [s for s in scores if s is not None and math.isfinite(s)]
    return Outcome(
        correct=best is not None and graded[best],
        covered=any(graded),
        drawn=len(graded),
        right=sum(graded),
        status=result.status,
        errors=len(samples) + sum(f.index is None for f in failures),
        lost=sum(c.error is not None for c in result.candidates),
        cut=sum(c.finish == "length" for c in result.candidates),
        unparsed=sum(c.error is None and not c.valid for c in result.candidates),
        tie=bool(result.selection and result.selection.tie),
        spend={stage: spend.as_dict() for stage, spend in result.spend.items()},
        failures=tuple(f"{f.stage}: {f.message}"[:300] for f in failures[:_EXAMPLES]),
        confidence=result.selection.confidence if result.selection else None,
        measures=measures(result.candidates, graded),
        leaked=int(result.details.get("leaked_hints", 0)),
        score=None if best is None else scores[best],
        mean_score=math.fsum(known) / len(known) if known else None,
        new_siblings=None if result.tree is None else result.tree.new_siblings(),
        refined=refinement(result.details),
    )


def crashed(error: Exception, spend: Mapping[str, Spend]) -> Outcome:
    """What is left of a problem on which the strategy itself failed: one error, never an answer."""
    return Outcome(
        correct=False,
        covered=False,
        drawn=0,
        right=0,
        status="failed",
        errors=1,
        spend={stage: amounts.as_dict() for stage, amounts in spend.items()},
        failures=(f"strategy: {type(error).__name__}: {error}"[:300],),
    )
