"""Simple traits of a picture of a digit: rewards that are right about some digits and wrong about others.

They are there to be combined, calibrated and dropped (`category_weighted`, `ponder calibrate-verifiers`); all have
gradients.

Needs    `diffusers:digits` (8 × 8 digits).    Cost: a few multiplications.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.core.registry import verifier
from ponder.core.verifier import Scorable, Verifier, output_of
from ponder.errors import VerifierError

if TYPE_CHECKING:
    from torch import Tensor


@verifier("digit_trait", how="verification:process:rule", where="generation_image")
@dataclass(frozen=True)
class DigitTrait(Verifier):
    """One trait, in [-1, 1].

    Args:
        trait: `prototype`: cosine to the mean picture of the asked digit in the model's half of the data; `ink`: mean
            brightness; `smoothness`: minus the mean squared difference of neighbouring pixels.
    """

    trait: Literal["prototype", "ink", "smoothness"] = "prototype"

    range: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    by_output: ClassVar[bool] = True

    async def score(self, problem: Problem, items: Sequence[Scorable], ctx: Context) -> Sequence[float]:
        """One number per item, all in one call."""
        import torch

        pictures = [np.asarray(output_of(item, ctx), dtype=float) for item in items]
        if any(picture.size != 64 for picture in pictures):
            raise VerifierError("digit_trait looks at 8 x 8 digits; use it with the model diffusers:digits")
        stacked = torch.from_numpy(np.stack(pictures).reshape(-1, 8, 8))
        values: list[float] = self.score_tensors(problem, stacked, ctx).tolist()
        return values

    def score_tensors(self, problem: Problem, outputs: Tensor, ctx: Context) -> Tensor:
        """(n,) of pictures (n, 8, 8), differentiable."""
        import torch

        if self.trait == "ink":
            return outputs.mean(dim=(1, 2))
        if self.trait == "smoothness":
            return -(outputs.diff(dim=1).square().mean(dim=(1, 2)) + outputs.diff(dim=2).square().mean(dim=(1, 2))) / 2
        from ponder.diffusion.digits import data
        from ponder.models.diffusers import digit_of

        half = data()
        mean = torch.from_numpy((half.images[half.labels == digit_of(problem.prompt)].mean(axis=0) + 1.0) / 2.0)
        return torch.nn.functional.cosine_similarity(outputs.reshape(len(outputs), -1), mean.to(outputs.dtype)[None])
