"""The exact grader as a verifier: an oracle, for upper bounds.

With it, best-of-N's accuracy is coverage. It looks at the reference, so it is for studies, not for use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.core.registry import verifier
from ponder.core.verifier import Scorable, Verifier, output_of
from ponder.errors import ParameterError


@verifier("exact", aliases=("oracle",), how="verification:outcome:rule")
@dataclass(frozen=True)
class Exact(Verifier):
    """The task's own grade in [0, 1]."""

    async def score(self, problem: Problem, items: Sequence[Scorable], ctx: Context) -> Sequence[float]:
        """Grade each output; a grader that raises fails for that item."""
        if ctx.task is None:
            raise ParameterError(self, "task", None, allowed="a task with a grader", hint="a bare prompt has no truth")
        return [ctx.task.grade(problem, output_of(item, ctx)).score for item in items]
