"""Yes-or-no questions that change with the stage of an output: first the scene, then the motion, then how it ends.

Paper    Liu et al. 2025, "Video-T1: Test-Time Scaling for Video Generation", §3.3.
Equal    Each stage has its own questions; a score is the number of yes minus the number of no.
         A language model splits the prompt into one text for each stage; after three replies of no use, every stage
         has the whole prompt.
Differs  A question is any verifier; it says yes from `threshold` on (`llm_judge(prompt=…)` asks a model). The sum is
         divided by the number of questions, so that it lies in [-1, 1]. A question without an answer counts neither
         way; an item without any answer has no score. Without a `splitter` every stage has the whole prompt.
Needs    What the questions need.    Cost: a call to each question of the stage; with a `splitter` one to three
         completions for each prompt.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.judging import ask_json, asking, prompt_text
from ponder.core.model import Model
from ponder.core.problem import Problem
from ponder.core.registry import verifier
from ponder.core.verifier import Scorable, Verifier
from ponder.errors import ParameterError

SPLIT = """A video is made of the following prompt and judged in {n} stages, in the order of time. Split the prompt
into {n} short texts that say what each stage is about{names}. Each has to be understood by itself.

Prompt: {prompt}

Answer with a JSON list of exactly {n} strings alone."""
_THREE = ": first the static scene with all that is in it, then the motion, then how it ends"


@verifier("staged_questions", how="verification:process:judge")
@dataclass(frozen=True)
class StagedQuestions(Verifier):
    """(yes - no) / questions, by the questions of an item's stage.

    Args:
        questions: of each stage, a list of verifiers: `[[scene], [motion], [ending1, ending2]]`.
        until: the last depth of each stage but the final one, rising; one number fewer than stages.
        threshold: a question's score from which it says yes.
        weights: of the final stage's questions; empty is 1 for all.
        splitter: language model that splits the prompt, so that each stage's questions are about its own text; none
            lets all of them be about the whole prompt.
    """

    questions: tuple[tuple[Verifier, ...], ...]
    until: tuple[int, ...] = ()
    threshold: float = 0.5
    weights: tuple[float, ...] = ()
    splitter: Model | None = None

    range: ClassVar[tuple[float, float]] = (-1.0, 1.0)

    def __post_init__(self) -> None:
        if not self.questions or not all(self.questions):
            raise ParameterError(self, "questions", self.questions, allowed="at least one question in each stage")
        stages = len(self.questions)
        if (
            len(self.until) != stages - 1
            or list(self.until) != sorted(set(self.until))
            or min(self.until, default=1) < 1
        ):
            allowed = f"{stages - 1} depths ≥ 1 that rise, one for each of the {stages} stages but the last"
            raise ParameterError(self, "until", self.until, allowed=allowed)
        if self.weights and (len(self.weights) != len(self.questions[-1]) or min(self.weights) <= 0):
            allowed = f"{len(self.questions[-1])} numbers > 0, one for each question of the last stage"
            raise ParameterError(self, "weights", self.weights, allowed=allowed)
        asked = [question for stage in self.questions for question in stage]
        object.__setattr__(self, "needs", frozenset[str]().union(*(q.needs for q in asked)))

    def stage(self, item: Scorable) -> int:
        """The place of an item's stage; finished candidates are in the last."""
        return len(self.until) if isinstance(item, Candidate) else bisect_left(self.until, item.depth)

    async def texts(self, problem: Problem, ctx: Context) -> list[str]:
        """What each stage is about: as many texts as stages, or none if the whole prompt is everybody's."""
        n, whole = len(self.questions), prompt_text(problem)
        if self.splitter is None or n == 1:
            return []

        def read(value: Any) -> list[str]:
            if (
                not isinstance(value, list)
                or len(value) != n
                or not all(isinstance(t, str) and t.strip() for t in value)
            ):
                raise ValueError(f"a list of {n} strings is expected")
            return [text.strip() for text in value]

        message = SPLIT.replace("{names}", _THREE if n == 3 else "").replace("{n}", str(n)).replace("{prompt}", whole)
        return await ask_json(self.splitter, message, read, [whole] * n, ctx, what="staged_questions")

    async def score(self, problem: Problem, items: Sequence[Scorable], ctx: Context) -> Sequence[float]:
        """One number in [-1, 1] per item; the items of a stage in one call to each of its questions."""
        found = [math.nan] * len(items)
        texts = await self.texts(problem, ctx)
        for stage, questions in enumerate(self.questions):
            places = [i for i, item in enumerate(items) if self.stage(item) == stage]
            if not places:
                continue
            own, asked = [items[i] for i in places], asking(problem, texts[stage]) if texts else problem
            answers = np.asarray([await question.score(asked, own, ctx) for question in questions], dtype=float)
            last = stage == len(self.questions) - 1
            weights = np.asarray(self.weights if last and self.weights else [1.0] * len(questions))[:, None]
            known = ~np.isnan(answers)
            votes = np.where(known, np.where(answers >= self.threshold, 1.0, -1.0), 0.0)
            total = (weights * known).sum(axis=0)
            shares = np.divide((weights * votes).sum(axis=0), total, out=np.full(len(own), np.nan), where=total > 0)
            for i, share in zip(places, shares.tolist(), strict=True):
                found[i] = share
        return found
