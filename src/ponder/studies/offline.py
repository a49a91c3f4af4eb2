"""A model that only remembers: stored completions answer, and nothing is ever sent.

With it the same strategies, contexts and selectors run on a study's store as ran on the model, so
offline re-selection is no second implementation of anything.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import ClassVar

from ponder.core.model import Capabilities, Completion, Model, Request
from ponder.core.problem import Prompt
from ponder.errors import ModelError


@dataclass
class Offline(Model):
    """Stands for the model of a stored study.

    Args:
        told: the model's text form, for tables.
        known: its identity, which the stored keys contain.
        capabilities: what it could do.
    """

    told: str
    known: str
    capabilities: Capabilities = field(default_factory=lambda: Capabilities(logprobs=True))

    name: ClassVar[str] = "offline"

    def __str__(self) -> str:
        return self.told

    @property
    def identity(self) -> str:
        """The stored model's."""
        return self.known

    def count_tokens(self, prompt: Prompt) -> int:
        """Nothing is sent, so no prompt needs room."""
        return 0

    async def sample(self, request: Request) -> AsyncIterator[tuple[int, Completion]]:
        """Refuse: what is asked for is not in the store.

        Raises:
            ModelError: always.
        """
        if request.n:
            raise ModelError(f"the store holds no such draw of {self.told}; a smaller number of samples may be there")
        yield 0, Completion("", 0)
