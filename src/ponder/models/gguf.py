"""What a GGUF file's header says of the model, without loading it."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any, BinaryIO

from ponder.costs.readers import shape_of_gguf
from ponder.costs.shape import ModelShape
from ponder.errors import ModelNotFoundError

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_LONGEST_KEPT = 1024
"""Arrays of more numbers than a model has layers are the vocabulary's, and are left out."""


def read_header(path: Path) -> tuple[dict[str, Any], dict[str, int], int]:
    """The metadata (without the vocabulary), the elements of each tensor, and where the header ends.

    Raises:
        ModelNotFoundError: no GGUF file there.
    """
    try:
        with path.open("rb") as f:
            if f.read(4) != b"GGUF":
                raise ModelNotFoundError(f"{path} is no GGUF file")
            _, tensors, pairs = struct.unpack("<IQQ", f.read(20))
            metadata = {}
            for _ in range(pairs):
                key = _string(f)
                value = _value(f, _number(f, "I"))
                if value is not None:
                    metadata[key] = value
            sizes = dict(_tensor(f) for _ in range(tensors))
            return metadata, sizes, f.tell()
    except (OSError, struct.error) as error:
        raise ModelNotFoundError(f"{path} cannot be read as a GGUF file: {error}") from None


def shape(path: Path) -> tuple[ModelShape | None, int | None]:
    """The decoder's shape, and its context length in tokens, where the header tells."""
    metadata, sizes, end = read_header(path)
    experts = sum(size for name, size in sizes.items() if "_exps." in name)
    known = shape_of_gguf(metadata, sum(sizes.values()), experts, path.stat().st_size - end, path.stem)
    return known, metadata.get(f"{metadata.get('general.architecture', '')}.context_length")


def _number(f: BinaryIO, code: str) -> Any:
    return struct.unpack(f"<{code}", f.read(struct.calcsize(code)))[0]


def _string(f: BinaryIO) -> str:
    return f.read(_number(f, "Q")).decode("utf-8", "replace")


def _value(f: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _string(f)
    if kind != _ARRAY:
        return _number(f, _SCALARS[kind])
    inner, count = _number(f, "I"), _number(f, "Q")
    if inner not in (_STRING, _ARRAY) and count <= _LONGEST_KEPT:
        return [_number(f, _SCALARS[inner]) for _ in range(count)]
    if inner in (_STRING, _ARRAY):
        for _ in range(count):
            _value(f, inner)
    else:
        f.seek(struct.calcsize(_SCALARS[inner]) * count, 1)
    return None


def _tensor(f: BinaryIO) -> tuple[str, int]:
    name = _string(f)
    dimensions = [_number(f, "Q") for _ in range(_number(f, "I"))]
    _number(f, "I"), _number(f, "Q")
    return name, math.prod(dimensions)
