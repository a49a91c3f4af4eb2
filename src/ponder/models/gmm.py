"""Gaussian mixtures as diffusion models of which everything is known; for research and tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from ponder.core.registry import MODELS, arguments_for, model
from ponder.core.spec import Term
from ponder.diffusion.gmm import INSTANCES, Linear, Mixture, Reward, names, tilted
from ponder.diffusion.model import DiffusionModel, Prediction
from ponder.diffusion.schedule import Floats, Schedule
from ponder.errors import UnknownNameError

if TYPE_CHECKING:
    from torch import Tensor

_TABLES = {
    "cosine": Schedule.cosine,
    "flow": Schedule.flow,
    "variance_exploding": Schedule.variance_exploding,
}


@model("gmm")
@dataclass(frozen=True)
class Gmm(DiffusionModel):
    """A Gaussian mixture with a reward: `gmm:a`, `gmm:ring`, `gmm:ring_decoy`, …, or one of your own in Python.

    Args:
        source: one of the instances of `ponder.diffusion.gmm`.
        tilted: sample the rewarded target q·exp(r) itself: what every sampler is compared with.
        tables: the schedule: `cosine` starts from the exact marginal.
        mixture: instead of the instance's.
        reward: instead of the instance's.
    """

    source: str = "custom"
    tilted: bool = False
    tables: Literal["cosine", "flow", "variance_exploding"] = "cosine"
    mixture: Mixture | None = None
    reward: Reward | None = None

    name: ClassVar[str]
    differentiable: ClassVar[bool] = True
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.mixture is None and self.source not in INSTANCES:
            raise UnknownNameError("mixture", self.source, names())
        base = INSTANCES[self.source][0] if self.mixture is None else self.mixture
        zero = Linear((0.0,) * base.dimension)
        reward = self.reward or (INSTANCES[self.source][1] if self.source in INSTANCES else zero)
        object.__setattr__(self, "mixture", base)
        object.__setattr__(self, "reward", reward)
        object.__setattr__(self, "target", tilted(base, reward)[0] if self.tilted else base)
        object.__setattr__(self, "latent_shape", (base.dimension,))

    target: ClassVar[Mixture]
    """What it samples: the mixture, or its tilted form."""

    @classmethod
    def from_term(cls, term: Term) -> Gmm:
        """Read `gmm:NAME(…)`."""
        given = arguments_for(MODELS.entry("gmm"), term, str(term))
        return cls(**{"source": term.locator or "a", **given})

    def __str__(self) -> str:
        shown = [
            f"{k}={v}" for k, v in (("tilted", "true" * self.tilted), ("tables", self.tables)) if v and v != "cosine"
        ]
        return f"gmm:{self.source}" + (f"({', '.join(shown)})" if shown else "")

    @property
    def identity(self) -> str:
        """Its text form, with the mixture and reward of one built in Python."""
        return f"{self} {self.mixture} {self.reward}" if self.source == "custom" else str(self)

    def schedule(self, steps: int) -> Schedule:
        """The chosen tables."""
        return _TABLES[self.tables](steps)

    @property
    def start_shape(self) -> tuple[int, ...]:
        """One number more than a state has: it chooses the component."""
        return (self.latent_shape[0] + 1,)

    def start(self, noise: Floats, schedule: Schedule) -> Floats:
        """Draws of the exact marginal at the first level."""
        return self.target.noised(float(schedule.a[0]), float(schedule.s[0])).from_noise(noise)

    def predict(self, x: Floats, a: Floats, s: Floats, t: Floats, condition: Any) -> Prediction:
        """The exact mean of the data, and the exact score as noise."""
        log_r, m, _ = self.target.posterior(x, a, s)
        x0 = (np.exp(log_r)[..., None] * m).sum(axis=1)
        return Prediction(x0, (x - a[:, None] * x0) / s[:, None], np.zeros(len(x)))

    def kernel(self, x: Floats, levels: tuple[Floats, ...], noise: Floats) -> Floats:
        """An exact reverse step."""
        a, s, a2, s2 = levels
        return self.target.kernel(x, a, s, a2, s2, noise)

    def start_tensors(self, noise: Tensor, schedule: Schedule) -> Tensor:
        """As `start`; the choice of a component is a constant to gradients."""
        import torch

        first = self.target.noised(float(schedule.a[0]), float(schedule.s[0]))
        _, m, v = (torch.from_numpy(array) for array in first.arrays)
        which = torch.from_numpy(first.chosen(noise.detach().numpy()))
        return m[which] + v[which].sqrt()[:, None] * noise[:, :-1]

    def predict_tensors(self, x: Tensor, a: float, s: float, t: float, condition: Any) -> tuple[Tensor, Tensor]:
        """As `predict`."""
        import torch

        log_w, m, v = (torch.from_numpy(array) for array in self.target.arrays)
        p = a * a * v + s * s
        distance = (x[:, None] - a * m[None]).square().sum(dim=-1)
        r = torch.softmax(log_w - 0.5 * (distance / p + self.target.dimension * p.log()), dim=1)
        u = 1.0 / (1.0 / v + (a / s) ** 2)
        x0 = (r[..., None] * u[:, None] * (m / v[:, None] + a / s**2 * x[:, None])).sum(dim=1)
        return x0, (x - a * x0) / s

    def log_density(self, x: Floats, a: float, s: float) -> Floats:
        """Of noisy states at one level."""
        return self.target.noised(a, s).log_density(x)
