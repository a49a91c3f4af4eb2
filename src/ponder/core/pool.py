"""Samples of many problems as arrays: what selectors compute on.

One selector works on a list of five candidates and on ten thousand problems of a thousand samples
with the same code, because both are a `Pool`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
        texts: equal numbers for equal outputs within a problem.
    """

    groups: Ints
    present: Bools
    logprob: Floats
    n_tokens: Floats
    scores: Mapping[str, Floats] = field(default_factory=dict)
    texts: Ints | None = None

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
        )

    @property
    def shape(self) -> tuple[int, int]:
        """(P, N)."""
        return self.groups.shape  # type: ignore[return-value]

    @property
    def valid(self) -> Bools:
        """Where an answer may win, shape (P, N)."""
        return self.groups >= 0

    @property
    def n_groups(self) -> int:
        """Largest number of groups in any problem, at least 1."""
        return max(int(self.groups.max(initial=-1)) + 1, 1)

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
        if name not in self.scores:
            have = ", ".join(self.scores) or "none"
            raise ParameterError(
                "selector", "score", name, allowed=f"one of the candidates' scores ({have})",
                hint="score candidates with a verifier first, for example best_of_n(verifier=log_probability)",
            )  # fmt: skip
        return self.scores[name]

    def group_sum(self, values: Floats) -> Floats:
        """Sum of `values` over each group's members, shape (P, G)."""
        problems, g = self.shape[0], self.n_groups
        valid = self.valid
        flat = (np.arange(problems)[:, None] * g + self.groups)[valid]
        return np.bincount(flat, weights=values[valid], minlength=problems * g).reshape(problems, g)

    def group_max(self, values: Floats) -> Floats:
        """Largest of `values` in each group, NaN left out, -inf for an empty one, shape (P, G)."""
        problems, g = self.shape[0], self.n_groups
        out = np.full(problems * g, -np.inf)
        usable = self.valid & ~np.isnan(values)
        flat = (np.arange(problems)[:, None] * g + self.groups)[usable]
        np.maximum.at(out, flat, values[usable])
        return out.reshape(problems, g)

    @property
    def counts(self) -> Floats:
        """Members of each group, shape (P, G); groups that a problem lacks have 0."""
        return self.group_sum(np.ones(self.shape))


def _hashable(value: Any) -> Any:
    try:
        hash(value)
    except TypeError:
        return repr(value)
    return value
