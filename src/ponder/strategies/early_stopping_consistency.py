"""Early-stopping self-consistency: draw in small windows and stop when one window is unanimous.

Paper    Li et al. 2024, "Escape Sky-high Cost: Early-stopping Self-Consistency for Multi-step Reasoning", §3.
Equal    Windows of w samples up to n; a unanimous window's answer is returned at once, else the majority.
Differs  Only valid answers can be unanimous: w samples without an answer do not stop. The last samples that
         do not fill a window are not drawn unless `partial_window` is set.
Needs    Text and an answer to extract.    Cost: at most n draws; n/w round trips at worst.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from ponder.core.answers import group_answers
from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.drivers import draw_and_select
from ponder.core.problem import Problem
from ponder.core.registry import SELECTORS, strategy
from ponder.core.strategy import Result, Strategy
from ponder.errors import ParameterError


@strategy(
    "early_stopping_consistency", aliases=("esc",),
    what="parallel", how="stimulation:repetition, aggregation:majority",
)  # fmt: skip
@dataclass(frozen=True)
class EarlyStoppingConsistency(Strategy):
    """Vote, but stop at the first unanimous window.

    Args:
        n: draws at most, n ≥ 1; None takes the number from the study's sample axis (the window is then cut
            to n if it is longer). The paper uses 40.
        window: draws per window, 1 ≤ window ≤ n.
        partial_window: whether a last, shorter window is drawn if `window` does not divide `n`.
    """

    n: int | None = None
    window: int = 5
    partial_window: bool = False

    def __post_init__(self) -> None:
        if self.n is not None and self.n < 1:
            raise ParameterError(self, "n", self.n, allowed="an integer ≥ 1")
        if self.window < 1 or (self.n is not None and self.window > self.n):
            most = self.n or "n"
            raise ParameterError(
                self, "window", self.window, allowed=f"from 1 to {most}", hint="window=n is plain majority"
            )

    def with_samples(self, n: int) -> Self:
        """At `n` samples; a window that is longer is cut to n."""
        return replace(self, n=n, window=min(self.window, n)) if self.n is None else self

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Draw window by window; the last window's answer if it is unanimous, else the majority of all."""
        n = self.n or self.window
        total = n if self.partial_window else n - n % self.window

        def unanimous(candidates: Sequence[Candidate]) -> str | None:
            whole = len(candidates) % self.window == 0 or (self.partial_window and len(candidates) == total)
            last = self._last_window(candidates)
            groups = group_answers([c.answer if c.error is None else None for c in last], ctx.same)
            return "unanimous window" if whole and set(groups) == {0} else None

        draws = await draw_and_select(problem, ctx, total, stop=unanimous, batch=self.window)
        details: dict[str, Any] = {"windows": -(-len(draws.candidates) // self.window), "stopped": draws.stopped}
        if draws.stopped is None:
            return await ctx.select(ctx.result(draws.candidates, **details), SELECTORS.build("majority"))
        chosen = len(draws.candidates) - len(self._last_window(draws.candidates))
        return ctx.result(draws.candidates, chosen, **details)

    def _last_window(self, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        return candidates[-(len(candidates) % self.window or self.window) :]
