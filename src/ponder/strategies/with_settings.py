"""Any strategy under other settings: temperature, top-p, or another way of asking.

For sweeps of one trick at a time (Liu et al. 2025, "Bag of Tricks for Inference-time Computation of LLM Reasoning"):
draws under equal settings are shared between strategies, draws under different ones are not.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ponder.core.context import Context
from ponder.core.model import Sampling
from ponder.core.problem import Problem, instructed, merged_sampling
from ponder.core.registry import STRATEGIES, strategy
from ponder.core.strategy import Result, Strategy

PROMPTS = {
    "direct": "Give only the final answer.",
    "chain_of_thought": "Think step by step, then give the final answer.",
    "reflection": "Think step by step. Then check each step, correct what is wrong, and give the final answer.",
}
"""Ways of asking that have a name."""


@strategy("with_settings", what="parallel", how="stimulation:decode:prompt")
@dataclass(frozen=True)
class WithSettings(Strategy):
    """Run `strategy` with these settings over the study's.

    Args:
        strategy: what is run.
        temperature: of its draws.
        top_p: of its draws.
        min_p: of its draws.
        max_new_tokens: of its draws.
        experts: experts for each token, of a mixture-of-experts model.
        prompt: an instruction added to the prompt: `direct`, `chain_of_thought`, `reflection`, or a text.
    """

    strategy: Strategy = field(default_factory=lambda: STRATEGIES.build("repeated_sampling"))
    temperature: float | None = None
    top_p: float | None = None
    min_p: float | None = None
    max_new_tokens: int | None = None
    experts: int | None = None
    prompt: str | None = None

    def __post_init__(self) -> None:
        merged_sampling(Sampling(), self._changes())  # refuses impossible values at once

    def _changes(self) -> dict[str, float | int | None]:
        return {name: getattr(self, name) for name in ("temperature", "top_p", "min_p", "max_new_tokens", "experts")}

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """The inner strategy's result on the same problem."""
        asked = problem
        if self.prompt is not None:
            asked = replace(problem, prompt=instructed(problem.prompt, PROMPTS.get(self.prompt, self.prompt)))
        inner = ctx.child(asked)
        inner.sampling = merged_sampling(ctx.sampling, self._changes())
        return replace(await self.strategy.run(asked, inner), problem=problem)

    def with_samples(self, n: int) -> WithSettings:
        """The inner strategy at `n` samples."""
        return replace(self, strategy=self.strategy.with_samples(n))

    @property
    def takes_samples(self) -> bool:
        """Whether the inner strategy's number of samples is open."""
        return self.strategy.takes_samples

    @property
    def requires(self) -> frozenset[str]:
        """What the inner strategy needs."""
        return self.strategy.requires

    @property
    def stepwise(self) -> bool:  # type: ignore[override]
        """Whether the inner strategy works on steps."""
        return self.strategy.stepwise
