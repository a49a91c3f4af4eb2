"""Prompt-lookup decoding: the next tokens are guessed to be those that followed when the same was written before.

Paper    Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding"; Saxena 2023, "Prompt
         Lookup Decoding": the draft is looked up, no second model writes it.
Equal    A step evaluates a text's last token and its draft together; the tokens drawn are those that would have been
         drawn one by one.
Differs  A position draws with its text's own next number and the draft holds as far as it equals what was drawn, so a
         seed gives the same text with and without drafts; the papers accept with the probability that keeps the
         distribution. A draft that is one certain guess is accepted as often either way.
         The index holds all texts of a prompt, not only the text's own past. How many tokens are drafted is decided
         in every step by what they are expected to bring and what the step costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import numpy.typing as npt

MOST = 7
"""Tokens of the longest draft."""
SIZES = (4, 3, 2, 1)
"""How many last tokens are looked up; the longest that was written before counts."""
TEXTS = 8
"""Texts under way up to which anything is looked up: measured to be worth it at 1, and to lose a little at 64."""
LEAD = 4
"""Tokens that a text may be ahead of its request's slowest and still be drafted for."""
_START = {4: 0.5, 3: 0.35, 2: 0.25, 1: 0.1}
"""Accepted of the first tokens, before anything is known."""
_MEMORY = 64
"""Tokens over which acceptance is averaged."""
_MARGIN = 1.1
"""A step with drafts must promise so many times the tokens a second of one without."""

Seconds = npt.NDArray[np.float64]
"""What a step costs by its number of tokens, shape [most tokens + 1]."""


@dataclass(frozen=True, slots=True)
class Draft:
    """Guessed tokens, and how many tokens before them were found together."""

    tokens: Sequence[int]
    size: int


class Acceptance:
    """How often a guess is right, by the number of tokens before it that were found together.

    A guess counts whether or not it was evaluated: what is drawn shows if it would have been right. So nothing has to
    be tried at a loss to learn that it has begun to pay.

    Args:
        start: what to begin with, as after a few tokens.
    """

    def __init__(self, start: Acceptance | None = None) -> None:
        self._chance: dict[int, float] = dict(_START) if start is None else dict(start._chance)
        self._seen = dict.fromkeys(SIZES, 4)

    def learn(self, draft: Draft, drawn: Sequence[int]) -> None:
        """Compare a draft with the tokens drawn in its place, up to the first that differs."""
        size = draft.size
        for guess, token in zip(draft.tokens, drawn, strict=False):
            self._seen[size] = min(self._seen[size] + 1, _MEMORY)
            self._chance[size] += ((guess == token) - self._chance[size]) / self._seen[size]
            if guess != token:
                return
            size = min(size + 1, SIZES[0])

    def chances(self, draft: Draft) -> list[float]:
        """The probability that a draft's first token, first two, and so on are right."""
        out, all_right = [], 1.0
        for size in range(draft.size, draft.size + len(draft.tokens)):
            all_right *= self._chance[min(size, SIZES[0])]
            out.append(all_right)
        return out


class Lookup:
    """What was written where in a prompt and in the texts after it.

    Args:
        prompt: its tokens.
    """

    def __init__(self, prompt: Sequence[int]) -> None:
        self._prompt = list(prompt)
        self._places: dict[tuple[int, ...], tuple[list[int], int]] = {}
        self._in_prompt = {
            size: dict(zip(zip(*(self._prompt[i:-1] for i in range(size)), strict=False), count(size), strict=False))
            for size in SIZES
        }

    def text(self) -> list[int]:
        """A new text, to be grown by `add`: the prompt's last tokens."""
        return self._prompt[-SIZES[0] :]

    def add(self, text: list[int], token: int) -> None:
        """Write a token."""
        for size in SIZES:
            self._places[tuple(text[-size:])] = text, len(text)
        text.append(token)

    def draft(self, text: list[int], most: int = MOST) -> Draft | None:
        """What followed the last time, at most so many tokens; None if the last tokens were never written before."""
        found: list[int] = []
        last, first = text[-SIZES[0] :], 0
        while len(found) < most and (place := self._find(last)) is not None:
            size, where, at = place
            part = where[at : at + most - len(found)]
            found += part
            last, first = [*last, *part][-SIZES[0] :], first or size
        return Draft(found, first) if found else None

    def _find(self, last: list[int]) -> tuple[int, list[int], int] | None:
        """How many of the last tokens were written before, where, and the place of what followed them."""
        for size in SIZES:
            key = tuple(last[-size:])
            if (place := self._places.get(key)) is not None:
                return size, *place
            if (at := self._in_prompt[size].get(key)) is not None:
                return size, self._prompt, at
        return None


def costs(seconds: Mapping[int, float], most: int) -> Seconds | None:
    """What steps of 0 to `most` tokens cost, from some that were measured; None if nothing was.

    Straight lines lead from one to the next and on beyond the last. A larger step never costs less.
    """
    known = sorted(n for n in seconds if n > 0)
    if not known:
        return None
    values = np.maximum.accumulate([seconds[n] for n in known])
    tokens = np.arange(most + 1, dtype=float)
    out: Seconds = np.interp(tokens, known, values)
    before, last = (known[-2], values[-2]) if len(known) > 1 else (0, 0.0)
    slope = (values[-1] - last) / (known[-1] - before)
    out += np.maximum(tokens - known[-1], 0) * slope
    return out


def lengths(chances: Sequence[Sequence[float]], texts: int, tokens: int, seconds: Seconds) -> list[int]:
    """How many tokens of each draft to evaluate, so that the most tokens a second are expected.

    The best set of any size is that of the likeliest tokens, and no token is likelier than the one before it.

    Args:
        chances: for each draft, the probability that its first token, first two, and so on are right.
        texts: texts that get at least one token in this step.
        tokens: evaluated without drafts.
        seconds: of a step by its number of tokens; no longer step is made.
    """
    gains = np.array([p for draft in chances for p in draft])
    owners = np.repeat(np.arange(len(chances)), [len(draft) for draft in chances])
    order = np.argsort(-gains, kind="stable")[: max(len(seconds) - 1 - tokens, 0)]
    if not len(order):
        return [0] * len(chances)
    speeds = (texts + np.cumsum(gains[order])) / seconds[tokens + 1 : tokens + 1 + len(order)]
    best = int(speeds.argmax())
    if speeds[best] * seconds[tokens] < _MARGIN * texts:
        return [0] * len(chances)
    found: list[int] = np.bincount(owners[order[: best + 1]], minlength=len(chances)).tolist()
    return found
