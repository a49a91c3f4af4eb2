"""What a decoder is asked for, and what it tells."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ponder.core.model import Sampling
from ponder.engine.backend import Logits
from ponder.engine.leaf import Leaf, Token
from ponder.engine.lookup import Acceptance, Lookup


class Constraint(Protocol):
    """What a text may be, token by token."""

    def allow(self, logits: Logits) -> None:
        """Set the logits of the tokens that may not come next to -inf, in place."""
        ...

    def take(self, token: int) -> None:
        """Note the token that was drawn."""
        ...


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to the text at a position of a job.

    A token was drawn (`token`, and the text it `added`), it failed (`error`), or else it has ended.
    """

    position: int
    leaf: Leaf | None = None
    added: str = ""
    token: Token | None = None
    error: Exception | None = None


@dataclass(eq=False)
class Job:
    """Texts after one prompt.

    Args:
        prompt: its tokens, at least one.
        sampling: how they are drawn; `max_new_tokens` must fit the context.
        seeds: one for each text.
        tell: called in the decoder's thread with what happened in a step.
        watched: tell of every token, not only of ends.
        constrain: makes the constraint of one text, None for none.
        lookup: guess what comes next by what was written before, where that pays.
        given: instead of drawing, take these tokens as the one text's: for their log-probabilities.

    Attributes:
        reused: how many tokens of the prompt were in the cache when the first text began.
        waiting: positions that have no sequence yet.
        logits: before the token after the prompt.
        reading: whether a sequence is evaluating the prompt.
        written: of the prompt and its texts, to guess by.
        acceptance: how often the guesses were right.
        read: log-probabilities of `given`, as far as evaluated.
    """

    prompt: Sequence[int]
    sampling: Sampling
    seeds: Sequence[int]
    tell: Callable[[Sequence[Event]], None]
    watched: bool = False
    constrain: Callable[[], Constraint] | None = None
    given: Sequence[int] | None = None
    lookup: bool = True
    reused: int | None = field(default=None, init=False)
    waiting: deque[int] = field(default_factory=deque, init=False)
    logits: Logits | None = field(default=None, init=False)
    reading: bool = field(default=False, init=False)
    written: Lookup | None = field(default=None, init=False)
    acceptance: Acceptance | None = field(default=None, init=False)
    read: list[float] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.waiting.extend(range(len(self.seeds)))
