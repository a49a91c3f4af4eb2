"""Pictures as verifiers meet them: arrays, images of PIL, or files; and as a model behind an endpoint takes them."""

from __future__ import annotations

import base64
import io
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from ponder.core.judging import prompt_text
from ponder.core.problem import Problem
from ponder.errors import MissingExtraError, VerifierError

if TYPE_CHECKING:
    from PIL.Image import Image


def picture_of(value: Any) -> Image:
    """An RGB image.

    Args:
        value: an array (height, width), (height, width, 1) or (height, width, 3), of numbers from 0 to 1 (clipped) or
            of bytes; an image of PIL; or the path of a file.

    Raises:
        VerifierError: it is none of these, is empty, cannot be read, or holds numbers that are not finite.
        MissingExtraError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise MissingExtraError("a verifier of pictures", "pillow", "diffusion") from None
    if isinstance(value, Image.Image):
        return value.convert("RGB")
    if isinstance(value, (str, PathLike)):
        try:
            with Image.open(value) as file:
                return file.convert("RGB")
        except (OSError, ValueError) as error:
            raise VerifierError(f"no picture can be read from {str(value)[:200]!r}: {error}") from None
    array = np.asarray(value)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.dtype.kind not in "fiub" or not array.size or not (array.ndim == 2 or array.shape[2:] == (3,)):
        raise VerifierError(
            "a picture is an array (height, width) or (height, width, 3), an image or a path; "
            f"a {type(value).__name__} of shape {array.shape} is given"
        )
    if not np.isfinite(array).all():
        raise VerifierError("the picture holds numbers that are not finite")
    if array.dtype != np.uint8:
        array = np.rint(np.clip(array.astype(float), 0.0, 1.0) * 255.0).astype(np.uint8)
    return Image.fromarray(array).convert("RGB")


def png_url(picture: Image) -> str:
    """The image as a `data:` URL."""
    held = io.BytesIO()
    picture.save(held, "PNG")
    return "data:image/png;base64," + base64.b64encode(held.getvalue()).decode("ascii")


def words_of(problem: Problem) -> str:
    """What a picture is to show, in words."""
    return prompt_text(problem) if isinstance(problem.prompt, (str, tuple)) else str(problem.prompt)
