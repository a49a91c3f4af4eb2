"""Gradients of rewards with respect to the starting noise, through all steps of a deterministic sampler.

Every model that gives `predict_tensors` and every verifier that gives `score_tensors(problem, outputs, ctx)` takes
part; the steps are those of `ponder.diffusion.solvers`, so an output is the one that the process `denoising` makes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.core.verifier import Verifier
from ponder.diffusion import solvers
from ponder.diffusion.gmm import Bumps, Linear, Quadratic
from ponder.diffusion.schedule import Floats
from ponder.errors import GradientUnavailableError, MissingExtraError

if TYPE_CHECKING:
    from torch import Tensor

    from ponder.processes.denoising import Denoising

Reward = Callable[["Tensor"], "Tensor"]
"""(n,) of outputs (n, …)."""

_SMALLEST_NORM = 1e-6


def require_gradients(process: Denoising) -> None:
    """Refuse a process through which nothing can be differentiated.

    Raises:
        GradientUnavailableError: the model gives no gradients, or the steps are stochastic.
    """
    if process.stochastic:
        raise GradientUnavailableError(
            f"{process} takes stochastic steps, so no output belongs to a noise. Use solver=euler or heun (or ddim "
            "with eta=0), or noise_ascent(gradient=spsa)"
        )
    if not process.denoiser.differentiable:
        raise GradientUnavailableError(
            f"{process.model} gives no gradients. Use a diffusers or gmm model, noise_ascent(gradient=spsa), or "
            "zero_order_search, which need none"
        )


def generated(process: Denoising, condition: Any, noise: Tensor) -> Tensor:
    """Finished latents (n, *latent_shape) of starting noise (n, *start_shape), by the process's own steps.

    Raises:
        GradientUnavailableError: see `require_gradients`.
    """
    require_gradients(process)
    schedule, model = process.schedule, process.denoiser
    a, s, t = (v.tolist() for v in (schedule.a, schedule.s, schedule.t))
    x = model.start_tensors(noise, schedule)
    for i in range(schedule.steps):
        x0, eps = model.predict_tensors(x, a[i], s[i], t[i], condition)
        now, then, after = (a[i], s[i]), (a[i + 1], s[i + 1]), i + 1

        def again(y: Tensor, at: int = after) -> tuple[Tensor, Tensor]:
            return model.predict_tensors(y, a[at], s[at], t[at], condition)

        if process.method == "heun" and after < schedule.steps:
            x = solvers.heun(x, x0, eps, now, then, again, schedule.is_flow)
        else:
            x = solvers.ddim(x0, eps, now, then)
    return x


def reward_gradients(
    process: Denoising, condition: Any, noise: Floats, rewards: Sequence[Reward]
) -> tuple[Floats, Floats, Floats]:
    """Of starting noise (n, *start_shape): the latents made of it, each reward, and each reward's gradient.

    Returns:
        Latents (n, *latent_shape), rewards (J, n) and gradients (J, n, *start_shape). Rows do not influence each other.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError("gradients of a sampler", "torch", "diffusion") from error
    z = torch.from_numpy(np.ascontiguousarray(noise, dtype=np.float64)).requires_grad_()
    with torch.enable_grad():
        latents = generated(process, condition, z)
        outputs = process.denoiser.decode_tensors(latents)
        values = [reward(outputs) for reward in rewards]
        gradients = [
            torch.autograd.grad(value.sum(), z, retain_graph=j + 1 < len(values))[0] for j, value in enumerate(values)
        ]
    found = [torch.stack([v.detach().double() for v in rows]).numpy() for rows in (values, gradients)]
    return latents.detach().numpy(), found[0], found[1]


def reward_of(verifier: Verifier, problem: Problem, ctx: Context) -> Reward:
    """A verifier as a differentiable function of outputs.

    Raises:
        GradientUnavailableError: it has none.
    """
    score = getattr(verifier, "score_tensors", None)
    if score is None or not getattr(verifier, "differentiable", True):
        raise GradientUnavailableError(
            f"{verifier} gives no gradients. Use noise_ascent(gradient=spsa) or zero_order_search, which need none"
        )
    return lambda outputs: score(problem, outputs, ctx)


def reward_tensors(reward: Any, x: Tensor) -> Tensor:
    """(n,) rewards of `ponder.diffusion.gmm` for x (n, d), differentiable."""
    import torch

    if isinstance(reward, Linear):
        return x @ torch.tensor(reward.c, dtype=x.dtype)
    if isinstance(reward, Quadratic):
        return -0.5 * reward.kappa * (x - torch.tensor(reward.b, dtype=x.dtype)).square().sum(dim=-1)
    if isinstance(reward, Bumps):
        parts = [torch.full(x.shape[:-1], math.log(reward.base), dtype=x.dtype)]
        parts += [math.log(h) + reward_tensors(b, x) for h, b in zip(reward.heights, reward.bumps, strict=True)]
        return torch.stack(parts, dim=-1).logsumexp(dim=-1)
    raise GradientUnavailableError(f"the reward {reward} gives no gradients; use Linear, Quadratic or Bumps")


def norm_penalty(noise: Floats, strength: float) -> tuple[Floats, Floats]:
    """K = strength · (½‖z‖² - (d - 1) log‖z‖) of each row, and its gradient.

    It is minus the log density of the norm of d normal numbers; the least is at ‖z‖ = √(d - 1), the likeliest norm.

    Args:
        noise: (n, …) rows of d numbers; a norm below 1e-6 counts as 1e-6.
        strength: factor, ≥ 0.

    >>> z = np.asarray([[3.0, 4.0, 0.0]])
    >>> k, g = norm_penalty(z, 1.0)
    >>> round(float(k[0]), 6), g.round(6).tolist()
    (9.281124, [[2.76, 3.68, 0.0]])
    """
    flat = np.asarray(noise, dtype=np.float64).reshape(len(noise), -1)
    d = flat.shape[1]
    norm = np.maximum(np.linalg.norm(flat, axis=1), _SMALLEST_NORM)
    value = strength * (0.5 * norm**2 - (d - 1) * np.log(norm))
    gradient = strength * (1.0 - (d - 1) / norm**2)[:, None] * flat
    return value, gradient.reshape(np.shape(noise))


def clipped(gradients: Floats, limit: float) -> Floats:
    """Rows (n, …), each shortened to a norm of at most `limit`.

    >>> clipped(np.asarray([[3.0, 4.0], [0.3, 0.4]]), 1.0).round(3).tolist()
    [[0.6, 0.8], [0.3, 0.4]]
    """
    flat = np.asarray(gradients, dtype=float).reshape(len(gradients), -1)
    norm = np.linalg.norm(flat, axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        shorter = flat * np.minimum(1.0, limit / np.maximum(norm, 1e-300))
    return np.asarray(shorter.reshape(np.shape(gradients)))
