"""A language model that judges each step of a solution, in the context of the steps before it.

Paper    Zheng et al. 2023, "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena" (single-answer grading);
         Yao et al. 2023, "Tree of Thoughts", which labels states and maps the labels to numbers.
Equal    One prompt per step, a grade at the end of the reply; several votes are averaged.
Differs  Grades are 0 to 10, or the labels right, unsure, wrong for 1, ½, 0. A reply without a grade is no vote, and a
         step without any vote has no score. A step that several outputs share is judged once.
Needs    Chat.    Cost: `votes` completions for each distinct step that is scored.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.judging import judge_of, parse_score, prompt_text
from ponder.core.model import Model, Sampling
from ponder.core.problem import Problem
from ponder.core.registry import verifier
from ponder.core.search_tree import Aggregate
from ponder.core.verifier import Scorable, Verifier
from ponder.errors import BudgetError, ParameterError, VerifierError
from ponder.verifiers._steps import steps_of, together

PROMPT = """You are checking one step of a solution to a problem.

Problem:
{problem}

Steps so far:
{earlier}

Next step:
{step}

Is the next step right, and does it lead towards the answer? Think briefly, then end with one line of the form
{form}"""

_FORMS = {
    "ten": "Score: N\nwhere N is a number from 0 (certainly wrong) to 10 (certainly right).",
    "labels": "Grade: right\nor Grade: unsure, or Grade: wrong.",
}
_LABELS = {"right": 1.0, "unsure": 0.5, "wrong": 0.0}
_GRADE = re.compile(r"grade\W{0,6}(right|unsure|wrong)\b", re.IGNORECASE)

Step = tuple[tuple[str, ...], str]
"""The steps before it, and the step."""


@verifier("step_judge", aliases=("llm_step_judge",), how="verification:process:judge")
@dataclass(frozen=True)
class StepJudge(Verifier):
    r"""Grades the last step of a state; of a finished candidate all steps, together by `how`.

    Args:
        model: the judge; none asks the model that wrote the steps.
        scale: `ten` reads `Score: N` from 0 to 10; `labels` reads `Grade: right`, `unsure` or `wrong`.
        votes: grades per step, averaged.
        how: how the scores of a candidate's steps become one number.
        delimiter: where a step that the process wrote is split further; empty never.
        temperature: of the judge.
        max_new_tokens: length limit of one reply.
        prompt: template with `{problem}`, `{earlier}` and `{step}`; it must ask for the grade in the scale's form.
    """

    model: Model | None = None
    scale: Literal["ten", "labels"] = "ten"
    votes: int = 1
    how: Aggregate = "last"
    delimiter: str = "\n\n"
    temperature: float = 0.0
    max_new_tokens: int = 256
    prompt: str | None = None

    def __post_init__(self) -> None:
        if self.votes < 1:
            raise ParameterError(self, "votes", self.votes, allowed="an integer ≥ 1")
        if self.prompt is not None and "{step}" not in self.prompt:
            raise ParameterError(self, "prompt", self.prompt, allowed="a template with {problem}, {earlier} and {step}")

    async def score(self, problem: Problem, items: Sequence[Scorable], ctx: Context) -> Sequence[float]:
        """Mean grades in [0, 1]; NaN (recorded as a failure) where one could not be read."""
        judge = judge_of(self, self.model, ctx)
        steps = {id(item): steps_of(item, ctx, self.delimiter) for item in items}
        asked: dict[int, list[Step]] = {}
        for item in items:
            own = steps[id(item)]
            first = 0 if isinstance(item, Candidate) and self.how != "last" else max(len(own) - 1, 0)
            asked[id(item)] = [(own[:i], own[i]) for i in range(first, len(own))]

        async def grade(step: Step) -> float:
            return await self._grade(problem, step, judge, ctx)

        known = await ctx.once_each(self, [step for found in asked.values() for step in found], grade)

        async def one(item: Scorable) -> float:
            outcomes = [known[step] for step in asked[id(item)]]
            for outcome in outcomes:
                if isinstance(outcome, Exception):
                    raise outcome
            scores = [float(outcome) for outcome in outcomes if not isinstance(outcome, Exception)]
            return together(self, item, steps[id(item)][-len(scores) :], scores, self.how)

        return await ctx.score_each(items, one)

    async def _grade(self, problem: Problem, step: Step, judge: Model, ctx: Context) -> float:
        earlier, last = step
        filled = self.prompt or PROMPT.replace("{form}", _FORMS[self.scale])
        shown = {"problem": prompt_text(problem), "earlier": "\n\n".join(earlier) or "(none)", "step": last}
        filled = re.sub(r"\{(problem|earlier|step)\}", lambda found: shown[found.group(1)], filled)
        landing = ctx.generate(
            judge,
            ({"role": "user", "content": filled},),
            seeds=ctx.seeds(self.votes, "step_judge", *earlier, last),
            sampling=Sampling(temperature=self.temperature, max_new_tokens=self.max_new_tokens),
        )
        grades, replies = [], []
        for reply in [reply async for _, reply in landing]:
            if reply.error is not None:
                raise VerifierError(f"the judge {judge} failed: {reply.error}")
            replies.append(reply.text)
            if (found := parse_grade(reply.text, self.scale)) is not None:
                grades.append(found)
        if not replies:
            raise BudgetError("the budget did not allow the judge's call")
        if not grades:
            raise VerifierError(f"no grade in the judge's reply: {replies[0][-120:]!r}")
        return math.fsum(grades) / len(grades)


def parse_grade(reply: str, scale: Literal["ten", "labels"]) -> float | None:
    """The last grade in a reply, from 0 to 1; None if there is none.

    >>> parse_grade("Hm. Score: 7", "ten"), parse_grade("**Grade:** Unsure.", "labels"), parse_grade("Right!", "labels")
    (0.7, 0.5, None)
    """
    if scale == "ten":
        return parse_score(reply)
    found = _GRADE.findall(reply)
    return _LABELS[found[-1].lower()] if found else None
