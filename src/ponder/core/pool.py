"""Samples of many problems as arrays: what selectors compute on.

One selector works on a list of five candidates and on ten thousand problems of a thousand samples
with the same code, because both are a `Pool`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ponder.core.answers import Same, group_answers
from ponder.errors import EmptyPoolError, ParameterError

if TYPE_CHECKING:
    from ponder.core.candidate import Candidate

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]
Bools = npt.NDArray[np.bool_]

_BLOCK = 1 << 19
"""Samples worked on at once in `blocks`: arrays of this size stay in the processor's cache."""


@dataclass(frozen=True)
class Pool:
    """`P` problems with `N` samples each, as arrays of shape (P, N).

    Attributes:
        groups: the group of each sample's answer, numbered by first appearance within the problem;
            -1 for an invalid answer or an absent sample.
        present: False where a problem has fewer than N samples.
        logprob: sum over tokens in nats; NaN if unknown.
        n_tokens: generated tokens; NaN if unknown.
        scores: verifier name to scores; NaN where there is none.
        texts: equal numbers, at least 0, for equal outputs within a problem; None takes all as distinct.
        truncated: True where a sample was cut by its length limit; None if no one was.
        temperature: what each sample was drawn at; NaN if unknown.
        samples: the candidates themselves, for selectors that read texts; None for a pool of arrays only.
        first: number of the first problem, if this pool is a block of a larger one.
    """

    groups: Ints
    present: Bools
    logprob: Floats
    n_tokens: Floats
    scores: Mapping[str, Floats] = field(default_factory=dict)
    texts: Ints | None = None
    truncated: Bools | None = None
    temperature: Floats | None = None
    samples: Sequence[Sequence[Candidate]] | None = None
    first: int = 0

    @classmethod
    def of(cls, candidates: Sequence[Candidate], same: Same | None = None) -> Pool:
        """One problem's candidates, as a pool with P = 1.

        Raises:
            EmptyPoolError: there are no candidates at all.
        """
        if not candidates:
            raise EmptyPoolError("no candidates were given; a selector needs at least one")
        nan = float("nan")
        groups = group_answers([c.answer if c.error is None else None for c in candidates], same)
        names = {name for c in candidates for name in c.scores}
        seen: dict[Any, int] = {}
        texts = [seen.setdefault(_hashable(c.output), len(seen)) for c in candidates]
        return cls(
            groups=np.asarray([groups], dtype=np.intp),
            present=np.ones((1, len(candidates)), dtype=bool),
            logprob=np.asarray([[nan if c.logprob is None else c.logprob for c in candidates]], dtype=float),
            n_tokens=np.asarray([[nan if c.n_tokens is None else c.n_tokens for c in candidates]], dtype=float),
            scores={
                name: np.asarray([[c.scores.get(name, nan) for c in candidates]], dtype=float) for name in sorted(names)
            },
            texts=np.asarray([texts], dtype=np.intp),
            truncated=np.asarray([[c.finish == "length" for c in candidates]]),
            temperature=np.asarray([[_number(c.meta.get("temperature")) for c in candidates]], dtype=float),
            samples=[candidates],
        )

    @classmethod
    def many(cls, problems: Sequence[Sequence[Candidate]], same: Same | None = None) -> Pool:
        """Several problems' candidates as one pool; shorter lists are filled up with absent samples.

        Raises:
            EmptyPoolError: a problem has no candidates at all.
        """
        pools = [cls.of(candidates, same) for candidates in problems]
        width = max((pool.shape[1] for pool in pools), default=0)

        def stack(arrays: Sequence[Any], fill: Any) -> Any:
            return np.concatenate([np.pad(a, ((0, 0), (0, width - a.shape[1])), constant_values=fill) for a in arrays])

        if not pools:
            raise EmptyPoolError("no candidates were given; a pool needs at least one problem")
        names = sorted({name for pool in pools for name in pool.scores})
        unknown = {pool.shape: np.full(pool.shape, np.nan) for pool in pools}
        return cls(
            groups=stack([p.groups for p in pools], -1),
            present=stack([p.present for p in pools], False),
            logprob=stack([p.logprob for p in pools], np.nan),
            n_tokens=stack([p.n_tokens for p in pools], np.nan),
            scores={name: stack([p.scores.get(name, unknown[p.shape]) for p in pools], np.nan) for name in names},
            texts=stack([p.texts for p in pools], 0),
            truncated=stack([p.truncated for p in pools], False),
            temperature=stack([p.temperature for p in pools], np.nan),
            samples=list(problems),
        )

    def rows(self, start: int, stop: int) -> Pool:
        """The problems `start` ≤ p < `stop`, without copying."""

        def part(array: Any) -> Any:
            return None if array is None else array[start:stop]

        return Pool(
            self.groups[start:stop], self.present[start:stop], self.logprob[start:stop], self.n_tokens[start:stop],
            {name: values[start:stop] for name, values in self.scores.items()}, part(self.texts),
            part(self.truncated), part(self.temperature), part(self.samples), self.first + start,
        )  # fmt: skip

    def blocks(self) -> Iterator[Pool]:
        """The pool in pieces of at most about half a million samples (one problem at least)."""
        step = max(1, _BLOCK // max(self.shape[1], 1))
        for start in range(0, self.shape[0], step):
            yield self.rows(start, min(start + step, self.shape[0]))

    @property
    def shape(self) -> tuple[int, int]:
        """(P, N)."""
        return self.groups.shape[0], self.groups.shape[1]

    @cached_property
    def valid(self) -> Bools:
        """Where an answer may win, shape (P, N)."""
        return self.groups >= 0

    @cached_property
    def n_groups(self) -> int:
        """Largest number of groups in any problem, at least 1."""
        return max(int(self.groups.max(initial=-1)) + 1, 1)

    def valid_samples(self, p: int = 0) -> list[Candidate]:
        """The candidates of problem `p` that have an answer, in draw order.

        Raises:
            ParameterError: the pool was not built from candidates.
        """
        if self.samples is None:
            raise ParameterError(
                "pool", "samples", None, allowed="the candidates themselves, for a selector that reads texts",
                hint="Build the pool with Pool.of(candidates) or Pool.many(problems)",
            )  # fmt: skip
        return [c for c, good in zip(self.samples[p], self.valid[p], strict=False) if good]

    @property
    def mean_logprob(self) -> Floats:
        """Log-probability per token in nats, NaN if unknown, shape (P, N)."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.n_tokens > 0, self.logprob / self.n_tokens, np.nan)

    def score(self, name: str | None = None) -> Floats:
        """One verifier's scores, shape (P, N); the only one if `name` is None.

        Raises:
            ParameterError: there are none, or several and none is named.
        """
        if name is None and len(self.scores) == 1:
            return next(iter(self.scores.values()))
        if name is None or name not in self.scores:
            have = ", ".join(self.scores) or "none"
            raise ParameterError(
                "selector", "score", name, allowed=f"one of the candidates' scores ({have})",
                hint="score candidates with a verifier first, for example best_of_n(verifier=log_probability)",
            )  # fmt: skip
        return self.scores[name]

    @cached_property
    def _cells(self) -> Ints:
        """Number of each sample's (problem, group) cell; column 0 of each problem takes the invalid ones."""
        width = self.n_groups + 1
        return (self.groups + (np.arange(self.shape[0]) * width + 1)[:, None]).ravel()

    def group_sum(self, values: Floats, where: Bools | None = None) -> Floats:
        """Sum of `values` over each group's members (those in `where`), shape (P, G)."""
        problems, width = self.shape[0], self.n_groups + 1
        usable = values if where is None else np.where(where, values, 0.0)
        sums = np.bincount(self._cells, weights=usable.ravel(), minlength=problems * width)
        return np.asarray(sums.reshape(problems, width)[:, 1:], dtype=float)

    def group_count(self, where: Bools | None = None) -> Floats:
        """Members of each group (those in `where`), shape (P, G)."""
        problems, width = self.shape[0], self.n_groups + 1
        cells = self._cells if where is None else self._cells[where.ravel()]
        return np.bincount(cells, minlength=problems * width).reshape(problems, width)[:, 1:].astype(float)

    def group_max(self, values: Floats, where: Bools | None = None) -> Floats:
        """Largest of `values` in each group, NaN left out, -inf for an empty one, shape (P, G)."""
        problems, width = self.shape[0], self.n_groups + 1
        out = np.full(problems * width, -np.inf)
        usable = np.where(np.isnan(values) if where is None else ~where | np.isnan(values), -np.inf, values)
        np.maximum.at(out, self._cells, usable.ravel())
        return out.reshape(problems, width)[:, 1:]

    @cached_property
    def counts(self) -> Floats:
        """Members of each group, shape (P, G); groups that a problem lacks have 0."""
        return self.group_count()

    @cached_property
    def earliest(self) -> Ints:
        """Position of each group's first member, shape (P, G); N for an empty group."""
        problems, samples = self.shape
        width = self.n_groups + 1
        out = np.full(problems * width, samples, dtype=np.intp)
        # Of repeated cells the last one written stays: here the earliest sample.
        out[self._cells[::-1]] = np.broadcast_to(np.arange(samples)[::-1], self.shape).ravel()
        return out.reshape(problems, width)[:, 1:]

    def distinct(self, where: Bools | None = None) -> Bools:
        """Where a text appears for the first time in its problem (among `where`), shape (P, N)."""
        among = self.present if where is None else where & self.present
        if self.texts is None:
            return among
        problems, samples = self.shape
        texts = np.where(among, self.texts, -1)
        width = int(texts.max(initial=0)) + 2
        if width > 4 * samples + 2:
            order = np.argsort(texts, axis=1, kind="stable")
            ordered = np.take_along_axis(texts, order, axis=1)
            new = np.ones(self.shape, dtype=bool)
            new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
            out = np.empty(self.shape, dtype=bool)
            np.put_along_axis(out, order, new, axis=1)
            return out & among
        cells = (texts + (np.arange(problems) * width + 1)[:, None]).ravel()
        positions = np.arange(problems * samples)
        seen = np.empty(problems * width, dtype=np.intp)
        seen[cells[::-1]] = positions[::-1]  # of repeated cells the last one written, the earliest sample, stays
        return np.asarray((seen[cells] == positions).reshape(self.shape) & among)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else float("nan")


def _hashable(value: Any) -> Any:
    try:
        hash(value)
    except TypeError:
        return repr(value)
    return value
