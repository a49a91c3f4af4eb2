"""Outputs that are pictures or videos: which arrays are, their frames, and small copies to show.

A picture is an array (height, width), (height, width, 1) or (height, width, 3); a video has one more axis, its frames,
in front: (frames, height, width), … . Numbers are from 0 to 1, or whole bytes.
"""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ponder.errors import MissingExtraError

if TYPE_CHECKING:
    from PIL.Image import Image

_COLOURS = 128
"""Of a small copy in colour: enough to recognise it, in a third of the bytes."""
_STRIP = 4
"""Frames that the small copy of a video shows."""


def frames_of(value: Any) -> list[npt.NDArray[np.uint8]] | None:
    """The frames of a picture (one) or a video as bytes (height, width) or (height, width, 3); None for anything else.

    >>> [len(frames_of(np.zeros(shape)) or ()) for shape in ((8, 8), (8, 8, 3), (5, 8, 8), (5, 8, 8, 3), (8,))]
    [1, 1, 5, 5, 0]
    """
    if not is_picture(value):
        return None
    coloured = _is_coloured(value)
    frames = value if value.ndim - coloured == 3 else value[None]
    if frames.shape[-1] == 1 and coloured:
        frames = frames[..., 0]
    if frames.dtype != np.uint8:
        frames = np.rint(np.clip(np.nan_to_num(frames.astype(float)), 0.0, 1.0) * 255.0).astype(np.uint8)
    return list(frames)


def is_picture(value: Any) -> bool:
    """Whether it is a picture or a video, by its shape and kind of numbers."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub" or not value.size:
        return False
    return value.ndim - _is_coloured(value) in (2, 3)


def _is_coloured(value: npt.NDArray[Any]) -> bool:
    """Whether its last axis is that of colours."""
    return value.ndim > 2 and value.shape[-1] in (1, 3)


def image_of(frame: npt.NDArray[np.uint8]) -> Image:
    """A frame as an image of Pillow.

    Raises:
        MissingExtraError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError("showing pictures", "pillow", "diffusion") from error
    return Image.fromarray(np.ascontiguousarray(frame))


def strip_of(frames: list[npt.NDArray[np.uint8]], most: int = _STRIP) -> npt.NDArray[np.uint8]:
    """At most so many frames, evenly spaced, the first and the last among them, side by side with a line between."""
    at = np.unique(np.linspace(0, len(frames) - 1, min(most, len(frames))).round().astype(int))
    line = np.full_like(frames[0][:, : max(frames[0].shape[1] // 16, 1)], 255)
    parts = [part for i in at for part in (line, frames[i])][1:]
    return np.concatenate(parts, axis=1)


def thumbnail(value: Any, side: int = 96) -> str | None:
    """A small copy as a `data:` URL of a PNG, no higher than `side`; of a video a strip of frames.

    None for what is no picture, or without Pillow.
    """
    frames = frames_of(value)
    if frames is None:
        return None
    try:
        image = image_of(strip_of(frames))
    except MissingExtraError:
        return None
    if image.height > side:
        image = image.resize((max(round(image.width * side / image.height), 1), side))
    if image.mode == "RGB" and image.width * image.height > 1024:
        image = image.quantize(_COLOURS)
    held = io.BytesIO()
    image.save(held, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(held.getvalue()).decode("ascii")
