"""Cross-lingual sampling: some draws in another language, as evidence for choosing among those in the right one.

Paper    Khairi et al. 2025, "When Life Gives You Samples: The Benefits of Scaling up Inference Compute for
         Multilingual LLMs" (X-MBR).
Equal    M = 3 extra samples in English for prompts in other languages, in Chinese for English ones; only samples in
         the prompt's language may be chosen.
Differs  The other language is asked for by an instruction (paper: that, or a translated prompt). If the language of
         the prompt cannot be told, no evidence is drawn, and the result says so.
Needs    Compose it with `| cross_lingual_mbr`.    Cost: n + evidence draws.
"""

from __future__ import annotations

from dataclasses import dataclass

from ponder.core.context import Context
from ponder.core.judging import prompt_text
from ponder.core.language import NAMES, language_of
from ponder.core.problem import Problem
from ponder.core.registry import strategy
from ponder.core.strategy import Result, Strategy
from ponder.errors import ParameterError


@strategy(
    "cross_lingual_sampling", aliases=("xmbr_sampling",),
    what="parallel", how="stimulation:prompt:repetition", where="translation, open_ended",
)  # fmt: skip
@dataclass(frozen=True)
class CrossLingualSampling(Strategy):
    """Draw `n` outputs in the prompt's language and `evidence` ones in another.

    Args:
        n: outputs that may be chosen; None takes the number from the study's sample axis.
        evidence: outputs in the other language.
        language: of the prompt, as a code such as `de`; none reads it off the problem's `lang`, else off the prompt.
        other: language of the evidence; none is English, or Chinese for English prompts.
    """

    n: int | None = None
    evidence: int = 3
    language: str | None = None
    other: str | None = None

    def __post_init__(self) -> None:
        if self.n is not None and self.n < 1:
            raise ParameterError(self, "n", self.n, allowed="an integer ≥ 1")
        if self.evidence < 0:
            raise ParameterError(self, "evidence", self.evidence, allowed="an integer ≥ 0")
        for code in (self.language, self.other):
            if code is not None and code not in NAMES:
                raise ParameterError(self, "language/other", code, allowed=f"one of {', '.join(NAMES)}")

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """All draws; the first valid one in the prompt's language is the choice until a selector makes another."""
        spoken = self.language or problem.metadata.get("lang") or language_of(prompt_text(problem))
        other = self.other or ("zh" if spoken == "en" else "en")
        reason = None
        own = {"lang": spoken} if spoken else None
        if spoken is None or spoken == other or not self.evidence:
            reason = (
                None if spoken else "the prompt's language could not be told: give language=; no evidence was drawn"
            )
            candidates = await ctx.draw(problem, self.n or 1, meta=own)
        else:
            instruction = f"Answer in {NAMES[other]}."
            parts = [(own, self.n or 1), ({"lang": other, "instruction": instruction, "evidence": True}, self.evidence)]
            candidates = await ctx.draw(problem, 0, parts=parts)
        first = next((i for i, c in enumerate(candidates) if c.valid and c.meta.get("lang") == spoken), None)
        return ctx.result(
            candidates, first, reason=reason, language=spoken, evidence_language=other if spoken else None
        )
