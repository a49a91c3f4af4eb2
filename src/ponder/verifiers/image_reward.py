"""ImageReward: how much people would like a picture as the picture of a prompt.

Paper    Xu et al. 2023, "ImageReward: Learning and Evaluating Human Preferences for Text-to-Image Generation".
Equal    The published checkpoint: a BLIP text encoder reads the prompt (35 tokens, padded) and looks at the picture's
         patches; five linear layers read the state of its first token; (reward - 0.1672) / 1.0333.
Differs  The networks are those of transformers, and the tensors of the checkpoint are put into them by name. Sizes
         are read off the tensors; a head of attention has 64 numbers, as in all BLIP models.
Needs    Pictures; torch, transformers and Pillow; the checkpoint, and a BERT tokenizer.
Cost     One pass over each picture and the prompt. Its seconds are in the ledger under `verify`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ponder.core.registry import verifier
from ponder.verifiers._checkpoints import (
    Tensors,
    checkpoint_file,
    filled,
    layers,
    linear_head,
    need,
    read_tensors,
    renamed,
    under,
)  # fmt: skip
from ponder.verifiers._picture_reward import Looker, PictureReward, tokenizer_of
from ponder.verifiers._pixels import Pixels
from ponder.verifiers._reward_model import Precision, device_of, need_transformers

if TYPE_CHECKING:
    from torch import Tensor

_MEAN, _DEVIATION = 0.16717362830052426, 1.0333394966054072
_MOST_TOKENS = 35
_HEAD_WIDTH = 64

_EYES = (
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^blocks\.", "encoder.layers."),
    (r"\.norm([12])\.", r".layer_norm\1."),
    (r"\.attn\.qkv\.", ".self_attn.qkv."),
    (r"\.attn\.proj\.", ".self_attn.projection."),
    (r"^norm\.", "post_layernorm."),
)


@verifier("image_reward", how="verification:process:reward_model", where="generation_image")
@dataclass(frozen=True)
class ImageReward(PictureReward):
    """Reward in standard deviations of the published training data: most pictures lie between -2.5 and 2.

    Args:
        model: the checkpoint (.safetensors, .pt), or ORGANISATION/NAME/FILE on the model hub.
        tokenizer: directory or hub name.
        precision: of the networks; `auto` is the checkpoint's own. The head is always in single precision.
        device: `cpu`, `cuda`, …; none takes a GPU if there is one.
        batch: most pictures in one pass.
    """

    model: str = "THUDM/ImageReward/ImageReward.pt"
    tokenizer: str = "bert-base-uncased"
    precision: Precision = "auto"
    device: str | None = None
    batch: int = 32

    range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)

    def load(self) -> Looker:
        """Both encoders and the head, on their device."""
        return Blip(checkpoint_file(self.model), self.tokenizer, self.precision, device_of(self.device))


class Blip(Looker):
    """The two encoders and the head of a checkpoint.

    Raises:
        ModelNotFoundError: there is no such tokenizer.
        ModelError: the checkpoint is no ImageReward, or not a whole one.
    """

    def __init__(self, path: Path, tokenizer: str, precision: Precision, device: Any) -> None:
        found = read_tensors(path)
        self._head = linear_head(under(found, "mlp."), path, device)
        self._eyes = _eyes(under(found, "blip.visual_encoder."), path, precision).to(device)
        text = under(found, "blip.text_encoder.")
        self._text = _text(text, path, precision, self._eyes.config.hidden_size).to(device)
        self._words = tokenizer_of("image_reward", tokenizer)
        super().__init__(Pixels(self._eyes.config.image_size), device, self._eyes.dtype)

    def scores(self, pixels: Tensor, text: str) -> Tensor:
        """Rewards in standard deviations."""
        patches = self._eyes(pixel_values=pixels).last_hidden_state
        words = self._words(
            [text] * len(pixels), padding="max_length", truncation=True, max_length=_MOST_TOKENS, return_tensors="pt"
        ).to(self.device)
        read = self._text(
            input_ids=words["input_ids"], attention_mask=words["attention_mask"],
            encoder_hidden_states=patches, encoder_attention_mask=patches.new_ones(patches.shape[:2]),
        )  # fmt: skip
        return (self._head(read.last_hidden_state[:, 0].float()) - _MEAN) / _DEVIATION


def _eyes(tensors: Tensors, path: Path, precision: Precision) -> Any:
    _, transformers = need_transformers()
    names = ("patch_embed.proj.weight", "pos_embed", "blocks.0.mlp.fc1.weight")
    (width, _, patch, _), (_, places, _), (wide, _) = need(tensors, names, path, "BLIP picture encoder")
    config = transformers.BlipVisionConfig(
        hidden_size=width, intermediate_size=wide, num_hidden_layers=layers(tensors, r"blocks\.(\d+)\."),
        num_attention_heads=width // _HEAD_WIDTH, image_size=patch * math.isqrt(places - 1), patch_size=patch,
        layer_norm_eps=1e-6,
    )  # fmt: skip
    return filled(transformers.BlipVisionModel, config, renamed(tensors, _EYES), path, precision)


def _text(tensors: Tensors, path: Path, precision: Precision, seen: int) -> Any:
    _, transformers = need_transformers()
    from transformers import BlipTextModel

    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith("position_ids")}
    names = (
        "embeddings.word_embeddings.weight",
        "embeddings.position_embeddings.weight",
        "encoder.layer.0.intermediate.dense.weight",
    )
    (words, width), (places, _), (wide, _) = need(tensors, names, path, "BLIP text encoder")
    config = transformers.BlipTextConfig(
        vocab_size=words, hidden_size=width, encoder_hidden_size=seen, intermediate_size=wide,
        num_hidden_layers=layers(tensors, r"encoder\.layer\.(\d+)\."), num_attention_heads=width // _HEAD_WIDTH,
        max_position_embeddings=places, bos_token_id=None, sep_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return filled(BlipTextModel, config, tensors, path, precision, add_pooling_layer=False)
