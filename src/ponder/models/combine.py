"""Several diffusion models as one target: powers, products and geometric averages of their densities.

Paper    Skreta et al. 2025, "Feynman-Kac Correctors in Diffusion: Annealing, Guidance, and Product of Experts".
Equal    The guided SDE of Σγᵢ times the experts' scores, and the increments of the log-weights that make its weighted
         particles follow ∏ qᵢ ** γᵢ: annealing is one expert with γ ≠ 1, a product γ = 1 for each, classifier-free
         guidance of strength β is γ = (1 - β, β) on (without, with) the prompt.
Differs  Any number of experts and any linear schedule by one formula (see `ponder.diffusion.solvers.corrected`).
         Increments are not clipped.
Needs    `particle_filter(verifier=constant(value=0.0), potential=exp, threshold=0.5)`, or any search that carries
         weights; a plain draw ignores them and follows another distribution.    Cost: each expert, at every step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ponder.core.model import Model
from ponder.core.registry import Registered, model
from ponder.diffusion.model import DiffusionModel, Prediction
from ponder.diffusion.schedule import Floats, Schedule
from ponder.errors import CapabilityError, ParameterError


@model("combine")
@dataclass(frozen=True)
class Combine(Registered, DiffusionModel):
    """The target ∏ qᵢ ** γᵢ at every noise level.

    Args:
        experts: diffusion models with the same latents and schedule.
        weights: γ, one for each; their sum must be > 0.
    """

    experts: tuple[Model, ...]
    weights: tuple[float, ...]

    name: ClassVar[str]
    corrected: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.experts or len(self.weights) != len(self.experts):
            raise ParameterError(
                self, "weights", self.weights, allowed=f"one number for each of the {len(self.experts)} experts"
            )
        if not self.gamma > 0:
            raise ParameterError(
                self,
                "weights",
                self.weights,
                allowed="numbers with a sum > 0",
                hint="else the target has no finite mass",
            )
        for expert in self.experts:
            if not isinstance(expert, DiffusionModel) or expert.corrected:
                raise CapabilityError(
                    f"combine takes diffusion models that are not combined themselves; {expert} is not"
                )
        self.schedule(4)

    @property
    def _parts(self) -> tuple[DiffusionModel, ...]:
        return tuple(expert for expert in self.experts if isinstance(expert, DiffusionModel))

    @property
    def gamma(self) -> float:
        """Total power."""
        return float(sum(self.weights))

    @property
    def denoiser_calls(self) -> int:  # type: ignore[override]
        """Those of all experts."""
        return sum(part.denoiser_calls for part in self._parts)

    @property
    def latent_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """The experts'."""
        return self._parts[0].latent_shape

    @property
    def identity(self) -> str:
        """The experts' and their powers."""
        return f"combine {[part.identity for part in self._parts]} {self.weights}"

    def schedule(self, steps: int) -> Schedule:
        """The experts'.

        Raises:
            CapabilityError: they differ, or begin where nothing of the data is left.
        """
        first = self._parts[0]
        found = first.schedule(steps)
        for part in self._parts[1:]:
            other = part.schedule(steps)
            same = all(np.allclose(getattr(found, name), getattr(other, name)) for name in ("a", "s"))
            if part.latent_shape != first.latent_shape or not same:
                raise CapabilityError(f"combine: {first} and {part} differ in latents or schedule")
        if found.a[0] <= 0:
            raise CapabilityError(
                f"combine: the schedule of {first} begins at pure noise (a = 0), which has no finite s / a"
            )
        return found

    def encode(self, prompt: Any) -> Any:
        """What each expert takes for it."""
        return tuple(part.encode(prompt) for part in self._parts)

    def decode(self, latents: Floats) -> Any:
        """As the first expert does."""
        return self._parts[0].decode(latents)

    def start(self, noise: Floats, schedule: Schedule) -> Floats:
        """Draws of N(0, s² / Σγ): the target's noise, were the data a point."""
        return np.asarray(noise * (float(schedule.s[0]) / self.gamma**0.5))

    def start_log_weight(self, x: Floats, schedule: Schedule) -> Floats:
        """Σγᵢ log qᵢ over the density of that Gaussian, both of x / a, if all experts know their densities; else 0.

        Then the mean weight of the particles estimates ∫ ∏ qᵢ ** γᵢ; else only ratios of weights mean anything.
        """
        densities = [getattr(part, "log_density", None) for part in self._parts]
        if any(density is None for density in densities):
            return np.zeros(len(x))
        a, s = float(schedule.a[0]), float(schedule.s[0])
        target: Any = sum(g * d(x, a, s) for g, d in zip(self.weights, densities, strict=True) if d is not None)
        flat, variance = x.reshape(len(x), -1), s * s / self.gamma
        proposal = -0.5 * (np.square(flat).sum(axis=1) / variance + flat.shape[1] * np.log(2 * np.pi * variance))
        return np.asarray(target - proposal + flat.shape[1] * (self.gamma - 1.0) * np.log(a))

    def predict(self, x: Floats, a: Floats, s: Floats, t: Floats, condition: Any) -> Prediction:
        """The weighted mean of the expected data, Σγᵢεᵢ, and how far the experts are from agreeing."""
        told = [p.predict(x, a, s, t, c) for p, c in zip(self._parts, condition, strict=True)]
        x0 = sum((g * p.x0 for g, p in zip(self.weights, told, strict=True)), np.zeros_like(x)) / self.gamma
        eps = sum((g * p.eps for g, p in zip(self.weights, told, strict=True)), np.zeros_like(x))

        def length(e: Floats) -> Floats:
            return np.asarray(np.square(e.reshape(len(e), -1)).sum(axis=1))

        single = sum((g * length(p.eps) for g, p in zip(self.weights, told, strict=True)), np.zeros(len(x)))
        return Prediction(x0, eps, length(eps) - single)
