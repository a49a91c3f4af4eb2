"""Self-evaluation: draw only as often as the model itself thinks it could do better.

Paper    Manvi et al. 2024, "Adaptive Inference-Time Compute: LLMs Can Predict if They Can Do Better, Even
         Mid-Generation", §4.
Equal    Adaptive sampling: draw, score, stop as soon as a score reaches the threshold, return the best-scored
         output; batches of 1, 1, 2, 4, 8, … bound the latency. Annealing: draw k at temperature
         1 - 2^-(k-1), so the first is greedy. Early pruning: n partial outputs, keep the best share, finish those.
Differs  The score is any verifier in [0, 1]; the default asks the model, fine-tuned for it or not. `price` adds
         the one-step rule: stop when the expected improvement (1 - best score) is below the price of a draw.
         Pruning needs a process that works in steps (`step=tokens`).
Needs    Text only; the default verifier is better with log-probabilities.    Cost: at most n draws and n scores;
         with pruning n·t + kept·(L - t) tokens and n + kept scores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.core.registry import VERIFIERS, strategy
from ponder.core.state import State
from ponder.core.strategy import Result, Strategy
from ponder.core.verifier import Verifier
from ponder.errors import ParameterError
from ponder.ledger.spend import Spend


@strategy(
    "self_evaluation", aliases=("adaptive_sampling",),
    what="parallel", how="stimulation:repetition, verification:outcome:process:self_evaluation",
)  # fmt: skip
@dataclass(frozen=True)
class SelfEvaluation(Strategy):
    """Sample adaptively, or prune early, by a score of how good an output is for this problem.

    Args:
        n: draws at most, n ≥ 1; None takes the study's number of samples. The paper uses 16.
        threshold: stop when a score reaches it; above 1 never stops (best-of-n).
        price: stop when 1 - best score is below it, ≥ 0; 0 leaves the stopping to the threshold.
        anneal: draw k at temperature min(1, 1 - 2^-(k-1)) instead of the study's temperature.
        batch: draws per round; None doubles: 1, 1, 2, 4, 8, ….
        keep: share of the partial outputs that is finished, in (0, 1]; 1 prunes nothing. The paper: 0.5, 0.25.
        prune_steps: steps of the process after which is pruned, ≥ 1.
        verifier: scores in [0, 1], for partial outputs too if `keep` is below 1.
    """

    n: int | None = None
    threshold: float = 0.9
    price: float = 0.0
    anneal: bool = False
    batch: int | None = None
    keep: float = 1.0
    prune_steps: int = 1
    verifier: Verifier = field(default_factory=lambda: VERIFIERS.build("self_evaluation"))

    def __post_init__(self) -> None:
        for name in ("n", "batch", "prune_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ParameterError(self, name, value, allowed="an integer ≥ 1")
        if not self.price >= 0:
            raise ParameterError(self, "price", self.price, allowed="a number ≥ 0")
        if not 0 < self.keep <= 1:
            raise ParameterError(self, "keep", self.keep, allowed="in (0, 1]", hint="1 prunes nothing")
        if math.isnan(self.threshold):
            raise ParameterError(self, "threshold", self.threshold, allowed="a number", hint="above 1 never stops")

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Adaptive sampling, or early pruning if `keep` is below 1; one draw is returned without a score."""
        n = self.n or 1
        if n == 1:
            candidates = await ctx.draw(problem, 1, meta=self._meta(1))
            return ctx.result(candidates, 0 if candidates and candidates[0].error is None else None)
        return await (self._prune(problem, ctx, n) if self.keep < 1 else self._sample(problem, ctx, n))

    async def _sample(self, problem: Problem, ctx: Context, n: int) -> Result:
        candidates: list[Candidate] = []
        scores: list[float] = []
        rounds, stopped = 0, None
        while len(candidates) < n and stopped is None:
            ask = min(self.batch or max(1, len(candidates)), n - len(candidates))
            hold = Spend(verifier_calls=1)
            if self.anneal:
                parts = [(self._meta(len(candidates) + i + 1), 1) for i in range(ask)]
                drawn = await ctx.draw(problem, 0, parts=_merged(parts), hold=hold)
            else:
                drawn = await ctx.draw(problem, ask, hold=hold)
            values = await ctx.score(problem, drawn, self.verifier) if drawn else np.empty(0)
            candidates += drawn
            scores += values.tolist()
            rounds += 1
            best = max((s for s in scores if not math.isnan(s)), default=math.nan)
            if best >= self.threshold:
                stopped = "threshold"
            elif 1 - best < self.price:
                stopped = "price"
            if len(drawn) < ask:
                break
        return self._chosen(ctx, candidates, scores, rounds=rounds, stopped=stopped)

    async def _prune(self, problem: Problem, ctx: Context, n: int) -> Result:
        states = (await ctx.extend([ctx.root(self._meta(None))], [n]))[0]
        for _ in range(self.prune_steps - 1):
            states = await self._advance(states, ctx)
        kept = list(range(len(states)))
        steps_on = [i for i in kept if not ctx.process.done(states[i])]
        if steps_on:
            values = await ctx.score(problem, states, self.verifier)
            order = sorted(kept, key=lambda i: (-values[i] if not math.isnan(values[i]) else math.inf, i))
            kept = sorted(order[: max(1, math.ceil(self.keep * len(states)))])
        finished = [states[i] for i in kept]
        while any(not ctx.process.done(s) for s in finished):
            longer = await self._advance(finished, ctx)
            if all(a is b for a, b in zip(longer, finished, strict=True)):
                break
            finished = longer
        leaves = dict(zip(kept, finished, strict=True))
        candidates = []
        for i, state in enumerate(states):
            candidate = ctx.candidate(leaves.get(i, state))
            cut = i not in leaves or not ctx.process.done(leaves[i])
            candidates.append(replace(candidate, answer=None, finish="pruned") if cut else candidate)
        done = [i for i in kept if candidates[i].finish != "pruned"]
        final = await ctx.score(problem, [candidates[i] for i in done], self.verifier) if done else np.empty(0)
        scores = [math.nan] * len(candidates)
        for i, value in zip(done, final.tolist(), strict=True):
            scores[i] = value
        return self._chosen(ctx, candidates, scores, pruned=len(states) - len(kept), kept=len(kept))

    async def _advance(self, states: list[State], ctx: Context) -> list[State]:
        """Each unfinished state one step on; what the budget or a failure stops stays where it is."""
        open_states = [s for s in states if not ctx.process.done(s)]
        children = await ctx.extend(open_states, [1] * len(open_states)) if open_states else []
        longer = {id(s): group[0] for s, group in zip(open_states, children, strict=True) if group}
        return [longer.get(id(s), s) for s in states]

    def _meta(self, k: int | None) -> dict[str, Any] | None:
        """Settings of draw k (from 1)."""
        return {"temperature": annealed(k)} if self.anneal and k is not None else None

    def _chosen(self, ctx: Context, candidates: list[Candidate], scores: list[float], **details: Any) -> Result:
        known = [s for s in scores if not math.isnan(s)]
        degenerate = len(candidates) > 1 and len(set(known)) <= 1
        if known:
            best = int(np.nanargmax(scores))
        else:
            best = next((i for i, c in enumerate(candidates) if c.error is None and c.finish != "pruned"), -1)
        return ctx.result(
            candidates, best if best >= 0 else None, scores=scores, verifier=self.verifier,
            degenerate_scores=degenerate, **details,
        )  # fmt: skip


def annealed(k: int) -> float:
    """Temperature of draw k ≥ 1: 0, 0.5, 0.75, 0.875, … up to 1.

    >>> [annealed(k) for k in (1, 2, 3, 4)]
    [0.0, 0.5, 0.75, 0.875]
    """
    return 1.0 - 2.0 ** -(k - 1)


def _merged(parts: list[tuple[dict[str, Any] | None, int]]) -> list[tuple[Mapping[str, Any] | None, int]]:
    """Equal settings (temperatures that no longer differ) drawn together."""
    counts: dict[float, int] = {}
    for meta, count in parts:
        temperature = (meta or {})["temperature"]
        counts[temperature] = counts.get(temperature, 0) + count
    return [({"temperature": t}, count) for t, count in counts.items()]
