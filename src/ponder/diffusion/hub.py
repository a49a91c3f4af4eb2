"""Models of the diffusers library as diffusion models: its weights, its text encoders, its tables; our own steps.

A scheduler of that library is asked for its tables once and never to step: some keep a hidden step index that counts
calls, so stepping several branches with one would use the wrong noise level without a word.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ponder.diffusion.model import Kind
from ponder.diffusion.schedule import Schedule
from ponder.errors import CapabilityError, MissingExtraError, ModelNotFoundError

if TYPE_CHECKING:
    from ponder.diffusion.pipelines import Parts, Size


_FLOW = "FlowMatchEulerDiscreteScheduler"
_SPACINGS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")


def is_flow(scheduler: Any) -> bool:
    """Whether a scheduler of diffusers is on the straight line of flow matching."""
    return type(scheduler).__name__ == _FLOW or bool(scheduler.config.get("use_flow_sigmas", False))


def kind_of(scheduler: Any) -> Kind:
    """What the network behind a scheduler predicts."""
    return "flow" if is_flow(scheduler) else scheduler.config.get("prediction_type", "epsilon")


def clip_of(scheduler: Any) -> float | None:
    """The limit that a scheduler puts on the expected data; None for none."""
    config = scheduler.config
    return float(config.get("clip_sample_range", 1.0)) if config.get("clip_sample", False) else None


def schedule_of(scheduler: Any, steps: int, tokens: int | None = None, even: bool = False) -> Schedule:
    """Tables of a scheduler for so many steps.

    Only the tables count: a scheduler of several orders or with a history of steps gives them as any other does.

    Args:
        scheduler: of diffusers; its own state is not touched.
        steps: timesteps.
        tokens: that the network makes of the latents: where the scheduler shifts its levels by the size of the output,
            they say how far. None for networks without.
        even: take equally spaced levels from 1 to 1 / `steps`, before any shift, for those of the scheduler (only flow
            matching).

    Raises:
        CapabilityError: a kind of scheduler whose tables are not those of a linear noising process.
    """
    kind, config = type(scheduler).__name__, scheduler.config
    own = type(scheduler).from_config(config)
    if is_flow(scheduler):
        options: dict[str, Any] = {}
        if even:
            options["sigmas"] = np.linspace(1.0, 1.0 / steps, steps)
        if config.get("use_dynamic_shifting", False):
            options["mu"] = shift_of(config, tokens or config.get("base_image_seq_len", 256))
        own.set_timesteps(steps, **options)
        s = np.asarray(own.sigmas, dtype=float)
        return Schedule(1.0 - s, s, np.append(np.asarray(own.timesteps, dtype=float), 0.0))
    if not hasattr(scheduler, "alphas_cumprod"):
        raise CapabilityError(f"{kind} is not a scheduler whose tables are known here; use DDIMScheduler or {_FLOW}")
    if any(config.get(name, False) for name in _SPACINGS):
        own.set_timesteps(steps)
        ratio, times = np.asarray(own.sigmas, dtype=float), np.asarray(own.timesteps, dtype=float)
        if len(ratio) != steps + 1:
            raise CapabilityError(f"{kind} steps in between its levels; use EulerDiscreteScheduler or DDIMScheduler")
        scale = np.hypot(1.0, ratio)
        return Schedule(1.0 / scale, ratio / scale, np.append(times, 0.0))
    from diffusers import DDIMScheduler

    wanted = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "set_alpha_to_one",
              "steps_offset", "timestep_spacing", "rescale_betas_zero_snr")  # fmt: skip
    tables = DDIMScheduler(**{name: config[name] for name in wanted if name in config})
    tables.set_timesteps(steps)
    at = np.asarray(tables.timesteps, dtype=np.int64)
    kept = np.append(np.asarray(tables.alphas_cumprod, dtype=float)[at], float(tables.final_alpha_cumprod))
    return Schedule(np.sqrt(kept), np.sqrt(1.0 - kept), np.append(at.astype(float), 0.0))


def shift_of(config: Any, tokens: int) -> float:
    """How far a flow scheduler shifts its levels for an output of so many tokens: a line through two known points.

    >>> shift_of({"base_shift": 0.5, "max_shift": 1.5, "base_image_seq_len": 256, "max_image_seq_len": 4096}, 2176)
    1.0
    """
    fewest, most = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    return float(low + (high - low) * (tokens - fewest) / (most - fewest))


def load(
    source: str,
    size: Size | None = None,
    guidance: float = 1.0,
    device: str | None = None,
    precision: str = "float32",
    offload: bool = False,
) -> Parts:
    """A folder or hub name of a pipeline that `ponder.diffusion.pipelines` knows.

    Args:
        source: what `DiffusionPipeline.from_pretrained` takes.
        size: of an output.
        guidance: for networks that take it as an input.
        device: where it computes; None takes a GPU if there is one.
        precision: of the weights: `float32`, `bfloat16` or `float16`.
        offload: keep on the device only what is in use, and decode in tiles.

    Raises:
        MissingExtraError: diffusers is not installed.
        ModelNotFoundError: nothing to load there, or no safetensors (pickled weights can run code).
        CapabilityError: another kind of pipeline, or a device that is not there.
        ParameterError: a size that the decoder cannot have.
    """
    if "/" not in source and not Path(source).exists():  # a slip of the pen: no hub needs to be asked
        allowed = "`digits`, a folder of a pipeline, or its name OWNER/NAME on the hub"
        raise ModelNotFoundError(f"there is no folder {source} for the model diffusers:{source}; give {allowed}")
    try:
        import torch
        from diffusers import DiffusionPipeline
    except ImportError as error:
        raise MissingExtraError(f"diffusers:{source}", "diffusers and torch", "diffusion") from error
    from ponder.diffusion.pipelines import taken_apart

    try:
        pipeline = DiffusionPipeline.from_pretrained(source, dtype=getattr(torch, precision), use_safetensors=True)
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(f"diffusers:{source} cannot be loaded: {error}") from error
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        if offload:
            pipeline.enable_model_cpu_offload(device=place)
        else:
            pipeline.to(place)
    except (RuntimeError, ImportError) as error:
        raise CapabilityError(f"diffusers:{source} cannot be put on device={place}: {error}") from error
    vae: Any = getattr(pipeline, "vae", None)
    if offload and hasattr(vae, "enable_tiling"):
        vae.enable_tiling()
    return taken_apart(pipeline, size, guidance)
