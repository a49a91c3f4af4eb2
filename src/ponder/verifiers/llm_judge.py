"""A language model that rates an answer: the pointwise judge.

Paper    Zheng et al. 2023, "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena" (single-answer grading).
Equal    One prompt per answer, a rating at the end of the reply.
Differs  Ratings 0-10 are mapped to [0, 1]; several votes are averaged; a reply without a rating is a failure of
         that vote, recorded, and never a low score.
Needs    Chat.    Cost: `votes` completions per scored item, counted as one verifier call each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ponder.core.context import Context
from ponder.core.judging import ask, judge_of, parse_score, prompt_text
from ponder.core.model import Model
from ponder.core.problem import Problem
from ponder.core.registry import verifier
from ponder.core.verifier import Scorable, Verifier, output_of, place_of
from ponder.errors import ParameterError, VerifierError

PROMPT = """You are grading an answer to a problem.

Problem:
{problem}

Proposed solution:
{solution}

Is the solution right? Think briefly, then end with one line of the form
Score: N
where N is a number from 0 (certainly wrong) to 10 (certainly right)."""


@verifier("llm_judge", aliases=("judge",), how="verification:outcome:judge")
@dataclass(frozen=True)
class LlmJudge(Verifier):
    """Rates each output on its own.

    Args:
        model: the judge; None asks the model that wrote the outputs.
        votes: ratings per output, averaged.
        temperature: of the judge.
        max_new_tokens: length limit of one reply.
        prompt: template with `{problem}` and `{solution}`; None uses ponder's own.
    """

    model: Model | None = None
    votes: int = 1
    temperature: float = 0.0
    max_new_tokens: int = 256
    prompt: str | None = None

    def __post_init__(self) -> None:
        if self.votes < 1:
            raise ParameterError(self, "votes", self.votes, allowed="an integer ≥ 1")
        if self.prompt is not None and "{solution}" not in self.prompt:
            raise ParameterError(self, "prompt", self.prompt, allowed="a template with {problem} and {solution}")

    async def score(self, problem: Problem, items: Sequence[Scorable], ctx: Context) -> Sequence[float]:
        """Ratings divided by ten; NaN (recorded as a failure) where no vote could be read."""
        judge = judge_of(self, self.model, ctx)
        return await ctx.score_each(items, lambda item: self._rate(problem, item, judge, ctx))

    async def _rate(self, problem: Problem, item: Scorable, judge: Model, ctx: Context) -> float:
        filled = (self.prompt or PROMPT).replace("{problem}", prompt_text(problem))
        filled = filled.replace("{solution}", str(output_of(item, ctx)))
        seeds = ctx.seeds(self.votes, "judge", *place_of(item))
        replies = await ask(
            judge, filled, ctx, seeds=seeds, temperature=self.temperature, max_new_tokens=self.max_new_tokens
        )
        ctx.remark(item, replies[0])
        ratings = [rating for reply in replies if (rating := parse_score(reply)) is not None]
        if not ratings:
            raise VerifierError(f"no rating in the judge's reply: {replies[0][-120:]!r}")
        return math.fsum(ratings) / len(ratings)
