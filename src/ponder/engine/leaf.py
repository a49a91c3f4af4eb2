"""One text under way."""

from __future__ import annotations

import codecs
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ponder.core.model import Finish, Sampling
from ponder.engine.vocabulary import Vocabulary

_NUMBERS = 64


@dataclass(frozen=True, slots=True)
class Token:
    """A drawn token: its number, its untempered log-probability in nats, and the likeliest by their texts."""

    number: int
    logprob: float | None = None
    top: Mapping[str, float] | None = None


class Leaf:
    """What has been drawn after a prompt, until it ends.

    Args:
        vocabulary: what tokens say.
        sampling: when it ends.
        seed: of the numbers that its tokens are drawn with.
    """

    def __init__(self, vocabulary: Vocabulary, sampling: Sampling, seed: int) -> None:
        self.sampling = sampling
        self.drawn: list[Token] = []
        self.finish: Finish | None = None
        self.stop_reason: str | None = None
        self._vocabulary = vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._parts: list[str] = []
        self._tail = ""
        self._longest_stop = max(map(len, sampling.stop), default=0)
        self._whole: str | None = None
        self._covered = True
        self._random = np.random.Generator(np.random.Philox(key=seed % 2**64))
        self._numbers: list[float] = []

    def number(self) -> float:
        """The next number in [0, 1)."""
        if not self._numbers:
            self._numbers = self._random.random(_NUMBERS)[::-1].tolist()
        return self._numbers.pop()

    def push(self, token: Token) -> str:
        """Take in a token; the text it adds. `finish` is set if it is the last."""
        self.drawn.append(token)
        if token.number in self._vocabulary.ends:
            self._end("stop", "", self._decoder.decode(b"", True))
            return ""
        added = self._decoder.decode(self._vocabulary.piece(token.number))
        if self._longest_stop:
            before = self._tail
            self._tail = before + added
            places = [(self._tail.find(s), s) for s in self.sampling.stop if s in self._tail]
            if places:
                place, stop = min(places)
                self._covered = place + len(stop) == len(self._tail) and not self._decoder.getstate()[0]
                self._whole = ("".join(self._parts) + added)[: place - len(self._tail) or None]
                self.finish, self.stop_reason = "stop", stop
                return ""
            keep = self._longest_stop - 1
            self._tail = self._tail[len(self._tail) - keep :] if keep else ""
        self._parts.append(added)
        if len(self.drawn) >= self.sampling.max_new_tokens:
            self._covered = not self._decoder.getstate()[0]
            self._end("length", None, self._decoder.decode(b"", True))
        return added

    def stop(self, finish: Finish) -> None:
        """End it from outside."""
        if self.finish is None:
            self._covered = not self._decoder.getstate()[0]
            self._end(finish, None, self._decoder.decode(b"", True))

    def first(self, n: int, finish: Finish) -> Leaf:
        """What there was after its first n tokens, ended there from outside."""
        out = Leaf(self._vocabulary, self.sampling, 0)
        for token in self.drawn[:n]:
            out.push(token)
        out.stop(finish)
        return out

    def _end(self, finish: Finish, reason: str | None, rest: str) -> None:
        self._parts.append(rest)
        self.finish, self.stop_reason = finish, reason

    @property
    def text(self) -> str:
        """What is written, without the stop text."""
        return "".join(self._parts) if self._whole is None else self._whole

    @property
    def readable(self) -> tuple[str, Sequence[int]] | None:
        """Text and tokens that say exactly the same, the stop text included; None if the two do not end together."""
        if self.finish is None or not self._covered:
            return None
        numbers = [t.number for t in self.drawn if t.number not in self._vocabulary.ends]
        return self.text + (self.stop_reason or ""), numbers

    @property
    def logprobs(self) -> list[float] | None:
        """One for each token, None if they were not asked for."""
        found = [t.logprob for t in self.drawn if t.logprob is not None]
        return found if self.sampling.logprobs is not None and len(found) == len(self.drawn) else None

    @property
    def logprob(self) -> float | None:
        """Their sum."""
        return None if self.logprobs is None else math.fsum(self.logprobs)
