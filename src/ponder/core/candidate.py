"""A finished output, and what became of the ones that were lost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ponder.core.state import State


@dataclass(frozen=True, slots=True)
class Candidate:
    """One finished output of a strategy. Can be built by hand, with no model.

    Args:
        output: what was produced.
        answer: what it answers, in the form used for voting; None or "" is invalid and never wins.
        logprob: sum over tokens, in nats; None if unknown.
        n_tokens: tokens generated for it.
        scores: verifier name to score (larger is better).
        index: draw order.
        finish: why it ended (`stop`, `length`, `stopped_early`, `cancelled`, `error`).
        error: why it failed, if it did; `output` is then None.
        meta: settings it was drawn under (temperature, language, …).
        state: its leaf in the tree, where there is one.
    """

    output: Any
    answer: Any = None
    logprob: float | None = None
    n_tokens: int | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    index: int = 0
    finish: str = "stop"
    error: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    state: State | None = field(default=None, compare=False, repr=False)

    @property
    def mean_logprob(self) -> float | None:
        """Log-probability per token, in nats; None if unknown, NaN kept."""
        if self.logprob is None or not self.n_tokens:
            return None
        return self.logprob / self.n_tokens

    @property
    def valid(self) -> bool:
        """Whether it has an answer that may win."""
        return self.error is None and is_valid(self.answer)


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that went wrong with one sample and did not end the run."""

    stage: str
    index: int | None
    kind: str
    message: str


def is_valid(answer: Any) -> bool:
    """None, empty or blank text, and NaN are no answers."""
    if answer is None:
        return False
    if isinstance(answer, str):
        return bool(answer.strip())
    return not (isinstance(answer, float) and math.isnan(answer))
