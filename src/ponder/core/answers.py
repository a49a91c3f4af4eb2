"""Which answers are the same answer."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import cache
from hashlib import blake2b
from itertools import pairwise
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from ponder.core.candidate import is_valid

Same = Callable[[Any, Any], bool]

RELATIVE_TOLERANCE = 1e-6
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?")


def as_number(answer: Any) -> float | None:
    """The number an answer states, or None.

    >>> as_number("1,250.0"), as_number("x")
    (1250.0, None)
    """
    if isinstance(answer, bool):
        return None
    if isinstance(answer, Real):  # numpy's numbers and fractions too
        try:
            value = float(answer)
        except OverflowError:
            return None
        return value if abs(value) < 1e300 else None
    if not isinstance(answer, str):
        return None
    text = answer.strip()
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in text else None


_named = cache(str)  # numpy builds the name of a type anew each time


def fingerprint(array: npt.NDArray[Any]) -> str:
    """A short text that tells arrays apart: shape and bytes, hashed.

    >>> fingerprint(np.zeros(2)) == fingerprint(np.zeros(2)) != fingerprint(np.zeros((2, 1)))
    True
    """
    body = np.ascontiguousarray(array)
    return "#" + blake2b(f"{_named(body.dtype)}{body.shape}".encode() + body.tobytes(), digest_size=6).hexdigest()


def group_answers(answers: Sequence[Any], same: Same | None = None) -> list[int]:
    """A group number for each answer: 0 for the first group to appear, then 1, …; -1 for invalid ones.

    Two answers fall into one group if a chain of pairs connects them in which each pair is equal as
    text (trimmed, case folded), or as numbers (relative tolerance 1e-6), or by `same`, which may be
    asymmetric (either order counts) and is asked once for each pair of otherwise distinct answers that
    no chain connects yet. Where `same` raises, the two are different. Time is n log n without `same`; with it,
    the square of the number of distinct answers.

    >>> group_answers(["42", " 42.0 ", None, "41"])
    [0, 0, -1, 1]
    """
    keys: list[Any] = []
    distinct: dict[Any, Any] = {}
    for answer in answers:
        if not is_valid(answer):
            keys.append(None)
            continue
        key = _key(answer)
        keys.append(key)
        distinct.setdefault(key, answer)
    parent = {key: key for key in distinct}

    def find(key: Any) -> Any:
        while parent[key] != key:
            parent[key] = key = parent[parent[key]]
        return key

    numbers = sorted((key[1], key) for key in distinct if key[0] == "number")
    for (low, first), (high, second) in pairwise(numbers):
        if abs(high - low) <= RELATIVE_TOLERANCE * max(abs(low), abs(high)):
            parent[find(second)] = find(first)
    if same is not None:
        items = list(distinct.items())
        for i, (first_key, first_answer) in enumerate(items):
            for second_key, second_answer in items[i + 1 :]:
                if find(first_key) != find(second_key) and (
                    _says_same(same, first_answer, second_answer) or _says_same(same, second_answer, first_answer)
                ):
                    parent[find(second_key)] = find(first_key)
    order: dict[Any, int] = {}
    return [-1 if key is None else order.setdefault(find(key), len(order)) for key in keys]


def _says_same(same: Same, first: Any, second: Any) -> bool:
    """What `same` says; a comparison that fails tells nothing, and must not lose the whole draw."""
    try:
        return bool(same(first, second))
    except Exception:
        return False


def _key(answer: Any) -> tuple[str, Any]:
    number = as_number(answer)
    if number is not None:
        return ("number", number)
    if isinstance(answer, str):
        return ("text", answer.strip().casefold())
    try:
        hash(answer)
    except TypeError:
        return ("repr", repr(answer))
    return ("value", answer)
