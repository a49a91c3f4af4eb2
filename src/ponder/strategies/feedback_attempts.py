"""Sequential attempts with feedback: a check says whether an attempt is right, a teacher hints at why it is not.

Paper    Balachandran et al. 2025, "Inference-Time Scaling for Complex Tasks: Where We Stand and What Lies Ahead"
         (sequential scaling with feedback).
Equal    The student answers; a right answer ends it; else a teacher, the same model in a context of its own, is told
         all wrong answers so far, never the solution, and writes a hint; the student goes on from all of its attempts,
         how many they are, and the hints. Only unsolved problems go on.
Differs  Earlier attempts and hints are shown in one message, not as turns of a chat. A hint that contains the reference
         answer is discarded and counted. The check is any verifier; `exact` is the paper's, and an upper bound.
Needs    A language model and an outcome verifier.    Cost: at most n answers, n scores and n - 1 hints, all one after
         another.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

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

PROMPT = """A student is trying to solve this problem:

{problem}

These answers of the student are wrong:
{wrong}

The student's last attempt:
{solution}

In one to three sentences, give a hint: what may have gone wrong, and what to try next. Do not give an answer."""


@strategy("feedback_attempts", what="sequential", how="stimulation:prompt, verification:outcome")
@dataclass(frozen=True)
class FeedbackAttempts(Strategy):
    """Try until a check says right, with hints in between.

    Args:
        n: attempts at most; None takes the number from the study's sample axis.
        verifier: the check; `exact` is a perfect one.
        threshold: the score from which on an attempt counts as right.
        feedback: `hint` asks the teacher, `wrong` only says that the attempts are wrong, `off` draws anew.
        teacher: writes hints; none is the model that answers.
        max_new_tokens: length limit of a hint.
        temperature: of the hints.
    """

    n: int | None = None
    verifier: Verifier = field(default_factory=lambda: VERIFIERS.build("llm_judge"))
    threshold: float = 1.0
    feedback: Literal["hint", "wrong", "off"] = "hint"
    teacher: Model | None = None
    max_new_tokens: int = 128
    temperature: float = 0.0

    def __post_init__(self) -> None:
        for name in ("n", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ParameterError(self, name, value, allowed="an integer ≥ 1")
        if math.isnan(self.threshold):
            raise ParameterError(self, "threshold", self.threshold, allowed="a number", hint="inf never stops")

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Attempt by attempt; the first right one is the result, else the best-scored."""
        teacher = judge_of(self, self.teacher, ctx) if self.feedback == "hint" else None
        inner = ctx.child(problem, process=ctx.process.revising())
        shown: list[Shown] = []
        leaked = 0

        async def propose(found: Refinement) -> Sequence[tuple[State, int]]:
            nonlocal leaked
            tried = found.attempts
            if len(found.rounds) >= (self.n or 1) or any(a.score >= self.threshold for a in tried):
                return []
            if not tried or self.feedback == "off":
                return [(inner.root(), 1)]
            last = tried[-1]
            if found.rounds[-1]:
                hint = await self._hint(problem, inner, teacher, tried) if teacher else ""
                if gives_away(hint, problem, inner):
                    leaked, hint = leaked + 1, ""
                shown.append(last.shown(score=False, comment=f"Hint: {hint}" if hint else ""))
            made = f"{len(tried)} attempt{'s' if len(tried) > 1 else ''}"
            note = f"You have made {made}, and {'all of them are' if len(tried) > 1 else 'it is'} wrong."
            return [(feedback_node(last.state, f"retry{len(found.rounds)}", Feedback(tuple(shown), note)), 1)]

        found = await refine(problem, inner, propose, verifier=self.verifier)
        if any(a.score >= self.threshold for a in found.attempts):
            found.stopped = "threshold"
        return refined(inner, found, found.best(), self.verifier, leaked_hints=leaked)

    async def _hint(self, problem: Problem, ctx: Context, teacher: Model, tried: Sequence[Attempt]) -> str:
        answers = [str(a.candidate.answer if a.candidate.valid else "(no answer)") for a in tried]
        wrong = "\n".join(f"- {answer}" for answer in dict.fromkeys(answers))
        message = filled(PROMPT, problem, wrong=wrong, solution=tried[-1].candidate.output)
        reply = await ask(
            ctx, teacher, message, *tried[-1].state.path,
            max_new_tokens=self.max_new_tokens, temperature=self.temperature,
        )  # fmt: skip
        return reply.text if reply else ""


def gives_away(hint: str, problem: Problem, ctx: Context) -> bool:
    """Whether a hint contains the reference answer, as words of its own; False where there is none to compare with.

    A single letter (multiple choice) counts only in brackets or after "answer", "option" or "choice".
    """
    forms: list[Any] = [problem.reference]
    if ctx.task is not None and isinstance(problem.reference, str):
        with suppress(Exception):  # whatever a task does with a text that is no output: then there is one form
            forms.append(ctx.task.extract(problem.reference))
    told = " ".join(hint.split()).casefold()
    for form in forms:
        if not isinstance(form, (str, int, float)) or not str(form).strip():
            continue
        gold = re.escape(" ".join(str(form).split()).casefold())
        if len(str(form).strip()) == 1 and str(form).strip().isalpha():
            pattern = rf"\({gold}\)|\b(?:answer|option|choice)(?:\W+is)?\W+{gold}\b"
        else:
            pattern = rf"(?<![\w.])(?<!\d,){gold}(?!\w|\.\d|,\d)"
        if re.search(pattern, told):
            return True
    return False
