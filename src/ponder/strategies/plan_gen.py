"""PlanGEN: check a plan against the problem's constraints, and let a bandit choose which search tries to better it.

Paper    Parmar et al. 2025, "PlanGEN: A Multi-Agent Framework for Generating Planning and Reasoning Trajectories for
         Complex Problem Solving" (mixture of algorithms).
Equal    One plan first; while it does not pass, UCB with a model's prior, a bonus for rarely used arms and one for arms
         that have bettered a failed plan chooses best-of-N, tree of thoughts or REBASE, which is run with the
         check's feedback in its prompt; the best plan ever seen is the result. Two stages for reasoning tasks.
Differs  Arms are any strategies. The prior's weight falls as 1 / (1 + T), as the text says. Untried arms come first, in
         the order of their priors. Prompts are ours. n bounds the outputs, not the rounds.
Needs    Text; a language model for the default verifier and the prior.    Cost: at most n outputs, their checks, and
         one call a round for the prior.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ponder.core.bandit import upper_bound as upper_bound
from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.judging import prompt_text
from ponder.core.model import Model
from ponder.core.problem import Problem, instructed
from ponder.core.process import Process
from ponder.core.refine import score_with_errors
from ponder.core.registry import STRATEGIES, VERIFIERS, strategy
from ponder.core.seeds import derive_seed
from ponder.core.strategy import Result, Strategy
from ponder.core.verifier import Verifier
from ponder.errors import CapabilityError, ParameterError
from ponder.ledger.spend import Spend
from ponder.strategies._critique import ask, filled

ARMS = ("best_of_n", "tree_of_thoughts", "rebase")
"""The paper's arms; those that are there are used."""

PLAN = "Write a plan for solving this problem, step by step. Do not carry it out."
EXECUTE = "Follow this plan:\n{plan}\n\nCarry it out and give the final answer."
BETTER = "An earlier attempt was:\n{plan}\n\nWhat a check said about it:\n{feedback}\n\nGive a better one."
PRIOR = """Which way of searching suits this problem best?

Problem:
{problem}

What a check said about the last attempt:
{feedback}

Ways: {arms}

Rate each way from 0 (useless) to 1 (best), one a line, in the form
way: number"""


