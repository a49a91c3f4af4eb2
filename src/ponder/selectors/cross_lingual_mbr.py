"""Cross-lingual MBR: choose in one language, with samples in another one as further evidence.

Paper    Khairi et al. 2025, "When Life Gives You Samples: The Benefits of Scaling up Inference Compute for
         Multilingual LLMs" (X-MBR).
Equal    Argmax over the candidates in the target language of the mean utility over all samples, those in other
         languages included.
Differs  Languages are read from `meta["lang"]`; the target is the parameter, else the problem's, else the
         most frequent one among samples that are not marked as evidence (`cross_lingual_sampling` marks
         them). Utilities that compare letters are refused.
Needs    Samples in two languages, and a judge, embeddings, or answers that do not depend on the language.
Cost     T(T-1) judge calls for T different texts with utility=judge; nothing else beyond the samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.model import Model
from ponder.core.pool import Bools, Floats, Pool
from ponder.core.problem import Problem
from ponder.core.registry import selector
from ponder.core.selector import SUMMED, Ranking, Selection, Selector, abstained, check_k, selection
from ponder.errors import ParameterError
from ponder.selectors._judged_utility import model_utility
from ponder.selectors._mbr import distinct_items, expected_utility, pure_matrix
from ponder.selectors._utilities import LEXICAL


@selector("cross_lingual_mbr", aliases=("xmbr", "x_mbr"), how="aggregation:weighted", where="translation, open_ended")
@dataclass(frozen=True)
class CrossLingualMBR(Selector):
    """The candidate in the target language that agrees best with samples in every language.

    Args:
        utility: `judge` (a model rates pairs), `embedding`, or `exact` (same answer).
        language: the target, as `meta["lang"]` spells it; none takes the problem's, else the most frequent one.
        allow_language_switch: let samples in other languages be chosen too.
        include_self: let a candidate be evidence for itself.
        model: the judge, or what embeds; none asks the model that wrote the candidates.
        max_new_tokens: length limit of one of the judge's replies.
        function: your own utility u(candidate, evidence) (from Python only); replaces `utility`.
        embed: texts to vectors (from Python only); used by `embedding`.
    """

    utility: str = "judge"
    language: str | None = None
    allow_language_switch: bool = False
    include_self: bool = False
    model: Model | None = None
    max_new_tokens: int = 128
    function: Callable[[Any, Any], float] | None = field(default=None, repr=False)
    embed: Callable[[Sequence[str]], Any] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.utility in LEXICAL:
            raise ParameterError(
                self, "utility", self.utility, allowed="judge, embedding or exact",
                hint="Utilities that compare letters mean nothing across languages; minimum_bayes_risk has them",
            )  # fmt: skip
        if self.utility not in ("judge", "embedding", "exact"):
            raise ParameterError(self, "utility", self.utility, allowed="judge, embedding or exact")

    def select(self, candidates: Sequence[Candidate], k: int = 1, *, same: Any = None) -> Selection:
        """The candidates in the target language with the highest expected utility; see `Selector.select`.

        Raises:
            CapabilityError: utility=judge (or embedding without `embed`) with more than one text to compare.
        """
        check_k(self, k)
        pool = Pool.of(candidates, same)
        if not pool.valid.any():
            return abstained()
        if self.utility == "exact" and self.function is None:
            groups = pool.groups[0, pool.valid[0]]
            return self._chosen(pool, np.eye(pool.n_groups), groups, None, k)
        item, items = distinct_items([c.output for c in pool.valid_samples()])
        return self._chosen(pool, pure_matrix(self.name, self.utility, items, self.function, self.embed), item, None, k)

    async def choose(self, problem: Problem, candidates: Sequence[Candidate], ctx: Context, k: int = 1) -> Selection:
        """As `select`, with a model to judge or embed where the utility needs one."""
        if self.utility == "exact" or self.function is not None or self.embed is not None:
            return self.select(candidates, k, same=ctx.same)
        check_k(self, k)
        pool = Pool.of(candidates, ctx.same)
        if not pool.valid.any():
            return abstained()
        item, items = distinct_items([c.output for c in pool.valid_samples()])
        matrix, fallback = await model_utility(
            self.name, self.utility, [str(i) for i in items], problem, ctx, self.model, self.max_new_tokens
        )
        return self._chosen(pool, matrix, item, fallback, k, problem.metadata.get("lang"))

    def _chosen(
        self, pool: Pool, matrix: Floats, item: Any, fallback: str | None, k: int, language: Any = None
    ) -> Selection:
        valid = pool.valid[0]
        selectable, note = self._selectable(pool, language)
        values = np.full(pool.shape, np.nan)
        values[0, valid] = expected_utility(
            matrix, item, np.ones(int(valid.sum())), selectable=selectable, include_self=self.include_self
        )
        notes = "; ".join(n for n in (fallback, note) if n) or None
        ranking = Ranking(
            pool.group_max(values), fallback=[notes], representatives=values, share=False, tolerance=SUMMED
        )
        return selection(pool, ranking, k)

    def _selectable(self, pool: Pool, problem_language: Any) -> tuple[Bools, str | None]:
        """Which valid samples may be chosen, and what is odd about their languages."""
        spoken = [c.meta.get("lang") for c in pool.valid_samples()]
        evidence = [bool(c.meta.get("evidence")) for c in pool.valid_samples()]
        everything = np.ones(len(spoken), dtype=bool)
        known = Counter(lang for lang in spoken if lang is not None)
        own_language = Counter(lang for lang, e in zip(spoken, evidence, strict=True) if lang is not None and not e)
        if not known:
            return everything, "language_unknown: no sample has meta['lang'], so this is plain MBR"
        if self.allow_language_switch:
            return everything, None
        target = self.language or problem_language or (own_language or known).most_common(1)[0][0]
        own = np.asarray([lang == target for lang in spoken])
        if not own.any():
            return everything, f"language_missing: no valid sample is in {target!r}"
        return own, None if len(known) > 1 else "one_language: there is no evidence in another language"
