"""Models of the diffusers library as diffusion models: its weights, its text encoders, its tables; our own steps.

A scheduler of that library is asked for its tables once and never to step: some keep a hidden step index that counts
calls, so stepping several branches with one would use the wrong noise level without a word.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np

from ponder.diffusion.model import Prediction, as_prediction
from ponder.diffusion.schedule import Floats, Schedule
from ponder.errors import CapabilityError, MissingExtraError, ModelNotFoundError, ParameterError

_FLOW = "FlowMatchEulerDiscreteScheduler"


def schedule_of(scheduler: Any, steps: int) -> tuple[Schedule, float | None]:
    """Tables of a scheduler for so many steps, and the limit it puts on the expected data (None for none).

    Args:
        scheduler: of diffusers; its own state is not touched.
        steps: timesteps.

    Raises:
        CapabilityError: a kind of scheduler whose tables are not those of a linear noising process.
    """
    kind, config = type(scheduler).__name__, scheduler.config
    own = type(scheduler).from_config(config)
    if kind == _FLOW:
        if getattr(config, "use_dynamic_shifting", False):
            own = type(scheduler).from_config({**config, "use_dynamic_shifting": False})
        own.set_timesteps(steps)
        s = np.asarray(own.sigmas, dtype=float)
        return Schedule(1.0 - s, s, np.append(np.asarray(own.timesteps, dtype=float), 0.0)), None
    if not hasattr(scheduler, "alphas_cumprod"):
        raise CapabilityError(f"{kind} is not a scheduler whose tables are known here; use DDIMScheduler or {_FLOW}")
    from diffusers import DDIMScheduler

    wanted = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "set_alpha_to_one",
              "steps_offset", "timestep_spacing", "rescale_betas_zero_snr")  # fmt: skip
    tables = DDIMScheduler(**{name: config[name] for name in wanted if name in config})
    tables.set_timesteps(steps)
    times = np.asarray(tables.timesteps, dtype=np.int64)
    kept = np.append(np.asarray(tables.alphas_cumprod, dtype=float)[times], float(tables.final_alpha_cumprod))
    clip = float(config.get("clip_sample_range", 1.0)) if config.get("clip_sample", False) else None
    return Schedule(np.sqrt(kept), np.sqrt(1.0 - kept), np.append(times.astype(float), 0.0)), clip


@dataclass(frozen=True)
class Parts:
    """A pipeline taken apart: what predicts, its tables, and how prompts and pictures are read."""

    pipeline: Any
    network: Any
    scheduler: Any
    latent_shape: tuple[int, ...]
    conditioned: Literal["nothing", "class", "text"]

    def schedule(self, steps: int) -> Schedule:
        """The scheduler's tables."""
        return schedule_of(self.scheduler, steps)[0]

    def encode(self, prompt: Any) -> tuple[Any, Any]:
        """The prompt's condition, and that of an empty one."""
        import torch

        if self.conditioned == "nothing":
            return None, None
        if self.conditioned == "class":
            classes = int(self.network.config.num_embeds_ada_norm)
            if not str(prompt).isdigit() or int(prompt) >= classes:
                raise ParameterError("diffusers", "prompt", prompt, allowed=f"a class number from 0 to {classes - 1}")
            return int(prompt), classes
        with torch.inference_mode():
            given, nothing = self.pipeline.encode_prompt(str(prompt), self.network.device, 1, True)[:2]
        return given, nothing

    def decode(self, latents: Floats) -> Floats:
        """(height, width) or (height, width, 3), 0 to 1, by the pipeline's own decoder if it has one."""
        import torch

        x = torch.from_numpy(np.ascontiguousarray(latents))[None].float()
        vae = getattr(self.pipeline, "vae", None)
        if vae is not None:
            x = x / vae.config.scaling_factor + (getattr(vae.config, "shift_factor", None) or 0.0)
            with torch.inference_mode():
                x = vae.decode(x.to(vae.device, vae.dtype)).sample.float().cpu()
        picture = np.clip(x[0].numpy() / 2.0 + 0.5, 0.0, 1.0)
        return np.asarray(picture[0] if len(picture) == 1 else np.moveaxis(picture, 0, -1), dtype=float)

    def predict(self, x: Floats, a: Floats, s: Floats, t: Floats, conditions: list[Any]) -> Prediction:
        """One call of the network; a learned variance in its answer is left out."""
        import torch

        network = self.network
        sample = torch.from_numpy(np.ascontiguousarray(x)).to(network.device, network.dtype)
        time = torch.from_numpy(t).long().to(network.device)
        extra: dict[str, Any] = {}
        if self.conditioned == "class":
            extra["class_labels"] = torch.as_tensor(conditions, device=network.device)
        elif self.conditioned == "text":
            extra["encoder_hidden_states"] = torch.cat(conditions)
        with torch.inference_mode():
            output = network(sample, time, **extra).sample
        values = output[:, : x.shape[1]].float().cpu().double().numpy()
        clip = schedule_of(self.scheduler, 1)[1]
        return as_prediction(values, self.scheduler.config.prediction_type, x, a, s, clip)


