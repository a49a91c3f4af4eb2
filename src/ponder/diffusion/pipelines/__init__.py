"""One file for each family of diffusers' pipelines: how prompts, the network and the decoder are asked.

A family is found by the name of its pipeline's class. Nothing of a pipeline's own loop or scheduler steps is used.
"""

from __future__ import annotations

from typing import Any

from ponder.diffusion.pipelines._parts import Parts, Size
from ponder.diffusion.pipelines.dit import DiT
from ponder.diffusion.pipelines.flux import Flux
from ponder.diffusion.pipelines.ltx import LTX
from ponder.diffusion.pipelines.stable_diffusion import StableDiffusion, StableDiffusionXL
from ponder.diffusion.pipelines.stable_diffusion_3 import StableDiffusion3
from ponder.diffusion.pipelines.unconditional import Unconditional
from ponder.diffusion.pipelines.wan import Wan
from ponder.errors import CapabilityError

__all__ = ["FAMILIES", "Parts", "Size", "taken_apart"]

FAMILIES: dict[str, type[Parts]] = {
    name: family
    for family in (Unconditional, DiT, StableDiffusion, StableDiffusionXL, StableDiffusion3, Flux, LTX, Wan)
    for name in family.classes
}


def taken_apart(pipeline: Any, size: Size | None = None, guidance: float = 1.0) -> Parts:
    """The parts of a loaded pipeline.

    Raises:
        CapabilityError: a kind of pipeline that is not known.
        ParameterError: a size that its decoder or network cannot have.
    """
    kind = type(pipeline).__name__
    if kind not in FAMILIES:
        raise CapabilityError(f"{kind} is not one of the pipelines known here: {', '.join(FAMILIES)}")
    return FAMILIES[kind](pipeline, size or Size(), guidance)
