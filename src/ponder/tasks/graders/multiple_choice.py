"""A letter among options."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ponder.core.problem import Problem
from ponder.errors import GraderError
from ponder.tasks.final_answer import final_answer, last_boxed
from ponder.tasks.graders.base import Grader, grader

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_OPEN = r"[*_(\[\"'$]*"
_STATED = re.compile(
    rf"(?:answer|option|choice)\b[*_]*(?:\s+is\b)?\s*[:=]?\s*{_OPEN}([A-Za-z])(?![\w'’])", re.IGNORECASE
)
_MARKED = re.compile(r"\(([A-Za-z])\)|^\s*\**([A-Za-z])\s*[.):]", re.MULTILINE)
_LONE = re.compile(r"(?<![\w'’])([A-Z])(?![\w'’])")
_WORD = re.compile(r"\s+([a-z]+)")
_AFTER_A_CHOICE = {"because", "since", "as", "is", "and", "or", "but", "with", "for"}


@grader("multiple_choice")
@dataclass(frozen=True)
class MultipleChoice(Grader):
    """Right if the chosen letter, or the chosen option's text, is the reference.

    The reference is a letter, the text of an option, the label of an option, or (where options are known) its number
    counted from 0. Options are the metadata `options`: texts, a mapping from label to text, or a mapping with `text`
    and `label`.
    """

    def extract(self, output: str) -> str | None:
        """The chosen letter in upper case, else a short stated answer; None if there is neither."""
        boxed = last_boxed(output)
        if boxed is not None:
            inside = re.sub(r"\\text\w*\{([^{}]*)\}", r"\1", boxed).strip(" ().")
            if len(inside) == 1 and inside.isalpha():
                return inside.upper()
        else:
            whole = output.strip().strip("()[].:* ")
            if len(whole) == 1 and whole.isalpha():
                return whole.upper()
            for pattern in (_STATED, _MARKED, _LONE):
                for found in reversed(list(pattern.finditer(output))):
                    letter = next(g for g in found.groups() if g)
                    if not _is_word(letter, output, found.end()):
                        return letter.upper()
        text = final_answer(output)
        return text if text is not None and len(text) <= 80 else None

    def score(self, problem: Problem, output: str, answer: str) -> float:
        """0 or 1.

        Raises:
            GraderError: the reference is neither a letter nor one of the options.
        """
        options = read_options(problem.metadata.get("options"))
        truth = _position(problem.reference, options, is_reference=True)
        if truth is None:
            raise GraderError(
                f"multiple_choice: the reference of {problem.id} is neither a letter nor an option: "
                f"{problem.reference!r} (options: {', '.join(text for _, text in options) or 'none'})"
            )
        return float(_position(answer, options) == truth)


def read_options(options: Any) -> list[tuple[str, str]]:
    """Label and text of each option; no label is "".

    >>> read_options(["red", "blue"]), read_options({"text": ["red"], "label": ["1"]})
    ([('', 'red'), ('', 'blue')], [('1', 'red')])
    """
    if isinstance(options, Mapping):
        if isinstance(options.get("text"), Sequence) and isinstance(options.get("label"), Sequence):
            return [(str(label), str(text)) for label, text in zip(options["label"], options["text"], strict=False)]
        return [(str(label), str(text)) for label, text in options.items()]
    if isinstance(options, Sequence) and not isinstance(options, str):
        return [("", str(text)) for text in options]
    return []


def with_options(question: str, options: Any) -> str:
    """The question followed by its lettered options, unless it already holds them all."""
    texts = [text for _, text in read_options(options)][: len(LETTERS)]
    if not texts or all(text in question for text in texts):
        return question
    return question + "".join(f"\n{letter}. {text}" for letter, text in zip(LETTERS, texts, strict=False))


def _position(answer: Any, options: list[tuple[str, str]], *, is_reference: bool = False) -> int | str | None:
    """Which option is meant: its position, or a text that is none of them; None for a reference without meaning."""
    text = str(answer).strip()
    folded = _fold(text)
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(options):
        return answer
    labels, texts = [label.casefold() for label, _ in options], [_fold(option) for _, option in options]
    bare = text.strip("().").casefold()
    for known, wanted in ((labels, bare), (texts, folded)):
        if wanted and wanted in known:
            return known.index(wanted)
    if len(bare) == 1 and bare.upper() in LETTERS:
        return LETTERS.index(bare.upper())
    if is_reference:
        if bare.isdecimal() and int(bare) < len(options):
            return int(bare)
        return None if options or answer is None or not folded or bare.isdecimal() else folded
    return folded


def _fold(text: str) -> str:
    return " ".join(text.split()).strip(".").casefold()


def _is_word(letter: str, text: str, end: int) -> bool:
    """Whether a lone letter is the article `a` or the pronoun `I` of running text."""
    following = _WORD.match(text, end) if letter in "aAiI" else None
    return following is not None and not (letter == "A" and following[1] in _AFTER_A_CHOICE)
