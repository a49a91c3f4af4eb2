"""The value of a state by trying: how often outputs that go on from here end well.

Paper    Wang et al. 2024, "Math-Shepherd", §3.2 (completions of a step as its label); the rollouts of Monte-Carlo tree
         search, Coulom 2006.
Equal    `rollouts` independent completions by the same process; the value is their mean grade ("soft estimation").
Differs  A finished output is graded itself. Rollouts use seeds of their own, so that a search does not meet again what
         its verifier has seen. A state is tried once in a run; asked again, it has the same value.
Needs    Any process; a task with a grader (an oracle), or a verifier of finished outputs.
Cost     `rollouts` completions and scores for each state: the dearest of verifiers. All of it is under `verify`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.core.registry import VERIFIERS, verifier
from ponder.core.state import State
from ponder.core.verifier import Scorable, Verifier
from ponder.errors import BudgetError, ParameterError, VerifierError


@verifier("rollout_value", aliases=("monte_carlo_value",), how="verification:process:rule")
@dataclass(frozen=True)
class RolloutValue(Verifier):
    """The mean score of outputs that go on from a state; an unbiased estimate of its true value.

    Args:
        rollouts: outputs tried from each state.
        verifier: scores them; `exact`, the default, asks the task's grader.
    """

    rollouts: int = 8
    verifier: Verifier = field(default_factory=lambda: VERIFIERS.build("exact"))

    def __post_init__(self) -> None:
        if self.rollouts < 1:
            raise ParameterError(self, "rollouts", self.rollouts, allowed="an integer ≥ 1")
        object.__setattr__(self, "range", self.verifier.range)
        object.__setattr__(self, "needs", self.verifier.needs)

    async def score(self, problem: Problem, items: Sequence[Scorable], ctx: Context) -> Sequence[float]:
        """Mean scores; NaN where a rollout or its score is missing, since the mean of the rest would be biased."""
        states = [item.state if isinstance(item, Candidate) else item for item in items]
        open_states = [
            state for item, state in zip(items, states, strict=True)
            if state is not None and isinstance(item, State) and not ctx.process.done(state)
        ]  # fmt: skip
        values = await self._values(problem, list(dict.fromkeys(open_states)), ctx)
        whole = [item for item, state in zip(items, states, strict=True) if state not in values]
        finished = [item if isinstance(item, Candidate) else ctx.candidate(item) for item in whole]
        graded = (await ctx.score(problem, finished, self.verifier)).tolist()
        own = {id(item): float(score) for item, score in zip(whole, graded, strict=True)}

        async def one(item: Scorable) -> float:
            outcome = own[id(item)] if id(item) in own else values[item]
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        return await ctx.score_each(items, one)

    async def _values(
        self, problem: Problem, states: Sequence[State], ctx: Context
    ) -> dict[Scorable, float | Exception]:
        """Values of open states; all rollouts are under way at once."""
        places = {state.path: state for state in states}
        fresh: dict[tuple[object, ...], float | Exception] = {}

        async def value(place: tuple[object, ...]) -> float:
            outcome = fresh[place]
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        unknown = [place for place in places if not ctx.knows(self, place)]
        twins = {place: replace(places[place], slot=f"{places[place].slot}, rollouts") for place in unknown}
        ends = await self._ends(list(twins.values()), ctx)
        candidates = [ctx.candidate(end) for twin in twins.values() for end in ends[twin]]
        scores = iter((await ctx.score(problem, candidates, self.verifier)).tolist())
        for place, twin in twins.items():
            own = [float(next(scores)) for _ in ends[twin]]
            if len(own) < self.rollouts:
                fresh[place] = BudgetError(f"{len(own)} of {self.rollouts} rollouts came to an end")
            elif any(map(math.isnan, own)):
                fresh[place] = VerifierError(f"rollout_value: {self.verifier} gave no score for some of the rollouts")
            else:
                fresh[place] = math.fsum(own) / len(own)
        known = await ctx.once_each(self, places, value)
        return {state: known[state.path] for state in states}

    async def _ends(self, states: Sequence[State], ctx: Context) -> dict[State, list[State]]:
        """What each state's rollouts came to."""
        ends: dict[State, list[State]] = {state: [] for state in states}
        going = [(state, state) for state in states]
        count = self.rollouts
        while going:
            groups = await ctx.extend([at for _, at in going], [count] * len(going), to_end=True)
            further = [(start, child) for (start, _), group in zip(going, groups, strict=True) for child in group]
            for start, child in further:
                if ctx.process.done(child):
                    ends[start].append(child)
            going, count = [(start, child) for start, child in further if not ctx.process.done(child)], 1
        return ends
