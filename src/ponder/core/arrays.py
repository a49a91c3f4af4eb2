"""Finished outputs that are arrays, as bytes: exactly, and in as few bytes as that allows."""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_HEAD = struct.Struct("<I")
_LEVELS = 255.0
"""Of a channel of a picture: numbers that are k / 255 are kept as k."""


def pack(values: Mapping[str, Any]) -> bytes:
    """Named arrays and plain numbers, texts or None as bytes; `unpack` gives them back equal, types included.

    An array takes one byte a number where all are k / 255 (pictures), else two or four where single or half precision
    loses nothing, else its own; all are compressed.

    >>> sorted(unpack(pack({"x": np.ones((2, 2)), "weight": -0.5})))
    ['weight', 'x']
    """
    plain: dict[str, Any] = {}
    heads, bodies = [], []
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            code, raw = _smallest(value)
            packed = zlib.compress(raw, 1)
            bodies.append(packed if len(packed) < len(raw) else raw)
            heads.append([name, code, value.dtype.str, list(value.shape), len(bodies[-1])])
        else:
            plain[name] = value
    head = json.dumps([plain, heads]).encode()
    return _HEAD.pack(len(head)) + head + b"".join(bodies)


def unpack(data: bytes) -> dict[str, Any]:
    """What `pack` was given."""
    (length,) = _HEAD.unpack_from(data)
    at = _HEAD.size + length
    plain, heads = json.loads(data[_HEAD.size : at])
    found: dict[str, Any] = dict(plain)
    for name, code, dtype, shape, size in heads:
        found[name] = _restored(data[at : at + size], code, dtype, tuple(shape))
        at += size
    return found


def pack_output(latents: Floats, output: Any, log_weight: float = 0.0) -> bytes | None:
    """A finished output with the latents it was made of, for those who go on from them; None for what is no array."""
    if not isinstance(output, np.ndarray):
        return None
    more = {} if output is latents else {"output": output}
    return pack({"latents": latents, "log_weight": log_weight, **more})


def unpack_output(data: bytes) -> tuple[Floats, npt.NDArray[Any], float]:
    """Latents, output and log-weight that `pack_output` was given."""
    kept = unpack(data)
    return kept["latents"], kept.get("output", kept["latents"]), kept["log_weight"]


def _smallest(value: npt.NDArray[Any]) -> tuple[str, bytes]:
    """How the numbers are kept, and their bytes."""
    whole = np.ascontiguousarray(value)
    if value.dtype.kind != "f" or not value.size or not value.ndim:
        return value.dtype.str, whole.tobytes()
    with np.errstate(invalid="ignore", over="ignore"):
        levels = np.rint(whole * _LEVELS)
        if levels.min() >= 0.0 and levels.max() <= _LEVELS:
            small = levels.astype(np.uint8)
            if _same(_from_levels(small, value.dtype), whole):
                return "levels", _differences(small).tobytes()
        for code in ("<f2", "<f4"):
            if np.dtype(code).itemsize < value.dtype.itemsize:
                small = whole.astype(code)
                if _same(small.astype(value.dtype), whole):
                    return code, small.tobytes()
    return value.dtype.str, whole.tobytes()


def _restored(raw: bytes, code: str, dtype: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    kept = np.dtype(np.uint8 if code == "levels" else code)
    if len(raw) != kept.itemsize * math.prod(shape):
        raw = zlib.decompress(raw)
    array = np.frombuffer(raw, kept).reshape(shape)
    if code == "levels":
        levels = np.add.accumulate(array, axis=_across(array), dtype=np.uint8)
        return _from_levels(levels, np.dtype(dtype))
    return array.astype(dtype)


def _from_levels(levels: npt.NDArray[np.uint8], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    return (levels / _LEVELS).astype(dtype)


def _differences(levels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Each number less the one to its left, modulo 256: pictures are smooth, so this compresses better."""
    first = np.zeros_like(np.take(levels, [0], axis=_across(levels)))
    return np.ascontiguousarray(np.diff(levels, axis=_across(levels), prepend=first))


def _across(array: npt.NDArray[Any]) -> int:
    """The axis that runs across a picture: the last but the channels."""
    return -2 if array.ndim > 2 else -1


def _same(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
    """Whether every bit is the same: NaN with NaN, and no 0 for -0."""
    return a.tobytes() == b.tobytes()
