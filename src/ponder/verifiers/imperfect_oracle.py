"""An oracle that errs at known rates, for studies of imperfect verifiers.

Paper    Stroebl et al. 2024, "Inference Scaling fLaws: The Limits of LLM Resampling with Imperfect Verifiers".
Equal    Each sample's verdict errs independently, with a false-positive and a false-negative rate.
Differs  Errors are seeded by the draw, so the same sample gets the same verdict in every strategy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.core.registry import verifier
from ponder.core.verifier import Scorable, Verifier, output_of, place_of
from ponder.errors import ParameterError


@verifier("imperfect_oracle", aliases=("imperfect",), how="verification:outcome:rule", where="simulation, reasoning")
@dataclass(frozen=True)
class ImperfectOracle(Verifier):
    """Accepts (1) or rejects (0) an output.

    Args:
        false_positive: chance that a wrong output is accepted.
        false_negative: chance that a right output is rejected.
    """

    false_positive: float = 0.1
    false_negative: float = 0.1

    def __post_init__(self) -> None:
        for name in ("false_positive", "false_negative"):
            if not 0 <= getattr(self, name) <= 1:
                raise ParameterError(self, name, getattr(self, name), allowed="in [0, 1]")

    async def score(self, problem: Problem, items: Sequence[Scorable], ctx: Context) -> Sequence[float]:
        """Verdicts, 0 or 1."""
        if ctx.task is None:
            raise ParameterError(self, "task", None, allowed="a task with a grader", hint="a bare prompt has no truth")
        verdicts = []
        for item in items:
            correct = ctx.task.grade(problem, output_of(item, ctx)).correct
            rate = self.false_negative if correct else self.false_positive
            flip = ctx.rng("imperfect_oracle", *place_of(item)).random() < rate
            verdicts.append(float(correct != flip))
        return verdicts
