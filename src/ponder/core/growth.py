"""One problem worked on in turns: the turns go on where the last one stopped, and what they bring is one pool."""

from __future__ import annotations

import math
from dataclasses import replace

from ponder.core.answers import group_answers
from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.core.selector import Selector
from ponder.core.strategy import Pipeline, Result, Strategy
from ponder.core.verifier import Verifier


class Growth:
    """The pool of a problem's turns.

    With one turn the result is the strategy's own. After several, selectors choose from the pool; without selectors
    the choice is among the turns' own choices: the best-scored of them, the earliest where there are no scores.

    Args:
        problem: the problem of `ctx`.
        ctx: where the turns are run.
        verifier: scores what the turns bring, beside whatever the strategies use; None scores nothing more.
        scores_all: whether it scores every candidate, or only the chosen one of each turn.
    """

    def __init__(
        self, problem: Problem, ctx: Context, verifier: Verifier | None = None, *, scores_all: bool = True
    ) -> None:
        self.problem, self.ctx, self.verifier, self._scores_all = problem, ctx, verifier, scores_all
        self.candidates: list[Candidate] = []
        self.turns: list[Strategy] = []
        self.ended = False
        """Whether a further turn would bring nothing: the budget is used up, or the last turn brought nothing."""
        self._choices: list[int] = []
        self._selectors: tuple[Selector, ...] = ()
        self._last: Result | None = None

    async def turn(self, strategy: Strategy) -> None:
        """Run a strategy, and add what it brings to the pool."""
        self._selectors = strategy.selectors if isinstance(strategy, Pipeline) else ()
        inner = strategy.strategy if isinstance(strategy, Pipeline) else strategy
        short, first = len(self.ctx.shortfalls), len(self.candidates)
        self._last = result = await inner.run(self.problem, self.ctx)
        self.turns.append(strategy)
        self.candidates += [replace(c, index=first + i) for i, c in enumerate(result.candidates)]
        if result.chosen:
            self._choices.append(first + result.chosen[0])
        await self._score(range(first, len(self.candidates)) if self._scores_all else self._choices[-1:])
        usable = any(c.error is None for c in self.candidates[first:])
        self.ended = not usable or len(self.ctx.shortfalls) > short

    async def _score(self, which: range | list[int]) -> None:
        if self.verifier is None:
            return
        name = self.verifier.name
        fresh = [i for i in which if self.candidates[i].error is None and name not in self.candidates[i].scores]
        if not fresh:
            return
        values = await self.ctx.score(self.problem, [self.candidates[i] for i in fresh], self.verifier)
        for i, value in zip(fresh, values.tolist(), strict=True):
            if not math.isnan(value):
                own = self.candidates[i]
                self.candidates[i] = replace(own, scores={**own.scores, name: value})

    async def result(self, *, reason: str | None = None, **details: object) -> Result:
        """What all turns together make of the problem."""
        chosen = self._choice()
        own = self._last.details if self._last and len(self.turns) == 1 else {}
        pooled = self.ctx.result(self.candidates, chosen, reason=reason)
        pooled = replace(pooled, details={**own, "turns": len(self.turns), **details})
        if self._last is not None and len(self.turns) == 1:
            pooled = replace(pooled, selection=self._last.selection, tree=self._last.tree)
            if self.verifier is None and not reason:
                pooled = replace(pooled, status=self._last.status, reason=self._last.reason, chosen=self._last.chosen)
        for selector in self._selectors:
            pooled = await self.ctx.select(pooled, selector)
        return pooled

    def _choice(self) -> int | None:
        """The best-scored of the turns' choices (of all candidates, with a verifier of our own); else the earliest."""
        ours = self.verifier is not None and self._scores_all
        among = list(range(len(self.candidates))) if ours else self._choices
        if not among:
            return self._choices[0] if self._choices else None
        name = self.verifier.name if self.verifier is not None else _shared_score(self.candidates[i] for i in among)
        known = [i for i in among if name in self.candidates[i].scores]
        if not known:
            return self._choices[0] if self._choices else None
        return max(known, key=lambda i: (self.candidates[i].scores[name or ""], -i))

    # ------------------------------------------------------------------ what the pool says

    def votes(self) -> tuple[list[int], int]:
        """Votes of each distinct answer, in order of appearance, and draws without an answer."""
        return answer_votes(self.candidates, self.ctx)

    def accepted(self, least: float) -> tuple[int, int]:
        """How many candidates the verifier has scored, and how many of them at least `least`."""
        return accepted(self.candidates, self.verifier, least)


def answer_votes(candidates: list[Candidate] | tuple[Candidate, ...], ctx: Context | None) -> tuple[list[int], int]:
    """Votes of each distinct answer, in order of appearance, and draws without an answer (failed ones left out)."""
    usable = [c for c in candidates if c.error is None]
    groups = group_answers([c.answer for c in usable], ctx.same if ctx is not None else None)
    counts = [0] * (max(groups, default=-1) + 1)
    for group in groups:
        if group >= 0:
            counts[group] += 1
    return counts, sum(g < 0 for g in groups)


def accepted(
    candidates: list[Candidate] | tuple[Candidate, ...], verifier: Verifier | None, least: float
) -> tuple[int, int]:
    """How many candidates carry the verifier's score, and how many of these reach `least`."""
    if verifier is None:
        return 0, 0
    scores = [c.scores[verifier.name] for c in candidates if verifier.name in c.scores]
    return len(scores), sum(s >= least for s in scores)


def _shared_score(candidates: object) -> str | None:
    """The first score that all candidates have."""
    names: list[str] | None = None
    for candidate in candidates:  # type: ignore[attr-defined]
        names = [n for n in candidate.scores if names is None or n in names]
    return names[0] if names else None
