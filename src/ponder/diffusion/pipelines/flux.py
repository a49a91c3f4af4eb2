"""Flux: flow matching by a transformer over 2 x 2 patches of latents; the dev model takes the guidance as an input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ponder.diffusion.hub import schedule_of
from ponder.diffusion.pipelines._parts import Condition, PictureParts
from ponder.diffusion.schedule import Schedule

if TYPE_CHECKING:
    from torch import Tensor


class Flux(PictureParts):
    """States are latents (channels, height, width); the network reads them packed."""

    classes = ("FluxPipeline",)

    @property
    def patch(self) -> int:
        """Of the packing."""
        return 2

    @property
    def channels(self) -> int:
        """Of the latents before they are packed."""
        return super().channels // 4

    @property
    def own_size(self) -> tuple[int, int]:
        """The pipeline's: the network has none."""
        own = int(self.pipeline.default_sample_size)
        return own, own

    @property
    def embeds_guidance(self) -> bool:
        """Of the dev model; schnell has none, and takes it only as classifier-free guidance."""
        return bool(self.network.config.guidance_embeds)

    def schedule_for(self, steps: int) -> Schedule:
        """Even levels, shifted by the size of the picture if the scheduler says so."""
        _, height, width = self.latent_shape
        return schedule_of(self.pipeline.scheduler, steps, height * width // 4, even=True)

    def encode(self, prompt: Any) -> tuple[Condition, Condition]:
        """Hidden states by the second text encoder, pooled text by the first."""
        import torch

        def encoded(text: str) -> Condition:
            states, pooled, _ = self.pipeline.encode_prompt(text, None, device=self.device)
            return {"encoder_hidden_states": states, "pooled_projections": pooled}

        with torch.no_grad():
            given = encoded(str(prompt))
            return given, given if self.embeds_guidance else encoded("")

    def ask(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Pack, ask, unpack."""
        import torch

        (n, channels, height, width), pipeline = x.shape, self.pipeline
        scale = torch.full((n,), self.guidance, device=x.device) if self.embeds_guidance else None
        places = pipeline._prepare_latent_image_ids(n, height // 2, width // 2, x.device, x.dtype)
        output = self.network(
            pipeline._pack_latents(x, n, channels, height, width),
            timestep=t / 1000.0,
            guidance=scale,
            txt_ids=torch.zeros(condition["encoder_hidden_states"].shape[1], 3, device=x.device, dtype=x.dtype),
            img_ids=places,
            return_dict=False,
            **condition,
        )[0]
        unpacked: Tensor = pipeline._unpack_latents(output, height, width, 1)
        return unpacked
