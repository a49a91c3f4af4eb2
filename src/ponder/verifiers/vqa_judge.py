"""A vision-language model that looks at a picture and answers questions about it.

Paper    Hu et al. 2023, "TIFA" and Cho et al. 2024, "Davidsonian Scene Graph" (questions to which yes is right); Ma et
         al. 2025, "Inference-Time Scaling for Diffusion Models beyond Scaling Denoising Steps" (grades from 0 to 10).
Equal    One question in one request, with the picture; the score is the share of questions that are answered with yes.
Differs  The questions are given and not written by a model; without any, the picture is asked whether it shows the
         prompt. Several votes are averaged. A reply that cannot be read is a failure of that vote, never a no.
Needs    Pictures; Pillow, and a vision model behind an endpoint that takes chats.
Cost     `votes` completions for each question about each picture; one call of the verifier for each picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ponder.core.context import Context
from ponder.core.judging import parse_score
from ponder.core.model import Model
from ponder.core.problem import Problem
from ponder.core.registry import verifier
from ponder.core.verifier import Scorable, Verifier
from ponder.errors import ParameterError
from ponder.verifiers._pictures import words_of
from ponder.verifiers._vqa import Eyes

_SHOWS = 'Does this picture show "{prompt}"?'
_HOW_WELL = 'How well does this picture show "{prompt}"?'
_RATING = """{question}
Look at it carefully, then end with one line of the form
Score: N
where N is a number from 0 (not at all) to 10 (perfectly)."""


@verifier("vqa_judge", how="verification:process:judge", where="generation_image")
@dataclass(frozen=True)
class VqaJudge(Verifier):
    """Answers about a picture, in [0, 1]; of noisy states, about what they are expected to become.

    Args:
        model: the vision model, such as `openai:qwen2.5-vl@http://localhost:8000/v1`.
        scale: `yes_no` questions, or `rating`s from 0 to 10, divided by ten.
        questions: asked one by one and averaged; `{prompt}` stands for the problem's prompt. None asks whether (how
            well) the picture shows it.
        votes: replies to each question, averaged.
        temperature: of the judge.
        max_new_tokens: length limit of one reply; None is 16 for yes or no and 256 for a rating.
        size: longer side in pixels that pictures are made smaller to; smaller ones are sent as they are.
    """

    model: Model
    scale: Literal["yes_no", "rating"] = "yes_no"
    questions: tuple[str, ...] | None = None
    votes: int = 1
    temperature: float = 0.0
    max_new_tokens: int | None = None
    size: int = 768

    def __post_init__(self) -> None:
        if self.questions is not None:
            object.__setattr__(self, "questions", tuple(self.questions))
            if not self.questions:
                raise ParameterError(self, "questions", self.questions, allowed="one or more questions, or none given")
        self._eyes.check()

    @property
    def _eyes(self) -> Eyes:
        shared = (self, self.model, self.votes, self.temperature)
        if self.scale == "rating":
            return Eyes(*shared, self.max_new_tokens or 256, self.size, _RATING, parse_score)
        return Eyes(*shared, self.max_new_tokens or 16, self.size)

    async def score(self, problem: Problem, items: Sequence[Scorable], ctx: Context) -> Sequence[float]:
        """The mean over questions; NaN (recorded as a failure) where one of them got no reply that can be read."""
        wanted = words_of(problem)
        asked = self.questions or (_SHOWS if self.scale == "yes_no" else _HOW_WELL,)
        questions = [question.replace("{prompt}", wanted) for question in asked]
        return await ctx.score_each(items, lambda item: self._look(questions, item, ctx))

    async def _look(self, questions: Sequence[str], item: Scorable, ctx: Context) -> float:
        answers = await self._eyes.answers(item, questions, ctx)
        ctx.remark(item, "\n".join(f"{q} {a:.2f}" for q, a in zip(questions, answers, strict=True)))
        return math.fsum(answers) / len(answers)
