"""The answer inside a text."""

from __future__ import annotations

import re

_NUMBER = r"[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?|[-+−]?\.\d+"
_LAST_NUMBER = re.compile(rf"(?<![\w.])(?:{_NUMBER})(?![\w/])")
_STATED = re.compile(r"answer(?:\s+is|\s*[:=])\s*[:=]?\s*(.+)", re.IGNORECASE)
_HASHES = re.compile(r"####\s*(.+)")
_SHORT = 80


def final_answer(text: str) -> str | None:
    r"""The answer that a free text ends with, or None.

    In this order: the last `\boxed{…}`; the last `#### …`; the last "answer is …" or "answer: …"; the last
    number; the whole text if it is one short line.

    >>> final_answer("17+25 is 41, no, the answer is **42**.")
    '42'
    >>> final_answer(r"so \boxed{\frac{1}{2}}")
    '\\frac{1}{2}'
    """
    boxed = last_boxed(text)
    if boxed is not None:
        return clean(boxed) or None
    for pattern in (_HASHES, _STATED):
        found = pattern.findall(text)
        if found:
            stated = clean(found[-1])
            if stated:
                return stated
    numbers = _LAST_NUMBER.findall(text)
    if numbers:
        return clean(numbers[-1])
    whole = clean(text)
    return whole if whole and "\n" not in whole and len(whole) <= _SHORT else None


def last_boxed(text: str) -> str | None:
    r"""What the last complete `\boxed{…}` holds, braces balanced; None if there is none."""
    at = len(text)
    while (at := text.rfind("\\boxed", 0, at)) >= 0:
        start = text.find("{", at)
        depth = 0
        for i in range(start, len(text)) if start >= 0 else ():
            depth += {"{": 1, "}": -1}.get(text[i], 0)
            if depth == 0:
                return text[start + 1 : i]
    return None


def clean(answer: str) -> str:
    """An answer without the marks around it: emphasis, dollar signs of LaTeX, a final full stop."""
    text = answer.strip().replace("−", "-")
    while True:
        stripped = text.strip().rstrip(".!,;").strip()
        for left, right in (("**", "**"), ("$", "$"), ("`", "`"), ('"', '"'), ("\\(", "\\)"), ("*", "*")):
            if len(stripped) > len(left) + len(right) - 1 and stripped.startswith(left) and stripped.endswith(right):
                stripped = stripped[len(left) : len(stripped) - len(right)]
        if stripped.startswith("$") and re.fullmatch(_NUMBER, stripped[1:]):
            stripped = stripped[1:]
        if stripped == text:
            return text
        text = stripped
