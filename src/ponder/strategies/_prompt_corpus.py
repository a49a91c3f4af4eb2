"""A corpus of prompts, and which of its phrases suit a prompt: TF-IDF over words, cosine, nothing learned."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import orjson

from ponder.errors import ParameterError

Vector = Mapping[str, float]


@dataclass(frozen=True)
class Corpus:
    """Captions with their modifiers.

    Attributes:
        captions: texts.
        modifiers: of each caption; its parts between commas where the file gives none.
        skipped: lines that could not be read.
    """

    captions: tuple[str, ...]
    modifiers: tuple[tuple[str, ...], ...]
    skipped: int = 0

    @cached_property
    def _idf(self) -> dict[str, float]:
        counts = Counter(word for caption in self.captions for word in set(words(caption)))
        return {word: math.log((1 + len(self.captions)) / (1 + n)) + 1.0 for word, n in counts.items()}

    def vector(self, text: str) -> Vector:
        """Words with their TF-IDF weights, of length 1; empty if no word is in the corpus."""
        found = {w: n * self._idf[w] for w, n in Counter(words(text)).items() if w in self._idf}
        norm = math.sqrt(sum(v * v for v in found.values()))
        return {w: v / norm for w, v in found.items()} if norm else {}

    def nearest(self, prompt: str, most: int) -> list[tuple[float, int]]:
        """Cosines and places of the captions nearest to a prompt, at most `most`, none that shares no word."""
        own = self.vector(prompt)
        near = [(_cosine(own, self.vector(caption)), i) for i, caption in enumerate(self.captions)]
        return sorted((p for p in near if p[0] > 0), key=lambda p: (-p[0], p[1]))[:most]

    def suited(self, prompt: str, captions: int, most: int) -> list[str]:
        """Modifiers of the nearest captions, of the nearer captions first, then by their own cosine to the prompt.

        Modifiers that the prompt holds already are left out; each comes once.
        """
        own, held = self.vector(prompt), " ".join(words(prompt))
        found: dict[str, None] = {}
        for _, place in self.nearest(prompt, captions):
            ranked = sorted(self.modifiers[place], key=lambda m: -_cosine(own, self.vector(m)))
            found.update(dict.fromkeys(m for m in ranked if words(m) and " ".join(words(m)) not in held))
        return list(found)[:most]


@lru_cache(maxsize=8)
def read_corpus(path: str) -> Corpus:
    """A JSONL file: each line an object with `prompt` (or `text`) and perhaps `modifiers`; other lines are skipped.

    Raises:
        ParameterError: the file cannot be read, or no line can.
    """
    captions, modifiers, skipped = [], [], 0
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError as error:
        raise ParameterError("prompt_refinement", "corpus", path, allowed="a JSONL file", hint=str(error)) from error
    for line in filter(bytes.strip, lines):
        try:
            row = orjson.loads(line)
            caption = row.get("prompt") or row.get("text")
            own = row.get("modifiers") or [part.strip() for part in caption.split(",") if part.strip()]
            if not isinstance(caption, str) or not all(isinstance(m, str) for m in own):
                raise TypeError
        except (ValueError, AttributeError, TypeError):
            skipped += 1
            continue
        captions.append(caption)
        modifiers.append(tuple(own))
    if not captions:
        allowed = 'a JSONL file with lines such as {"prompt": "…", "modifiers": ["…"]}'
        raise ParameterError(
            "prompt_refinement", "corpus", path, allowed=allowed, hint=f"{skipped} lines were unusable"
        )
    return Corpus(tuple(captions), tuple(modifiers), skipped)


def words(text: str) -> list[str]:
    """Lower-case words and numerals."""
    return re.findall(r"\w+", text.casefold())


def _cosine(a: Vector, b: Vector) -> float:
    return sum(value * b.get(word, 0.0) for word, value in a.items())


def merged(prompt: str, modifiers: Sequence[str]) -> str:
    """Prompt and modifiers with commas between them.

    >>> merged("a seven", ["bright", "large"])
    'a seven, bright, large'
    """
    return ", ".join([prompt, *modifiers])
