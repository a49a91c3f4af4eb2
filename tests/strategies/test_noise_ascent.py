"""Noise ascent: exact gradients, the paper's rules, costs, and what happens without gradients."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest

import ponder
from ponder.core.context import Context
from ponder.diffusion.gradients import clipped, norm_penalty, reward_gradients, reward_of
from ponder.diffusion.model import FunctionModel
from ponder.errors import GradientUnavailableError, ParameterError
from ponder.models.gmm import Gmm
from ponder.processes.denoising import Denoising
from ponder.strategies.noise_ascent import NoiseAscent
from ponder.verifiers.gmm_reward import GmmReward

PROBLEM = ponder.Problem("noise", "anything")


def context(model, **settings):
    return Context(PROBLEM, Denoising(model, **{"steps": 4, "solver": "euler", **settings}))


@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("source", ["a", "a_quadratic", "ring_decoy"])
def test_the_gradient_is_that_of_finite_differences_and_the_output_is_the_processes_own(source, solver):
    ctx = context(Gmm(source), solver=solver)
    reward = reward_of(GmmReward(), PROBLEM, ctx)
    noise = np.random.default_rng(1).standard_normal((3, 3))
    latents, values, gradients = reward_gradients(ctx.process, None, noise, [reward])

    async def drawn(z):
        (ends,) = await ctx.extend([ctx.root()], [len(z)], given=[list(z)], to_end=True)
        return np.stack([end.payload.x for end in ends])

    from ponder.api import run_sync

    np.testing.assert_allclose(latents, run_sync(lambda: drawn(noise)), atol=1e-9)
    step = 1e-5
    for j in range(2):
        shift = np.zeros(3)
        shift[j] = step
        up, down = (reward_gradients(ctx.process, None, noise + d, [reward])[1][0] for d in (shift, -shift))
        np.testing.assert_allclose(gradients[0][:, j], (up - down) / (2 * step), rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(gradients[0][:, 2], 0.0)  # the number that chooses the component
    np.testing.assert_allclose(values[0], ctx.process.model.reward(latents), rtol=1e-9)


def test_the_regulariser_is_flat_at_the_likeliest_norm_and_survives_zero():
    d = 16
    z = np.random.default_rng(0).standard_normal((1, d))
    z *= math.sqrt(d - 1) / np.linalg.norm(z)
    np.testing.assert_allclose(norm_penalty(z, 0.01)[1], 0.0, atol=1e-12)
    outward = (norm_penalty(2 * z, 0.01)[1] * z).sum() / np.linalg.norm(z)
    norm = 2 * math.sqrt(d - 1)
    assert outward == pytest.approx(0.01 * (norm - (d - 1) / norm))
    assert all(np.isfinite(part).all() for part in norm_penalty(np.zeros((1, d)), 0.01))


def test_one_output_is_a_plain_draw_and_n_counts_outputs_over_all_seeds():
    options = {"model": "gmm:a", "process": "denoising(steps=4, solver=euler)"}
    plain = ponder.solve("x", strategy="single", **options)
    one = ponder.solve("x", strategy="noise_ascent(n=1, verifier=gmm_reward)", **options)
    np.testing.assert_allclose(one.output, plain.output)
    many = ponder.solve("x", strategy="noise_ascent(n=7, restarts=3, verifier=gmm_reward)", **options)
    assert len(many.candidates) == 7 and many.details["rounds"] == 3
    first = ponder.solve("x", strategy="best_of_n(n=3, verifier=gmm_reward)", **options)
    for a, b in zip(many.candidates[:2], first.candidates, strict=False):
        np.testing.assert_allclose(a.output, b.output, atol=1e-9)


def test_an_output_with_a_gradient_costs_three_times_its_evaluations_and_the_last_ones_do_not():
    result = ponder.solve(
        "x", model="gmm:a", process="denoising(steps=4, solver=euler)",
        strategy="noise_ascent(n=6, restarts=2, verifier=gmm_reward)",
    )  # fmt: skip
    total = result.total
    assert total.function_evaluations == total.model_calls == 4 * (3 * 4 + 2)
    assert total.transitions == 4 * 6 and total.verifier_calls == 4 * 2 + 2


def test_the_score_rises_along_a_climb_and_the_best_output_of_all_is_chosen():
    result = ponder.solve(
        "x", model="gmm:a", process="denoising(steps=4, solver=euler)",
        strategy="noise_ascent(n=12, restarts=1, momentum=0, lr=1, verifier=gmm_reward)",
    )  # fmt: skip
    scores = [c.scores["gmm_reward"] for c in result.candidates]
    assert scores == sorted(scores) and result.best.scores["gmm_reward"] == max(scores)


def test_clipping_each_reward_by_itself_keeps_a_large_one_from_ruling():
    """Two rewards that pull along different axes, one a thousand times as strong: both steps have the same length."""
    small, large = np.asarray([[1.0, 0.0]]), np.asarray([[0.0, 1000.0]])
    total = clipped(clipped(small, 0.1) + clipped(large, 0.1), 1.0)
    np.testing.assert_allclose(total, [[0.1, 0.1]])


def drifted(regulariser):
    result = ponder.solve(
        "x", model="gmm:two_modes", process="denoising(steps=3, solver=euler)", seed=3,
        strategy=f"noise_ascent(n=60, restarts=1, lr=1, regulariser={regulariser}, verifier=gmm_reward)",
    )  # fmt: skip
    return result.details["norms"][0]


def test_without_the_regulariser_the_norm_leaves_that_of_normal_noise():
    assert drifted(0.0) > 1.1
    assert 0.9 < drifted(1.0) < 1.1


def test_estimated_slopes_climb_too_and_say_why_they_were_needed():
    result = ponder.solve(
        "x", model="gmm:a", process="denoising(steps=4)",
        strategy="noise_ascent(n=61, restarts=1, lr=1, gradient=auto, verifier=gmm_reward)",
    )  # fmt: skip
    assert result.details["gradient"] == "spsa" and "stochastic" in result.details["no_autograd"]
    assert len(result.candidates) == 61 and result.total.function_evaluations == 61 * 4
    climbed = ponder.solve(
        "x", model="gmm:a", process="denoising(steps=4, solver=euler)",
        strategy="noise_ascent(n=61, restarts=1, lr=1, gradient=spsa, verifier=gmm_reward)",
    )  # fmt: skip
    scores = [c.scores["gmm_reward"] for c in climbed.candidates]
    assert np.mean(scores[-10:]) > np.mean(scores[:10])


@dataclass(frozen=True)
class Cracked(GmmReward):
    """A reward whose gradients are no numbers."""

    def score_tensors(self, problem, outputs, ctx):
        return super().score_tensors(problem, outputs, ctx) * math.nan


def test_a_gradient_that_is_no_number_makes_no_step_and_the_third_ends_the_seed():
    plan = NoiseAscent(n=10, restarts=1, verifier=Cracked())
    result = ponder.solve("x", model="gmm:a", process="denoising(steps=4, solver=euler)", strategy=plan)
    assert result.details["bad_gradients"] == 3 and len(result.candidates) == 3
    assert result.status == "ok" and len({c.output.tobytes() for c in result.candidates}) == 1


def test_a_budget_ends_the_climb_with_the_best_so_far():
    result = ponder.solve(
        "x", model="gmm:a", process="denoising(steps=4, solver=euler)", budget="function_evaluations=30",
        strategy="noise_ascent(n=12, restarts=1, verifier=gmm_reward)",
    )  # fmt: skip
    assert result.status == "ok" and len(result.candidates) == 2 and result.total.function_evaluations == 24


def test_missing_gradients_are_named_with_what_to_do():
    plan = NoiseAscent(n=4, gradient="autograd", verifier=GmmReward())

    def asked(model, process="denoising(steps=3, solver=euler)", strategy=plan):
        return ponder.solve("x", model=model, process=process, strategy=strategy)

    with pytest.raises(GradientUnavailableError, match=r"stochastic steps.*solver=euler"):
        asked("gmm:a", "denoising(steps=3)")
    with pytest.raises(GradientUnavailableError, match=r"random_score gives no gradients.*spsa.*zero_order_search"):
        asked("gmm:a", strategy=replace(plan, verifier=ponder.verifier("random_score")))
    with pytest.raises(GradientUnavailableError, match=r"value=true\) gives no gradients"):
        asked("gmm:a", strategy=replace(plan, verifier=ponder.verifier("gmm_reward(value=true)")))
    plain = FunctionModel(lambda x, t, prompt: 0 * x, (2,))
    process = Denoising(plain, steps=3, solver="euler")
    with pytest.raises(GradientUnavailableError, match=r"function gives no gradients"):
        ponder.solve("x", model=plain, process=process, strategy=plan)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("restarts", 0), ("lr", 0.0), ("momentum", 1.0), ("clip", -1.0), ("regulariser", -1.0), ("radius", math.nan)],
)
def test_settings_out_of_range_are_refused(setting, value):
    with pytest.raises(ParameterError, match=setting):
        NoiseAscent(**{setting: value})
