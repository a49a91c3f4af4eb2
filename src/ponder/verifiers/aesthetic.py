"""How beautiful a picture is, whatever it shows: LAION's predictor on CLIP embeddings.

Source   Schuhmann et al. 2022, "LAION-5B", and the improved aesthetic predictor (sac+logos+ava1-l14-linearMSE).
Equal    Five linear layers on the normed picture embedding of CLIP ViT-L/14, as published.
Differs  The published variant with rectifiers (reluMSE) is refused: its layers have other names.
Needs    Pictures; torch, transformers and Pillow; the predictor's file, and a CLIP model in the format of
         transformers.    Cost: one pass over each picture; the prompt is not read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ponder.core.registry import verifier
from ponder.errors import ModelError
from ponder.verifiers._checkpoints import checkpoint_file, linear_head, read_tensors
from ponder.verifiers._clip import clip_model
from ponder.verifiers._picture_reward import Looker, PictureReward
from ponder.verifiers._pixels import Pixels
from ponder.verifiers._reward_model import Precision, Settings, device_of

if TYPE_CHECKING:
    from torch import Tensor


@verifier("aesthetic", how="verification:process:reward_model", where="generation_image")
@dataclass(frozen=True)
class Aesthetic(PictureReward):
    """A mark that people would give: with the published weights about 1 to 10, most pictures between 4 and 7.

    Args:
        model: file of the predictor (.safetensors, .pth), or ORGANISATION/NAME/FILE on the model hub.
        clip: directory or hub name of the CLIP model whose embeddings it reads.
        precision: of CLIP; `auto` is the checkpoint's own. The predictor is always in single precision.
        device: `cpu`, `cuda`, …; none takes a GPU if there is one.
        batch: most pictures in one pass.
    """

    model: str
    clip: str = "openai/clip-vit-large-patch14"
    precision: Precision = "auto"
    device: str | None = None
    batch: int = 32

    range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)

    def load(self) -> Looker:
        """CLIP and the predictor, on their device."""
        return Predictor(self.model, Settings(self.clip, self.precision, self.device))


class Predictor(Looker):
    """A CLIP model and the layers on its picture embeddings.

    Raises:
        ModelNotFoundError: a file is missing.
        ModelError: the file is no such predictor, or of another CLIP model.
    """

    def __init__(self, model: str, clip: Settings) -> None:
        path, device = checkpoint_file(model), device_of(clip.device)
        tensors = read_tensors(path)
        self._head = linear_head(tensors, path, device)
        self._clip = clip_model("aesthetic", clip)
        reads, gives = tensors["layers.0.weight"].shape[1], self._clip.config.projection_dim
        if reads != gives:
            raise ModelError(f"{model} reads embeddings of {reads} numbers, those of {clip.source} have {gives}")
        super().__init__(Pixels(self._clip.config.vision_config.image_size), device, self._clip.dtype)

    def scores(self, pixels: Tensor, text: str) -> Tensor:
        """Marks, in single precision."""
        import torch

        seen = self._clip.visual_projection(self._clip.vision_model(pixel_values=pixels).pooler_output)
        return self._head(torch.nn.functional.normalize(seen.float(), dim=-1))
