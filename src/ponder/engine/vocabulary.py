"""What the engine asks of a vocabulary: text to tokens and back, and the chat template."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

from ponder.core.problem import Prompt

REMEMBERED = 1024
"""Prompts whose tokens a vocabulary remembers."""


class Vocabulary(Protocol):
    """Tokens and what they say.

    Attributes:
        size: tokens; the model has as many logits.
        begin: the token that begins texts, -1 if there is none.
        end: the token that ends texts.
        ends: the tokens that end an output.
    """

    size: int
    begin: int
    end: int

    @property
    def ends(self) -> frozenset[int]:
        """See above."""
        ...

    def __hash__(self) -> int: ...

    def tokens(self, text: str, /) -> tuple[int, ...]:
        """The tokens of a prompt, control tokens read and the one that begins every text included.

        An empty one is the token that begins (or, without one, ends) texts: something must be evaluated.
        """
        ...

    def plain(self, text: str) -> list[int]:
        """The tokens of a text that goes on: none put before it, control tokens read as text."""
        ...

    def text(self, prompt: Prompt) -> str:
        """Text as it is; messages through the model's chat template."""
        ...

    def piece(self, token: int) -> bytes:
        """A token's bytes; those of a control token are empty."""
        ...

    def pieces(self) -> list[bytes]:
        """The bytes of all tokens, in their order."""
        ...

    def named(self, tokens: Sequence[int]) -> list[str]:
        """How tokens are written in a list of alternatives, control tokens by their names."""
        ...

    def control(self) -> list[int]:
        """The tokens that are no text."""
        ...


@lru_cache(8)
def by_name(vocabulary: Vocabulary) -> dict[str, int]:
    """The token that a name in a list of alternatives stands for; names that parts of characters share are out."""
    names = vocabulary.named(range(vocabulary.size))
    return {name: token for token, name in reversed(list(enumerate(names))) if "\ufffd" not in name}
