"""Path probabilities: how probable the model itself found each sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from ponder.core.pool import Floats, Pool
from ponder.errors import CandidateError, CapabilityError, PonderError

Probability = Literal["mean", "sequence"]

_ROUNDING = 1e-6
"""A sum of log-probabilities may exceed 0 by rounding, but by no more than this."""


def path_probability(pool: Pool, kind: Probability) -> Floats:
    """The samples' probabilities, shape (P, N); NaN where unknown.

    Args:
        pool: with log-probabilities.
        kind: `mean` is the geometric mean over tokens; `sequence` the whole path's, relative to the most
            probable path of the problem (the ratio is all that selectors use, and it does not underflow).
    """
    if kind == "mean":
        return np.exp(np.minimum(pool.mean_logprob, 0.0))
    known = np.where(np.isnan(pool.logprob), -np.inf, pool.logprob)
    top = known.max(axis=1, keepdims=True, initial=-np.inf)
    with np.errstate(invalid="ignore"):
        return np.exp(pool.logprob - np.where(np.isfinite(top), top, 0.0))


def path_errors(pool: Pool, kind: Probability, needed_by: str) -> Sequence[PonderError | None] | None:
    """Per problem, why path probabilities cannot be used; None if they can for all problems."""
    values = pool.mean_logprob if kind == "mean" else pool.logprob
    unknown = pool.valid & np.isnan(values)
    above = pool.valid & (pool.logprob > _ROUNDING)
    bad = (unknown | above).any(axis=1)
    if not bad.any():
        return None
    errors: list[PonderError | None] = [None] * pool.shape[0]
    for p in np.flatnonzero(bad):
        if unknown[p].sum() == pool.valid[p].sum():
            errors[p] = CapabilityError(
                f"{needed_by} needs token log-probabilities; the backend returned none. Use a model that gives "
                "them (llamacpp, sim, a server with logprobs on), or choose majority."
            )
        elif unknown[p].any():
            at = int(unknown[p].argmax())
            errors[p] = CandidateError(
                f"{needed_by}: candidate {at} has logprob={pool.logprob[p, at]} and n_tokens={pool.n_tokens[p, at]}; "
                "both must be known numbers (n_tokens ≥ 1). Leave the candidate out, or choose majority."
            )
        else:
            at = int(above[p].argmax())
            errors[p] = CandidateError(
                f"{needed_by}: candidate {at} has logprob={pool.logprob[p, at]}, a probability above 1; logprob is "
                "the sum of natural log-probabilities over its tokens, at most 0."
            )
    return errors
