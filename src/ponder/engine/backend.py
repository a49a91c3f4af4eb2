"""What the decoder asks of the arithmetic below it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens to be appended to one sequence.

    Args:
        sequence: its number.
        start: how many tokens it holds already; the first of `tokens` gets this position.
        tokens: what is appended, at least one.
        wanted: of so many of the last tokens the logits are asked for.
        experts: experts asked for each token, None for the model's own number; the same for all of a sequence.
    """

    sequence: int
    start: int
    tokens: Sequence[int]
    wanted: int
    experts: int | None = None


class Backend(Protocol):
    """A model with a key-value cache that holds several sequences, numbered from 0.

    Attributes:
        sequences: how many it can hold.
        cells: how many distinct tokens it can hold.
        batch: most tokens that one call of `evaluate` may append.
    """

    sequences: int
    cells: int
    batch: int

    def evaluate(self, rows: Sequence[Row]) -> Logits:
        """Append all rows at once; logits [sum of wanted, vocabulary] in their order, before the next token.

        Raises:
            ModelError: the arithmetic failed; the caller frees the sequences concerned.
        """
        ...

    def fork(self, source: int, target: int, length: int) -> None:
        """Make the empty sequence `target` the first `length` tokens of `source`, without evaluating them."""
        ...

    def truncate(self, sequence: int, length: int) -> None:
        """Take back what a sequence holds after its first `length` tokens, at least one."""
        ...

    def rest(self, sequence: int) -> None:
        """This sequence will be forked, but not appended to."""
        ...

    def free(self, sequence: int) -> None:
        """Empty a sequence. What no other sequence shares is given back."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...
