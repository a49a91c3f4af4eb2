"""Wan 2.1 and 2.2: flow matching by a transformer over latents of a whole video; 2.2 has a second one for low noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ponder.diffusion.pipelines._parts import Condition, Size, VideoParts, colours_last, unscaled
from ponder.errors import CapabilityError

if TYPE_CHECKING:
    from torch import Tensor


class Wan(VideoParts):
    """States are latents (channels, frames, height, width)."""

    classes = ("WanPipeline",)
    own = (81, 480, 832)

    def __init__(self, pipeline: Any, size: Size, guidance: float = 1.0) -> None:
        if pipeline.transformer is None:
            raise CapabilityError("a WanPipeline without its transformer for high noise is not known")
        super().__init__(pipeline, size, guidance)
        self._boundary = pipeline.config.boundary_ratio
        self._low: Any = pipeline.transformer_2
        if self._low is not None:
            self._low.requires_grad_(False).eval()

    def shape(self, size: Size) -> tuple[int, ...]:
        """(channels, frames, height, width)."""
        depth, patch, _ = self.network.config.patch_size
        factors = (self.pipeline.vae_scale_factor_temporal, self.pipeline.vae_scale_factor_spatial)
        return int(self.network.config.in_channels), *self.grid(size, factors, (depth, patch))

    def encode(self, prompt: Any) -> tuple[Condition, Condition]:
        """Hidden states of the text."""
        import torch

        with torch.no_grad():
            found = self.pipeline.encode_prompt(str(prompt), device=self.device)
        given, nothing = ({"encoder_hidden_states": states.to(self.dtype)} for states in found)
        return given, nothing

    def ask(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Each state by the transformer for its noise level."""
        import torch

        if self._boundary is None:
            return self._by(self.network, x, t, condition)
        output, high = torch.empty_like(x), t >= self._boundary * self.pipeline.scheduler.config.num_train_timesteps
        for network, rows in ((self.network, high), (self._low, ~high)):
            if rows.any():
                own = {key: value[rows] for key, value in condition.items()}
                output = output.index_put((rows,), self._by(network, x[rows], t[rows], own))
        return output

    def _by(self, network: Any, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        if self.pipeline.config.expand_timesteps:
            depth, *patch = network.config.patch_size
            tokens = (x.shape[2] // depth) * (x.shape[3] // patch[0]) * (x.shape[4] // patch[1])
            t = t[:, None].expand(-1, tokens)
        output: Tensor = network(x, timestep=t, return_dict=False, **condition)[0]
        return output

    def decode_tensors(self, latents: Tensor) -> Tensor:
        """Frames."""
        x = unscaled(latents.to(self.device, self.vae.dtype), self.vae)
        return colours_last(self.vae.decode(x, return_dict=False)[0])
