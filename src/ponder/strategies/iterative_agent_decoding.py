"""Iterative agent decoding: each round draws attempts that are shown the best and the worst so far, with scores.

Paper    Chakraborty et al. 2025, "Review, Refine, Repeat: Understanding Iterative Decoding of AI Agents with Dynamic
         Evaluation and Selection".
Equal    Round 0 draws from the prompt alone; later rounds are shown the best and the worst attempt with their scores;
         the best is replaced only by a strictly better one, so the best score never falls; the best is the result.
Differs  The paper does not give its constants; ours are in the parameters. After `patience` rounds without a gain one
         round is drawn without feedback. While all scores are equal, the latest attempt and the verifier's error are
         shown. The controls of a fair comparison are built in (`control`).
Needs    A process whose outputs can be revised, and any outcome verifier; a language model where critiques are wanted.
Cost     n outputs and n scores, in ⌈n / per_round⌉ rounds; a critique a round where wanted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from ponder.core.context import Context
from ponder.core.judging import judge_of
from ponder.core.model import Model
from ponder.core.problem import Problem
from ponder.core.refine import Attempt, Refinement, refine, refined
from ponder.core.registry import VERIFIERS, strategy
from ponder.core.revision import Feedback, Shown, feedback_node
from ponder.core.state import State
from ponder.core.strategy import Result, Strategy
from ponder.core.verifier import Verifier
from ponder.errors import ParameterError
from ponder.strategies._critique import ask, filled
from ponder.strategies.self_refine import PROMPT


@strategy(
    "iterative_agent_decoding", aliases=("iad",),
    what="hybrid", how="stimulation:prompt, verification:outcome", where="agents, code, general",
)  # fmt: skip
@dataclass(frozen=True)
class IterativeAgentDecoding(Strategy):
    """Draw in rounds, each knowing the best and the worst attempt so far.

    Args:
        n: attempts in all; None takes the number from the study's sample axis.
        per_round: attempts of a round.
        feedback: what a round is shown: `best_worst` with scores; `scalar`: the best with its score; `critique`: the
            best with what is said about it; `both`: best and worst with scores and critique; none: nothing, which is
            best-of-n.
        patience: rounds without a gain before one is drawn without feedback; 0 never does.
        threshold: a score that is good enough to stop; inf never stops.
        verifier: scores attempts.
        model: writes critiques where the verifier remarks nothing; none is the model that answers.
        max_new_tokens: length limit of a critique.
        control: `shuffled` mixes up the scores of each round before anything looks at them; `constant` shows the
            latest attempt and no score, so that only diversity is left.
    """

    n: int | None = None
    per_round: int = 4
    feedback: Literal["best_worst", "scalar", "critique", "both"] | None = "best_worst"
    patience: int = 2
    threshold: float = math.inf
    verifier: Verifier = field(default_factory=lambda: VERIFIERS.build("log_probability"))
    model: Model | None = None
    max_new_tokens: int = 128
    control: Literal["shuffled", "constant"] | None = None

    def __post_init__(self) -> None:
        for name in ("n", "per_round", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ParameterError(self, name, value, allowed="an integer ≥ 1")
        if self.patience < 0:
            raise ParameterError(self, "patience", self.patience, allowed="an integer ≥ 0", hint="0 never escapes")
        if math.isnan(self.threshold):
            raise ParameterError(self, "threshold", self.threshold, allowed="a number", hint="inf never stops")

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Refine until the attempts are used up or one is good enough."""
        n, inner = self.n or 1, ctx.child(problem, process=ctx.process.revising())
        standing = Standing(self.patience)
        asked_for, escapes = 0, 0

        async def propose(found: Refinement) -> Sequence[tuple[State, int]]:
            nonlocal asked_for, escapes
            if found.rounds:
                standing.take_up(self._mixed_up(found.rounds, inner))
            count = min(self.per_round, n - asked_for)
            if count < 1 or (standing.best is not None and standing.best.score >= self.threshold):
                return []
            asked_for += count
            if standing.latest is None or self.feedback is None:
                return [(inner.root(), count)]
            if standing.escape():
                escapes += 1
                return [(inner.root(), count)]
            feedback = await self._feedback(problem, inner, standing)
            base = standing.best or standing.latest
            return [(feedback_node(base.state, f"round{len(found.rounds)}", feedback), count)]

        found = await refine(problem, inner, propose, verifier=self.verifier)
        if found.stopped and found.rounds:
            standing.take_up(self._mixed_up(found.rounds, inner))
        if standing.best is not None and standing.best.score >= self.threshold:
            found.stopped = "threshold"
        places = {attempt.state: i for i, attempt in enumerate(found.attempts)}
        chosen = None if standing.best is None else places[standing.best.state]
        return refined(
            inner, found, chosen, self.verifier, best_by_round=tuple(standing.best_by_round), escapes=escapes
        )

    def _mixed_up(self, rounds: Sequence[Sequence[Attempt]], ctx: Context) -> Sequence[Attempt]:
        """The last round; for the shuffled control with the scores of its attempts exchanged at random."""
        last = rounds[-1]
        if self.control != "shuffled":
            return last
        order = ctx.rng("iterative_agent_decoding", len(rounds)).permutation(len(last))
        return [replace(attempt, score=last[i].score) for attempt, i in zip(last, order, strict=True)]

    async def _feedback(self, problem: Problem, ctx: Context, standing: Standing) -> Feedback:
        best, worst, latest = standing.best, standing.worst, standing.latest
        assert latest is not None
        if self.control == "constant":
            return Feedback((latest.shown(score=False),))
        if best is None or worst is None or best.score == worst.score:
            return Feedback((latest.shown(score=best is not None),))
        wanted = self.feedback in ("critique", "both")
        comment = await self._comment(problem, ctx, best) if wanted else ""
        shown = [best.shown(score=self.feedback != "critique", comment=comment)]
        if self.feedback in ("best_worst", "both"):
            shown.insert(0, _with_remark(worst, wanted))
        return Feedback(tuple(shown))

    async def _comment(self, problem: Problem, ctx: Context, best: Attempt) -> str:
        """What the verifier remarked, else what a model says; asked anew only when the best changes."""
        if best.comment:
            return best.comment
        key = ("critique", problem.id, best.state)
        if key not in ctx.memo:
            message = filled(PROMPT, problem, solution=best.candidate.output)
            critic = judge_of(self, self.model, ctx)
            reply = await ask(ctx, critic, message, *best.state.path, max_new_tokens=self.max_new_tokens)
            ctx.memo[key] = reply.text if reply else ""
        return str(ctx.memo[key])


def _with_remark(attempt: Attempt, wanted: bool) -> Shown:
    return attempt.shown(comment=attempt.comment if wanted else "")


class Standing:
    """Best and worst so far, and how long nothing got better.

    Args:
        patience: rounds without a gain after which it is time to escape; 0 never.
    """

    def __init__(self, patience: int) -> None:
        self._patience, self._idle = patience, 0
        self.best: Attempt | None = None
        self.worst: Attempt | None = None
        self.latest: Attempt | None = None
        self.best_by_round: list[float] = []

    def take_up(self, attempts: Sequence[Attempt]) -> None:
        """A round's attempts: the best gives way only to a strictly better one, the worst only to a lower one."""
        before = self.best
        for attempt in attempts:
            self.latest = attempt
            if attempt.score > (-math.inf if self.best is None else self.best.score):
                self.best = attempt
            if self.worst is None or attempt.score < self.worst.score:
                self.worst = attempt
        self._idle = 0 if self.best is not before else self._idle + 1
        self.best_by_round.append(math.nan if self.best is None else self.best.score)

    def escape(self) -> bool:
        """Whether the next round is drawn without feedback; asking begins the count anew."""
        if not self._patience or self._idle < self._patience:
            return False
        self._idle = 0
        return True
