"""Utilities that a model gives: a judge's ratings of pairs, or embeddings."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import numpy as np

from ponder.core.context import Context
from ponder.core.judging import judge_of, parse_score, prompt_text
from ponder.core.merge import gather_all
from ponder.core.model import Model
from ponder.core.pool import Floats
from ponder.core.problem import Problem
from ponder.errors import CapabilityError
from ponder.selectors._judge import ask, shortened
from ponder.selectors._utilities import cosine, token_f1

_PROMPT = """Here is a task, and two answers to it. They may be in different languages.

Task:
{task}

Answer A:
{a}

Answer B:
{b}

How far does answer A say the same as answer B? Compare content and conclusions only, not wording or language.
End with one line of the form
Score: N
where N is a number from 0 (they contradict each other) to 10 (they say the same)."""


async def model_utility(
    owner: str,
    utility: str,
    texts: Sequence[str],
    problem: Problem,
    ctx: Context,
    model: Model | None,
    max_new_tokens: int,
) -> tuple[Floats, str | None]:
    """The (T, T) utilities of texts by a model, and what was missing from them.

    An unreadable rating takes the mean of those that could be read. Without any, word F1 decides.

    Raises:
        CapabilityError: embeddings are wanted from a model that has none.
    """
    if len(texts) == 1:
        return np.ones((1, 1)), None
    judge = judge_of(owner, model, ctx)
    if utility == "embedding":
        embed = getattr(judge, "embed", None)
        if embed is None:
            raise CapabilityError(
                f"{owner} with utility=embedding needs embeddings; model {judge} has none. Give embed=… from Python, "
                "or use another utility."
            )
        vectors = embed(list(texts))
        return cosine(await vectors if inspect.isawaitable(vectors) else vectors), None
    pairs = [(i, j) for i in range(len(texts)) for j in range(len(texts)) if i != j]

    async def rate(i: int, j: int) -> float | None:
        def prompt(two: Sequence[str]) -> str:
            return _PROMPT.format(task=prompt_text(problem), a=two[0], b=two[1])

        cut = shortened(owner, judge, [texts[i], texts[j]], prompt, max_new_tokens)
        message = {"role": "user", "content": prompt(cut)}
        reply = await ask(ctx, judge, [message], owner, "utility", i, j, max_new_tokens=max_new_tokens)
        return None if reply.text is None else parse_score(reply.text)

    ratings = await gather_all(rate(i, j) for i, j in pairs)
    known = [r for r in ratings if r is not None]
    if not known:
        return token_f1(texts), f"no rating of {len(pairs)} could be read: token_f1 decides"
    out, missing = np.ones((len(texts), len(texts))), sum(known) / len(known)
    for (i, j), rating in zip(pairs, ratings, strict=True):
        out[i, j] = missing if rating is None else rating
    lost = len(pairs) - len(known)
    return out, f"{lost} of {len(pairs)} ratings could not be read" if lost else None
