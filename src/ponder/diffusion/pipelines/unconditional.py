"""Pipelines that take no prompt: DDPM and DDIM, whose states are pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ponder.diffusion.pipelines._parts import Condition, PictureParts

if TYPE_CHECKING:
    from torch import Tensor


class Unconditional(PictureParts):
    """A network of noisy pixels and their time."""

    classes = ("DDPMPipeline", "DDIMPipeline")

    def encode(self, prompt: Any) -> tuple[Condition, Condition]:
        """Nothing, whatever the prompt says."""
        return {}, {}

    def ask(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """A learned variance in the answer is left out."""
        output: Tensor = self.network(x, t, return_dict=False)[0][:, : x.shape[1]]
        return output
