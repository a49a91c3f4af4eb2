"""Human Preference Score v2: which of two pictures of a prompt people would choose, by a CLIP tuned to their choices.

Paper    Wu et al. 2023, "Human Preference Score v2: A Solid Benchmark for Evaluating Human Preferences of Text-to-Image
         Synthesis".
Equal    The published checkpoint (open_clip's ViT-H/14) and preprocessing: the longer edge to 224 pixels, black
         around; the score is the cosine of both embeddings.
Differs  The networks are those of transformers, and the tensors of the checkpoint are put into them by name. Sizes
         are read off the tensors; numbers of heads are those of open_clip's ViT models.
Needs    Pictures; torch, transformers and Pillow; the checkpoint, and CLIP's tokenizer.
Cost     One pass over each picture and one over the prompt. Its seconds are in the ledger under `verify`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ponder.core.registry import verifier
from ponder.errors import ModelError
from ponder.verifiers._checkpoints import Tensors, checkpoint_file, filled, layers, need, read_tensors, renamed
from ponder.verifiers._clip import clip_cosines
from ponder.verifiers._picture_reward import Looker, PictureReward, tokenizer_of
from ponder.verifiers._pixels import Pixels
from ponder.verifiers._reward_model import Precision, device_of, need_transformers

if TYPE_CHECKING:
    from torch import Tensor

_LAYERS = (
    (r"^visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
    (r"^transformer\.resblocks\.", "text_model.encoder.layers."),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"\.attn\.out_proj\.", ".self_attn.out_proj."),
    (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^ln_final\.", "text_model.final_layer_norm."),
)


@verifier("hps", aliases=("hpsv2",), how="verification:process:reward_model", where="generation_image")
@dataclass(frozen=True)
class Hps(PictureReward):
    """Cosine in [-1, 1]; with the published weights most pictures lie between 0.2 and 0.35.

    Args:
        model: the checkpoint (.safetensors, .pt), or ORGANISATION/NAME/FILE on the model hub; version 2.0 is
            `xswu/HPSv2/HPS_v2_compressed.pt`.
        processor: directory or hub name of the tokenizer.
        precision: of the weights; `auto` is the checkpoint's own.
        device: `cpu`, `cuda`, …; none takes a GPU if there is one.
        batch: most pictures in one pass.
    """

    model: str = "xswu/HPSv2/HPS_v2.1_compressed.pt"
    processor: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    precision: Precision = "auto"
    device: str | None = None
    batch: int = 32

    range: ClassVar[tuple[float, float]] = (-1.0, 1.0)

    def load(self) -> Looker:
        """The model, on its device."""
        return OpenClip(checkpoint_file(self.model), self.processor, self.precision, device_of(self.device))


class OpenClip(Looker):
    """A checkpoint of open_clip's ViT models.

    Raises:
        ModelNotFoundError: there is no such tokenizer.
        ModelError: the checkpoint is no such model, or not a whole one.
    """

    def __init__(self, path: Path, processor: str, precision: Precision, device: Any) -> None:
        self._model = open_clip_model(read_tensors(path), path, precision).to(device)
        self._words = tokenizer_of("hps", processor)
        super().__init__(Pixels(self._model.config.vision_config.image_size, "pad"), device, self._model.dtype)

    def scores(self, pixels: Tensor, text: str) -> Tensor:
        """Cosines, in single precision."""
        return clip_cosines(self._model, self._words, pixels, text).clamp(-1.0, 1.0)


def open_clip_model(tensors: Tensors, path: Path, precision: Precision) -> Any:
    """A CLIP model of transformers with the tensors of one of open_clip's.

    Raises:
        ModelError: they are not, or not all, those of such a model.
    """
    _, transformers = need_transformers()
    tensors = {name: tensor for name, tensor in tensors.items() if name != "attn_mask"}
    names = (
        "visual.conv1.weight", "visual.positional_embedding", "visual.transformer.resblocks.0.mlp.c_fc.weight",
        "visual.proj", "token_embedding.weight", "positional_embedding", "transformer.resblocks.0.mlp.c_fc.weight",
        "text_projection",
    )  # fmt: skip
    shapes = need(tensors, names, path, "ViT model of open_clip")
    (width, _, patch, _), (places, _), (wide, _), (_, joint), (words, text_width), (longest, _), (text_wide, _), _ = (
        shapes
    )
    seen = dict(
        hidden_size=width, intermediate_size=wide, num_attention_heads=min(width // 64, 16), patch_size=patch,
        num_hidden_layers=layers(tensors, r"visual\.transformer\.resblocks\.(\d+)\."), hidden_act="gelu",
        image_size=patch * math.isqrt(places - 1),
    )  # fmt: skip
    read = dict(
        hidden_size=text_width, intermediate_size=text_wide, num_attention_heads=text_width // 64, vocab_size=words,
        num_hidden_layers=layers(tensors, r"transformer\.resblocks\.(\d+)\."), hidden_act="gelu",
        max_position_embeddings=longest, bos_token_id=words - 2, eos_token_id=words - 1, pad_token_id=words - 1,
    )  # fmt: skip
    config = transformers.CLIPConfig(text_config=read, vision_config=seen, projection_dim=joint)
    return filled(transformers.CLIPModel, config, _translated(tensors, path), path, precision)


def _translated(tensors: Tensors, path: Path) -> Tensors:
    """Names of transformers; one matrix for queries, keys and values becomes three, projections are turned."""
    found: Tensors = {}
    for name, tensor in renamed(tensors, _LAYERS).items():
        place, joined, part = name.partition(".attn.in_proj_")
        if joined:
            if tensor.shape[0] % 3:
                raise ModelError(f"{path}: {name} does not hold queries, keys and values")
            for which, own in zip("qkv", tensor.chunk(3), strict=True):
                found[f"{place}.self_attn.{which}_proj.{part}"] = own
        elif name in ("visual.proj", "text_projection"):
            found["visual_projection.weight" if name == "visual.proj" else "text_projection.weight"] = tensor.T
        else:
            found[name] = tensor
    return {name: tensor.contiguous() for name, tensor in found.items()}
