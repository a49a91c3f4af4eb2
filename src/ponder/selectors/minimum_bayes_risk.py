"""Minimum Bayes risk: the output that agrees best with all the others.

Paper    Kumar & Byrne 2004, "Minimum Bayes-Risk Decoding for Statistical Machine Translation"; Bertsch et al. 2023,
         "It's MBR All the Way Down".
Equal    Argmax over candidates of the mean utility over the evidence, which is the pool itself. With the utility
         `exact` this is self-consistency, ties included.
Differs  A candidate is not its own evidence unless `include_self`. Identical texts are compared once.
Needs    Text; for `judge` a model, for `embedding` a function or a model that embeds.
Cost     Nothing beyond the samples; T(T-1) judge calls for T different texts with utility=judge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.model import Model
from ponder.core.pool import Floats, Pool
from ponder.core.problem import Problem
from ponder.core.registry import selector
from ponder.core.selector import SUMMED, Ranking, Selection, VotingSelector, abstained, check_k, selection
from ponder.selectors._judged_utility import model_utility
from ponder.selectors._mbr import distinct_items, expected_utility, pure_matrix
from ponder.selectors._paths import path_errors, path_probability


@selector("minimum_bayes_risk", aliases=("mbr",), how="aggregation:weighted")
@dataclass(frozen=True)
class MinimumBayesRisk(VotingSelector):
    """The candidate with the highest expected utility.

    Args:
        utility: `exact` (same answer), `token_f1`, `chrf`, `sacrebleu_chrf` (that package's), `edit`, `embedding`,
            or `judge` (a model rates how well a candidate agrees with another one).
        compare: utilities of texts look at the whole `output` or at the `answer`.
        weights: `probability` weighs evidence by its mean token probability; none weighs all alike.
        include_self: let a candidate be evidence for itself.
        model: the judge, or what embeds; none asks the model that wrote the candidates.
        max_new_tokens: length limit of one of the judge's replies.
        function: your own utility u(candidate, evidence) (from Python only); replaces `utility`.
        embed: texts to vectors (from Python only); used by `embedding`.
    """

    utility: Literal["exact", "token_f1", "chrf", "sacrebleu_chrf", "edit", "embedding", "judge"] = "chrf"
    compare: Literal["output", "answer"] = "output"
    weights: Literal["probability"] | None = None
    include_self: bool = False
    model: Model | None = None
    max_new_tokens: int = 128
    function: Callable[[Any, Any], float] | None = field(default=None, repr=False)
    embed: Callable[[Sequence[str]], Any] | None = field(default=None, repr=False)

    def rank(self, pool: Pool) -> Ranking:
        """Each answer's best candidate's expected utility."""
        weights = self._weights(pool)
        if self.utility == "exact" and self.function is None:
            return self._ranking(pool, self._exact(pool, weights), representatives=None)
        values = np.full(pool.shape, np.nan)
        for p in np.flatnonzero(pool.valid.any(axis=1)).tolist():
            item, items = distinct_items(self._things(pool, p))
            matrix = pure_matrix(self.name, self.utility, items, self.function, self.embed)
            values[p, pool.valid[p]] = expected_utility(
                matrix, item, weights[p, pool.valid[p]], include_self=self.include_self
            )
        return self._ranking(pool, values, representatives=values)

    def _weights(self, pool: Pool) -> Floats:
        known = path_probability(pool, "mean") if self.weights else np.ones(pool.shape)
        return np.where(pool.valid & ~np.isnan(known), known, 0.0)

    def _things(self, pool: Pool, p: int) -> list[Any]:
        return [c.output if self.compare == "output" else c.answer for c in pool.valid_samples(p)]

    def _ranking(
        self, pool: Pool, values: Floats, representatives: Floats | None, fallback: str | None = None
    ) -> Ranking:
        return Ranking(
            pool.group_max(values),
            fallback=[fallback] * pool.shape[0] if fallback else None,
            representatives=representatives,
            share=False,
            tolerance=SUMMED,
            errors=path_errors(pool, "mean", self.name) if self.weights else None,
        )

    def _exact(self, pool: Pool, weights: Floats) -> Floats:
        """Share of the (other) samples' weight on the same answer, shape (P, N)."""
        own = np.zeros(pool.shape) if self.include_self else weights
        agreeing = np.take_along_axis(pool.group_sum(weights), np.maximum(pool.groups, 0), axis=1) - own
        total = weights.sum(axis=1, keepdims=True) - own
        return np.where(pool.valid, np.where(total > 0, agreeing / np.where(total > 0, total, 1.0), 0.0), np.nan)

    async def choose(self, problem: Problem, candidates: Sequence[Candidate], ctx: Context, k: int = 1) -> Selection:
        """As `select`, with a model to judge or embed where the utility needs one."""
        if self.utility not in ("judge", "embedding") or self.function is not None or self.embed is not None:
            return self.select(candidates, k, same=ctx.same)
        check_k(self, k)
        pool = Pool.of(candidates, ctx.same)
        if not pool.valid.any():
            return abstained()
        item, items = distinct_items(self._things(pool, 0))
        matrix, fallback = await model_utility(
            self.name, self.utility, [str(i) for i in items], problem, ctx, self.model, self.max_new_tokens
        )
        values = np.full(pool.shape, np.nan)
        valid = pool.valid[0]
        values[0, valid] = expected_utility(matrix, item, self._weights(pool)[0, valid], include_self=self.include_self)
        return selection(pool, self._ranking(pool, values, values, fallback), k)
