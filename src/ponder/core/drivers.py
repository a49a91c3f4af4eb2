"""The loops that techniques share; a technique is the function that is special about it.

Here: draw-and-select. How the others sit on the same nouns is written in
`docs/decisions/0002-drivers.md`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.model import Watcher
from ponder.core.problem import Problem
from ponder.core.verifier import Verifier
from ponder.ledger.spend import Spend

StopRule = Callable[[Sequence[Candidate]], str | None]
"""Looks at what has been drawn so far and says why to stop, or None to go on."""


@dataclass(frozen=True)
class Draws:
    """What draw-and-select brought in.

    Attributes:
        candidates: in draw order.
        scores: one per candidate, NaN where there is none; None if no verifier was asked.
        stopped: the stop rule's reason; None if everything asked for was drawn.
    """

    candidates: tuple[Candidate, ...]
    scores: npt.NDArray[np.float64] | None = None
    stopped: str | None = None


async def draw_and_select(
    problem: Problem,
    ctx: Context,
    n: int,
    *,
    verifier: Verifier | None = None,
    stop: StopRule | None = None,
    batch: int | None = None,
    race: bool = False,
    watch: Watcher | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Draws:
    """Draw up to `n` candidates, score each as it lands, stop early when a rule says so.

    Args:
        problem: the problem of `ctx`.
        ctx: where everything is drawn and scored.
        n: how many at most.
        verifier: scores candidates while others are still being drawn; None scores nothing.
        stop: asked after each batch (or after each arrival, with `race`); candidates are shown in draw
            order with their scores so far attached by position.
        batch: draw so many at a time, so that stopping is decided in draw order and does not depend
            on timing. None draws all at once.
        race: all at once, the rule is asked in order of arrival, and stopping cancels the rest.
        watch: sees draws while they grow; may end single ones.
        meta: settings for these draws.
    """
    if race or batch is None or stop is None:
        return await _at_once(problem, ctx, n, verifier, stop, race, watch, meta)
    candidates: list[Candidate] = []
    scores: list[float] = []
    while len(candidates) < n:
        ask = min(batch, n - len(candidates))
        part = await _at_once(problem, ctx, ask, verifier, None, False, watch, meta)
        candidates += part.candidates
        if part.scores is not None:
            scores += part.scores.tolist()
        reason = stop(candidates)
        if reason is not None or len(part.candidates) < ask:
            return Draws(tuple(candidates), np.asarray(scores) if verifier else None, reason)
    return Draws(tuple(candidates), np.asarray(scores) if verifier else None)


async def _at_once(
    problem: Problem,
    ctx: Context,
    n: int,
    verifier: Verifier | None,
    stop: StopRule | None,
    race: bool,
    watch: Watcher | None,
    meta: Mapping[str, Any] | None,
) -> Draws:
    landed: list[Candidate] = []
    scores: dict[int, float] = {}
    reason = None
    hold = Spend(verifier_calls=1) if verifier else Spend()
    scorer = _Scorer(problem, ctx, verifier, scores) if verifier else None
    try:
        async with aclosing(ctx.stream(problem, n, meta=meta, race=race, watch=watch, hold=hold)) as stream:
            async for candidate in stream:
                landed.append(candidate)
                if scorer:
                    scorer.add(candidate)
                if stop is not None and (reason := stop(landed)) is not None:
                    break
        if scorer:
            await scorer.finish()
    finally:
        if scorer:
            await scorer.cancel()
            ctx.release_holds()
    ordered = tuple(sorted(landed, key=lambda c: c.index))
    values = np.asarray([scores.get(c.index, math.nan) for c in ordered]) if verifier else None
    return Draws(ordered, values, reason)


class _Scorer:
    """Scores what has landed, in as large groups as have gathered meanwhile; all at the end if scores compare."""

    def __init__(self, problem: Problem, ctx: Context, verifier: Verifier, scores: dict[int, float]) -> None:
        self._problem, self._ctx, self._verifier, self._scores = problem, ctx, verifier, scores
        self._waiting: list[Candidate] = []
        self._task: asyncio.Task[None] | None = None

    def add(self, candidate: Candidate) -> None:
        self._waiting.append(candidate)
        if not self._verifier.compares and (self._task is None or self._task.done()):
            if self._task is not None:
                self._task.result()
            self._task = asyncio.create_task(self._work())

    async def _work(self) -> None:
        while self._waiting:
            group, self._waiting = sorted(self._waiting, key=lambda c: c.index), []
            values = await self._ctx.score(self._problem, group, self._verifier)
            self._scores.update(zip((c.index for c in group), values.tolist(), strict=True))

    async def finish(self) -> None:
        if self._task is not None:
            await self._task
        await self._work()

    async def cancel(self) -> None:
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
