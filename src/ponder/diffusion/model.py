"""What a denoising process asks of a model, and a model made of a plain function."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from ponder.core.model import Capabilities, Completion, Model, Request
from ponder.diffusion.schedule import Floats, Schedule
from ponder.errors import CapabilityError, GradientUnavailableError, ParameterError

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["epsilon", "v_prediction", "sample", "flow", "score"]
"""What a network predicts: the noise ε; a·ε - s·x₀; the data x₀; ε - x₀; or the score -ε / s."""


@dataclass(frozen=True)
class Prediction:
    """What a model says about noisy states, all of shape (n, …).

    Attributes:
        x0: the data it expects behind them.
        eps: the noise it expects in them.
        spread: (n,) ‖Σγᵢεᵢ‖² - Σγᵢ‖εᵢ‖² over the experts of a combined model: what corrects the weights; else 0.
    """

    x0: Floats
    eps: Floats
    spread: Floats

    @staticmethod
    def joined(parts: list[Prediction]) -> Prediction:
        """One prediction for all states of several."""
        if len(parts) == 1:
            return parts[0]
        return Prediction(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("x0", "eps", "spread")))


class DiffusionModel(Model):
    """A model of noisy states. Subclasses give `latent_shape`, `schedule` and `predict`.

    Attributes:
        latent_shape: of one state.
        denoiser_calls: network evaluations behind one prediction (guidance doubles them).
        differentiable: whether it has `predict_tensors`.
        exact: whether `kernel` draws exact reverse steps.
        corrected: whether it is combined of experts and needs the corrected steps.
    """

    process: ClassVar[str | None] = "denoising"
    capabilities = Capabilities(chat=False, plain=False, n=None, seeds=True, streaming=False)
    latent_shape: tuple[int, ...]
    denoiser_calls: int = 1
    differentiable: ClassVar[bool] = False
    exact: ClassVar[bool] = False
    corrected: ClassVar[bool] = False

    @abstractmethod
    def schedule(self, steps: int) -> Schedule:
        """The tables of a sampler of so many steps."""

    @abstractmethod
    def predict(self, x: Floats, a: Floats, s: Floats, t: Floats, condition: Any) -> Prediction:
        """What is behind states x, shape (n, *latent_shape), at levels a, s, t, each (n,)."""

    def encode(self, prompt: Any) -> Any:
        """The condition that a problem's prompt means; asked once for each problem."""
        return None

    def decode(self, latents: Floats) -> Any:
        """The output that the latents of one finished (or expected) state stand for."""
        return latents

    @property
    def start_shape(self) -> tuple[int, ...]:
        """Shape of the standard normal noise that `start` takes."""
        return self.latent_shape

    def start(self, noise: Floats, schedule: Schedule) -> Floats:
        """The latents (n, *latent_shape) at index 0 that standard normal noise (n, *start_shape) gives.

        The default is the marginal there of data of unit variance, N(0, a² + s²).
        """
        return noise * float(np.hypot(schedule.a[0], schedule.s[0]))

    def start_log_weight(self, x: Floats, schedule: Schedule) -> Floats:
        """(n,) log-weights that make up for what `start` draws from; 0 where it is exact or nothing is known."""
        return np.zeros(len(x))

    def kernel(self, x: Floats, levels: tuple[Floats, ...], noise: Floats) -> Floats:
        """An exact reverse step from (a, s) to (a', s'), each (n,); only where `exact`."""
        raise CapabilityError(f"{self} has no exact reverse kernel")

    def start_tensors(self, noise: Tensor, schedule: Schedule) -> Tensor:
        """`start` for tensors, so that it can be differentiated."""
        return noise * float(np.hypot(schedule.a[0], schedule.s[0]))

    def predict_tensors(self, x: Tensor, a: float, s: float, t: float, condition: Any) -> tuple[Tensor, Tensor]:
        """`predict` for tensors at one level: the data and the noise behind x; only if `differentiable`."""
        raise GradientUnavailableError(f"{self} gives no gradients")

    def decode_tensors(self, latents: Tensor) -> Tensor:
        """`decode` for tensors (n, *latent_shape), so that it can be differentiated."""
        return latents

    async def sample(self, request: Request) -> AsyncIterator[tuple[int, Completion]]:
        """It writes no text.

        Raises:
            CapabilityError: always.
        """
        if self.capabilities.plain is False:
            raise CapabilityError(f"{self} is a diffusion model: it writes no text. Use the process denoising")
        yield 0, Completion("", 0, "error")


def as_prediction(output: Floats, kind: Kind, x: Floats, a: Floats, s: Floats, clip: float | None = None) -> Prediction:
    """Data and noise from what a network gives for states (n, …) at levels a, s (n,); see `data_and_noise`."""
    shape = (-1,) + (1,) * (x.ndim - 1)
    x0, eps = data_and_noise(output, kind, x, a.reshape(shape), s.reshape(shape), clip)
    return Prediction(x0, eps, np.zeros(len(x)))


def data_and_noise(output: Any, kind: Kind, x: Any, a: Any, s: Any, clip: float | None = None) -> tuple[Any, Any]:
    """Data and noise from what a network gives, for arrays or tensors with levels a, s that broadcast.

    `clip` limits the data to [-clip, clip]; the noise stays as it is.
    """
    if kind == "sample":
        x0, eps = output, (x - a * output) / s
    elif kind == "v_prediction":
        x0, eps = a * x - s * output, a * output + s * x
    elif kind == "flow":
        x0, eps = x - s * output, x + (1.0 - s) * output
    else:
        eps = output if kind == "epsilon" else -s * output
        x0 = (x - s * eps) / a
    return (x0 if clip is None else x0.clip(-clip, clip)), eps


@dataclass(frozen=True)
class FunctionModel(DiffusionModel):
    """A plain function as a diffusion model.

    Args:
        function: `function(x, t, prompt)` for x (n, *latent_shape) and t (n,), with the answer in x's shape.
        latent_shape: of one state.
        kind: what the function predicts.
        tables: makes the schedule for a number of steps.
        clip: limit of the expected data, such as 1 for pixels; None for none.
        label: names the function in keys; change it whenever the function changes.
    """

    function: Callable[[Floats, Floats, Any], Any]
    latent_shape: tuple[int, ...]
    kind: Kind = "epsilon"
    tables: Callable[[int], Schedule] = Schedule.cosine
    clip: float | None = None
    label: str = "function"

    name: ClassVar[str] = "function"

    def __post_init__(self) -> None:
        if any(size < 1 for size in self.latent_shape):
            raise ParameterError(self, "latent_shape", self.latent_shape, allowed="integers ≥ 1")

    def __str__(self) -> str:
        return f"function:{self.label}"

    @property
    def identity(self) -> str:
        """Its label and kind."""
        return f"{self} {self.kind}"

    def schedule(self, steps: int) -> Schedule:
        """The given tables."""
        return self.tables(steps)

    def encode(self, prompt: Any) -> Any:
        """The prompt itself."""
        return prompt

    def predict(self, x: Floats, a: Floats, s: Floats, t: Floats, condition: Any) -> Prediction:
        """What the function says."""
        output = np.asarray(self.function(x, t, condition), dtype=float)
        if output.shape != x.shape:
            raise ParameterError(self, "function's output shape", output.shape, allowed=f"the states' {x.shape}")
        return as_prediction(output, self.kind, x, a, s, self.clip)
