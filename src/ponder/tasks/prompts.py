"""Questions as prompts: plain few-shot text for base-like models, or chat messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from ponder.core.problem import Prompt

Format = Literal["plain", "chat"]
Shot = tuple[str, str]
"""A question and its answer."""

CHAT_INSTRUCTION = "Solve the problem. End with one line of the form: The answer is X."
TAGGED_INSTRUCTION = "Solve the problem. End with the answer, all its lines, between <answer> and </answer>."
PLAIN_STOP = ("\n",)


def render(
    question: str, shots: Sequence[Shot], form: Format, instruction: str | None = None, *, tagged: bool = False
) -> Prompt:
    """The prompt that asks `question` after the examples in `shots`.

    `plain` gives blocks of `Q: …` and `A: …` that end with an open `A:`; `chat` gives one user message per question,
    the examples as earlier turns, and the instruction (None: ponder's own) as the system message. `tagged` is for
    answers of several lines: in chat they stand between tags.
    """
    if form == "plain":
        head = f"{instruction}\n\n" if instruction else ""
        return head + "".join(f"Q: {q}\nA: {a}\n\n" for q, a in shots) + f"Q: {question}\nA:"
    messages: list[dict[str, Any]] = []
    own = TAGGED_INSTRUCTION if tagged else CHAT_INSTRUCTION
    system = own if instruction is None else instruction
    if system:
        messages.append({"role": "system", "content": system})
    for q, a in shots:
        messages.append({"role": "user", "content": q})
        reply = f"<answer>\n{a}\n</answer>" if tagged else f"The answer is {a}."
        messages.append({"role": "assistant", "content": reply})
    messages.append({"role": "user", "content": question})
    return tuple(messages)


def first_line(output: str) -> str | None:
    """A plain-format answer: what stands before the first line break, trimmed; None if that is nothing."""
    line = output.strip().split("\n", 1)[0].strip()
    return line or None
