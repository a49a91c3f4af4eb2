"""How much one output says what another says: the utilities of minimum-Bayes-risk selection.

Every function takes T texts and returns a (T, T) matrix in [0, 1]; entry (i, j) is the utility of text i when
text j is the evidence.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ponder.core.pool import Floats
from ponder.errors import MissingExtraError

_CHRF_ORDER = 6
_CHRF_BETA = 2.0
_COLUMNS = 1 << 16
_WORDS = re.compile(r"\w+|[^\w\s]")


def token_f1(texts: Sequence[str]) -> Floats:
    """Harmonic mean of precision and recall over words (a multiset; case folded).

    >>> token_f1(["the cat", "the dog"]).round(2).tolist()
    [[1.0, 0.5], [0.5, 1.0]]
    """
    words = [_WORDS.findall(text.casefold()) for text in texts]
    shared, sizes = _overlaps(words), np.asarray([len(w) for w in words], dtype=float)
    both = sizes[:, None] + sizes[None, :]
    return np.where(both > 0, 2.0 * shared / np.maximum(both, 1.0), 1.0)


def chrf(texts: Sequence[str]) -> Floats:
    """Character n-gram F-score, n = 1 to 6, recall twice as important as precision, spaces left out.

    Equal to sacrebleu's sentence chrF divided by 100, for all pairs at once.

    Source: Popović 2015, "chrF: character n-gram F-score for automatic MT evaluation".
    """
    bare = ["".join(text.split()) for text in texts]
    shape = (len(texts), len(texts))
    precision, recall, orders = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for n in range(1, _CHRF_ORDER + 1):
        grams = [[text[i : i + n] for i in range(len(text) - n + 1)] for text in bare]
        sizes = np.asarray([len(g) for g in grams], dtype=float)
        both = (sizes[:, None] > 0) & (sizes[None, :] > 0)
        shared = _overlaps(grams)
        precision += np.where(both, shared / np.maximum(sizes[:, None], 1.0), 0.0)
        recall += np.where(both, shared / np.maximum(sizes[None, :], 1.0), 0.0)
        orders += both
    precision, recall = precision / np.maximum(orders, 1.0), recall / np.maximum(orders, 1.0)
    factor = _CHRF_BETA**2
    weighted = factor * precision + recall
    return np.where(weighted > 0, (1.0 + factor) * precision * recall / np.where(weighted > 0, weighted, 1.0), 0.0)


def sacrebleu_chrf(texts: Sequence[str]) -> Floats:
    """The same from the sacrebleu package, pair by pair (slower; for comparison with published figures).

    Raises:
        MissingExtraError: sacrebleu is not installed.
    """
    try:
        from sacrebleu.metrics import CHRF
    except ImportError as error:
        raise MissingExtraError("the utility sacrebleu_chrf", "sacrebleu", "mbr") from error
    metric = CHRF()
    return np.asarray([[metric.sentence_score(t, [e]).score / 100.0 for e in texts] for t in texts], dtype=float)


def edit_similarity(texts: Sequence[str]) -> Floats:
    """1 minus the Levenshtein distance over the longer length; 1 for two empty texts.

    >>> edit_similarity(["abc", "abd"]).round(2).tolist()
    [[1.0, 0.67], [0.67, 1.0]]
    """
    lengths = np.asarray([len(t) for t in texts], dtype=np.intp)
    width = int(lengths.max(initial=0))
    codes = np.full((len(texts), max(width, 1)), -1, dtype=np.int64)
    for row, text in enumerate(texts):
        codes[row, : len(text)] = [ord(c) for c in text]
    ramp = np.arange(width + 1)
    out = np.ones((len(texts), len(texts)))
    for i, text in enumerate(texts):
        # One row of the distance table at a time, against all texts at once; insertions are a running minimum.
        line = np.repeat(ramp[None, :], len(texts), axis=0)
        for position, character in enumerate(text, start=1):
            step = np.minimum(line[:, :-1] + (codes[:, :width] != ord(character)), line[:, 1:] + 1)
            line[:, 1:], line[:, 0] = step, position
            line = np.minimum.accumulate(line - ramp, axis=1) + ramp
        distance = np.take_along_axis(line, lengths[:, None], axis=1)[:, 0]
        out[i] = 1.0 - distance / np.maximum(np.maximum(lengths, len(text)), 1)
    return out


def cosine(vectors: Any) -> Floats:
    """Cosine similarity of embeddings, mapped from [-1, 1] to [0, 1]; shape (T, d) to (T, T)."""
    array = np.asarray(vectors, dtype=float)
    norms = np.linalg.norm(array, axis=1, keepdims=True)
    unit = array / np.where(norms > 0, norms, 1.0)
    return np.asarray((1.0 + np.clip(unit @ unit.T, -1.0, 1.0)) / 2.0)


def pairwise(function: Callable[[Any, Any], float], items: Sequence[Any]) -> Floats:
    """A caller's own utility, called as u(candidate, evidence) for every ordered pair."""
    return np.asarray([[float(function(a, b)) for b in items] for a in items], dtype=float)


LEXICAL: dict[str, Callable[[Sequence[str]], Floats]] = {
    "token_f1": token_f1,
    "chrf": chrf,
    "sacrebleu_chrf": sacrebleu_chrf,
    "edit": edit_similarity,
}
"""Utilities that compare letters, and so mean nothing across languages."""


def _overlaps(bags: Sequence[Iterable[str]]) -> Floats:
    """Size of the multiset intersection of every two bags, shape (T, T).

    The c-th occurrence of an item is a feature of its own; then shared features are the intersection and
    one matrix product counts them.
    """
    owners: dict[tuple[str, int], list[int]] = {}
    for number, bag in enumerate(bags):
        for item, count in Counter(bag).items():
            for c in range(count):
                owners.setdefault((item, c), []).append(number)
    sizes = Counter(number for o in owners.values() for number in o)
    shared = [o for o in owners.values() if len(o) > 1]
    out = np.zeros((len(bags), len(bags)), dtype=np.float32)
    for start in range(0, len(shared), _COLUMNS):
        part = shared[start : start + _COLUMNS]
        table = np.zeros((len(bags), len(part)), dtype=np.float32)
        for column, o in enumerate(part):
            table[o, column] = 1.0
        out += table @ table.T
    np.fill_diagonal(out, [sizes.get(i, 0) for i in range(len(bags))])
    return out.astype(float)
