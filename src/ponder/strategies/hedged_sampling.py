"""Hedged sampling: a pool of one greedy output and n - 1 sampled ones.

Paper    Khairi et al. 2025, "When Life Gives You Samples: The Benefits of Scaling up Inference Compute for
         Multilingual LLMs", §3 (N = 5, T = 0.7).
Equal    One greedy draw caps how bad the pool can get; the rest are sampled at a fixed temperature, optionally
         with min-p (applied after the temperature).
Differs  Temperature, top-p and min-p may be lists, walked through in turn by the sampled draws. Duplicates of
         the greedy text are kept: they carry weight in a vote.
Needs    Text only; min-p needs a backend that has it.    Cost: n draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.core.registry import strategy
from ponder.core.strategy import Result, Strategy
from ponder.errors import ParameterError


@strategy("hedged_sampling", aliases=("hedged",), what="parallel", how="stimulation:decode:repetition")
@dataclass(frozen=True)
class HedgedSampling(Strategy):
    """Draw greedily once and `n - 1` times at random; a selector makes the choice.

    Without a selector the greedy output is the choice (or the first that has an answer).

    Args:
        n: outputs to draw, n ≥ 1; None takes the number from the study's sample axis. The paper uses 5.
        temperature: of the sampled draws, > 0; a list is walked through in turn.
        top_p: nucleus of the sampled draws, in (0, 1]; a list likewise; none keeps the study's.
        min_p: least share of the largest token probability, in [0, 1]; a list likewise; none keeps the study's.
        greedy: whether the pool is hedged at all; false is repeated sampling under a schedule.
    """

    n: int | None = None
    temperature: float | tuple[float, ...] = 0.7
    top_p: float | tuple[float, ...] | None = None
    min_p: float | tuple[float, ...] | None = None
    greedy: bool = True

    def __post_init__(self) -> None:
        if self.n is not None and self.n < 1:
            raise ParameterError(self, "n", self.n, allowed="an integer ≥ 1", hint="n=1 is one greedy draw")
        self._check("temperature", 0.0, math.inf, "numbers > 0")
        self._check("top_p", 0.0, 1.0, "numbers in (0, 1], or none")
        self._check("min_p", -1e-300, 1.0, "numbers in [0, 1], or none")

    def _check(self, name: str, above: float, most: float, allowed: str) -> None:
        value = getattr(self, name)
        if value is not None and (value == () or not all(above < v <= most for v in _values(value))):
            raise ParameterError(self, name, value, allowed=f"one or a list of {allowed}")

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """All draws at once, the greedy one first."""
        candidates = await ctx.draw(problem, 0, parts=self.parts(self.n or 1))
        return ctx.result(candidates, next((i for i, c in enumerate(candidates) if c.valid), None))

    def parts(self, n: int) -> list[tuple[dict[str, Any], int]]:
        """The settings of `n` draws and how many are made under each, the greedy one first."""
        settings: list[dict[str, Any]] = [{"temperature": 0.0}] if self.greedy else []
        for i in range(n - len(settings)):
            axes = {"temperature": self.temperature, "top_p": self.top_p, "min_p": self.min_p}
            settings.append({k: _values(v)[i % len(_values(v))] for k, v in axes.items() if v is not None})
        grouped: dict[tuple[tuple[str, Any], ...], int] = {}
        for setting in settings:
            key = tuple(setting.items())
            grouped[key] = grouped.get(key, 0) + 1
        return [(dict(key), count) for key, count in grouped.items()]


def _values(value: float | Sequence[float]) -> Sequence[float]:
    return (value,) if isinstance(value, (int, float)) else value
