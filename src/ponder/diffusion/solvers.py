"""One step from a noisier level (a, s) to a cleaner one (a', s'), by the tables alone.

Every function takes states in any array type whose coefficients broadcast (numpy, torch), so that a step can be
differentiated. None keeps anything between steps: any state may be stepped at any time, in any order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ponder.diffusion.schedule import Floats

Level = tuple[Any, Any]
"""Factor of the data and standard deviation of the noise, (a, s)."""


def ddim(x0: Any, eps: Any, now: Level, then: Level, eta: float = 0.0, noise: Any = None) -> Any:
    """X' = a'x₀ + √(s'² - σ²) ε + σ z with σ = η · `ancestral_deviation`. η = 0 is the ODE (and Euler), 1 the SDE.

    Source: Song, Meng & Ermon 2021, "Denoising Diffusion Implicit Models", eq. 12 and 16, for any linear schedule.
    """
    a2, s2 = then
    if eta == 0.0:
        return a2 * x0 + s2 * eps
    sigma = eta * ancestral_deviation(now, then)
    return a2 * x0 + np.sqrt(np.maximum(s2**2 - sigma**2, 0.0)) * eps + sigma * noise


def ancestral_deviation(now: Level, then: Level) -> Any:
    """Standard deviation of p(x' | x, x₀): (s' / s) · √(s² - (a / a')² s'²)."""
    (a, s), (a2, s2) = now, then
    return s2 / s * np.sqrt(np.maximum(s**2 - (a / a2) ** 2 * s2**2, 0.0))


def heun(
    x: Any, x0: Any, eps: Any, now: Level, then: Level, again: Callable[[Any], tuple[Any, Any]], flow: bool
) -> Any:
    """Heun's second-order step of the ODE: the mean of the slopes at both ends; `again` predicts (x₀, ε) there.

    On the line of flow matching the slope is ε - x₀ per unit of s; else it is ε per unit of s / a, of x / a.

    Source: Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", algorithm 1.
    """
    (a, s), (a2, s2) = now, then
    x0_there, eps_there = again(ddim(x0, eps, now, then))
    if flow:
        return x + (s2 - s) * ((eps - x0) + (eps_there - x0_there)) / 2.0
    return a2 * (x / a + (s2 / a2 - s / a) * (eps + eps_there) / 2.0)


def flow_sde(x: Any, x0: Any, eps: Any, s: Any, s2: Any, noise: Any, largest: Any) -> Any:
    """An Euler-Maruyama step of the SDE with the marginals of flow matching: g² = 2s / (1 - s), s at most `largest`.

    Source: Liu et al. 2025, "Flow-GRPO", eq. 8, with their a² = 1.
    """
    step = s - s2
    bounded = np.minimum(s, largest)
    g2 = 2.0 * bounded / (1.0 - bounded)
    return x - step * (eps - x0) - 0.5 * g2 * step * eps / s + np.sqrt(g2 * step) * noise


def corrected(x: Any, eps: Any, spread: Any, now: Level, then: Level, nu: float, noise: Any) -> tuple[Any, Floats]:
    """A step of the guided SDE of a combined model, and what it adds to each log-weight.

    In y = x / a and ρ = s / a the forward process is dy = dw with dρ², and the score is -ε / ρ, so with ε = Σγᵢεᵢ
    y' = y - ½(1 + ν²)(ρ² - ρ'²) ε/ρ + ν√(ρ² - ρ'²) z, and log w grows by ½(ρ² - ρ'²)/ρ² · (‖ε‖² - Σγᵢ‖εᵢ‖²) whatever ν.

    Source: Skreta et al. 2025, "Feynman-Kac Correctors in Diffusion", re-derived for any number of experts.
    """
    (a, s), (a2, s2) = now, then
    rho, change = s / a, (s / a) ** 2 - (s2 / a2) ** 2
    moved = x / a - 0.5 * (1.0 + nu**2) * change / rho * eps + nu * np.sqrt(change) * noise
    return a2 * moved, 0.5 * (change / rho**2).reshape(len(spread)) * spread


def renoise(x: Any, now: Level, then: Level, noise: Any) -> Any:
    """A state at a noisier level: (a'/a) x + √(s'² - (a'/a)² s²) z, as the forward process would have made it."""
    (a, s), (a2, s2) = now, then
    return a2 / a * x + np.sqrt(np.maximum(s2**2 - (a2 / a) ** 2 * s**2, 0.0)) * noise
