"""How sure a classifier is that a picture shows what was asked; of noisy states, that their expected picture does.

Needs    `diffusers:digits` (8 × 8 digits).    Cost: a classifier's call; the judge of the task `digits` is another one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.core.registry import verifier
from ponder.core.verifier import Scorable, Verifier, output_of
from ponder.errors import ParameterError, VerifierError

if TYPE_CHECKING:
    from torch import Tensor


@verifier("class_confidence", how="verification:process:reward_model", where="generation_image")
@dataclass(frozen=True)
class ClassConfidence(Verifier):
    """Probability of the asked digit, in [0, 1], by a classifier that has seen the model's half of the data.

    Args:
        log: its logarithm instead, in nats.
        weak: a classifier of three examples a class: easily fooled, to study what a search does to a bad verifier.
        judge: the held-out judge instead: an upper bound, for studies only.
        examples: images of each class that the classifier learns from, ≥ 1; none is all, or 3 if `weak`.
        pixels: how many of the 64 pixels it sees; none is all.
        variant: which images and pixels: verifiers of different variants err differently.
    """

    log: bool = False
    weak: bool = False
    judge: bool = False
    examples: int | None = None
    pixels: int | None = None
    variant: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (("examples", 1, 50), ("pixels", 1, 64), ("variant", 0, 1000)):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ParameterError(self, name, value, allowed=f"an integer from {low} to {high}")

    @property
    def _classifier(self) -> Any:
        """Whoever reads the pictures."""
        from ponder.diffusion import digits

        if self.judge:
            return digits.judge()
        return digits.search_classifier(self.examples or (3 if self.weak else None), self.pixels, self.variant)

    by_output: ClassVar[bool] = True

    @property
    def differentiable(self) -> bool:
        """Whether `score_tensors` works: the judge is a support vector machine without gradients."""
        return not self.judge

    @property
    def range(self) -> tuple[float, float]:  # type: ignore[override]
        """Of its scores."""
        return (-math.inf, 0.0) if self.log else (0.0, 1.0)

    async def score(self, problem: Problem, items: Sequence[Scorable], ctx: Context) -> Sequence[float]:
        """One number per item, all in one call."""
        from ponder.diffusion import digits
        from ponder.models.diffusers import digit_of

        pictures = [output_of(item, ctx) for item in items]
        if any(getattr(picture, "size", 0) != digits.SIDE**2 for picture in pictures):
            raise VerifierError("class_confidence looks at 8 x 8 digits; use it with the model diffusers:digits")
        flat = np.stack([np.ravel(picture) for picture in pictures]) * 2.0 - 1.0
        found = digits.log_probabilities(self._classifier, flat)[:, digit_of(problem.prompt)]
        values: list[float] = (found if self.log else np.exp(found)).tolist()
        return values

    def score_tensors(self, problem: Problem, outputs: Tensor, ctx: Context) -> Tensor:
        """(n,) scores of pictures (n, 8, 8), differentiable."""
        import torch

        from ponder.models.diffusers import digit_of

        machine = self._classifier
        weights, offsets = (
            torch.from_numpy(np.asarray(v)).to(outputs.dtype) for v in (machine.coef_, machine.intercept_)
        )
        flat = outputs.reshape(len(outputs), -1) * 2.0 - 1.0
        found = torch.log_softmax(flat @ weights.T + offsets, dim=1)[:, digit_of(problem.prompt)]
        return found if self.log else found.exp()
