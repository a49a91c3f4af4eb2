"""CLIP models in the format of transformers, and how near a picture and a text are in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ponder.engine.threads import quiet_threads
from ponder.errors import ModelError, ModelNotFoundError
from ponder.verifiers._reward_model import Settings, device_of, need_transformers

if TYPE_CHECKING:
    from torch import Tensor


def clip_model(owner: str, settings: Settings) -> Any:
    """A CLIP model in the format of transformers, on its device.

    Raises:
        ModelNotFoundError: it cannot be loaded.
        ModelError: some of its tensors are missing.
    """
    _, transformers = need_transformers()
    try:
        with quiet_threads():
            model, report = transformers.CLIPModel.from_pretrained(
                settings.folder(), dtype=settings.precision, use_safetensors=True, output_loading_info=True
            )
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(f"{owner}: {settings.source} cannot be loaded as a CLIP model: {error}") from None
    if missing := sorted(report["missing_keys"]):
        raise ModelError(f"{settings.source} lacks {len(missing)} tensors of a CLIP model ({missing[0]}, …)")
    return model.to(device_of(settings.device)).eval().requires_grad_(False)


def clip_cosines(model: Any, tokenizer: Any, pixels: Tensor, text: str) -> Tensor:
    """(n,) cosines of the embeddings of pictures and of a text, which is cut where it is too long."""
    longest = model.config.text_config.max_position_embeddings
    words = tokenizer([text], truncation=True, max_length=longest, return_tensors="pt").to(model.device)
    out = model(input_ids=words["input_ids"], attention_mask=words["attention_mask"], pixel_values=pixels)
    cosines: Tensor = (out.image_embeds.float() @ out.text_embeds.float().T)[:, 0]
    return cosines
