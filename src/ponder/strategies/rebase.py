"""REBASE: share the width among the nodes of a level in proportion to exp(score / temperature).

Paper    Wu et al. 2024, "Inference Scaling Laws: An Empirical Analysis of Compute-Optimal Inference for Problem-Solving
         with Language Models".
Equal    Nodes by falling score; each takes ⌈W · e_i / S⌉ of the width W that is left, S being what the rest weighs; a
         finished output takes one place of the width for good.
Differs  Scores are shifted by their maximum before exp, and the last division cannot be 0 / 0. Equal scores: the
         earlier first (reference code: the later).
Needs    A process in steps and a verifier of partial outputs.    Cost: at most n steps and n scores per level.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.core.registry import strategy
from ponder.core.strategy import Result
from ponder.strategies._rebase import RewardBalanced, rebase_counts, run_rebase

__all__ = ["Rebase", "rebase_counts"]


@strategy("rebase", aliases=("reward_balanced_search",), what="hybrid", how="search:beam, verification:process")
@dataclass(frozen=True)
class Rebase(RewardBalanced):
    """A tree of width `n` in which better-scored nodes get more children.

    Args:
        n: width; None takes the number from the study's sample axis.
        verifier: scores prefixes.
        temperature: of the scores, > 0.
        how: how the scores of a prefix's steps become one number.
        choose: chooses among the finished outputs.
    """

    stepwise: ClassVar[bool] = True

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Level by level until the width is used up by finished outputs."""
        return await run_rebase(self, problem, ctx, lambda _, s, width: rebase_counts(s, width, self.temperature), {})
