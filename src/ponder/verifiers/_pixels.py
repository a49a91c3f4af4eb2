"""Pictures as a vision tower takes them: one size, three colours, the mean and deviation of its training data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from ponder.errors import VerifierError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

Colours = tuple[float, float, float]

_MEAN: Colours = (0.48145466, 0.4578275, 0.40821073)
_DEVIATION: Colours = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Pixels:
    """How pictures are made into a tower's input.

    Args:
        side: of the square input, in pixels.
        fit: `crop` brings the shorter edge to `side` and cuts out the middle; `pad` brings the longer edge to it and
            adds black.
        mean: of each colour, which is taken off; the default is CLIP's.
        deviation: of each colour, which divides; the default is CLIP's.
    """

    side: int
    fit: Literal["crop", "pad"] = "crop"
    mean: Colours = _MEAN
    deviation: Colours = _DEVIATION

    def of_pictures(self, pictures: Sequence[Image]) -> Tensor:
        """(n, 3, side, side) of RGB images, resized bicubically as Pillow does it."""
        import torch
        from PIL import Image as pillow

        found = []
        for picture in pictures:
            width, height = picture.size
            across, down = self._size(width, height)
            resized = picture.resize((across, down), pillow.Resampling.BICUBIC)
            canvas = pillow.new("RGB", (self.side, self.side))
            canvas.paste(resized, (self._offset(across), self._offset(down)))
            found.append(np.asarray(canvas, dtype=np.float32) / 255.0)
        return self._normal(torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2))

    def of_tensors(self, outputs: Tensor) -> Tensor:
        """(n, 3, side, side) of pictures (n, height, width) or (n, height, width, 3) from 0 to 1, differentiable.

        Almost that of the same pictures: here they are not rounded to bytes in between.

        Raises:
            VerifierError: they have another shape.
        """
        import torch

        if outputs.dim() == 3:
            outputs = outputs[..., None].expand(*outputs.shape, 3)
        if outputs.dim() != 4 or outputs.shape[-1] != 3:
            raise VerifierError(
                f"pictures (n, height, width) or (n, height, width, 3) are scored, not {tuple(outputs.shape)}"
            )
        x = outputs.permute(0, 3, 1, 2)
        across, down = self._size(x.shape[3], x.shape[2])
        if (down, across) != tuple(x.shape[2:]):
            x = torch.nn.functional.interpolate(x, (down, across), mode="bicubic", antialias=True).clamp(0.0, 1.0)
        left, top = self._offset(across), self._offset(down)
        x = torch.nn.functional.pad(x, (left, self.side - across - left, top, self.side - down - top))
        return self._normal(x)

    def _size(self, width: int, height: int) -> tuple[int, int]:
        if self.fit == "pad":
            longer = max(width, height)
            return max(1, round(self.side * width / longer)), max(1, round(self.side * height / longer))
        shorter = min(width, height)
        return self.side * width // shorter, self.side * height // shorter

    def _offset(self, edge: int) -> int:
        """Where a resized edge begins in the square; negative where it is cut."""
        return (self.side - edge) // 2 if edge <= self.side else -round((edge - self.side) / 2)

    def _normal(self, x: Tensor) -> Tensor:
        mean, deviation = (x.new_tensor(v)[:, None, None] for v in (self.mean, self.deviation))
        return (x - mean) / deviation
