"""What everything that asks a model about an answer shares: who is asked, about what, and how a rating is read."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ponder.core.context import Context
from ponder.core.model import Model, Sampling
from ponder.core.problem import Problem
from ponder.errors import BudgetError, ParameterError, VerifierError

_SCORE = re.compile(r"score\W{0,6}(\d+(?:\.\d+)?)(?:\s*/\s*10)?", re.IGNORECASE)


def judge_of(owner: object, model: Model | None, ctx: Context) -> Model:
    """The judge: the given model, or the one that wrote the candidates.

    Raises:
        ParameterError: there is neither.
    """
    judge: Model | None = model or getattr(ctx.process, "model", None)
    if judge is None:
        raise ParameterError(owner, "model", None, allowed="a model", hint="this process has no language model to ask")
    return judge


async def ask(
    judge: Model,
    prompt: str | Sequence[Mapping[str, Any]],
    ctx: Context,
    *,
    seeds: Sequence[int],
    temperature: float,
    max_new_tokens: int,
) -> list[str]:
    """The judge's replies to one prompt (text, or parts with pictures), one for each seed that the budget allows.

    Raises:
        VerifierError: a call failed for good.
        BudgetError: the budget allows none.
    """
    sampling = Sampling(temperature=temperature, max_new_tokens=max_new_tokens)
    content = prompt if isinstance(prompt, str) else list(prompt)
    landing = ctx.generate(judge, ({"role": "user", "content": content},), seeds=seeds, sampling=sampling)
    found = sorted([reply async for reply in landing], key=lambda reply: reply[0])
    for _, reply in found:
        if reply.error is not None:
            raise VerifierError(f"the judge {judge} failed: {reply.error}")
    if not found:
        raise BudgetError("the budget did not allow the judge's call")
    return [reply.text for _, reply in found]


def parse_score(reply: str) -> float | None:
    """The last rating in a reply, from 0 to 1; None if there is none or it is out of range.

    >>> parse_score("Looks fine. Score: 7/10"), parse_score("no idea"), parse_score("Score: 70")
    (0.7, None, None)
    """
    found = _SCORE.findall(reply)
    value = float(found[-1]) if found else math.nan
    return value / 10 if 0 <= value <= 10 else None


def prompt_text(problem: Problem) -> str:
    """What the problem asks, without few-shot examples where the task keeps them apart."""
    question = problem.metadata.get("question")
    if question is not None:
        return str(question)
    if isinstance(problem.prompt, str):
        return problem.prompt
    return "\n".join(str(m.get("content", "")) for m in problem.prompt if m.get("role") == "user")
