"""The model's own forecast, at any point of an answer: could it do better by starting over?

Paper    Manvi et al. 2024, "Adaptive Inference-Time Compute: LLMs Can Predict if They Can Do Better, Even
         Mid-Generation", §3.
Equal    A fixed question after the (partial) answer; the score is P(No) / (P(No) + P(Yes)) of the next token:
         the chance that this answer wins or ties against a fresh one. The question never enters the answer.
Differs  The paper fine-tunes the model for it (`ponder.recipes.self_evaluation_data` writes the data); without
         that the score is a prompted guess, often a weak one. Where the backend gives no alternatives, `votes`
         replies are drawn and the share of No is the score. The wording is ponder's own.
Needs    Chat or plain text.    Cost: one short completion per scored item, its prompt mostly cached.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ponder.core.context import Context
from ponder.core.judging import judge_of
from ponder.core.model import Completion, Model, Sampling
from ponder.core.problem import Problem, Prompt
from ponder.core.registry import verifier
from ponder.core.verifier import Scorable, Verifier, output_of, place_of
from ponder.errors import BudgetError, ParameterError, VerifierError

QUESTION = "Would you do better if you started over? Answer with one word, Yes or No."

_LABEL = re.compile(r"\b(yes|no)\b", re.IGNORECASE)
_ALTERNATIVES = 20


@verifier("self_evaluation", aliases=("self_eval",), how="verification:outcome:process:self_evaluation")
@dataclass(frozen=True)
class SelfEvaluation(Verifier):
    """How sure the model is that it could not do better, in [0, 1]; works on partial answers too.

    Args:
        model: who is asked; None asks the model that wrote the answer (anything else is a judge, not a
            self-evaluation).
        question: asked after the answer; "No" must mean that the answer is as good as it gets.
        votes: replies drawn where the backend gives no alternatives to the first token.
    """

    model: Model | None = None
    question: str = QUESTION
    votes: int = 1

    def __post_init__(self) -> None:
        if self.votes < 1:
            raise ParameterError(self, "votes", self.votes, allowed="an integer ≥ 1")
        if not self.question.strip():
            raise ParameterError(self, "question", self.question, allowed="a question to answer by Yes or No")

    async def score(self, problem: Problem, items: Sequence[Scorable], ctx: Context) -> Sequence[float]:
        """One forecast per item."""
        model = judge_of(self, self.model, ctx)
        return await ctx.score_each(items, lambda item: self._one(problem, item, model, ctx))

    async def _one(self, problem: Problem, item: Scorable, model: Model, ctx: Context) -> float:
        text = str(output_of(item, ctx))
        offered = min(model.capabilities.max_top_logprobs, _ALTERNATIVES)
        sampling = Sampling(temperature=1.0, max_new_tokens=4, logprobs=offered if offered > 1 else None)
        values, replies = [], []
        seeds = ctx.seeds(self.votes, "self_evaluation", *place_of(item))
        landing = ctx.generate(model, self._asked(problem, text), seeds=seeds, sampling=sampling)
        for reply in [reply async for _, reply in landing]:
            if reply.error is not None:
                raise VerifierError(f"asking {model} to evaluate itself failed: {reply.error}")
            replies.append(reply.text)
            value = label_probability(reply)
            if value is not None:
                values.append(value)
        if not replies:
            raise BudgetError("the budget did not allow the self-evaluation")
        if not values:
            raise VerifierError(f"neither Yes nor No in the self-evaluation {replies[0][:80]!r}")
        return math.fsum(values) / len(values)

    def _asked(self, problem: Problem, text: str) -> Prompt:
        if isinstance(problem.prompt, str):
            return f"{problem.prompt}{text}\n\n{self.question}\nAnswer:"
        turns = ({"role": "assistant", "content": text}, {"role": "user", "content": self.question})
        return (*problem.prompt, *turns)


def label_probability(reply: Completion) -> float | None:
    """P(No) / (P(No) + P(Yes)) at the first token that offers either; else 1 or 0 by the text; None if unread.

    >>> alternatives = ({" No": math.log(0.6), "Yes": math.log(0.2), "Maybe": math.log(0.2)},)
    >>> round(label_probability(Completion("No", 1, top_logprobs=alternatives)), 6)
    0.75
    >>> label_probability(Completion("Yes, I would.", 4)), label_probability(Completion("Hm", 1))
    (0.0, None)
    """
    for alternatives in reply.top_logprobs or ():
        no, yes = _mass(alternatives, "no"), _mass(alternatives, "yes")
        if no + yes > 0:
            return no / (no + yes)
    found = _LABEL.search(reply.text)
    return None if found is None else float(found.group().lower() == "no")


def _mass(alternatives: Mapping[str, float], label: str) -> float:
    return math.fsum(math.exp(v) for token, v in alternatives.items() if token.strip(" \n.,*\"'▁Ġ").lower() == label)
