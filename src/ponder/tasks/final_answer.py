"""The answer inside a text."""

from __future__ import annotations

import re

NUMBER = re.compile(
    r"""
    (?:(?<![A-Za-z0-9_)\]])[-+])?                                    # a sign, unless it stands between two terms
    (?>
        \\[dt]?frac\s?\{\s?-?\d+(?:\.\d+)?\s?\}\s?\{\s?\d+(?:\.\d+)?\s?\}
      | (?<![A-Za-z0-9_])(?<!\d\.)
        (?: \d+\ \d+/\d+ | \d+\s?\\[dt]?frac\s?\{\s?\d+\s?\}\s?\{\s?\d+\s?\}          # a mixed number
          | (?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?
            (?: [eE][-+]?\d+(?![A-Za-z0-9]) | \s?(?:\\times|\\cdot|×)\s?10\s?\^\s?(?:[-+]?\d+|\{[-+]?\d+\}) )?
            (?:/\d+)?
        )
      | (?<![A-Za-z0-9_.])\.\d+
    )
    (?!(?:st|nd|rd|th)\b)                                            # not an ordinal
    (?:\s?\\?%)?
    """,
    re.VERBOSE,
)
r"""A number in running text: thousands, decimals, `a/b`, `3 1/2`, `\frac`, exponents, per cent; not part of a word."""

_BRACE = re.compile(r"\\f?boxed\s?\{|\\[{}]|[{}]")
_HASHES = re.compile(r"####(?!#)")
_STATED = re.compile(
    r"answer\b(?:\*\*|__)?(?:(?:\s+(?:to|for|of)\b[^.:=?\n]{0,80}?)?\s+(?:is|would be)\b\s?:?|\s*[:=])", re.IGNORECASE
)
_SENTENCE_END = re.compile(
    r"(?<!\bSt)(?<!\bDr)(?<!\bMr)(?<!\bMs)(?<!\bMrs)(?<!\bMt)(?<!\bNo)(?<!\bvs)(?<!\b[A-Z])[.!?](?=\s+\S)|[。！？]"
)
_REMARK = re.compile(r"[,;]\s+(?!(?:and|or)\b)(?=[A-Za-z])|\s+(?:because|since|which|as)\b|\s+[—–(]")
_EMPHASIS = re.compile(r"(?<![\w)*])\*\*(?=\S)([^*]*[^*\s])\*\*(?![\w(*])")
_WRAPPED = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{([^{}]*)\}")
_PAIRS = (("**", "**"), ("__", "__"), ("$", "$"), ("`", "`"), ('"', '"'), ("\\(", "\\)"), ("\\[", "\\]"), ("*", "*"))
_MINUS = str.maketrans({"−": "-", "﹣": "-", "－": "-"})
_SHORT = 80
_LONG = 1000


def final_answer(text: str) -> str | None:
    r"""The answer that a free text ends with, or None.

    In this order: the last complete `\boxed{…}`; the last `<answer>…</answer>`; the last `#### …` (a number, or the
    text's last line); the last "answer is …" or "answer: …", up to the end of its sentence; the last number; the whole
    text if it is one short line. Takes time proportional to the text's length, however malformed it is.

    >>> final_answer("17+25 is 41, no, the answer is **42**.")
    '42'
    >>> final_answer(r"so \boxed{\frac{1}{2}}")
    '\\frac{1}{2}'
    """
    text = text.translate(_MINUS)
    boxed = last_boxed(text)
    marked = clean(boxed, end=".,;") if boxed is not None else ""
    marked = marked or _tagged(text) or _after_hashes(text) or _stated(text)
    if marked:
        return marked
    last = None
    for last in NUMBER.finditer(text):  # noqa: B007
        pass
    if last is not None:
        return clean(last.group())
    whole = clean(text)
    return whole if whole and "\n" not in whole and len(whole) <= _SHORT else None


def last_boxed(text: str) -> str | None:
    r"""What the last complete `\boxed{…}` holds, braces balanced; None if there is none."""
    opened: list[int | None] = []
    best: tuple[int, int] | None = None
    for found in _BRACE.finditer(text):
        mark = found.group()
        if mark == "}":
            start = opened.pop() if opened else None
            if start is not None and (best is None or start > best[0]):
                best = (start, found.start())
        elif mark[-1] == "{" and mark != "\\{":
            opened.append(None if mark == "{" else found.end())
    return None if best is None else text[best[0] : best[1]]


def clean(answer: str, *, end: str = ".!,;。！") -> str:
    """An answer without the marks around it: emphasis, dollar signs, quotes, what ends a sentence (`end`)."""
    text = answer.translate(_MINUS).strip()
    while len(text) <= _LONG:
        stripped = text.rstrip(end).strip().replace("\\%", "%").replace("\\$", "$")
        stripped = _EMPHASIS.sub(r"\1", stripped)
        if stripped.count("**") == 1:
            stripped = stripped.removeprefix("**").removesuffix("**").strip()
        for left, right in _PAIRS:
            if len(stripped) >= len(left) + len(right) and stripped.startswith(left) and stripped.endswith(right):
                stripped = stripped[len(left) : len(stripped) - len(right)].strip()
        whole = _WRAPPED.fullmatch(stripped)
        if whole:
            stripped = whole.group(1).strip()
        if stripped.startswith("$") and NUMBER.fullmatch(stripped[1:]):
            stripped = stripped[1:]
        if stripped.endswith("%") and NUMBER.fullmatch(stripped):
            stripped = stripped.replace(" ", "")
        if stripped == text:
            break
        text = stripped
    return text


def _tagged(text: str) -> str:
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, max(end, 0))
    return clean(text[start + len("<answer>") : end]) if start >= 0 else ""


def _after_hashes(text: str) -> str:
    """Four hashes also begin headings: only a number counts, or what the text ends with."""
    body = text.rstrip()
    for found in reversed(list(_HASHES.finditer(body))):
        start = _skip_space(body, found.end())
        stop = body.find("\n", start)
        line = clean(body[start:] if stop < 0 else body[start:stop])
        if line and (stop < 0 or NUMBER.fullmatch(line)):
            return line
    return ""


def _stated(text: str) -> str:
    for found in reversed(list(_STATED.finditer(text))):
        start = _skip_space(text, found.end())
        line = text[start:].split("\n", 1)[0] if start < len(text) else ""
        sentence = _SENTENCE_END.split(line, maxsplit=1)[0]
        remark = _REMARK.search(sentence)
        if remark and NUMBER.fullmatch(clean(sentence[: remark.start()])):
            sentence = sentence[: remark.start()]
        stated = clean(sentence)
        if stated:
            return stated
    return ""


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at
