"""Stable Diffusion 1, 2 and XL: a U-Net conditioned on text; XL also on pooled text and the picture's size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ponder.diffusion.pipelines._parts import Condition, PictureParts, Size
from ponder.errors import CapabilityError

if TYPE_CHECKING:
    from torch import Tensor


class StableDiffusion(PictureParts):
    """Text by one encoder."""

    classes = ("StableDiffusionPipeline",)

    def __init__(self, pipeline: Any, size: Size, guidance: float = 1.0) -> None:
        super().__init__(pipeline, size, guidance)
        if getattr(self.network.config, "time_cond_proj_dim", None) is not None:
            kind = type(pipeline).__name__
            raise CapabilityError(
                f"{kind} of a latent consistency model, whose network takes the guidance, is not known"
            )

    def encode(self, prompt: Any) -> tuple[Condition, Condition]:
        """Hidden states of the text."""
        import torch

        with torch.no_grad():
            given, nothing = self.pipeline.encode_prompt(str(prompt), self.device, 1, True)[:2]
        return {"encoder_hidden_states": given}, {"encoder_hidden_states": nothing}

    def ask(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """One call of the U-Net."""
        output: Tensor = self.network(x, t, return_dict=False, **condition)[0]
        return output


class StableDiffusionXL(StableDiffusion):
    """Text by two encoders; the picture counts as uncropped and of its own size."""

    classes = ("StableDiffusionXLPipeline",)

    def encode(self, prompt: Any) -> tuple[Condition, Condition]:
        """Hidden states and pooled text, and the sizes."""
        import torch

        size, second = (self.height, self.width), self.pipeline.text_encoder_2
        with torch.no_grad():
            given, nothing, pooled, pooled_nothing = self.pipeline.encode_prompt(str(prompt), device=self.device)
            ids = self.pipeline._get_add_time_ids(
                size, (0, 0), size, given.dtype, pooled.shape[-1] if second is None else second.config.projection_dim
            ).to(self.device)
        return (
            {"encoder_hidden_states": given, "text_embeds": pooled, "time_ids": ids},
            {"encoder_hidden_states": nothing, "text_embeds": pooled_nothing, "time_ids": ids},
        )

    def ask(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """One call of the U-Net."""
        states, *added = (condition[key] for key in ("encoder_hidden_states", "text_embeds", "time_ids"))
        added_kwargs = dict(zip(("text_embeds", "time_ids"), added, strict=True))
        output: Tensor = self.network(x, t, states, added_cond_kwargs=added_kwargs, return_dict=False)[0]
        return output
