"""What everything that asks a model about an answer shares: who is asked, about what, and how a rating is read."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

from ponder.core.candidate import Failure
from ponder.core.context import Context
from ponder.core.model import Model, Sampling
from ponder.core.problem import Problem, Prompt
from ponder.errors import BudgetError, ParameterError, VerifierError

Read = TypeVar("Read")

_TRIES = 3
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


async def ask_json(
    judge: Model, message: str, read: Callable[[Any], Read], otherwise: Read, ctx: Context, *, what: str,
    max_new_tokens: int = 512,
) -> Read:  # fmt: skip
    """What a model's JSON says, asked once for a message however often it is wanted.

    Args:
        judge: who is asked: first at temperature 0, then twice more where a reply is of no use.
        message: with what.
        read: makes the JSON into what is wanted; a ValueError, TypeError or KeyError says that it is of no use.
        otherwise: what it is if no reply is; a failure is then recorded.
        ctx: the run's context.
        what: a word for seeds and messages.
        max_new_tokens: length limit of a reply.

    Raises:
        VerifierError: a call failed for good.
        BudgetError: the budget allows none.
    """
    key = ("ask_json", str(judge), message)
    async with ctx.memo.setdefault((*key, "lock"), asyncio.Lock()):
        if key not in ctx.memo:
            found, trouble = otherwise, ""
            for turn in range(_TRIES):
                (reply,) = await ask(
                    judge, message, ctx, seeds=ctx.seeds(1, what, message, turn),
                    temperature=0.7 if turn else 0.0, max_new_tokens=max_new_tokens,
                )  # fmt: skip
                try:
                    found = read(parse_json(reply))
                    break
                except (ValueError, TypeError, KeyError) as error:
                    trouble = f"{type(error).__name__}: {error}; the last reply: {reply[-120:]!r}"
            else:
                ctx.failures.append(Failure("verify", None, what, f"{_TRIES} replies were of no use: {trouble}"))
            ctx.memo[key] = found
    return cast(Read, ctx.memo[key])


def parse_json(reply: str) -> Any:
    """The first JSON list or object in a reply, whatever is written around it.

    Raises:
        ValueError: there is none.

    >>> parse_json('Here it is: ["a", {"b": 1}] Enjoy!')
    ['a', {'b': 1}]
    """
    for start in re.finditer(r"[\[{]", reply):
        try:
            return json.JSONDecoder().raw_decode(reply, start.start())[0]
        except ValueError:
            continue
    raise ValueError("no JSON list or object")


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


def reworded(prompt: Prompt, text: str) -> Prompt:
    """A prompt that says `text`: of messages, the last of the user's is replaced.

    >>> reworded(({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}), "Hello")[1]["content"]
    'Hello'
    """
    if isinstance(prompt, str):
        return text
    messages = list(prompt)
    last = max((i for i, m in enumerate(messages) if m.get("role") == "user"), default=len(messages) - 1)
    messages[last] = {**messages[last], "content": text}
    return tuple(messages)


def asking(problem: Problem, text: str) -> Problem:
    """The same problem, as one that asks for `text`."""
    metadata = {**problem.metadata, "question": text} if "question" in problem.metadata else problem.metadata
    return replace(problem, prompt=reworded(problem.prompt, text), metadata=metadata)
