"""First-finish search: start n draws, take the first that finishes, cancel the others.

Paper    Agarwal et al. 2025, "First Finish Search: Efficient Test-Time Scaling in Large Language Models", §3.
Equal    Sync (`clock=tokens`): the draw with the fewest tokens wins. Async (`clock=arrival`): the first to
         arrive wins. Waiting for the first k of n and voting is FFS-k@n; k = n is self-consistency.
Differs  A draw that was cut by its length limit, has no answer, or is shorter than `min_tokens` does not finish
         the race. Draws that finish at the same token are told apart by log-probability per token, then by index.
         With clock=tokens a trace is let go only once it is longer than the winner, so that the winner does
         not depend on timing.
Needs    Streaming, to save anything.    Cost: about n times the winner's length; the ledger's stage `cancelled`
         holds what the losers had generated.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.model import Chunk
from ponder.core.problem import Problem
from ponder.core.registry import SELECTORS, strategy
from ponder.core.strategy import Result, Strategy
from ponder.errors import ParameterError


@strategy(
    "first_finish", aliases=("first_finish_search", "ffs"),
    what="parallel", how="stimulation:repetition, aggregation:majority",
)  # fmt: skip
@dataclass(frozen=True)
class FirstFinish(Strategy):
    """Race `n` draws and vote among the first `k` to finish.

    Args:
        n: draws to start, n ≥ 1; None takes the number from the study's sample axis.
        k: finishers to wait for, 1 ≤ k ≤ n; they vote. 1 is first-finish search.
        order: `first`, or `last`: the k longest draws, a control that saves nothing.
        clock: `tokens` compares lengths, so the outcome does not depend on timing; `arrival` takes what comes
            first in time.
        min_tokens: a finisher has at least so many tokens.
        accept_unparsed: whether an output without an answer may finish (an empty one never does).
    """

    n: int | None = None
    k: int = 1
    order: Literal["first", "last"] = "first"
    clock: Literal["tokens", "arrival"] = "tokens"
    min_tokens: int = 1
    accept_unparsed: bool = False

    def __post_init__(self) -> None:
        if self.n is not None and self.n < 1:
            raise ParameterError(self, "n", self.n, allowed="an integer ≥ 1", hint="n=1 is a plain draw")
        if self.k < 1 or (self.n is not None and self.k > self.n):
            raise ParameterError(
                self, "k", self.k, allowed=f"from 1 to {self.n or 'n'}", hint="k=n is self-consistency"
            )
        if self.order not in ("first", "last"):
            raise ParameterError(self, "order", self.order, allowed="first or last")
        if self.clock not in ("tokens", "arrival"):
            raise ParameterError(self, "clock", self.clock, allowed="tokens or arrival")
        if self.min_tokens < 0:
            raise ParameterError(self, "min_tokens", self.min_tokens, allowed="an integer ≥ 0")

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Race; vote among the finishers; if nothing finished, vote among whatever has an answer."""
        n = self.n or self.k
        race = _Race(self, n, min(self.k, n))
        if self.order == "last":
            race.landed = await ctx.draw(problem, n)
        else:
            await race.run(problem, ctx)
        candidates = sorted(race.landed, key=lambda c: c.index)
        winners = self._winners(race, candidates)
        details = {"finishers": [c.index for c in winners], **race.report(ctx.sampling.max_new_tokens)}
        if not winners:
            result = ctx.result(candidates, fallback="nothing finished", **details)
            return await ctx.select(result, SELECTORS.build("majority"))
        places = {id(c): i for i, c in enumerate(candidates)}
        if len(winners) == 1:
            return ctx.result(candidates, places[id(winners[0])], **details)
        if not any(c.valid for c in winners):
            return ctx.result(candidates, places[id(winners[0])], fallback="no finisher has an answer", **details)
        voters = sorted(winners, key=lambda c: c.index)
        voted = await ctx.select(ctx.result(voters, 0), SELECTORS.build("majority"))
        chosen = [places[id(voters[i])] for i in voted.chosen]
        return replace(ctx.result(candidates, chosen, **details), selection=voted.selection)

    def finished(self, candidate: Candidate) -> bool:
        """Whether a draw counts as finished: by itself, long enough, and with an answer."""
        if candidate.error is not None or candidate.finish != "stop":
            return False
        if candidate.n_tokens is not None and candidate.n_tokens < self.min_tokens:
            return False
        return candidate.valid or (self.accept_unparsed and bool(str(candidate.output or "").strip()))

    def _winners(self, race: _Race, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The k finishers that count, in order."""
        if self.order == "first" and self.clock == "arrival":
            return [c for c in race.landed if self.finished(c)][: race.k]
        finishers = [c for c in candidates if self.finished(c)]
        sign = 1 if self.order == "first" else -1
        return sorted(finishers, key=lambda c: (sign * (c.n_tokens or 0), -(c.mean_logprob or 0.0), c.index))[: race.k]


@dataclass
class _Race:
    """Draws under way: what has landed, how far the others have come, and when to let them go."""

    rule: FirstFinish
    n: int
    k: int
    landed: list[Candidate] = field(default_factory=list)
    tokens: dict[int, int] = field(default_factory=dict)
    line: int | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, problem: Problem, ctx: Context) -> None:
        model = getattr(ctx.process, "model", None)
        streams = model is None or model.capabilities.streaming
        if not streams:
            warnings.warn(f"first_finish saves nothing: {model} does not stream", stacklevel=2)

        async def consume() -> None:
            watch = self._watch if streams else None
            async with aclosing(ctx.stream(problem, self.n, race=streams, watch=watch)) as landing:
                async for candidate in landing:
                    self._land(candidate)

        running = asyncio.create_task(consume())
        ended = asyncio.create_task(self.over.wait())
        try:
            await asyncio.wait({running, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
            if not running.done():
                running.cancel()
            await asyncio.gather(running, ended, return_exceptions=True)
        if not running.cancelled():
            running.result()

    def _land(self, candidate: Candidate) -> None:
        self.landed.append(candidate)
        finishers = [c for c in self.landed if self.rule.finished(c)]
        if len(finishers) >= self.k:
            if self.rule.clock == "arrival" or _stepwise(candidate):
                self.over.set()
                return
            self.line = sorted(c.n_tokens or 0 for c in finishers)[self.k - 1]
            self._look()

    def _watch(self, chunk: Chunk) -> bool:
        """End a draw that is beyond the finishing line while others still wait for their turn."""
        self.tokens[chunk.index] = self.tokens.get(chunk.index, 0) + chunk.n_tokens
        if self.line is None or self.tokens[chunk.index] <= self.line:
            return False
        self._look()
        return self.n > len(self.tokens.keys() | {c.index for c in self.landed})

    def _look(self) -> None:
        """The race is over once every draw that has not landed is longer than the line."""
        done = {c.index for c in self.landed}
        beyond = sum(n > (self.line or 0) for i, n in self.tokens.items() if i not in done)
        if beyond + len(done) >= self.n:
            self.over.set()

    def report(self, max_new_tokens: int) -> dict[str, Any]:
        done = {c.index for c in self.landed}
        open_draws = {i: n for i, n in self.tokens.items() if i not in done}
        finishers = [c.n_tokens for c in self.landed if self.rule.finished(c) and c.n_tokens is not None]
        return {
            "cancelled": len(open_draws),
            "saved_tokens_at_most": sum(max(max_new_tokens - n, 0) for n in open_draws.values()),
            "lockstep_tokens": self.n * min(finishers) if finishers and self.k == 1 else None,
            "finish_order": [c.index for c in self.landed],
        }


def _stepwise(candidate: Candidate) -> bool:
    return candidate.state is not None and candidate.state.depth > 1