def load(
    source: str,
    height: int | None = None,
    width: int | None = None,
    device: str | None = None,
    precision: str = "float32",
) -> Parts:
    """A folder or hub name of a DDPM, DDIM, DiT or Stable Diffusion (1 and 2) pipeline.

    Args:
        source: what `DiffusionPipeline.from_pretrained` takes.
        height: of the picture in pixels; None takes the model's own size.
        width: of the picture.
        device: where it computes; None takes a GPU if there is one.
        precision: of the weights: `float32`, `bfloat16` or `float16`.

    Raises:
        MissingExtraError: diffusers is not installed.
        ModelNotFoundError: nothing to load there, or no safetensors (pickled weights can run code).
        CapabilityError: another kind of pipeline, or a device that is not there.
        ParameterError: a size that the decoder cannot have.
    """
    try:
        import torch
        from diffusers import DiffusionPipeline
    except ImportError as error:
        raise MissingExtraError(f"diffusers:{source}", "diffusers and torch", "diffusion") from error
    try:
        pipeline = DiffusionPipeline.from_pretrained(source, dtype=getattr(torch, precision), use_safetensors=True)
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(f"diffusers:{source} cannot be loaded: {error}") from error
    try:
        pipeline.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise CapabilityError(f"diffusers:{source} cannot be put on device={device}: {error}") from error
    return taken_apart(pipeline, height, width)


def taken_apart(pipeline: Any, height: int | None = None, width: int | None = None) -> Parts:
    """The parts of a loaded pipeline."""
    kind = type(pipeline).__name__
    known = {
        "DDPMPipeline": "nothing",
        "DDIMPipeline": "nothing",
        "DiTPipeline": "class",
        "StableDiffusionPipeline": "text",
    }
    if kind not in known:
        raise CapabilityError(f"{kind} is not one of the pipelines known here: {', '.join(known)}")
    network = getattr(pipeline, "unet", None) or pipeline.transformer
    factor = 1
    if getattr(pipeline, "vae", None) is not None:
        factor = 2 ** (len(pipeline.vae.config.block_out_channels) - 1)
    own = network.config.sample_size
    own_height, own_width = (own, own) if isinstance(own, int) else own
    for name, size in (("height", height), ("width", width)):
        if size is not None and size % factor:
            raise ParameterError("diffusers", name, size, allowed=f"a multiple of the decoder's factor {factor}")
    shape = (
        network.config.in_channels,
        (height or own_height * factor) // factor,
        (width or own_width * factor) // factor,
    )
    conditioned = cast('Literal["nothing", "class", "text"]', known[kind])
    return Parts(pipeline, network.eval(), pipeline.scheduler, shape, conditioned)
