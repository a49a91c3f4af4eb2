"""DeepConf, online: end traces that lose confidence while they are written, let the rest vote by confidence.

Paper    Fu et al. 2025, "Deep Think with Confidence", §3.2 (online thinking).
Equal    Warm-up traces set a threshold, a percentile of their lowest group confidences. A later trace ends as
         soon as the mean confidence of a full window falls below it, and does not vote; the others vote with
         their lowest group confidence. Warm-up traces vote if they reach the threshold.
Differs  Windows shrink for short outputs: min(2048, max(16, mean length / 4)). Where a backend gives no
         alternatives to the sampled tokens, their own log-probabilities measure confidence. A trace that a
         backend does not stream, or that comes from the store, is judged after the fact by the same rule.
Needs    Log-probabilities, best with alternatives, and streaming.    Cost: at most n draws, those ended early
         included as far as they came.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.model import Chunk
from ponder.core.problem import Problem
from ponder.core.registry import SELECTORS, strategy
from ponder.core.strategy import Result, Strategy
from ponder.core.token_confidence import token_confidence, trace_confidence, window_for
from ponder.errors import CapabilityError, ParameterError

SCORE = "deep_conf"
"""The name under which candidates carry their confidence as a score."""

_ROUNDING = 1e-9
"""Sums of confidences depend a little on the order of adding."""


@strategy(
    "deep_conf", aliases=("deepconf",),
    what="parallel", how="verification:process:self_evaluation, aggregation:weighted", where="reasoning",
)  # fmt: skip
@dataclass(frozen=True)
class DeepConf(Strategy):
    """Vote among confident traces and stop the others early.

    Args:
        n: traces at most, n ≥ 1, warm-up included; None takes the study's number of samples. The paper uses 256.
        warmup: traces that are written to the end to set the threshold, ≥ 1.
        keep: share of the warm-up traces that reach the threshold, in (0, 1]: 0.9 ends few traces (the paper's
            DeepConf-high), 0.1 most (DeepConf-low).
        window: tokens of a group; None takes a quarter of the warm-up's mean length, from 16 to 2048.
        top: alternatives per token that are asked for.
        consensus: stop drawing once the leading answer has this share of the weight, in (0.5, 1]; None never.
        batch: traces drawn between two looks at the consensus.
    """

    n: int | None = None
    warmup: int = 16
    keep: float = 0.9
    window: int | None = None
    top: int = 20
    consensus: float | None = None
    batch: int = 16

    needs: ClassVar[frozenset[str]] = frozenset({"logprobs"})

    def __post_init__(self) -> None:
        for name in ("n", "warmup", "window", "top", "batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ParameterError(self, name, value, allowed="an integer ≥ 1")
        if not 0 < self.keep <= 1:
            raise ParameterError(self, "keep", self.keep, allowed="in (0, 1]", hint="0.9 is permissive, 0.1 strict")
        if self.consensus is not None and not 0.5 < self.consensus <= 1:
            raise ParameterError(self, "consensus", self.consensus, allowed="in (0.5, 1] or none")

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Warm up, draw the rest under watch, vote."""
        n = self.n or 1
        meta = {"logprobs": self._alternatives(ctx)}
        first = await ctx.draw(problem, min(self.warmup, n), meta=meta)
        traces = [_trace(c) for c in first]
        window = self.window or window_for([len(t) for t in traces if t])
        lowest = [trace_confidence(np.asarray(t), "lowest", window) for t in traces]
        known = [v for v in lowest if not math.isnan(v)]
        if not known:
            if any(c.error is None for c in first):
                raise CapabilityError(
                    "deep_conf needs token log-probabilities; the model returned none. Use llamacpp, sim or a server "
                    "with logprobs on, or choose adaptive_consistency."
                )
            return ctx.result(first)
        threshold = float(np.quantile(known, 1.0 - self.keep))
        votes = [v >= threshold - _ROUNDING for v in lowest]
        candidates = list(first)
        stopped = None
        while len(candidates) < n and len(first) == min(self.warmup, n):
            stopped = self._agreed(candidates, lowest, votes, ctx)
            if stopped:
                break
            ask = min(self.batch if self.consensus is not None else n, n - len(candidates))
            drawn = await ctx.draw(problem, ask, meta=meta, watch=_Watch(window, threshold))
            for candidate in drawn:
                trace = _trace(candidate)
                value = trace_confidence(np.asarray(trace), "lowest", window)
                fell = candidate.finish == "stopped_early" or (len(trace) >= window and value < threshold - _ROUNDING)
                candidates.append(replace(candidate, answer=None, finish="stopped_early") if fell else candidate)
                lowest.append(value)
                votes.append(not fell and not math.isnan(value))
            if len(drawn) < ask:
                break
        ended = [c for c in candidates if c.finish == "stopped_early"]
        details: dict[str, Any] = {
            "threshold": threshold, "window": window, "warmup": len(first), "stopped": stopped,
            "ended_early": len(ended), "ended_early_tokens": sum(c.n_tokens or 0 for c in ended),
            "voters": sum(votes), "confidence": "alternatives" if _has_alternatives(first) else "sampled tokens",
        }  # fmt: skip
        result = ctx.result(_scored(candidates, lowest, votes), **details)
        return await ctx.select(result, SELECTORS.build(f"weighted_majority(score={SCORE})"))

    def _alternatives(self, ctx: Context) -> int:
        model = getattr(ctx.process, "model", None)
        return min(self.top, model.capabilities.max_top_logprobs) if model is not None else self.top

    def _agreed(
        self, candidates: Sequence[Candidate], lowest: Sequence[float], votes: Sequence[bool], ctx: Context
    ) -> str | None:
        if self.consensus is None:
            return None
        voters = [c for c in _scored(candidates, lowest, votes) if SCORE in c.scores and c.valid]
        if not voters:
            return None
        share = SELECTORS.build(f"weighted_majority(score={SCORE})").select(voters, same=ctx.same).confidence
        return "consensus" if share is not None and share >= self.consensus else None


