"""How well a picture fits its prompt, by the embeddings of a CLIP model; also of CLIP models tuned to preferences.

Paper    Hessel et al. 2021, "CLIPScore: A Reference-free Evaluation Metric for Image Captioning"; Kirstain et al. 2023,
         "Pick-a-Pic" (PickScore); Wu et al. 2023, "Human Preference Score v2".
Equal    2.5 · max(cos, 0), without the paper's "A photo depicts" before the prompt unless `prefix` says so; for
         preference models exp(logit_scale) · cos, the scale they were trained with.
Differs  Pictures in unfinished states are what the model expects them to become. Prompts that are too long are cut.
         Averages and ranks over several rewards are `rank_ensemble`.
Needs    Pictures; torch, transformers and Pillow, a CLIP checkpoint in the format of transformers with safetensors.
Cost     One pass over each picture and one over the prompt for each call. Not a function evaluation: those are the
         denoiser's. Its seconds are in the ledger under `verify`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ponder.core.context import Context
from ponder.core.judging import prompt_text
from ponder.core.problem import Problem
from ponder.core.registry import verifier
from ponder.core.verifier import Scorable, Verifier, output_of
from ponder.engine.threads import quiet_threads
from ponder.errors import BudgetError, ModelError, ModelNotFoundError, ParameterError, VerifierError
from ponder.ledger.spend import Spend
from ponder.verifiers._pictures import picture_of
from ponder.verifiers._reward_model import Precision, Settings, need_transformers, shared

Scale = Literal["clipscore", "cosine", "preference"]
_RANGES = {"clipscore": (0.0, 2.5), "cosine": (-1.0, 1.0), "preference": (-math.inf, math.inf)}


@verifier("clip_score", how="verification:process:reward_model", where="generation_image")
@dataclass(frozen=True)
class ClipScore(Verifier):
    """Similarity of a picture and its prompt.

    Args:
        model: a directory or hub name, such as `openai/clip-vit-base-patch32` or `yuvalkirstain/PickScore_v1`.
        scale: `clipscore` is 2.5 · max(cos, 0); `cosine` is the bare cosine; `preference` is exp(logit_scale) · cos,
            the reward of PickScore and of HPS checkpoints in the format of transformers.
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

    by_output: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ParameterError(self, "batch", self.batch, allowed="an integer ≥ 1")
        if self.scale not in _RANGES:
            raise ParameterError(self, "scale", self.scale, allowed=" | ".join(_RANGES))

    @property
    def range(self) -> tuple[float, float]:  # type: ignore[override]
        """Of its scores."""
        return _RANGES[self.scale]

    async def score(self, problem: Problem, items: Sequence[Scorable], ctx: Context) -> Sequence[float]:
        """One number per item, `batch` of them in one pass."""
        pictures = [picture_of(output_of(item, ctx)) for item in items]
        settings = Settings(self.model, self.precision, self.device)
        clip = await shared((self.name, settings, self.processor), lambda: Clip(settings, self.processor))
        text = self.prefix + (prompt_text(problem) if isinstance(problem.prompt, (str, tuple)) else str(problem.prompt))

        def read(m: int) -> list[float]:
            return [
                v for i in range(0, m, self.batch) for v in self._read(clip, pictures[i : min(i + self.batch, m)], text)
            ]

        m, values = await ctx.evaluate(len(pictures), read, costs=[Spend()] * len(pictures))
        if m < len(pictures):
            raise BudgetError("the budget did not allow the pictures to be scored")
        return list(values or [])

    def _read(self, clip: Clip, pictures: Sequence[Any], text: str) -> list[float]:
        cosines, factor = clip.compare(pictures, text)
        if not all(map(math.isfinite, cosines)):
            raise VerifierError(f"clip_score: {self.model} gave numbers that are not finite")
        if self.scale == "cosine":
            return [min(max(c, -1.0), 1.0) for c in cosines]
        return [factor * c if self.scale == "preference" else min(2.5 * max(c, 0.0), 2.5) for c in cosines]


class Clip:
    """A loaded CLIP model with its tokenizer and preprocessing.

    Args:
        settings: what to load.
        processor: directory or hub name of tokenizer and preprocessing; None takes the weights' own.

    Raises:
        ModelNotFoundError: there are no such files.
        ModelError: they are no whole CLIP model.
        MissingExtraError: torch or transformers is not installed.
    """

    def __init__(self, settings: Settings, processor: str | None = None) -> None:
        torch, transformers = need_transformers()
        folder = settings.folder()
        beside = processor or folder
        # The one that needs no torchvision, where transformers has both.
        reader = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
        try:
            self._words = transformers.AutoTokenizer.from_pretrained(beside)
            self._eyes = reader.from_pretrained(beside)
            with quiet_threads():
                model, report = transformers.CLIPModel.from_pretrained(
                    folder, dtype=settings.precision, use_safetensors=True, output_loading_info=True
                )
        except (OSError, ValueError) as error:
            raise ModelNotFoundError(
                f"clip_score: {settings.source} cannot be loaded as a CLIP model: {error}"
            ) from None
        if missing := sorted(report["missing_keys"]):
            raise ModelError(f"{settings.source} lacks {len(missing)} tensors of a CLIP model ({missing[0]}, …)")
        device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._torch, self._model, self._lock = torch, model.to(device).eval(), threading.Lock()

    def compare(self, pictures: Sequence[Any], text: str) -> tuple[list[float], float]:
        """Cosine of each picture's embedding and the text's, and the model's own factor exp(logit_scale)."""
        model, longest = self._model, self._model.config.text_config.max_position_embeddings
        words = self._words([text], truncation=True, max_length=longest, return_tensors="pt")
        pixels = self._eyes(list(pictures), return_tensors="pt")["pixel_values"]
        with self._lock, self._torch.inference_mode():
            out = model(
                input_ids=words["input_ids"].to(model.device),
                attention_mask=words["attention_mask"].to(model.device),
                pixel_values=pixels.to(model.device, model.dtype),
            )
            cosines = (out.image_embeds.float() @ out.text_embeds.float().T)[:, 0].tolist()
            return cosines, float(model.logit_scale.float().exp())
