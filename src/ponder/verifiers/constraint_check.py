"""Constraint check: a model lists what the problem demands, once, and rates each output against the list.

Paper    Parmar et al. 2025, "PlanGEN: A Multi-Agent Framework for Generating Planning and Reasoning Trajectories for
         Complex Problem Solving" (constraint and verification agents).
Equal    Constraints are extracted once per problem at temperature 0; each output gets feedback and a whole number from
         -100 to 100, the last one after "Score:"; what cannot be read is asked for once more, then counts as -100.
Differs  The score is (reward + 100) / 200, so that it lies in [0, 1]; the paper's pass mark of 95 is 0.975. Rewards out
         of range are clamped. The feedback is kept as a remark, for strategies that refine. Prompts are ours.
Needs    Chat.    Cost: one call per problem, and one or two per scored output.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ponder.core.candidate import Candidate, Failure
from ponder.core.context import Context
from ponder.core.judging import judge_of, prompt_text
from ponder.core.model import Model, Sampling
from ponder.core.problem import Problem
from ponder.core.registry import verifier
from ponder.core.verifier import Scorable, Verifier, output_of, place_of
from ponder.errors import BudgetError, ParameterError, VerifierError

CONSTRAINTS = """List the constraints that any correct solution of this problem has to meet, one a line. Do not
solve it.

Problem:
{problem}"""

CHECK = """Check a proposed solution against the constraints of a problem.

Problem:
{problem}

Constraints:
{constraints}

Proposed solution:
{solution}

Say for each constraint whether it is met. Then end with one line of the form
Score: N
where N is a whole number from -100 (nothing is met) to 100 (everything is met)."""

_SCORE = re.compile(r"score\W{0,6}?([-−+]?\d+)", re.IGNORECASE)


@verifier(
    "constraint_check", aliases=("plan_gen_verifier",),
    how="verification:outcome:judge", where="agents, math, science",
)  # fmt: skip
@dataclass(frozen=True)
class ConstraintCheck(Verifier):
    """Rates outputs against the problem's constraints, from 0 (reward -100) to 1 (reward 100).

    Args:
        model: extracts and checks; none asks the model that wrote the outputs.
        constraints: given by hand instead of extracted.
        max_new_tokens: length limit of one reply.
        temperature: of the check.
    """

    model: Model | None = None
    constraints: str | None = None
    max_new_tokens: int = 256
    temperature: float = 0.0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ParameterError(self, "max_new_tokens", self.max_new_tokens, allowed="an integer ≥ 1")

    async def score(self, problem: Problem, items: Sequence[Scorable], ctx: Context) -> Sequence[float]:
        """Scores in [0, 1]."""
        judge = judge_of(self, self.model, ctx)
        demanded = await self.demanded(problem, ctx)
        return await ctx.score_each(items, lambda item: self._check(problem, demanded, item, judge, ctx))

    async def demanded(self, problem: Problem, ctx: Context) -> str:
        """The problem's constraints: extracted once, however many outputs are scored.

        A list that comes back empty is recorded as a failure, and outputs are then checked against the problem alone.
        """
        if self.constraints is not None:
            return self.constraints
        judge = judge_of(self, self.model, ctx)
        key = (str(self), problem.id)
        async with ctx.memo.setdefault((*key, "lock"), asyncio.Lock()):
            if key not in ctx.memo:
                filled = CONSTRAINTS.replace("{problem}", prompt_text(problem))
                found = (await self._reply(judge, filled, 0.0, ctx, "constraints", 0)).strip()
                if not found:
                    message = "no constraints were listed; outputs are checked against the problem alone"
                    ctx.failures.append(Failure("verify", None, "no_constraints", message))
                ctx.memo[key] = found or "(none but the problem's own words)"
        return str(ctx.memo[key])

    async def _check(self, problem: Problem, demanded: str, item: Scorable, judge: Model, ctx: Context) -> float:
        filled = CHECK.replace("{problem}", prompt_text(problem)).replace("{constraints}", demanded)
        filled = filled.replace("{solution}", str(output_of(item, ctx)))
        for turn in range(2):
            temperature = self.temperature if turn == 0 else max(self.temperature, 0.7)
            reply = await self._reply(judge, filled, temperature, ctx, *place_of(item), turn)
            ctx.remark(item, reply)
            reward = parse_reward(reply)
            if reward is not None:
                if abs(reward) > 100:
                    self._flag(ctx, item, "reward_out_of_range", f"a reward of {reward} was clamped")
                return (min(100, max(-100, reward)) + 100) / 200
        self._flag(ctx, item, "unparsed_reward", f"no score in the reply, counted as -100: {reply[-120:]!r}")
        return 0.0

    async def _reply(self, judge: Model, message: str, temperature: float, ctx: Context, *place: object) -> str:
        sampling = Sampling(temperature=temperature, max_new_tokens=self.max_new_tokens)
        seeds = ctx.seeds(1, "constraint_check", *place)
        landing = ctx.generate(judge, ({"role": "user", "content": message},), seeds=seeds, sampling=sampling)
        replies = [reply async for _, reply in landing]
        if not replies:
            raise BudgetError("the budget did not allow the constraint check's call")
        if replies[0].error is not None:
            raise VerifierError(f"the judge {judge} failed: {replies[0].error}")
        return replies[0].text

    def _flag(self, ctx: Context, item: Scorable, kind: str, message: str) -> None:
        index = item.index if isinstance(item, Candidate) else None
        ctx.failures.append(Failure("verify", index, kind, message))


def parse_reward(reply: str) -> int | None:
    """The last whole number after "Score:"; None if there is none.

    >>> parse_reward("Score: 10 ... Score: -40"), parse_reward("**Score:** 95/100"), parse_reward("fine")
    (-40, 95, None)
    """
    found = _SCORE.findall(reply)
    return int(found[-1].replace("−", "-")) if found else None
