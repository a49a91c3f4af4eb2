"""Words that must not appear: a verifier of next steps without a model.

Scores every possible continuation of a text at once: 1 if it holds no banned word, 0 if it does. A text that ends with
the beginning of one scores in between, by how much of the word is there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.core.registry import verifier
from ponder.core.state import State
from ponder.core.verifier import NextStepVerifier, Scorable, output_of
from ponder.errors import ParameterError


@verifier("banned_words", how="verification:process:rule", where="open_ended")
@dataclass(frozen=True)
class BannedWords(NextStepVerifier):
    """1 for a text without banned words, 0 for one with any.

    Args:
        words: whole words, compared without regard to case; none bans nothing.
    """

    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if any(not word.strip() for word in self.words):
            raise ParameterError(self, "words", self.words, allowed="a list of words that are not empty")

    def rate(self, text: str) -> float:
        """1, 0, or in between while the last word may still become a banned one.

        >>> [BannedWords(("bomb",)).rate(t) for t in ("A bombast", "A Bomb!", "a bo")]
        [1.0, 0.0, 0.75]
        """
        worst = 1.0
        for word in self.words:
            if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE):
                return 0.0
            for length in range(len(word) - 1, 0, -1):
                if re.search(rf"(?<!\w){re.escape(word[:length])}$", text, re.IGNORECASE):
                    worst = min(worst, 1.0 - 0.5 * length / len(word))
                    break
        return worst

    async def score_next(
        self, problem: Problem, states: Sequence[State], steps: Sequence[Sequence[Any]], ctx: Context
    ) -> Sequence[Sequence[float]]:
        """Ratings of each state's text with each step added."""
        texts = [str(ctx.process.output(state)) for state in states]
        return [[self.rate(text + str(step)) for step in own] for text, own in zip(texts, steps, strict=True)]

    async def score(self, problem: Problem, items: Sequence[Scorable], ctx: Context) -> Sequence[float]:
        """Ratings of whole texts."""
        return [self.rate(str(i.output if isinstance(i, Candidate) else output_of(i, ctx))) for i in items]
