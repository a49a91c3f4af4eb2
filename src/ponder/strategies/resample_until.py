"""Resample until a verifier accepts: return the first accepted draw, abstain after K rejections.

Paper    Stroebl et al. 2024, "Inference Scaling fLaws: The Limits of LLM Resampling with Imperfect Verifiers".
Equal    Draw one by one up to K times; the first accepted draw is the answer; after K rejections abstain.
Differs  `batch` draws several at a time; the earliest accepted one of a batch wins, so that the outcome is that
         of batch=1 and only the cost differs.
Needs    Text only, and a verifier. What its errors cost is in `ponder.laws.imperfect_verifier`.
Cost     At most K draws and K scores.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.core.registry import VERIFIERS, strategy
from ponder.core.strategy import Result, Strategy
from ponder.core.verifier import Verifier
from ponder.errors import ParameterError
from ponder.ledger.spend import Spend


@strategy("resample_until", aliases=("resample_until_accepted",), what="parallel", how="verification:outcome")
@dataclass(frozen=True)
class ResampleUntil(Strategy):
    """Draw until `verifier` accepts, at most `n` times; else abstain.

    Args:
        n: draws at most (the paper's K), n ≥ 0; 0 abstains at once. None takes the study's number of samples.
        verifier: accepts a draw if it scores at least `accept`.
        accept: the least accepted score.
        batch: draws at a time, ≥ 1.
    """

    n: int | None = None
    verifier: Verifier = field(default_factory=lambda: VERIFIERS.build("llm_judge"))
    accept: float = 0.5
    batch: int = 1

    def __post_init__(self) -> None:
        if self.n is not None and self.n < 0:
            raise ParameterError(self, "n", self.n, allowed="an integer ≥ 0", hint="n=0 abstains at once")
        if self.batch < 1:
            raise ParameterError(self, "batch", self.batch, allowed="an integer ≥ 1")

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Draw, score, and stop at the first accepted draw."""
        n = 1 if self.n is None else self.n
        candidates: list[Candidate] = []
        scores: list[float] = []
        chosen = None
        while len(candidates) < n and chosen is None:
            ask = min(self.batch, n - len(candidates))
            drawn = await ctx.draw(problem, ask, hold=Spend(verifier_calls=1))
            values = await ctx.score(problem, drawn, self.verifier) if drawn else np.empty(0)
            accepted = next((i for i, v in enumerate(values) if v >= self.accept), None)
            chosen = None if accepted is None else len(candidates) + accepted
            candidates += drawn
            scores += values.tolist()
            if len(drawn) < ask:
                break
        usable = sum(c.error is None for c in candidates)
        refused = f"{self.verifier} accepted none of {usable} draws" if usable else None
        return ctx.result(
            candidates, chosen, scores=scores, verifier=self.verifier,
            reason=("n=0 abstains" if n == 0 else refused) if chosen is None else None,
            accepted_at=None if chosen is None else chosen + 1,
        )  # fmt: skip
