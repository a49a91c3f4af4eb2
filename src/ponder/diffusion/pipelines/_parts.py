"""What a pipeline of diffusers is to a search: a reader of prompts, a network, tables and a decoder, without a loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ponder.diffusion.hub import clip_of, kind_of, schedule_of
from ponder.diffusion.model import Prediction, as_prediction, data_and_noise
from ponder.diffusion.schedule import Floats, Schedule
from ponder.errors import ParameterError

if TYPE_CHECKING:
    from torch import Tensor

Condition = dict[str, Any]
"""Tensors with a first axis of 1, by names that the family's `ask` knows; empty where nothing is asked for."""


@dataclass(frozen=True)
class Size:
    """Of a finished output; None takes the model's own."""

    height: int | None = None
    width: int | None = None
    frames: int | None = None


class Parts(ABC):
    """A pipeline taken apart. One subclass for each family: it says how its network is asked and nothing about steps.

    Args:
        pipeline: of diffusers, loaded.
        size: of an output.
        guidance: only for a network that takes it as an input.

    Attributes:
        classes: names of the pipelines' classes.
        latent_shape: of one state, (channels, height, width) or (channels, frames, height, width).
    """

    classes: ClassVar[tuple[str, ...]]
    latent_shape: tuple[int, ...]

    def __init__(self, pipeline: Any, size: Size, guidance: float = 1.0) -> None:
        self.pipeline, self.guidance = pipeline, guidance
        self.network: Any = getattr(pipeline, "unet", None) or pipeline.transformer
        self.vae: Any = getattr(pipeline, "vae", None)
        self.kind, self._clip = kind_of(pipeline.scheduler), clip_of(pipeline.scheduler)
        self._tables: dict[int, Schedule] = {}
        self.latent_shape = self.shape(size)
        for module in (self.network, self.vae):
            if module is not None:
                module.requires_grad_(False).eval()
        if (
            self.vae is not None
            and self.vae.config.get("force_upcast", False)
            and str(self.vae.dtype) == "torch.float16"
        ):
            self.vae.float()  # it overflows in half precision, says its configuration

    @property
    def dtype(self) -> Any:
        """Of the network's weights."""
        return self.network.dtype

    @cached_property
    def device(self) -> Any:
        """Where it computes: not where its weights wait, if they are offloaded."""
        return self.pipeline._execution_device

    @property
    def embeds_guidance(self) -> bool:
        """Whether the network takes the guidance as an input, so that no second evaluation is needed."""
        return False

    # ------------------------------------------------------------------ what a family says

    @abstractmethod
    def shape(self, size: Size) -> tuple[int, ...]:
        """Of one state's latents."""

    @abstractmethod
    def encode(self, prompt: Any) -> tuple[Condition, Condition]:
        """The prompt's condition, and that of no prompt."""

    @abstractmethod
    def ask(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """What the network says about latents x (n, *latent_shape) at times t (n,), in the shape of x."""

    @abstractmethod
    def decode_tensors(self, latents: Tensor) -> Tensor:
        """Outputs of latents (n, *latent_shape), 0 to 1, colours last; differentiable."""

    def schedule_for(self, steps: int) -> Schedule:
        """The tables that the pipeline itself would take."""
        return schedule_of(self.pipeline.scheduler, steps)

    # ------------------------------------------------------------------ what all families have

    def schedule(self, steps: int) -> Schedule:
        """The tables for so many steps, made once."""
        if steps not in self._tables:
            self._tables[steps] = self.schedule_for(steps)
        return self._tables[steps]

    def predict(self, x: Floats, a: Floats, s: Floats, t: Floats, conditions: list[Condition]) -> Prediction:
        """One call of the network for states (n, …), each with its own level and condition."""
        import torch

        joined = {key: torch.cat([c[key] for c in conditions]) for key in conditions[0]}
        with torch.inference_mode():
            output = self._asked(torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(t), joined)
        return as_prediction(output.numpy(), self.kind, x, a, s, self._clip)

    def tensors(self, x: Tensor, a: float, s: float, t: float, condition: Condition) -> tuple[Tensor, Tensor]:
        """Data and noise behind x (n, …), differentiable; activations are computed again on the way back, not kept."""
        import torch
        from torch.utils.checkpoint import checkpoint

        n = len(x)
        times = torch.full((n,), t, dtype=torch.float64)
        joined = {key: value.expand(n, *value.shape[1:]) for key, value in condition.items()}
        output = checkpoint(lambda y: self._asked(y, times, joined), x, use_reentrant=False)
        return data_and_noise(output, self.kind, x, a, s, self._clip)

    def _asked(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The network's answer on the host in double precision."""
        return self.ask(x.to(self.device, self.dtype), t.to(self.device).float(), condition).cpu().double()

    def decode(self, latents: Floats) -> Floats:
        """The output of one state's latents, 0 to 1 with 8 bits a channel, as files have."""
        import torch

        with torch.inference_mode():
            output = self.decode_tensors(torch.from_numpy(np.ascontiguousarray(latents))[None].float())
        found: Floats = np.rint(output[0].double().numpy() * 255.0) / 255.0
        return found

    def cells(self, name: str, size: int, factor: int, patch: int = 1) -> int:
        """Latents along an axis of an output of this size; the decoder makes `factor` pixels of one.

        Raises:
            ParameterError: they are not whole, or not whole patches of the network.
        """
        if size < 1 or size % (factor * patch):
            allowed = f"a multiple of {factor * patch} (the decoder's factor {factor}"
            allowed += f" and the network's patches of {patch})" if patch > 1 else ")"
            raise ParameterError(f"diffusers ({type(self.pipeline).__name__})", name, size, allowed=allowed)
        return size // factor


class PictureParts(Parts):
    """Parts of a pipeline that makes pictures: (height, width) where there is one channel, else (height, width, 3)."""

    @property
    def patch(self) -> int:
        """Latents along an axis that the network reads together, if their number has to be a multiple of it."""
        return 1

    @property
    def channels(self) -> int:
        """Of the latents."""
        return int(self.network.config.in_channels)

    @property
    def own_size(self) -> tuple[int, int]:
        """Height and width of the latents that the network was trained for."""
        own = self.network.config.sample_size
        return (own, own) if isinstance(own, int) else tuple(own)

    def shape(self, size: Size) -> tuple[int, ...]:
        """(channels, height, width)."""
        if size.frames is not None:
            allowed = "left out: this pipeline makes pictures"
            raise ParameterError(f"diffusers ({type(self.pipeline).__name__})", "frames", size.frames, allowed=allowed)
        factor = 1 if self.vae is None else 2 ** (len(self.vae.config.block_out_channels) - 1)
        height, width = (
            self.cells(name, own * factor if given is None else given, factor, self.patch)
            for name, given, own in zip(("height", "width"), (size.height, size.width), self.own_size, strict=True)
        )
        self.height, self.width = height * factor, width * factor
        return self.channels, height, width

    def decode_tensors(self, latents: Tensor) -> Tensor:
        """By the pipeline's own decoder, if it has one."""
        x = latents
        if self.vae is not None:
            x = self.vae.decode(unscaled(x.to(self.device, self.vae.dtype), self.vae), return_dict=False)[0]
        return colours_last(x)


class VideoParts(Parts):
    """Parts of a pipeline that makes all frames of a video at once: (frames, height, width, 3)."""

    own: ClassVar[tuple[int, int, int]]
    """Frames, height and width that the pipeline takes by default."""

    def grid(self, size: Size, factors: tuple[int, int], patches: tuple[int, int]) -> tuple[int, int, int]:
        """Frames, height and width of the latents.

        Args:
            size: of an output.
            factors: frames, and pixels along an axis, that the decoder makes of one latent.
            patches: latents along the axes of frames and of pixels that the network reads together.
        """
        (own_frames, own_height, own_width), (per_frame, per_pixel) = self.own, factors
        frames, depth = own_frames if size.frames is None else size.frames, patches[0]
        if frames < 1 or (frames - 1) % per_frame or ((frames - 1) // per_frame + 1) % depth:
            allowed = f"1 more than a multiple of {per_frame}" + (f" that makes whole patches of {depth}" * (depth > 1))
            raise ParameterError(f"diffusers ({type(self.pipeline).__name__})", "frames", frames, allowed=allowed)
        return (
            (frames - 1) // per_frame + 1,
            self.cells("height", own_height if size.height is None else size.height, per_pixel, patches[1]),
            self.cells("width", own_width if size.width is None else size.width, per_pixel, patches[1]),
        )


def unscaled(x: Tensor, vae: Any) -> Tensor:
    """Latents (n, channels, …) as the decoder takes them, from the unit scale on which they are denoised."""
    import torch

    known = dict(vae.config) | dict(vae.named_buffers(recurse=False))  # some keep the moments beside their weights
    x = x / (known.get("scaling_factor") or 1.0)
    moments = known.get("latents_std"), known.get("latents_mean")
    if all(v is not None for v in moments):
        along = (1, -1) + (1,) * (x.ndim - 2)
        std, mean = (torch.as_tensor(v, device=x.device, dtype=x.dtype).view(along) for v in moments)
        return x * std + mean
    return x + (known.get("shift_factor") or 0.0)


def colours_last(x: Tensor) -> Tensor:
    """(n, channels, …) from -1 to 1 as (n, …, channels) from 0 to 1 on the host; a single channel has no axis."""
    x = (x.float() / 2.0 + 0.5).clamp(0.0, 1.0).cpu()
    return x[:, 0] if x.shape[1] == 1 else x.movedim(1, -1)