@dataclass
class _Watch:
    """Ends a trace as soon as the mean confidence of its last full window is below the threshold."""

    window: int
    threshold: float
    values: dict[int, list[float]] = field(default_factory=dict)
    sums: dict[int, float] = field(default_factory=dict)

    def __call__(self, chunk: Chunk) -> bool:
        trace = self.values.setdefault(chunk.index, [])
        for value in _confidences(chunk.logprobs, chunk.top_logprobs):
            trace.append(value)
            total = self.sums.get(chunk.index, 0.0) + value
            if len(trace) > self.window:
                total -= trace[-self.window - 1]
            self.sums[chunk.index] = total
            if len(trace) >= self.window and total / self.window < self.threshold - _ROUNDING:
                return True
        return False


def _confidences(
    logprobs: Sequence[float] | None, alternatives: Sequence[Mapping[str, float]] | None
) -> Sequence[float]:
    """Token confidences; with fewer than two alternatives the peak is unknown and the tokens' own stand in."""
    if alternatives and all(len(top) > 1 for top in alternatives):
        values: list[float] = token_confidence(alternatives).tolist()
        return values
    return logprobs or ()


def _trace(candidate: Candidate) -> list[float]:
    """Token confidences of a whole trace, in order; empty if its draws carry none."""
    nodes = list(candidate.state.ancestry())[::-1] if candidate.state is not None else []
    drawn = [node.payload for node in nodes if node.payload is not None]
    return [
        value
        for completion in drawn
        for value in _confidences(
            getattr(completion, "token_logprobs", None), getattr(completion, "top_logprobs", None)
        )
    ]


def _has_alternatives(candidates: Sequence[Candidate]) -> bool:
    payloads = [c.state.payload for c in candidates if c.state is not None]
    return any(len(top) > 1 for p in payloads for top in getattr(p, "top_logprobs", None) or ())


def _scored(candidates: Sequence[Candidate], lowest: Sequence[float], votes: Sequence[bool]) -> list[Candidate]:
    """Candidates with their confidence as a score ≥ 0, where they may vote."""
    return [
        replace(c, scores={**c.scores, SCORE: value if value > 0 else math.exp(value)}) if votes_too else c
        for c, value, votes_too in zip(candidates, lowest, votes, strict=True)
    ]
