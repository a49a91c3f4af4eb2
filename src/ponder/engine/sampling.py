"""Drawing next tokens for many sequences at once.

Every sequence has its own settings and its own number in [0, 1) for the step, so what it draws does not depend
on which others are in the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ponder.core.model import Sampling
from ponder.engine.backend import Logits
from ponder.engine.threads import available

_ROWS = 16
"""Rows worked on together: what is computed of them stays in a core's own cache."""
_BLOCK = 256
"""Tokens whose probabilities are summed before one of them is looked for."""
_CANDIDATES = 512
"""Tokens that are sorted first for top-p; more only where they hold too little."""

Tokens = npt.NDArray[np.int64]


def draw(logits: Logits, settings: Sequence[Sampling], numbers: npt.NDArray[np.float64]) -> Tokens:
    """One token for each row, shape [rows].

    Temperature first, then top-k, top-p, min-p, as llama.cpp is told to. Temperature 0 takes the largest logit,
    the first of equal ones. A token with logit -inf is never drawn.

    Args:
        logits: [rows, vocabulary].
        settings: one for each row.
        numbers: [rows], uniform in [0, 1).
    """
    out = np.empty(len(settings), np.int64)
    greedy = np.array([s.temperature == 0 for s in settings])
    if greedy.any():
        out[greedy] = logits[greedy].argmax(axis=1)
    filtered = np.array([s.temperature != 0 and _filters(s) for s in settings])
    for i in np.flatnonzero(filtered).tolist():
        out[i] = _draw_filtered(logits[i], settings[i], float(numbers[i]))
    rest = np.flatnonzero(~(greedy | filtered)).tolist()
    if len(rest):
        temperatures = np.array([settings[i].temperature for i in rest], np.float32)
        chosen = logits if len(rest) == len(settings) else logits[rest]
        aims = numbers[rest]
        out[rest] = _by_rows(lambda some: _pick(_weights(chosen[some], temperatures[some]), aims[some]), len(rest))
    return out


def log_probabilities(logits: Logits) -> Logits:
    """The untempered log-probabilities in nats, shape of `logits`."""
    top = logits.max(axis=1, keepdims=True)
    out: Logits = logits - top
    out -= np.log(np.exp(out).sum(axis=1, keepdims=True, dtype=np.float64)).astype(np.float32)
    return out


def of_tokens(logits: Logits, tokens: Tokens) -> npt.NDArray[np.float64]:
    """The untempered log-probability in nats of one token of each row, shape [rows]."""

    def some_rows(some: slice) -> npt.NDArray[np.float64]:
        part = logits[some]
        top = part.max(axis=1)
        weights = part - top[:, None]
        total = np.exp(weights, out=weights).sum(axis=1).astype(np.float64)
        return np.asarray(part[np.arange(len(part)), tokens[some]] - top - np.log(total), np.float64)

    return _by_rows(some_rows, len(tokens))


def most_likely(logits: Logits, k: int) -> Tokens:
    """The k tokens with the largest logits of each row, the largest first, shape [rows, k]."""
    k = min(k, logits.shape[1])
    found = np.argpartition(-logits, k - 1, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(logits, found, axis=1), axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1)


def _filters(s: Sampling) -> bool:
    return s.top_p < 1 or s.top_k is not None or bool(s.min_p)


def _weights(logits: Logits, temperatures: npt.NDArray[np.float32]) -> Logits:
    out: Logits = logits - logits.max(axis=1, keepdims=True)
    if (temperatures != 1).any():
        out /= temperatures[:, None]
    np.exp(out, out=out)
    return out


def _by_rows(compute: Callable[[slice], npt.NDArray[Any]], rows: int) -> npt.NDArray[Any]:
    """The results of consecutive rows, a few at a time, on all cores."""
    parts = [slice(i, i + _ROWS) for i in range(0, rows, _ROWS)]
    return np.concatenate([compute(p) for p in parts] if len(parts) < 2 else list(_threads().map(compute, parts)))


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(available(), thread_name_prefix="ponder-draw")


def _pick(weights: npt.NDArray[np.float32], numbers: npt.NDArray[np.float64]) -> Tokens:
    """Inverse of the cumulative weights, in two steps: which block, then which token of it."""
    rows, width = weights.shape
    whole = width // _BLOCK * _BLOCK
    blocks = weights[:, :whole].reshape(rows, -1, _BLOCK).sum(axis=2)
    sums = np.cumsum(np.c_[blocks, weights[:, whole:].sum(axis=1)], axis=1, dtype=np.float64)
    aims = np.minimum(numbers * sums[:, -1], np.nextafter(sums[:, -1], 0))
    block = (sums <= aims[:, None]).sum(axis=1)
    before = np.take_along_axis(np.c_[np.zeros(rows), sums], block[:, None], axis=1)
    places = block[:, None] * _BLOCK + np.arange(_BLOCK)
    inside = np.where(places < width, np.take_along_axis(weights, np.minimum(places, width - 1), axis=1), 0)
    inside = np.cumsum(inside, axis=1, dtype=np.float64)
    # by rounding the aim may lie beyond what the block holds: then its last token with weight
    aims = np.minimum(np.maximum(aims[:, None] - before, 0), np.nextafter(inside[:, -1:], 0))
    found: Tokens = block * _BLOCK + (inside <= aims).sum(axis=1)
    return found


def _first_above(sums: npt.NDArray[np.float64], aim: float) -> int:
    """The first place whose cumulative weight is above the aim; by rounding it may be none: the last with weight."""
    place = int(np.searchsorted(sums, aim, side="right"))
    return place if place < len(sums) else int(np.searchsorted(sums, sums[-1]))


def _draw_filtered(logits: npt.NDArray[np.float32], s: Sampling, number: float) -> int:
    scaled = (logits - logits.max()) / np.float32(s.temperature)
    total = np.exp(scaled).sum(dtype=np.float64)
    k = len(logits) if s.top_k is None else min(s.top_k, len(logits))
    some = min(k, _CANDIDATES)
    while True:
        order = most_likely(scaled[None], some)[0]
        weights = np.exp(scaled[order], dtype=np.float64)
        enough = some == k or weights.sum() >= s.top_p * total or (s.top_p == 1 and _below(weights, s.min_p))
        if enough:
            break
        some = k
    if s.top_k is not None:
        total = weights.sum()
    if s.top_p < 1:
        keep = int(np.searchsorted(np.cumsum(weights), s.top_p * total, side="left")) + 1
        order, weights = order[:keep], weights[:keep]
    if s.min_p:
        keep = max(1, int((weights >= s.min_p * weights[0]).sum()))
        order, weights = order[:keep], weights[:keep]
    sums = np.cumsum(weights)
    return int(order[_first_above(sums, number * sums[-1])])


def _below(weights: npt.NDArray[np.float64], min_p: float | None) -> bool:
    """Whether all further weights are too small for min-p."""
    return bool(min_p) and bool(weights[-1] < (min_p or 0) * weights[0])
