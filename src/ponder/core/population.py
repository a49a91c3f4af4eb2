"""The population loop: an archive proposes children of what it has kept, they are finished, scored, and kept.

Evolution of noises, of texts, of programs or prompts are this loop; what is special about each is its archive
(elites and tournaments, islands, niches). A child of several parents is a child of the first: what it shall know of the
others is given to it (`Proposal.given`), or is a node that it is drawn below (`ponder.core.revision.feedback_node`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ponder.core.context import Context
from ponder.core.pool import Floats
from ponder.core.problem import Problem
from ponder.core.search_tree import Score, Search, SearchTree, complete_best, scored
from ponder.core.state import State
from ponder.ledger.spend import Spend


@dataclass(frozen=True)
class Proposal:
    """One child that an archive wants.

    Attributes:
        parent: the state it is drawn below.
        given: what the process takes instead of drawing (see `Process.takes_given`); None draws.
        cost: the most that it takes to an output, if that is not `Process.to_finish` of the parent.
    """

    parent: State
    given: Any = None
    cost: Spend | None = None


class Archive(Protocol):
    """What is kept, and who has children."""

    def propose(self, rng: np.random.Generator) -> Sequence[Proposal] | Awaitable[Sequence[Proposal]]:
        """The children of the next generation, the most wanted first; empty when it is done.

        A coroutine if the archive must spend compute to decide (critiques, crossovers by a model).
        """

    def keep(self, members: Sequence[State], scores: Floats) -> None:
        """A generation's finished outputs with their scores, NaN where there is none; all of them may be kept.

        Fewer may come than were proposed, even none.
        """


async def population_loop(
    problem: Problem,
    ctx: Context,
    archive: Archive,
    *,
    score: Score,
    generations: int | None = None,
    tree: SearchTree | None = None,
    hold: Spend = Spend(verifier_calls=1),
) -> Search:
    """Let generation follow generation until the archive is done or the budget is.

    A generation is projected against the budget before it is paid for, and only as many of its first children as fit
    are drawn; if not even one does and nothing is finished, one is drawn with what is left. What is finished when the
    budget ends it in the middle is scored and kept all the same.

    Args:
        problem: the problem of `ctx`.
        ctx: where everything is drawn and scored.
        archive: proposes and keeps.
        score: scores outputs.
        generations: at most so many; None for no limit.
        tree: a tree to add to; None begins one.
        hold: what scoring an output will cost.
    """
    tree, stopped, number = SearchTree() if tree is None else tree, None, 0
    finished: dict[State, None] = {}
    rest: list[State] = []
    while generations is None or number < generations:
        wanted = archive.propose(ctx.rng("population", number))
        proposals = await wanted if isinstance(wanted, Awaitable) else wanted
        if not proposals:
            break
        fitting = _fitting(ctx, proposals, hold)
        if fitting < len(proposals):
            stopped = "budget"
            ctx.shortfalls.append(f"the budget allowed {fitting} of the {len(proposals)} children of a generation")
        if not fitting:
            if not finished:
                rest = list(await complete_best(ctx, tree, [proposals[0].parent], finished, score))
            break
        number += 1
        before = len(ctx.shortfalls)
        members, rest = await _raised(ctx, tree, proposals[:fitting], hold)
        scores, _ = await scored(ctx, tree, members, score)
        tree.note("generation", dict.fromkeys(members, float(number)))
        finished.update(dict.fromkeys(members))
        archive.keep(members, scores)
        if stopped or len(ctx.shortfalls) > before:
            stopped = "budget"
            break
    else:
        stopped = "generations"
    still = tuple(state for state in rest if state.parent is not None)
    return Search(tree, tuple(finished), still, stopped, {"generations": number})


async def _raised(
    ctx: Context, tree: SearchTree, proposals: Sequence[Proposal], hold: Spend
) -> tuple[list[State], list[State]]:
    """The children as finished outputs, all extended together, and those that the budget has left unfinished."""
    families: dict[State, list[Any]] = {}
    for proposal in proposals:
        families.setdefault(proposal.parent, []).append(proposal.given)
    counts, given = [len(own) for own in families.values()], list(families.values())
    nothing = all(what is None for own in given for what in own)
    groups = await ctx.extend(list(families), counts, given=None if nothing else given, hold=hold)
    members, left = [], []
    while groups:
        born = [child for group in groups for child in group]
        members += [state for state in born if ctx.process.complete(state)]
        going = [state for state in born if not ctx.process.complete(state)]
        tree.add(going, [np.nan] * len(going))
        groups = await ctx.extend(going, [1] * len(going)) if going else []
        left += [state for state, group in zip(going, groups, strict=True) if not group]
    return members, left


def _fitting(ctx: Context, proposals: Sequence[Proposal], hold: Spend) -> int:
    """How many of the first proposals the budget bears to their ends."""
    if not ctx.meter.limited:
        return len(proposals) if ctx.meter.seconds_left > 0 else 0
    total, count = Spend(), 0
    for proposal in proposals:
        cost = (proposal.cost or ctx.process.to_finish(proposal.parent, ctx)) + hold
        if ctx.meter.affordable(cost, total) < 1:
            break
        total, count = total + cost, count + 1
    return count
