"""The refine loop: propose from what earlier attempts came to, score, and so on until nothing more is proposed.

Sequential revisions, self-refine, reflexion and iterative agent decoding are this loop; what is special about each is
its `propose`: from where the next attempts are drawn, and what they are shown (`ponder.core.revision`).
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.core.revision import Shown, told
from ponder.core.search_tree import SearchTree
from ponder.core.state import State
from ponder.core.strategy import Result
from ponder.core.verifier import Verifier
from ponder.ledger.spend import Spend


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt and what was said about it.

    Attributes:
        candidate: the attempt.
        score: the verifier's; -inf where it gave none.
        comment: what the verifier remarked.
        error: why it could not score.
    """

    candidate: Candidate
    score: float = -math.inf
    comment: str = ""
    error: str = ""

    @property
    def state(self) -> State:
        """Its node."""
        assert self.candidate.state is not None
        return self.candidate.state

    def shown(self, *, score: bool = True, comment: str = "") -> Shown:
        """How later attempts see it: its score if wanted, the verifier's error if it raised, and a comment."""
        said = "\n".join(part for part in (self.error, comment) if part)
        return Shown(self.candidate.output, told(self.score) if score else None, said)


@dataclass
class Refinement:
    """All attempts so far.

    Attributes:
        rounds: attempts by round, in the order they were asked for; lost ones are missing.
        stopped: why it ended before nothing more was proposed.
        tree: the attempts as nodes.
    """

    rounds: list[list[Attempt]] = field(default_factory=list)
    stopped: str | None = None
    tree: SearchTree = field(default_factory=SearchTree)

    @property
    def attempts(self) -> list[Attempt]:
        """All attempts, oldest first."""
        return [attempt for made in self.rounds for attempt in made]

    def best(self) -> int | None:
        """Place of the attempt with the highest score, the earliest of equals; None if none has a score."""
        scores = [attempt.score for attempt in self.attempts]
        return int(np.argmax(scores)) if any(s > -math.inf for s in scores) else None


Propose = Callable[[Refinement], Awaitable[Sequence[tuple[State, int]]]]
"""From which states the next attempts are drawn, and how many from each; empty when it is done."""


async def refine(problem: Problem, ctx: Context, propose: Propose, *, verifier: Verifier | None) -> Refinement:
    """Draw what is proposed and score it, round by round, until nothing is proposed or the budget falls short.

    Args:
        problem: the problem of `ctx`.
        ctx: a context whose process revises.
        propose: says what is drawn next; a coroutine, because a critique costs.
        verifier: scores attempts; None scores nothing.
    """
    found = Refinement()
    hold = Spend(verifier_calls=1) if verifier else Spend()
    while found.stopped is None:
        before = len(ctx.shortfalls)
        asked = await propose(found)
        if not asked:
            break
        groups = await ctx.extend([state for state, _ in asked], [count for _, count in asked], hold=hold)
        made = [ctx.candidate(state) for group in groups for state in group]
        found.rounds.append(await _attempts(problem, ctx, made, verifier))
        found.tree.add([a.state for a in found.rounds[-1]], [a.score for a in found.rounds[-1]])
        if len(ctx.shortfalls) > before:
            found.stopped = "budget"
    return found


async def _attempts(
    problem: Problem, ctx: Context, made: Sequence[Candidate], verifier: Verifier | None
) -> list[Attempt]:
    if verifier is None or not made:
        return [Attempt(candidate) for candidate in made]
    scores, errors = await score_with_errors(problem, ctx, made, verifier)
    return [
        Attempt(c, -math.inf if math.isnan(s) else s, ctx.remark_on(c), errors.get(c.index, ""))
        for c, s in zip(made, scores, strict=True)
    ]


async def score_with_errors(
    problem: Problem, ctx: Context, made: Sequence[Candidate], verifier: Verifier
) -> tuple[list[float], dict[int, str]]:
    """Scores (NaN where there is none), and why the verifier failed, by the candidate's index."""
    before = len(ctx.failures)
    scores = (await ctx.score(problem, made, verifier)).tolist()
    ctx.release_holds()
    failed = {f.index: f.message for f in ctx.failures[before:] if f.stage == "verify" and f.index is not None}
    return scores, failed


def refined(ctx: Context, found: Refinement, chosen: int | None, verifier: Verifier | None, **details: Any) -> Result:
    """The result of a refinement: every attempt with its score, and the one that is chosen."""
    attempts = found.attempts
    scores = [a.score if a.score > -math.inf else math.nan for a in attempts] if verifier else None
    reason = None if chosen is not None or not attempts else f"no attempt could be scored by {verifier}"
    result = ctx.result(
        [a.candidate for a in attempts], chosen, scores=scores, verifier=verifier, reason=reason,
        rounds=len(found.rounds), stopped=found.stopped, **details,
    )  # fmt: skip
    return replace(result, tree=found.tree)
