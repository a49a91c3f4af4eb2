"""DiT: a transformer conditioned on a class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ponder.diffusion.pipelines._parts import Condition, PictureParts, Size
from ponder.errors import ParameterError

if TYPE_CHECKING:
    from torch import Tensor


class DiT(PictureParts):
    """The prompt is a class: its number, or its name where the pipeline knows names."""

    classes = ("DiTPipeline",)

    def shape(self, size: Size) -> tuple[int, ...]:
        """(channels, height, width), as the network was trained."""
        found = super().shape(size)
        if found[1:] != self.own_size:
            given, allowed = (self.height, self.width), "left out: the network has one size"
            raise ParameterError("diffusers (DiTPipeline)", "height and width", given, allowed=allowed)
        return found

    def encode(self, prompt: Any) -> tuple[Condition, Condition]:
        """The class, and the one that stands for none."""
        import torch

        count, names = int(self.network.config.num_embeds_ada_norm), self.pipeline.labels
        text = str(prompt).strip()
        number = int(text) if text.isdecimal() else names.get(text, count)
        if number >= count:
            allowed = f"a class number from 0 to {count - 1}" + (f" or one of {len(names)} names" if names else "")
            raise ParameterError("diffusers (DiTPipeline)", "prompt", prompt, allowed=allowed)
        given, nothing = ({"class_labels": torch.tensor([label], device=self.device)} for label in (number, count))
        return given, nothing

    def ask(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """A learned variance in the answer is left out."""
        output: Tensor = self.network(x, timestep=t, return_dict=False, **condition)[0][:, : x.shape[1]]
        return output
