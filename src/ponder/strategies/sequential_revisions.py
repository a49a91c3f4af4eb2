"""Sequential revisions: P parallel chains of L attempts each, every attempt shown those before it.

Paper    Snell et al. 2024, "Scaling LLM Test-Time Compute Optimally can be More Effective than Scaling Model
         Parameters" (revisions, §6).
Equal    n = L · P attempts; an attempt sees up to 4 earlier ones of its chain; the answer is chosen within each chain,
         then among the chains (hierarchical), or once among all. It is never simply the last one.
Differs  Any model, asked in words for a better answer; the paper trains one for it. Without `choose` the highest score
         wins, for which both ways of choosing are the same.
Needs    A process whose outputs can be revised, and any outcome verifier.    Cost: n outputs and n scores; prompts grow
         by the attempts shown; L calls one after another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.core.refine import Attempt, Refinement, refine, refined
from ponder.core.registry import VERIFIERS, strategy
from ponder.core.revision import Feedback, feedback_node
from ponder.core.selector import Selector
from ponder.core.state import State
from ponder.core.strategy import Result, Strategy
from ponder.core.verifier import Verifier
from ponder.errors import ParameterError


@strategy(
    "sequential_revisions", aliases=("revisions",),
    what="sequential", how="stimulation:prompt, verification:outcome",
)  # fmt: skip
@dataclass(frozen=True)
class SequentialRevisions(Strategy):
    """Revise in parallel chains.

    Args:
        n: attempts in all; None takes the number from the study's sample axis.
        length: attempts of a chain, L; the last chain gets what is left. 1 is best-of-n.
        ratio: L / P where no length is given; L is the divisor of n that comes nearest.
        show: earlier attempts of its chain that an attempt sees.
        scores: whether it sees what they scored too.
        verifier: scores attempts.
        choose: makes the choice; none takes the highest score.
        how: `hierarchical` chooses within each chain, then among these; `all` chooses once.
    """

    n: int | None = None
    length: int | None = None
    ratio: float = 1.0
    show: int = 4
    scores: bool = False
    verifier: Verifier = field(default_factory=lambda: VERIFIERS.build("log_probability"))
    choose: Selector | None = None
    how: Literal["hierarchical", "all"] = "hierarchical"

    def __post_init__(self) -> None:
        for name in ("n", "length", "show"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ParameterError(self, name, value, allowed="an integer ≥ 1")
        if not 0 < self.ratio < math.inf:
            raise ParameterError(self, "ratio", self.ratio, allowed="a number > 0", hint="1 is as long as parallel")

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Grow the chains side by side, then choose."""
        n = self.n or 1
        length = min(n, self.length or nearest_length(n, self.ratio))
        chains = Chains([min(length, n - begun) for begun in range(0, n, length)])
        inner = ctx.child(problem, process=ctx.process.revising())

        async def propose(found: Refinement) -> Sequence[tuple[State, int]]:
            chains.take_up(found)
            going = [i for i, length in enumerate(chains.lengths) if length > len(found.rounds)]
            fresh = sum(not chains.attempts[i] for i in going)
            asked = [(inner.root(), fresh)] if fresh else []
            for i in going:
                if chains.attempts[i]:
                    chains.owner[node := self._feedback(chains.attempts[i], len(found.rounds))] = i
                    asked.append((node, 1))
            return asked

        found = await refine(problem, inner, propose, verifier=self.verifier)
        chains.take_up(found)
        result = refined(inner, found, found.best(), self.verifier, length=length, chains=len(chains.lengths))
        if self.choose is None or not result.candidates:
            return result
        if self.how == "all":
            return await inner.select(result, self.choose)
        return await _in_each_then_among(inner, found, chains, result, self.choose)

    def _feedback(self, chain: Sequence[Attempt], number: int) -> State:
        shown = tuple(attempt.shown(score=self.scores) for attempt in chain[-self.show :])
        return feedback_node(chain[-1].state, f"revise{number}", Feedback(shown))


class Chains:
    """Which attempt belongs to which chain.

    Args:
        lengths: attempts that each chain is to have.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = lengths
        self.attempts: list[list[Attempt]] = [[] for _ in lengths]
        self.owner: dict[State | None, int] = {}
        self._taken = 0

    def take_up(self, found: Refinement) -> None:
        """Put new attempts in their chains; those from the root begin the first chains that are empty."""
        for made in found.rounds[self._taken :]:
            for attempt in made:
                i = self.owner.get(attempt.state.parent)
                chain = self.attempts[i] if i is not None else next(chain for chain in self.attempts if not chain)
                chain.append(attempt)
        self._taken = len(found.rounds)


async def _in_each_then_among(
    ctx: Context, found: Refinement, chains: Chains, result: Result, choose: Selector
) -> Result:
    place = {attempt.state: i for i, attempt in enumerate(found.attempts)}
    winners = []
    for chain in chains.attempts:
        own = [place[attempt.state] for attempt in chain]
        part = replace(result, candidates=tuple(result.candidates[i] for i in own), chosen=())
        winners += [own[i] for i in (await ctx.select(part, choose)).chosen[:1]]
    winners.sort()  # of equals the earliest draw wins
    part = replace(result, candidates=tuple(result.candidates[i] for i in winners), chosen=())
    last = await ctx.select(part, choose)
    return replace(
        last, candidates=result.candidates, chosen=tuple(winners[i] for i in last.chosen),
        status="ok" if last.chosen else "abstain",
    )  # fmt: skip


def nearest_length(n: int, ratio: float) -> int:
    """The divisor L of n for which L / (n / L) comes nearest to `ratio`, as a factor; of equals the smaller.

    >>> [nearest_length(16, r) for r in (1 / 16, 1 / 4, 1, 4, 16)], nearest_length(12, 1)
    ([1, 2, 4, 8, 16], 3)
    """
    divisors = [d for d in range(1, n + 1) if n % d == 0]
    return min(divisors, key=lambda d: (round(abs(math.log(d * d / n / ratio)), 9), d))
