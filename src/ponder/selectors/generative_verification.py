"""GenRM selection: check each solution several times by generated verdicts, then take the best or a weighted vote.

Paper    Singhi et al. 2025, "When To Solve, When To Verify: Compute-Optimal Problem Solving and Generative
         Verification for LLM Reasoning".
Equal    S solutions, V verdicts each; the solution with the highest mean verdict, or the answer with the largest
         sum of mean verdicts.
Differs  A tie goes to the earliest solution (paper: random). If the verifier gives every solution the same score it
         says nothing, so the plain majority decides, and the selection says so.
Needs    A verifier model (the solver itself will do).    Cost: S · V completions; none if the candidates carry
         the score `generative_verification` already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.model import Model
from ponder.core.pool import Pool
from ponder.core.problem import Problem
from ponder.core.registry import VERIFIERS, selector
from ponder.core.selector import SUMMED, Ranking, Selection, VotingSelector, abstained, check_k, selection
from ponder.core.verifier import Verifier
from ponder.selectors._judge import needs_context

_SCORE = "generative_verification"


@selector(
    "generative_verification", aliases=("genrm",),
    how="verification:outcome:judge, aggregation:best_of_n:weighted", where="reasoning",
)  # fmt: skip
@dataclass(frozen=True)
class GenerativeVerificationSelector(VotingSelector):
    """The solution that generated verdicts accept most.

    Args:
        verdicts: verification chains per solution.
        rule: `best` takes the highest mean verdict, `weighted` the answer with the largest sum of them.
        mode: how a verdict is read: `text`, `logprob` or `hybrid`.
        model: the verifier model; none asks the model that wrote the solutions.
        temperature: of the chains.
        max_new_tokens: length limit of one chain.
    """

    verdicts: int = 4
    rule: Literal["best", "weighted"] = "best"
    mode: Literal["text", "logprob", "hybrid"] = "text"
    model: Model | None = None
    temperature: float = 0.7
    max_new_tokens: int = 512

    def __post_init__(self) -> None:
        self._verifier()

    def _verifier(self) -> Verifier:
        built: Verifier = VERIFIERS.entry(_SCORE).cls(
            verdicts=self.verdicts, mode=self.mode, model=self.model, temperature=self.temperature,
            max_new_tokens=self.max_new_tokens,
        )  # fmt: skip
        return built

    def rank(self, pool: Pool) -> Ranking:
        """Best or summed verdicts per answer; counts where the verdicts do not tell solutions apart."""
        given = pool.score(_SCORE)
        known = pool.valid & ~np.isnan(given)
        scores = np.where(known, given, 0.0)
        top = np.where(known, scores, -np.inf).max(axis=1)
        low = np.where(known, scores, np.inf).min(axis=1)
        blind = np.asarray(~(top > low) & (pool.valid.sum(axis=1) > 1))
        weights = pool.group_max(scores) if self.rule == "best" else pool.group_sum(scores)
        weights = np.where(blind[:, None], pool.counts, weights)
        return Ranking(
            np.where(pool.counts > 0, weights, -np.inf),
            fallback=["verdicts_all_equal: majority decides" if b else None for b in blind] if blind.any() else None,
            representatives=np.where(blind[:, None], 0.0, np.where(known, scores, -1.0)),
            share=self.rule == "weighted",
            tolerance=SUMMED if self.rule == "weighted" else 0.0,
            excluded=(pool.valid & ~known).sum(axis=1),
        )

    def select(self, candidates: Sequence[Candidate], k: int = 1, *, same: object = None) -> Selection:
        """From candidates that carry the score `generative_verification`, or need no choice.

        Raises:
            CapabilityError: they do not; use it in a strategy, or `choose`.
        """
        check_k(self, k)
        pool = Pool.of(candidates, same)  # type: ignore[arg-type]
        if not pool.valid.any():
            return abstained()
        if _SCORE not in pool.scores:
            if int(pool.valid.sum()) > 1:
                raise needs_context(self.name)
            return selection(pool, Ranking(np.where(pool.counts > 0, 1.0, -np.inf), share=False), k)
        return selection(pool, self.rank(pool), k)

    async def choose(self, problem: Problem, candidates: Sequence[Candidate], ctx: Context, k: int = 1) -> Selection:
        """Verify what is not verified yet, then select."""
        check_k(self, k)
        if not candidates or sum(c.valid for c in candidates) <= 1 or all(_SCORE in c.scores for c in candidates):
            return self.select(candidates, k, same=ctx.same)
        asked = [i for i, c in enumerate(candidates) if c.valid and _SCORE not in c.scores]
        values = await ctx.score(problem, [candidates[i] for i in asked], self._verifier())
        scored = list(candidates)
        for i, value in zip(asked, values, strict=True):
            scored[i] = replace(scored[i], scores={**scored[i].scores, _SCORE: float(value)})
        return self.select(scored, k, same=ctx.same)
