"""The reward of a Gaussian mixture's model; for research on samplers, where the truth is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.core.registry import verifier
from ponder.core.verifier import Scorable, Verifier, output_of
from ponder.diffusion.gmm import Mixture, Reward, soft_value
from ponder.errors import CapabilityError
from ponder.models.gmm import Gmm
from ponder.processes.denoising import denoising_of

if TYPE_CHECKING:
    from torch import Tensor


@verifier("gmm_reward", how="verification:process:rule", where="simulation")
@dataclass(frozen=True)
class GmmReward(Verifier):
    """r(x) of finished states and r(x̂₀) of noisy ones, times `scale`.

    Args:
        value: the exact soft value log E[exp(r(x₀)) | x] of noisy states instead: what no sampler knows.
        scale: factor of the reward; not with `value`.
    """

    value: bool = False
    scale: float = 1.0

    range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)

    @property
    def differentiable(self) -> bool:
        """Whether `score_tensors` works: of finished data, where the soft value is the reward, it is not needed."""
        return not self.value

    async def score(self, problem: Problem, items: Sequence[Scorable], ctx: Context) -> Sequence[float]:
        """One number per item."""
        process = denoising_of(self, ctx)
        mixture, reward = self._known(ctx)
        states = [item.state if isinstance(item, Candidate) else item for item in items]
        if not self.value:
            data = [output_of(item, ctx) if s is None else s.payload.x0 for item, s in zip(items, states, strict=True)]
            return [self.scale * float(v) for v in reward(np.stack(data))]
        latents = [state.payload for state in states if state is not None]
        schedule = process.schedule
        index = np.asarray([latent.index for latent in latents])
        x = np.stack([latent.x for latent in latents])
        values = soft_value(mixture, reward, x, schedule.a[index], schedule.s[index])
        return [float(v) for v in values]

    def score_tensors(self, problem: Problem, outputs: Tensor, ctx: Context) -> Tensor:
        """(n,) rewards of data (n, d), differentiable."""
        from ponder.diffusion.gradients import reward_tensors

        return self.scale * reward_tensors(self._known(ctx)[1], outputs)

    def _known(self, ctx: Context) -> tuple[Mixture, Reward]:
        """The model's mixture and reward."""
        model = denoising_of(self, ctx).model
        if not isinstance(model, Gmm) or model.mixture is None or model.reward is None:
            raise CapabilityError(f"gmm_reward knows the rewards of gmm models; {model} is another")
        return model.mixture, model.reward
