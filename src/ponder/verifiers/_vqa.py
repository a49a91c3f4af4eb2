"""Questions about a picture, put to a vision model behind an endpoint."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ponder.core.context import Context
from ponder.core.judging import ask
from ponder.core.model import Model
from ponder.core.verifier import Scorable, output_of, place_of
from ponder.errors import ParameterError, VerifierError
from ponder.verifiers._pictures import picture_of, png_url

YES_NO = "{question}\nAnswer with yes or no."
_VERDICT = re.compile(r"\b(yes|no)\b", re.IGNORECASE)


def parse_yes_no(reply: str) -> float | None:
    """1 for yes and 0 for no, by the first of these words; None if there is neither.

    >>> parse_yes_no("Yes, there is no doubt."), parse_yes_no("**No**"), parse_yes_no("nothing to see")
    (1.0, 0.0, None)
    """
    found = _VERDICT.search(reply)
    return None if found is None else float(found[1].lower() == "yes")


@dataclass(frozen=True)
class Eyes:
    """How a vision model is asked.

    Args:
        owner: the verifier that asks, for errors.
        model: the vision model.
        votes: replies to each question, averaged.
        temperature: of the replies.
        max_new_tokens: length limit of one reply.
        size: longer side in pixels that pictures are made smaller to.
        words: what is asked; `{question}` stands for the question.
        read: a reply as a number from 0 to 1; None if it cannot be read.
    """

    owner: object
    model: Model
    votes: int
    temperature: float
    max_new_tokens: int
    size: int
    words: str = YES_NO
    read: Callable[[str], float | None] = parse_yes_no

    hint: ClassVar[str] = "Use a vision model: openai:MODEL@URL, without template."

    def check(self) -> None:
        """Refuse settings and models that cannot work.

        Raises:
            ParameterError: a number < 1.
            CapabilityError: a model that sees no pictures.
        """
        for name in ("votes", "size"):
            if getattr(self, name) < 1:
                raise ParameterError(self.owner, name, getattr(self, name), allowed="an integer ≥ 1")
        self.model.require("images", getattr(self.owner, "name", ""), self.hint)

    async def answers(self, item: Scorable, questions: Sequence[str], ctx: Context) -> list[float]:
        """One number from 0 to 1 for each question, asked side by side.

        Raises:
            VerifierError: a question got no reply that can be read, or a call failed.
        """
        picture = picture_of(output_of(item, ctx))
        picture.thumbnail((self.size, self.size))
        shown = {"type": "image_url", "image_url": {"url": png_url(picture)}}
        answers = await asyncio.gather(
            *(self._answer(shown, question, item, ctx) for question in questions), return_exceptions=True
        )
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return [answer for answer in answers if isinstance(answer, float)]

    async def _answer(self, shown: dict[str, Any], question: str, item: Scorable, ctx: Context) -> float:
        replies = await ask(
            self.model,
            [shown, {"type": "text", "text": self.words.replace("{question}", question)}],
            ctx,
            seeds=ctx.seeds(self.votes, "vqa", question, *place_of(item)),
            temperature=self.temperature,
            max_new_tokens=self.max_new_tokens,
        )
        votes = [vote for reply in replies if (vote := self.read(reply)) is not None]
        if not votes:
            name = getattr(self.owner, "name", "")
            raise VerifierError(f"{name}: no answer in the reply to {question!r}: {replies[0][-120:]!r}")
        return math.fsum(votes) / len(votes)
