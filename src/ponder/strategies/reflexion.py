"""Reflexion: after each failed attempt the model writes down what it learnt, and tries again with these notes.

Paper    Shinn et al. 2023, "Reflexion: Language Agents with Verbal Reinforcement Learning".
Equal    Actor, evaluator and self-reflection; the last few reflections are the memory; trials go on until the
         evaluator is satisfied or the trials are used up.
Differs  Prompts are ours. The evaluator is any verifier and a `threshold`. The best-scored attempt is the result, not
         the last.
Needs    A language model and an outcome verifier.    Cost: at most n answers, n scores and n - 1 reflections, all one
         after another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from ponder.core.context import Context
from ponder.core.judging import judge_of
from ponder.core.model import Model
from ponder.core.problem import Problem
from ponder.core.refine import Refinement, refine, refined
from ponder.core.registry import VERIFIERS, strategy
from ponder.core.revision import Feedback, feedback_node
from ponder.core.state import State
from ponder.core.strategy import Result, Strategy
from ponder.core.verifier import Verifier
from ponder.errors import ParameterError
from ponder.strategies._critique import ask, filled

PROMPT = """You tried to solve a problem and failed.

Problem:
{problem}

Your attempt:
{solution}

What the check said:
{feedback}

In one or two sentences, say what went wrong and what to do differently next time. Do not solve the problem here."""


@strategy(
    "reflexion",
    what="sequential", how="stimulation:prompt, verification:outcome", where="agents, code, knowledge, reasoning",
)  # fmt: skip
@dataclass(frozen=True)
class Reflexion(Strategy):
    """Try, and try again with notes on what went wrong.

    Args:
        n: attempts at most; None takes the number from the study's sample axis.
        verifier: says how good an attempt is.
        threshold: a score that is good enough to stop; inf never stops.
        memory: reflections that an attempt sees, the newest ones. The paper: 1 to 3.
        show: whether it sees the last attempt too.
        model: writes reflections; none is the model that answers.
        max_new_tokens: length limit of a reflection.
        temperature: of the reflections.
    """

    n: int | None = None
    verifier: Verifier = field(default_factory=lambda: VERIFIERS.build("llm_judge"))
    threshold: float = 1.0
    memory: int = 3
    show: bool = False
    model: Model | None = None
    max_new_tokens: int = 128
    temperature: float = 0.0

    def __post_init__(self) -> None:
        for name in ("n", "memory", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ParameterError(self, name, value, allowed="an integer ≥ 1")
        if math.isnan(self.threshold):
            raise ParameterError(self, "threshold", self.threshold, allowed="a number", hint="inf never stops")

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Try until the verifier is satisfied or the attempts are used up; the best-scored one is the result."""
        model = judge_of(self, self.model, ctx)
        inner = ctx.child(problem, process=ctx.process.revising())
        notes: list[str] = []

        async def propose(found: Refinement) -> Sequence[tuple[State, int]]:
            tried = found.attempts
            if len(found.rounds) >= (self.n or 1) or any(a.score >= self.threshold for a in tried):
                return []
            if not tried:
                return [(inner.root(), 1)]
            last = tried[-1]
            if found.rounds[-1]:
                score = "" if last.score == -math.inf else f"It scored {last.score:.3g}."
                said = " ".join(part for part in (score, last.error, last.comment) if part) or "It is wrong."
                message = filled(PROMPT, problem, solution=last.candidate.output, feedback=said)
                reply = await ask(
                    inner, model, message, *last.state.path,
                    max_new_tokens=self.max_new_tokens, temperature=self.temperature,
                )  # fmt: skip
                notes.extend([reply.text] if reply else [])
            lessons = "".join(f"\n- {note}" for note in notes[-self.memory :])
            note = f"Lessons from earlier attempts:{lessons}" if lessons else ""
            shown = Feedback((last.shown(),) if self.show else (), note)
            return [(feedback_node(last.state, f"retry{len(found.rounds)}", shown), 1)]

        found = await refine(problem, inner, propose, verifier=self.verifier)
        if any(a.score >= self.threshold for a in found.attempts):
            found.stopped = "threshold"
        return refined(inner, found, found.best(), self.verifier, reflections=tuple(notes))
