"""The control of every verifier: a score that says nothing.

Best-of-N under it is right as often as a single sample. A verifier that does no better is worth nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.core.registry import verifier
from ponder.core.seeds import SEED_BITS, derive_seed
from ponder.core.verifier import Scorable, Verifier, place_of


@verifier("random_score", aliases=("random",), how="verification:outcome")
@dataclass(frozen=True)
class RandomScore(Verifier):
    """Uniform in [0, 1), by the draw's place: the same draw has the same score in every strategy."""

    async def score(self, problem: Problem, items: Sequence[Scorable], ctx: Context) -> Sequence[float]:
        """One number per item."""
        return [derive_seed(ctx.seed, problem.id, "random_score", *place_of(item)) / (1 << SEED_BITS) for item in items]
