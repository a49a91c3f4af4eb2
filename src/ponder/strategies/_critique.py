"""Asking a model what is wrong with an attempt."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ponder.core.candidate import Failure
from ponder.core.context import Context
from ponder.core.model import Model, Sampling
from ponder.core.problem import Problem

_VERDICT = re.compile(r"^\W*verdict\W+(yes|no)\b.*$", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: the text without its verdict lines, and the last verdict (None if there is none)."""

    text: str
    accepted: bool | None


async def ask(
    ctx: Context, model: Model, message: str, *place: object, max_new_tokens: int, temperature: float = 0.0
) -> Reply | None:
    """One reply to a message, charged to the stage `critique`; None, and a failure or shortfall, if there is none.

    Args:
        ctx: the run's context.
        model: who is asked.
        message: with what.
        place: names the call within the problem, for its seed.
        max_new_tokens: length limit of the reply.
        temperature: of the reply.
    """
    scope = ctx.staged("critique")
    sampling = Sampling(temperature=temperature, max_new_tokens=max_new_tokens)
    landing = scope.generate(
        model, ({"role": "user", "content": message},), seeds=ctx.seeds(1, "critique", *place), sampling=sampling
    )
    replies = [reply async for _, reply in landing]
    scope.note_sequential()
    if not replies:
        return None
    if replies[0].error is not None:
        ctx.failures.append(Failure("critique", None, replies[0].error.partition(":")[0], replies[0].error))
        return None
    return read(replies[0].text)


def read(text: str) -> Reply:
    r"""A reply and its verdict; one that is nothing but a verdict is put in words.

    >>> read("Looks right.\nVerdict: Yes"), read("No verdict here.")
    (Reply(text='Looks right.', accepted=True), Reply(text='No verdict here.', accepted=None))
    >>> read("Verdict: No")
    Reply(text='The answer should be written again.', accepted=False)
    """
    verdicts = _VERDICT.findall(text)
    accepted = verdicts[-1].lower() == "yes" if verdicts else None
    said = {True: "Nothing needs to be changed.", False: "The answer should be written again.", None: ""}[accepted]
    return Reply(_VERDICT.sub("", text).strip() or said, accepted)


def filled(template: str, problem: Problem, **parts: object) -> str:
    """A template with `{problem}` and other parts put in; other braces stay as they are."""
    from ponder.core.judging import prompt_text

    for name, part in {"problem": prompt_text(problem), **parts}.items():
        template = template.replace(f"{{{name}}}", str(part))
    return template
