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

import asyncio
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ponder.core.context import Context
from ponder.core.judging import ask, parse_score, prompt_text
from ponder.core.model import Model
from ponder.core.problem import Problem
from ponder.core.registry import verifier
from ponder.core.verifier import Scorable, Verifier, output_of, place_of
from ponder.errors import ParameterError, VerifierError
from ponder.verifiers._pictures import picture_of, png_url

_SHOWS = 'Does this picture show "{prompt}"?'
_HOW_WELL = 'How well does this picture show "{prompt}"?'
_YES_NO = "{question}\nAnswer with yes or no."
_RATING = """{question}
Look at it carefully, then end with one line of the form
Score: N
where N is a number from 0 (not at all) to 10 (perfectly)."""
_VERDICT = re.compile(r"\b(yes|no)\b", re.IGNORECASE)


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
        for name in ("votes", "size"):
            if getattr(self, name) < 1:
                raise ParameterError(self, name, getattr(self, name), allowed="an integer ≥ 1")
        if self.questions is not None:
            object.__setattr__(self, "questions", tuple(self.questions))
            if not self.questions:
                raise ParameterError(self, "questions", self.questions, allowed="one or more questions, or none given")
        self.model.require("images", self.name, "Use a vision model: openai:MODEL@URL, without template.")

    async def score(self, problem: Problem, items: Sequence[Scorable], ctx: Context) -> Sequence[float]:
        """The mean over questions; NaN (recorded as a failure) where one of them got no reply that can be read."""
        return await ctx.score_each(items, lambda item: self._look(problem, item, ctx))

    async def _look(self, problem: Problem, item: Scorable, ctx: Context) -> float:
        picture = picture_of(output_of(item, ctx))
        picture.thumbnail((self.size, self.size))
        shown = {"type": "image_url", "image_url": {"url": png_url(picture)}}
        asked = self.questions or (_SHOWS if self.scale == "yes_no" else _HOW_WELL,)
        wanted = prompt_text(problem) if isinstance(problem.prompt, (str, tuple)) else str(problem.prompt)
        questions = [question.replace("{prompt}", wanted) for question in asked]
        answers = await asyncio.gather(
            *(self._answer(shown, question, i, item, ctx) for i, question in enumerate(questions)),
            return_exceptions=True,
        )
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        told = [answer for answer in answers if isinstance(answer, float)]
        remarks = [f"{question} {answer:.2f}" for question, answer in zip(questions, told, strict=True)]
        ctx.remark(item, "\n".join(remarks))
        return math.fsum(told) / len(told)

    async def _answer(self, shown: dict[str, Any], question: str, i: int, item: Scorable, ctx: Context) -> float:
        words = _YES_NO if self.scale == "yes_no" else _RATING
        replies = await ask(
            self.model,
            [shown, {"type": "text", "text": words.replace("{question}", question)}],
            ctx,
            seeds=ctx.seeds(self.votes, "vqa", i, *place_of(item)),
            temperature=self.temperature,
            max_new_tokens=self.max_new_tokens or (16 if self.scale == "yes_no" else 256),
        )
        read = parse_yes_no if self.scale == "yes_no" else parse_score
        votes = [vote for reply in replies if (vote := read(reply)) is not None]
        if not votes:
            raise VerifierError(f"vqa_judge: no answer in the reply to {question!r}: {replies[0][-120:]!r}")
        return math.fsum(votes) / len(votes)


def parse_yes_no(reply: str) -> float | None:
    """1 for yes and 0 for no, by the first of these words; None if there is neither.

    >>> parse_yes_no("Yes, there is no doubt."), parse_yes_no("**No**"), parse_yes_no("nothing to see")
    (1.0, 0.0, None)
    """
    found = _VERDICT.search(reply)
    return None if found is None else float(found[1].lower() == "yes")
