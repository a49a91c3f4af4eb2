"""Next steps listed by a model in one call, one per line (the "propose" generation of tree of thoughts)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ponder.core.context import Context
from ponder.core.model import Completion, Model, Sampling
from ponder.core.problem import Prompt, instructed
from ponder.core.state import State

PROPOSE = """Solution so far:
{written}

Propose {most} different next steps that continue it, one per line, and nothing else. A step that completes the solution
ends with "Answer:" and the final answer."""

_NUMBERING = re.compile(r"^\s*(?:\(?\d{1,2}[.):]|[-*•])\s+")
_ANSWER = re.compile(r"\banswer\s*[:=]", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Listing:
    """How steps are listed.

    Attributes:
        sampling: of the call.
        step_tokens: length limit of one step.
        left: tokens that the whole answer may still have.
        delimiter: written after each step.
        marker: text with which a step completes the answer, besides "Answer:".
    """

    sampling: Sampling
    step_tokens: int
    left: int
    delimiter: str
    marker: str | None


def parse_steps(text: str) -> list[str]:
    r"""The different lines of a list, without their numbers and bullets.

    >>> parse_steps("1. Add 2.\n2) Add 3.\n\n- Add 2.")
    ['Add 2.', 'Add 3.']
    """
    lines = (_NUMBERING.sub("", line).strip() for line in text.splitlines())
    return list(dict.fromkeys(line for line in lines if line))


async def proposed(
    model: Model, prompt: Prompt, state: State, slots: Sequence[int], ctx: Context, listing: Listing
) -> list[State]:
    """At most a child for each slot, from one call; a marked one if no step could be read, none if the budget is short.

    The call's tokens are shared among the children by their length.
    """
    written = "".join(state.steps()).strip() or "(nothing yet)"
    question = PROPOSE.replace("{most}", str(len(slots))).replace("{written}", written)
    asked = ({"role": "user", "content": f"{prompt}\n\n{question}"},) if isinstance(prompt, str) else None
    sampling = replace(listing.sampling, max_new_tokens=listing.step_tokens * len(slots))
    seeds = ctx.seeds_for(state, slots[:1])
    drawn = ctx.generate(model, asked or instructed(prompt, question), seeds=seeds, sampling=sampling)
    return [child for _, reply in [item async for item in drawn] for child in _children(state, slots, reply, listing)]


def _children(state: State, slots: Sequence[int], reply: Completion, listing: Listing) -> list[State]:
    steps = parse_steps(reply.text)
    if reply.finish == "length" and len(steps) > 1:
        steps.pop()  # cut in the middle
    error = reply.error or (None if steps else f"no step could be read from {reply.text[:80]!r}")
    if error is not None:
        return [state.child(slots[0], "", finish="error", error=error)]
    steps = steps[: len(slots)]
    children = []
    for slot, step in zip(slots, steps, strict=False):
        n_tokens = max(1, round(reply.n_tokens * len(step) / sum(map(len, steps))))
        complete = _ANSWER.search(step) or (listing.marker is not None and listing.marker in step)
        finish = "stop" if complete else "length" if n_tokens >= listing.left else None
        children.append(state.child(slot, step + listing.delimiter, n_tokens=n_tokens, finish=finish))
    return children
