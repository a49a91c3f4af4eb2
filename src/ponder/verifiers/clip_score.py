"""How well a picture fits its prompt, by the embeddings of a CLIP model; also of CLIP models tuned to preferences.

Paper    Hessel et al. 2021, "CLIPScore: A Reference-free Evaluation Metric for Image Captioning"; Kirstain et al. 2023,
         "Pick-a-Pic" (PickScore); Wu et al. 2023, "Human Preference Score v2".
Equal    2.5 · max(cos, 0), without the paper's "A photo depicts" before the prompt unless `prefix` says so; for
         preference models exp(logit_scale) · cos, the scale they were trained with.
Differs  Pictures in unfinished states are what the model expects them to become. Prompts that are too long are cut.
         Averages and ranks over several rewards are `rank_ensemble`. HPS v2 as it was published is `hps`.
Needs    Pictures; torch, transformers and Pillow, a CLIP checkpoint in the format of transformers with safetensors.
Cost     One pass over each picture and one over the prompt for each call. Not a function evaluation: those are the
         denoiser's. Its seconds are in the ledger under `verify`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ponder.core.problem import Problem
from ponder.core.registry import verifier
from ponder.errors import ModelNotFoundError, ParameterError
from ponder.verifiers._clip import clip_cosines, clip_model
from ponder.verifiers._picture_reward import Looker, PictureReward
from ponder.verifiers._pixels import Pixels
from ponder.verifiers._reward_model import Precision, Settings, need_transformers

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

Scale = Literal["clipscore", "cosine", "preference"]
_RANGES = {"clipscore": (0.0, 2.5), "cosine": (-1.0, 1.0), "preference": (-math.inf, math.inf)}


@verifier("clip_score", how="verification:process:reward_model", where="generation_image")
@dataclass(frozen=True)
class ClipScore(PictureReward):
    """Similarity of a picture and its prompt.

    Args:
        model: a directory or hub name, such as `openai/clip-vit-base-patch32` or `yuvalkirstain/PickScore_v1`.
        scale: `clipscore` is 2.5 · max(cos, 0); `cosine` is the bare cosine; `preference` is exp(logit_scale) · cos,
            the reward of PickScore.
        processor: where tokenizer and preprocessing are, if not beside the weights (PickScore's are those of
            `laion/CLIP-ViT-H-14-laion2B-s32B-b79K`).
        prefix: put before the prompt.
        precision: of the weights; `auto` is the checkpoint's own.
        device: `cpu`, `cuda`, …; none takes a GPU if there is one.
        batch: most pictures in one pass.
    """

    model: str
    scale: Scale = "clipscore"
    processor: str | None = None
    prefix: str = ""
    precision: Precision = "auto"
    device: str | None = None
    batch: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale not in _RANGES:
            raise ParameterError(self, "scale", self.scale, allowed=" | ".join(_RANGES))

    @property
    def range(self) -> tuple[float, float]:  # type: ignore[override]
        """Of its scores."""
        return _RANGES[self.scale]

    def words(self, problem: Problem) -> str:
        """Prefix and prompt."""
        return self.prefix + super().words(problem)

    def load(self) -> Clip:
        """The model, with its tokenizer and preprocessing."""
        return Clip(Settings(self.model, self.precision, self.device), self.processor, self.scale)

    @property
    def _key(self) -> tuple[object, ...]:
        return (self.name, self.model, self.precision, self.device, self.processor, self.scale)


class Clip(Looker):
    """A loaded CLIP model with its tokenizer and preprocessing.

    Args:
        settings: what to load.
        processor: directory or hub name of tokenizer and preprocessing; None takes the weights' own.
        scale: of the scores.

    Raises:
        ModelNotFoundError: there are no such files.
        ModelError: they are no whole CLIP model.
        MissingExtraError: torch or transformers is not installed.
    """

    def __init__(self, settings: Settings, processor: str | None = None, scale: Scale = "cosine") -> None:
        _, transformers = need_transformers()
        beside = processor or settings.folder()
        # The one that needs no torchvision, where transformers has both.
        reader = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
        try:
            self._words = transformers.AutoTokenizer.from_pretrained(beside)
            self._eyes = reader.from_pretrained(beside)
        except (OSError, ValueError) as error:
            raise ModelNotFoundError(f"clip_score: {beside} holds no tokenizer and preprocessing: {error}") from None
        self._model = clip_model("clip_score", settings)
        self._scale = scale
        mean, deviation = tuple(self._eyes.image_mean), tuple(self._eyes.image_std)
        pixels = Pixels(self._model.config.vision_config.image_size, mean=mean, deviation=deviation)
        super().__init__(pixels, self._model.device, self._model.dtype)

    def prepared(self, pictures: Sequence[Image]) -> Tensor:
        """As the checkpoint's own preprocessing makes them."""
        found: Tensor = self._eyes(list(pictures), return_tensors="pt")["pixel_values"]
        return found

    def scores(self, pixels: Tensor, text: str) -> Tensor:
        """On the scale that was asked for, in single precision."""
        cosines = clip_cosines(self._model, self._words, pixels, text)
        if self._scale == "preference":
            factor: Tensor = self._model.logit_scale.float().exp()
            return cosines * factor
        return cosines.clamp(-1.0, 1.0) if self._scale == "cosine" else 2.5 * cosines.clamp(0.0, 1.0)