@strategy("plan_gen", what="hybrid", how="search:beam:tree, verification:outcome:judge", where="agents, math, science")
@dataclass(frozen=True)
class PlanGen(Strategy):
    """Check, and choose by a bandit what tries next.

    Args:
        n: outputs in all; None takes the number from the study's sample axis.
        per_round: outputs of one arm's turn, unless the arm fixes its own number.
        arms: strategies to choose from; without any, best-of-n, tree of thoughts and REBASE by this verifier.
        verifier: checks plans; its remarks are the feedback.
        threshold: a score that passes; 0.975 is the paper's 95 on its scale from -100 to 100; inf never stops.
        low: the verifier's lowest score; rewards of the bandit are scaled to [0, 1] between it and `high`.
        high: its highest.
        rule: `ucb`; `uniform` chooses at random, as a control.
        exploration: weight of UCB's square root.
        prior: weight of the model's prior, λ at T = 0; 0 does not ask.
        diversity: weight of the bonus for rarely used arms, α_div.
        recovery: weight of the share of an arm's turns that bettered a failed plan, α_rec.
        model: rates the arms; none is the model that answers; where there is none, there is no prior.
        execute: two stages: plans are searched for, and one more output carries the best one out.
        max_new_tokens: length limit of the ratings.
    """

    n: int | None = None
    per_round: int = 4
    arms: tuple[Strategy, ...] = ()
    verifier: Verifier = field(default_factory=lambda: VERIFIERS.build("constraint_check"))
    threshold: float = 0.975
    low: float = 0.0
    high: float = 1.0
    rule: Literal["ucb", "uniform"] = "ucb"
    exploration: float = 1.0
    prior: float = 1.0
    diversity: float = 0.1
    recovery: float = 0.1
    model: Model | None = None
    execute: bool = False
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        for name in ("n", "per_round", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ParameterError(self, name, value, allowed="an integer ≥ 1")
        for name in ("exploration", "prior", "diversity", "recovery"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ParameterError(self, name, getattr(self, name), allowed="a number ≥ 0")
        if not self.low < self.high:
            raise ParameterError(self, "low", self.low, allowed=f"below high={self.high}")

    @property
    def requires(self) -> frozenset[str]:
        """What the verifier and the arms need."""
        return super().requires.union(*(arm.requires for arm in self._arms()))

    @property
    def stepwise(self) -> bool:  # type: ignore[override]
        """Whether any arm works on steps."""
        return any(arm.stepwise for arm in self._arms())

    def _arms(self) -> tuple[Strategy, ...]:
        if self.arms:
            return self.arms
        found = [STRATEGIES.build(name) for name in ARMS if name in STRATEGIES]
        return tuple(replace(arm, verifier=self.verifier) if hasattr(arm, "verifier") else arm for arm in found)

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Plan, check, and let arms try until one passes or the outputs are used up."""
        asked = _with(problem, PLAN) if self.execute else problem
        left = (self.n or 1) - self.execute
        bandit = Bandit(self, self._arms())
        seen = Seen()
        if left > 0:
            await self._first(asked, ctx, seen)
            left -= 1
        turn = 0
        while left > 0 and seen.score < self.threshold and not ctx.shortfalls:
            prior = await self._prior(problem, ctx, bandit, seen, turn)
            chosen = bandit.choose(prior, ctx.rng("plan_gen", turn))
            arm = _sized(bandit.arms[chosen], min(self.per_round, left), left)
            turn += 1
            before, failing = len(seen.candidates), seen.score
            reward = await self._turn(asked, ctx, arm, turn, seen)
            left -= getattr(arm, "n", None) or max(1, len(seen.candidates) - before)
            bandit.tell(chosen, self._scaled(reward), recovered=reward > failing)
        return await self._answer(problem, ctx, seen, bandit)

    async def _first(self, problem: Problem, ctx: Context, seen: Seen) -> None:
        inner = ctx.child(problem, process=_whole(ctx.process))
        candidates = await inner.draw(problem, 1, hold=Spend(verifier_calls=1))
        await self._take_up(problem, inner, candidates, seen)

    async def _turn(self, problem: Problem, ctx: Context, arm: Strategy, turn: int, seen: Seen) -> float:
        """Run an arm with the feedback in its prompt; the score of what it chose, -inf if nothing."""
        told = problem
        if seen.best is not None:
            said = filled(
                BETTER, problem, plan=seen.candidates[seen.best].output, feedback=seen.feedback or "It fails."
            )
            told = _with(problem, said)
        inner = ctx.child(told, process=ctx.process if arm.stepwise else _whole(ctx.process))
        inner.seed = derive_seed(ctx.seed, "plan_gen", turn)
        result = await arm.run(told, inner)
        if result.best is None:
            seen.candidates += result.candidates
            return -math.inf
        known = result.best.scores.get(self.verifier.name) if getattr(arm, "verifier", None) == self.verifier else None
        others = [c for i, c in enumerate(result.candidates) if i != result.chosen[0]]
        seen.candidates += others
        return await self._take_up(problem, inner, [result.best], seen, known)

    async def _take_up(
        self, problem: Problem, ctx: Context, candidates: Sequence[Candidate], seen: Seen, known: float | None = None
    ) -> float:
        """Check a plan unless its score is known, and keep it if it is the best so far."""
        usable = [c for c in candidates if c.error is None]
        seen.candidates += [c for c in candidates if c.error is not None]
        if not usable:
            return -math.inf
        errors: dict[int, str] = {}
        scores = [known]
        if known is None:
            scores, errors = await score_with_errors(problem, ctx, usable, self.verifier)  # type: ignore[assignment]
        score = -math.inf if scores[0] is None or math.isnan(scores[0]) else scores[0]
        said = errors.get(usable[0].index, "") or ctx.remark_on(usable[0])
        own = {} if score == -math.inf else {self.verifier.name: score}
        seen.take_up(replace(usable[0], scores={**usable[0].scores, **own}), score, said)
        return score

    async def _prior(
        self, problem: Problem, ctx: Context, bandit: Bandit, seen: Seen, turn: int
    ) -> Mapping[str, float]:
        """The model's rating of each arm, asked once a round."""
        model = self.model or getattr(ctx.process, "model", None)
        if self.prior == 0 or model is None or self.rule == "uniform" or len(bandit.arms) == 1:
            return {}
        message = filled(PRIOR, problem, feedback=seen.feedback or "nothing yet", arms=", ".join(bandit.names))
        reply = await ask(ctx, model, message, "prior", turn, max_new_tokens=self.max_new_tokens)
        return parse_prior(reply.text, bandit.names) if reply else {}

    def _scaled(self, score: float) -> float:
        return 0.0 if score == -math.inf else min(1.0, max(0.0, (score - self.low) / (self.high - self.low)))

    async def _answer(self, problem: Problem, ctx: Context, seen: Seen, bandit: Bandit) -> Result:
        candidates = [replace(c, index=i) for i, c in enumerate(seen.candidates)]
        chosen, passed = seen.best, seen.score >= self.threshold
        reason = None if passed or chosen is None else "below_threshold: no plan passed the check; this is the best one"
        if self.execute:
            plan = "" if chosen is None else str(candidates[chosen].output)
            carry = filled(EXECUTE, problem, plan=plan) if plan else ""
            told = _with(problem, carry) if carry else problem
            inner = ctx.child(told, process=_whole(ctx.process))
            inner.seed = derive_seed(ctx.seed, "plan_gen", "execute")
            done = [c for c in await inner.draw(told, 1) if c.error is None]
            candidates = [replace(c, answer=None) for c in candidates]  # a plan is no answer
            candidates += [replace(c, index=len(candidates)) for c in done]
            chosen = len(candidates) - 1 if done else None
        uses = {name: float(n) for name, n in zip(bandit.names, bandit.uses, strict=True)}
        details: dict[str, Any] = {"uses": uses, "rewards": dict(zip(bandit.names, bandit.means(), strict=True))}
        return ctx.result(candidates, chosen, reason=reason, passed=passed, order=tuple(bandit.order), **details)


class Seen:
    """Everything drawn, and the best plan among it."""

    def __init__(self) -> None:
        self.candidates: list[Candidate] = []
        self.best: int | None = None
        self.score = -math.inf
        self.feedback = ""

    def take_up(self, candidate: Candidate, score: float, feedback: str) -> None:
        """A plan that was checked; it becomes the best if it is strictly better, or the first."""
        self.candidates.append(candidate)
        if score > self.score:
            self.best, self.score, self.feedback = len(self.candidates) - 1, score, feedback
        elif self.best is None:
            self.feedback = feedback


class Bandit:
    """Which arm next.

    Args:
        rules: weights.
        arms: what there is to choose from.
    """

    def __init__(self, rules: PlanGen, arms: Sequence[Strategy]) -> None:
        self._rules, self.arms = rules, arms
        self.names = [f"{getattr(arm, 'name', 'arm')}" for arm in arms]
        if len(set(self.names)) < len(self.names):
            self.names = [f"{name}-{i + 1}" for i, name in enumerate(self.names)]
        self.uses = [0] * len(arms)
        self._rewards = [0.0] * len(arms)
        self._recovered = [0] * len(arms)
        self.order: list[str] = []

    def choose(self, prior: Mapping[str, float], rng: Any) -> int:
        """Untried arms in the order of their priors, then the largest upper bound; of equals the first."""
        arms = range(len(self.arms))
        if self._rules.rule == "uniform":
            return int(rng.integers(len(self.arms)))
        untried = [i for i in arms if self.uses[i] == 0]
        if untried:
            return max(untried, key=lambda i: (prior.get(self.names[i], 0.0), -i))
        return max(arms, key=lambda i: (self._bound(i, prior.get(self.names[i], 0.0)), -i))

    def _bound(self, i: int, prior: float) -> float:
        total, rules = sum(self.uses), self._rules
        return upper_bound(
            self._rewards[i], self.uses[i], total,
            prior=rules.prior / (1 + total) * prior, diversity=rules.diversity,
            recovery=rules.recovery * self._recovered[i] / self.uses[i], exploration=rules.exploration,
        )  # fmt: skip

    def tell(self, i: int, reward: float, *, recovered: bool) -> None:
        """What an arm's turn brought, in [0, 1], and whether it bettered the plan that had failed."""
        self.uses[i] += 1
        self._rewards[i] += reward
        self._recovered[i] += recovered
        self.order.append(self.names[i])

    def means(self) -> list[float]:
        """Mean reward of each arm; 0 where it was not used."""
        return [r / n if n else 0.0 for r, n in zip(self._rewards, self.uses, strict=True)]


def parse_prior(reply: str, names: Sequence[str]) -> dict[str, float]:
    r"""Ratings by arm, clamped to [0, 1]; arms that are not rated are missing.

    >>> parse_prior("best_of_n: 0.4\nrebase = 7", ["best_of_n", "rebase", "mcts"])
    {'best_of_n': 0.4, 'rebase': 1.0}
    """
    found = {}
    for name in names:
        rated = re.findall(rf"\b{re.escape(name)}\b\W{{1,6}}?(\d+(?:\.\d+)?)", reply)
        if rated:
            found[name] = min(1.0, max(0.0, float(rated[-1])))
    return found


def _sized(arm: Strategy, n: int, most: int) -> Strategy:
    """An arm at n samples, or at its own number if that is not above what is left."""
    sized = arm.with_samples(n)
    fixed = getattr(sized, "n", None)
    return replace(sized, n=most) if isinstance(fixed, int) and fixed > most else sized  # type: ignore[type-var]


def _whole(process: Process) -> Process:
    """The process by which outputs are drawn in one step, where there is one."""
    try:
        return process.revising()
    except CapabilityError:
        return process


def _with(problem: Problem, words: str) -> Problem:
    """A problem that is asked with more words, and checked without them; what is not text stays as it is."""
    if not isinstance(problem.prompt, (str, tuple)):
        return problem
    metadata = {"question": prompt_text(problem), **problem.metadata}
    return replace(problem, prompt=instructed(problem.prompt, words), metadata=metadata)
