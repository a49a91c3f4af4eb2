"""LTX-Video: flow matching by a transformer over packed latents of a whole video."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ponder.diffusion.hub import schedule_of
from ponder.diffusion.pipelines._parts import Condition, Size, VideoParts, colours_last, unscaled
from ponder.diffusion.schedule import Schedule

if TYPE_CHECKING:
    from torch import Tensor

_FRAMES_PER_S = 25
"""The pipeline's default; places in time are told to the network in these."""


class LTX(VideoParts):
    """States are latents (channels, frames, height, width); the network reads them packed."""

    classes = ("LTXPipeline",)
    own = (161, 512, 704)

    def shape(self, size: Size) -> tuple[int, ...]:
        """(channels, frames, height, width)."""
        pipeline = self.pipeline
        self._patches = (pipeline.transformer_spatial_patch_size, pipeline.transformer_temporal_patch_size)
        self._factors = (pipeline.vae_temporal_compression_ratio, pipeline.vae_spatial_compression_ratio)
        channels = self.network.config.in_channels // (self._patches[0] ** 2 * self._patches[1])
        return channels, *self.grid(size, self._factors, self._patches[::-1])

    def schedule_for(self, steps: int) -> Schedule:
        """Even levels, shifted by the size of the video if the scheduler says so."""
        _, frames, height, width = self.latent_shape
        return schedule_of(self.pipeline.scheduler, steps, frames * height * width, even=True)

    def encode(self, prompt: Any) -> tuple[Condition, Condition]:
        """Hidden states of the text, and which of them count."""
        import torch

        with torch.no_grad():
            found = self.pipeline.encode_prompt(str(prompt), device=self.device)
        names = ("encoder_hidden_states", "encoder_attention_mask")
        return dict(zip(names, found[:2], strict=True)), dict(zip(names, found[2:], strict=True))

    def ask(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Pack, ask, unpack."""
        frames, height, width = x.shape[2:]
        output = self.network(
            self.pipeline._pack_latents(x, *self._patches),
            timestep=t,
            num_frames=frames,
            height=height,
            width=width,
            rope_interpolation_scale=(self._factors[0] / _FRAMES_PER_S, self._factors[1], self._factors[1]),
            return_dict=False,
            **condition,
        )[0]
        unpacked: Tensor = self.pipeline._unpack_latents(output, frames, height, width, *self._patches)
        return unpacked

    def decode_tensors(self, latents: Tensor) -> Tensor:
        """Frames; a decoder that takes a time is told 0, as the pipeline does by default."""
        import torch

        vae = self.vae
        x = unscaled(latents.to(self.device, vae.dtype), vae)
        time = torch.zeros(len(x), device=x.device, dtype=x.dtype) if vae.config.timestep_conditioning else None
        return colours_last(vae.decode(x, time, return_dict=False)[0])
