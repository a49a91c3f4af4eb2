"""Stable Diffusion 3 and 3.5: flow matching by a transformer over latents and text together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ponder.diffusion.hub import schedule_of
from ponder.diffusion.pipelines._parts import Condition, PictureParts
from ponder.diffusion.schedule import Schedule

if TYPE_CHECKING:
    from torch import Tensor


class StableDiffusion3(PictureParts):
    """Text by up to three encoders, and pooled."""

    classes = ("StableDiffusion3Pipeline",)

    @property
    def patch(self) -> int:
        """Of the transformer."""
        return int(self.network.config.patch_size)

    def schedule_for(self, steps: int) -> Schedule:
        """Shifted by the size of the picture, if the scheduler says so."""
        _, height, width = self.latent_shape
        return schedule_of(self.pipeline.scheduler, steps, (height // self.patch) * (width // self.patch))

    def encode(self, prompt: Any) -> tuple[Condition, Condition]:
        """Hidden states and pooled text."""
        import torch

        with torch.no_grad():
            found = self.pipeline.encode_prompt(str(prompt), None, None, device=self.device)
        names = ("encoder_hidden_states", "pooled_projections")
        return dict(zip(names, found[0::2], strict=True)), dict(zip(names, found[1::2], strict=True))

    def ask(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """One call of the transformer."""
        output: Tensor = self.network(x, timestep=t, return_dict=False, **condition)[0]
        return output
