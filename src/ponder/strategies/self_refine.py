"""Self-refine: a model criticises its own answer and writes a better one, until it has nothing to criticise.

Paper    Madaan et al. 2023, "Self-Refine: Iterative Refinement with Self-Feedback".
Equal    Answer, feedback, refined answer with the history of both in the prompt; stops when the feedback says so, or
         after so many rounds. The last answer is the result.
Differs  Prompts are ours. The stop sign is a line "Verdict: Yes". With a `verifier` the best-scored answer is the
         result instead; the critic may be another model.
Needs    A language model.    Cost: at most n answers and n - 1 critiques, all one after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ponder.core.context import Context
from ponder.core.judging import judge_of
from ponder.core.model import Model
from ponder.core.problem import Problem
from ponder.core.refine import Attempt, Refinement, refine, refined
from ponder.core.registry import strategy
from ponder.core.revision import Feedback, Shown, feedback_node
from ponder.core.state import State
from ponder.core.strategy import Result, Strategy
from ponder.core.verifier import Verifier
from ponder.errors import ParameterError
from ponder.strategies._critique import ask, filled

PROMPT = """Here is an answer to a problem.

Problem:
{problem}

Answer:
{solution}

Say what is wrong with the answer and how to mend it. Then end with one line, which is either
Verdict: Yes
if nothing needs to be changed, or
Verdict: No
if the answer should be written again."""


@strategy("self_refine", what="sequential", how="stimulation:prompt, verification:outcome:self_evaluation")
@dataclass(frozen=True)
class SelfRefine(Strategy):
    """Answer, criticise, answer again.

    Args:
        n: answers at most; None takes the number from the study's sample axis. The paper: 4 rounds after the first.
        model: the critic; none is the model that answers.
        show: earlier answers, each with its critique, that a new one sees.
        verifier: scores answers, so that the best one is the result; none takes the last.
        max_new_tokens: length limit of a critique.
        temperature: of the critic.
        prompt: asks for a critique; a template with `{problem}` and `{solution}`; none uses ponder's own.
    """

    n: int | None = None
    model: Model | None = None
    show: int = 4
    verifier: Verifier | None = None
    max_new_tokens: int = 128
    temperature: float = 0.0
    prompt: str | None = None

    def __post_init__(self) -> None:
        for name in ("n", "show", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ParameterError(self, name, value, allowed="an integer ≥ 1")
        if self.prompt is not None and "{solution}" not in self.prompt:
            raise ParameterError(self, "prompt", self.prompt, allowed="a template with {problem} and {solution}")

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Refine until the critic accepts or the answers are used up."""
        critic = judge_of(self, self.model, ctx)
        inner = ctx.child(problem, process=ctx.process.revising())
        history: list[Shown] = []
        seen: list[Attempt] = []
        accepted = False

        async def propose(found: Refinement) -> Sequence[tuple[State, int]]:
            nonlocal accepted
            if len(found.rounds) >= (self.n or 1):
                return []
            if not found.rounds or (not found.rounds[-1] and not seen):
                return [(inner.root(), 1)]
            for attempt in found.rounds[-1]:
                message = filled(self.prompt or PROMPT, problem, solution=attempt.candidate.output)
                reply = await ask(
                    inner, critic, message, *attempt.state.path,
                    max_new_tokens=self.max_new_tokens, temperature=self.temperature,
                )  # fmt: skip
                if reply is not None and reply.accepted:
                    accepted = True
                    return []
                seen.append(attempt)
                history.append(attempt.shown(score=False, comment=reply.text if reply else ""))
            shown = Feedback(tuple(history[-self.show :]))
            return [(feedback_node(seen[-1].state, f"refine{len(found.rounds)}", shown), 1)]

        found = await refine(problem, inner, propose, verifier=self.verifier)
        last = len(found.attempts) - 1 if found.attempts else None
        chosen = found.best() if self.verifier else last
        return refined(inner, replace(found, stopped="accepted" if accepted else found.stopped), chosen, self.verifier)
