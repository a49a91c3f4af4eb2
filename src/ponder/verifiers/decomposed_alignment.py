"""How much of a prompt a picture shows: the prompt is taken apart into questions, and a vision model answers them.

Paper    Singh & Zheng 2023, "Divide, Evaluate, and Refine" (decompositional alignment, the DA-score of CARINOX); Cho et
         al. 2024, "Davidsonian Scene Graph" (what depends on a missing object is not true).
Equal    One yes-or-no question for each object, attribute, count and relation; the score is their weighted mean.
Differs  Questions come from rules for short English prompts, or from a language model (`splitter`). A question about
         an object that is not there is not asked and counts as no. Several votes are averaged, where DA takes the
         probability of yes. A prompt in which nothing is found is asked about as a whole.
Needs    Pictures; Pillow, and a vision model behind an endpoint that takes chats.
Cost     `votes` completions for each question about each picture; with a `splitter` one to three for each prompt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ponder.core.context import Context
from ponder.core.judging import ask_json
from ponder.core.model import Model
from ponder.core.problem import Problem
from ponder.core.registry import verifier
from ponder.core.verifier import Scorable, Verifier
from ponder.errors import ParameterError
from ponder.verifiers._pictures import words_of
from ponder.verifiers._prompt_parts import KINDS, Part, read_parts, split_prompt
from ponder.verifiers._vqa import Eyes

SPLIT = """List everything that a picture of the following prompt has to show, as yes-or-no questions to which the right
answer is yes. Take the prompt apart: first its objects, then their attributes, their counts, and the relations between
them. Ask one thing with each question.

Prompt: {prompt}

Answer with a JSON list alone. Each entry is an object with "kind" (object, attribute, count or relation), "question",
and "about": the places in the list, from 0, of the objects that an attribute, count or relation is about. For example:
[{"kind": "object", "question": "Is there a cube?", "about": []},
 {"kind": "attribute", "question": "Is the cube red?", "about": [0]}]"""
_HALF = 0.5


@verifier(
    "decomposed_alignment", aliases=("da_score",), how="verification:process:judge", where="generation_image",
)  # fmt: skip
@dataclass(frozen=True)
class DecomposedAlignment(Verifier):
    """The weighted share of a prompt's parts that a picture shows, in [0, 1].

    Args:
        model: the vision model, such as `openai:qwen2.5-vl@http://localhost:8000/v1`.
        splitter: language model that takes prompts apart; none does it by rules. If three replies are of no use, the
            rules do it.
        weights: of objects, attributes, counts and relations, each ≥ 0.
        votes: replies to each question, averaged.
        temperature: of the vision model.
        max_new_tokens: length limit of one answer.
        size: longer side in pixels that pictures are made smaller to; smaller ones are sent as they are.
    """

    model: Model
    splitter: Model | None = None
    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    votes: int = 1
    temperature: float = 0.0
    max_new_tokens: int = 16
    size: int = 768

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", tuple(self.weights))
        if len(self.weights) != len(KINDS) or not all(0 <= w < math.inf for w in self.weights) or not any(self.weights):
            allowed = f"{len(KINDS)} numbers ≥ 0, not all of them 0: of {', '.join(KINDS)}"
            raise ParameterError(self, "weights", self.weights, allowed=allowed)
        self._eyes.check()

    @property
    def _eyes(self) -> Eyes:
        return Eyes(self, self.model, self.votes, self.temperature, self.max_new_tokens, self.size)

    async def parts(self, problem: Problem, ctx: Context) -> list[Part]:
        """What the problem's prompt asks to be seen; the same for all its pictures."""
        wanted = words_of(problem)
        found = split_prompt(wanted)
        if self.splitter is not None and wanted.strip():
            message = SPLIT.replace("{prompt}", wanted)
            found = await ask_json(self.splitter, message, read_parts, found, ctx, what="decomposed_alignment")
        return found or [Part("object", f'Does this picture show "{wanted}"?')]

    async def score(self, problem: Problem, items: Sequence[Scorable], ctx: Context) -> Sequence[float]:
        """One share per item; NaN (recorded as a failure) where a question got no reply that can be read."""
        parts = await self.parts(problem, ctx)
        return await ctx.score_each(items, lambda item: self._look(parts, item, ctx))

    async def _look(self, parts: Sequence[Part], item: Scorable, ctx: Context) -> float:
        objects = [i for i, part in enumerate(parts) if not part.about]
        seen = dict(zip(objects, await self._answers(parts, objects, item, ctx), strict=True))
        others = [i for i, p in enumerate(parts) if p.about and all(seen.get(j, 0.0) >= _HALF for j in p.about)]
        seen |= zip(others, await self._answers(parts, others, item, ctx), strict=True)
        answers = [seen.get(i, 0.0) for i in range(len(parts))]
        ctx.remark(item, "\n".join(f"{p.question} {a:.2f}" for p, a in zip(parts, answers, strict=True)))
        return weighted_share(parts, answers, self.weights)

    async def _answers(self, parts: Sequence[Part], which: Sequence[int], item: Scorable, ctx: Context) -> list[float]:
        return await self._eyes.answers(item, [parts[i].question for i in which], ctx) if which else []


def weighted_share(parts: Sequence[Part], answers: Sequence[float], weights: Sequence[float]) -> float:
    """Σ weight · answer / Σ weight over the parts, by their kinds; the plain mean if all their weights are 0.

    >>> parts = [Part("object", "Is there a cube?"), Part("attribute", "Is the cube red?", (0,))]
    >>> weighted_share(parts, [1.0, 0.0], (1, 3, 1, 1)), weighted_share(parts[:1], [1.0], (0, 1, 1, 1))
    (0.25, 1.0)
    """
    own = [weights[KINDS.index(part.kind)] for part in parts]
    if not any(own):
        own = [1.0] * len(parts)
    return math.fsum(w * a for w, a in zip(own, answers, strict=True)) / math.fsum(own)
