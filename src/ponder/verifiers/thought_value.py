"""How promising a partial solution is, in a model's words: sure, likely or impossible.

Paper    Yao et al. 2023, "Tree of Thoughts: Deliberate Problem Solving with Large Language Models", §3 (value).
Equal    Several replies per state, each ending in a label; the labels weigh 20, 1 and 0.001; a text that came earlier
         in the same call, and a finished one without an answer, count 0 and are not asked about.
Differs  Divided by 20 and averaged over the replies that could be read, so that a state is worth at most 1; a state of
         which no reply could be read has no score, and its failure is recorded (paper: 0).
Needs    Chat.    Cost: `votes` completions per scored item, counted as one verifier call each.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ponder.core.context import Context
from ponder.core.judging import ask, judge_of, prompt_text
from ponder.core.model import Model
from ponder.core.problem import Problem
from ponder.core.registry import verifier
from ponder.core.verifier import Scorable
from ponder.errors import ParameterError, VerifierError
from ponder.verifiers._thoughts import ThoughtVerifier, worth_asking

LABELS = {"sure": 20 / 20, "likely": 1 / 20, "impossible": 0.001 / 20}
"""What each label is worth."""

PROMPT = """Judge how promising a solution of a problem is. It may not be finished.

Problem:
{problem}

Solution so far:
{solution}

Work out briefly whether it can still lead to the right answer. Then end with one line, which is one of
Verdict: sure
Verdict: likely
Verdict: impossible"""

_LABEL = re.compile(r"(?<!not )(?<!n't )\b(sure|likely|impossible)\b", re.IGNORECASE)


def parse_label(reply: str) -> str | None:
    r"""The last label in a reply that is not negated; None if there is none.

    >>> parse_label("Looks likely.\nVerdict: sure"), parse_label("I am not sure."), parse_label("unlikely")
    ('sure', None, None)
    """
    found = _LABEL.findall(reply)
    return found[-1].lower() if found else None


@verifier("thought_value", how="verification:process:judge")
@dataclass(frozen=True)
class ThoughtValue(ThoughtVerifier):
    """The mean worth of a model's verdicts on a (partial) solution, in [0, 1].

    Args:
        votes: verdicts per solution (the paper's n_evaluate_sample), ≥ 1.
        model: the judge; none asks the model that writes the solutions.
        temperature: of the judge.
        max_new_tokens: length limit of one reply.
        prompt: template with `{problem}` and `{solution}`; none uses ponder's own.
    """

    prompt: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompt is not None and "{solution}" not in self.prompt:
            raise ParameterError(self, "prompt", self.prompt, allowed="a template with {problem} and {solution}")

    async def score(self, problem: Problem, items: Sequence[Scorable], ctx: Context) -> Sequence[float]:
        """Mean worth; the same text gets the same replies wherever it comes."""
        judge = judge_of(self, self.model, ctx)
        texts = {id(item): text for item, text in zip(items, worth_asking(items, ctx), strict=True)}

        async def one(item: Scorable) -> float:
            text = texts[id(item)]
            return 0.0 if text is None else await self._rate(problem, text, judge, ctx)

        return await ctx.score_each(items, one)

    async def _rate(self, problem: Problem, text: str, judge: Model, ctx: Context) -> float:
        filled = (self.prompt or PROMPT).replace("{problem}", prompt_text(problem)).replace("{solution}", text)
        seeds = ctx.seeds(self.votes, "thought_value", text)
        replies = await ask(
            judge, filled, ctx, seeds=seeds, temperature=self.temperature, max_new_tokens=self.max_new_tokens
        )
        labels = [label for reply in replies if (label := parse_label(reply)) is not None]
        if not labels:
            raise VerifierError(f"no verdict in the judge's reply: {replies[0][-120:]!r}")
        return math.fsum(LABELS[label] for label in labels) / len(labels)
