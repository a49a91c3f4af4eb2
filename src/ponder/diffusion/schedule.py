"""How much of the data and how much noise a state holds at each step: x = a · x₀ + s · ε."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ponder.errors import ParameterError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Schedule:
    """Tables over the steps of a sampler; index 0 is pure noise, the last index is the data.

    Attributes:
        a: (n + 1,) factor of the data.
        s: (n + 1,) standard deviation of the noise; never rises.
        t: (n + 1,) what the model is told at each index (its own idea of time).
    """

    a: Floats
    s: Floats
    t: Floats

    def __post_init__(self) -> None:
        a, s = self.a, self.s
        if not len(a) == len(s) == len(self.t) >= 2:
            raise ParameterError("schedule", "a/s/t", (len(a), len(s), len(self.t)), allowed="equal lengths ≥ 2")
        ratio = np.divide(s, a, out=np.full(len(s), np.inf), where=a > 0)
        if (a < 0).any() or (s < 0).any() or not (ratio[1:] <= ratio[:-1]).all():
            raise ParameterError("schedule", "s/a", ratio.tolist(), allowed="numbers ≥ 0 that never rise")

    @property
    def steps(self) -> int:
        """Steps from noise to data."""
        return len(self.a) - 1

    @property
    def is_flow(self) -> bool:
        """Whether it is the straight line of flow matching, a = 1 - s."""
        return bool(np.allclose(self.a + self.s, 1.0, atol=1e-6))

    def index_of(self, share: float) -> int:
        """The index after which about `share` (in [0, 1]) of the steps is still to be done.

        >>> Schedule.cosine(10).index_of(0.6)
        4
        """
        return round((1.0 - share) * self.steps)

    @classmethod
    def cosine(cls, steps: int, last: float = 0.02) -> Schedule:
        """aᵢ = cos θᵢ, sᵢ = sin θᵢ for equally spaced θ from arccos(`last`) to 0; t = θ."""
        angle = np.linspace(math.acos(last), 0.0, steps + 1)
        s = np.sin(angle)
        s[-1] = 0.0
        return cls(np.cos(angle), s, angle)

    @classmethod
    def flow(cls, steps: int) -> Schedule:
        """The straight line: s from 1 to 0 in equal steps, a = 1 - s; t = s."""
        s = np.linspace(1.0, 0.0, steps + 1)
        return cls(1.0 - s, s, s)

    @classmethod
    def variance_exploding(
        cls, steps: int, largest: float = 40.0, smallest: float = 0.01, rho: float = 7.0
    ) -> Schedule:
        """A = 1 and s from `largest` to `smallest`, spaced evenly in s ** (1 / rho); t = s.

        Source: Karras et al. 2022, eq. 5.
        """
        s = np.linspace(largest ** (1 / rho), smallest ** (1 / rho), steps + 1) ** rho
        return cls(np.ones(steps + 1), s, s)
