"""The denoising process: immutable states, exact costs, steps equal to diffusers', the same strategies as for text."""

from dataclasses import dataclass

import numpy as np
import pytest

import ponder
from ponder.api import run_sync
from ponder.core.context import Context
from ponder.diffusion import solvers
from ponder.diffusion.model import FunctionModel, as_prediction
from ponder.diffusion.schedule import Schedule
from ponder.errors import CapabilityError, NotStochasticError, ParameterError
from ponder.models.gmm import Gmm
from ponder.models.simulated import Simulated
from ponder.processes.denoising import At, Denoising

PROBLEM = ponder.Problem("noise", "anything")


def context(budget=None, seed=0, model=None, **settings):
    settings = {"steps": 6, **settings}
    return Context(PROBLEM, Denoising(model or Gmm("a"), **settings), budget=budget, seed=seed)


def grown(ctx, counts, **options):
    """Levels of a tree: `counts[d]` children of every state at depth d."""

    async def go():
        level, levels = [ctx.root()], []
        for count in counts:
            groups = await ctx.extend(level, [count] * len(level), **options)
            level = [child for group in groups for child in group]
            levels.append(level)
        return levels

    return run_sync(go)


def test_siblings_share_their_parents_prediction_and_both_counts_are_kept():
    ctx = context()
    levels = grown(ctx, [2, 3])
    assert [len(level) for level in levels] == [2, 6]
    total = ctx.ledger.total
    assert total.function_evaluations == 8, "one prediction for each of 2 + 6 unfinished states"
    assert total.transitions == 6 and total.model_calls == 8
    assert len({child.payload.x.tobytes() for child in levels[1]}) == 6


def test_a_chain_costs_one_evaluation_a_timestep_whatever_the_macro_step():
    for macro in (1, 2, 4, 6):
        ctx = context(macro=macro)
        levels = grown(ctx, [1] * ctx.process.horizon(PROBLEM))
        assert levels[-1][0].finish == "stop" and levels[-1][0].payload.prediction is None
        assert (ctx.ledger.total.function_evaluations, ctx.ledger.total.transitions) == (6, 6)
    ctx = context(solver="heun")
    grown(ctx, [1] * 7)
    assert ctx.ledger.total.function_evaluations == 11, "two for each step but the last"


def test_to_finish_is_exactly_what_finishing_costs():
    for solver in ("exact", "heun", "ddim"):
        for depth in range(7):
            ctx = context(solver=solver)
            levels = grown(ctx, [1] * depth)
            state = levels[-1][0] if levels else ctx.root()
            before, most = ctx.ledger.total, ctx.process.to_finish(state, ctx)
            (end,) = run_sync(lambda ctx=ctx, state=state: ctx.extend([state], [1], to_end=True))
            spent = ctx.ledger.total
            assert end[0].finish == "stop"
            assert spent.function_evaluations - before.function_evaluations == most.function_evaluations
            assert spent.transitions - before.transitions == most.transitions


def test_noise_depends_on_the_place_and_nothing_else():
    first, second = grown(context(), [3, 2])[-1], grown(context(), [2, 2])[-1]
    for a, b in zip(first, second, strict=False):
        np.testing.assert_array_equal(a.payload.x, b.payload.x)
    other = grown(context(seed=1), [3, 2])[-1]
    assert not np.array_equal(first[0].payload.x, other[0].payload.x)
    small, large = grown(context(batch=1), [5, 3])[-1], grown(context(batch=64), [5, 3])[-1]
    np.testing.assert_allclose([s.payload.x for s in small], [s.payload.x for s in large], rtol=1e-12)


@pytest.mark.parametrize("solver", ["ddim", "heun", "exact"])
def test_states_at_different_places_go_together_as_they_go_alone(solver):
    def ends(together):
        ctx = context(solver=solver, macro=2)
        begun = [level[0] for level in grown(ctx, [1, 1, 1])]  # at 0, 2 and 4 of 6 timesteps

        async def go():
            groups = [begun] if together else [[state] for state in begun]
            found = [await ctx.extend(own, [1] * len(own), to_end=True) for own in groups]
            return [state for own in found for (state,) in own], ctx.ledger.total.function_evaluations

        return run_sync(go)

    (mine, spent), (alone, cost) = ends(True), ends(False)
    assert spent == cost
    for a, b in zip(mine, alone, strict=True):
        assert a.payload.index == 6 and a.payload.prediction is None
        np.testing.assert_allclose(a.payload.x, b.payload.x, rtol=1e-12)


def test_a_run_is_replayed_by_giving_its_noise():
    for settings in ({}, {"macro": 2}, {"solver": "ddim", "macro": 3}):
        ctx = context(**settings)
        chain = [level[0] for level in grown(ctx, [1] * ctx.process.horizon(PROBLEM))]
        again = context(seed=99, **settings)

        async def replay(again=again, chain=chain):
            state = again.root()
            for node in chain:
                ((state,),) = await again.extend([state], [1], given=[[node.payload.noise]])
            return state

        np.testing.assert_array_equal(run_sync(replay).payload.x, chain[-1].payload.x)


def test_deterministic_steps_refuse_several_children_but_not_several_noises():
    for settings in ({"solver": "ddim", "eta": 0.0}, {"solver": "euler"}, {"solver": "heun"}):
        assert len(grown(context(**settings), [4, 1, 1])[-1]) == 4
        with pytest.raises(NotStochasticError, match="2 children asked of one state would be the same"):
            grown(context(**settings), [1, 2])
    with pytest.raises(NotStochasticError, match="Use eta=1"):
        ponder.solve(
            "x", model="gmm:a", process="denoising(solver=euler)", strategy="beam_search(n=4, verifier=gmm_reward)"
        )


def test_an_ode_gives_the_same_end_in_thin_and_in_macro_steps():
    ends = []
    for macro in (1, 3, 6):
        ctx = context(solver="heun", macro=macro)
        ends.append(grown(ctx, [1] * ctx.process.horizon(PROBLEM))[-1][0].payload.x)
    np.testing.assert_allclose(ends, [ends[0]] * 3, rtol=1e-12)


def test_heun_is_second_order_and_euler_first():
    """Against a fine solution of the probability-flow ODE, halving the step divides the error by about 4 and by 2."""

    def end(solver, steps):
        ctx = context(model=Gmm("a", tables="flow"), solver=solver, steps=steps, macro=steps)
        noise = np.asarray([-1.3, -0.6, 0.1])
        return run_sync(lambda: ctx.extend([ctx.root()], [1], given=[[noise]], to_end=True))[0][0].payload.x

    truth = end("heun", 4000)
    error = {s: [np.linalg.norm(end(s, n) - truth) for n in (100, 200, 400)] for s in ("euler", "heun")}
    assert 1.7 < error["euler"][0] / error["euler"][1] < 2.4 and 1.7 < error["euler"][1] / error["euler"][2] < 2.4
    assert error["heun"][2] < error["euler"][2] / 10 and error["heun"][1] / error["heun"][2] > 3


def test_noised_states_have_the_forward_process_variance_and_are_children_elsewhere():
    ctx = context()
    state = grown(ctx, [1] * 5)[-1][0]
    process = ctx.process
    a, s = process.level(state.payload.index)
    a2, s2 = process.level(1)
    noise = np.random.default_rng(0).standard_normal((40_000, 2))
    moved = np.asarray([process.renoised(state, 1, z).x for z in noise[:4000]])
    np.testing.assert_allclose(moved.mean(axis=0), a2 / a * state.payload.x, atol=0.06)
    np.testing.assert_allclose(moved.var(axis=0), s2**2 - (a2 / a * s) ** 2, rtol=0.1)
    with pytest.raises(ParameterError, match="noisier than the state's 4"):
        process.renoised(state, 4, noise[0])
    before = ctx.ledger.total.function_evaluations
    (placed,) = run_sync(lambda: ctx.extend([state], [1], given=[[process.renoised(state, 1, noise[0])]]))
    assert placed[0].payload.index == 1 and placed[0].parent is state
    assert ctx.ledger.total.function_evaluations == before + 1 and ctx.ledger.total.transitions == 4


def test_what_is_given_is_checked():
    ctx = context()
    with pytest.raises(ParameterError, match="given noise"):
        grown(ctx, [1], given=[[np.zeros(7)]])
    with pytest.raises(ParameterError, match="at an index from 0 to 6"):
        grown(ctx, [1], given=[[At(np.zeros(2), 9)]])
    text = Context(PROBLEM, ponder.api.build_process(None, (), Simulated()))
    with pytest.raises(CapabilityError, match="cannot be given one"):
        run_sync(lambda: text.extend([text.root()], [1], given=[["step"]]))


@pytest.mark.parametrize("strategy", ["best_of_n(n=8, verifier=gmm_reward)", "repeated_sampling(n=8)"])
@pytest.mark.parametrize("limit", [0, 5, 6, 31, 47, 48])
def test_a_budget_buys_whole_draws(strategy, limit):
    result = ponder.solve(
        "x", model="gmm:a", process="denoising(steps=6)", strategy=strategy, budget=f"function_evaluations={limit}"
    )
    assert result.total.function_evaluations == 6 * (limit // 6) and len(result.candidates) == limit // 6
    assert (result.status == "failed") == (limit < 6)


@pytest.mark.parametrize("budget", ["function_evaluations=13", "calls=13"])
def test_what_a_budget_did_not_allow_is_told_in_runs_and_what_each_takes(budget):
    result = ponder.solve(
        "x", model="gmm:a", process="denoising(steps=6)", strategy="repeated_sampling(n=8)", budget=budget
    )
    assert result.reason == "the budget allowed 2 of 8 runs of 6 function evaluations each"


@pytest.mark.parametrize("limit", [6, 7, 20, 33])
@pytest.mark.parametrize(
    "strategy",
    ["particle_filter(n=4, verifier=gmm_reward)", "beam_search(n=4, branch=2, verifier=gmm_reward, choose=best_score)",
     "mcts(n=4, branch=2, verifier=gmm_reward, choose=best_score)"],
)  # fmt: skip
def test_searches_run_as_they_are_and_answer_within_a_budget(strategy, limit):
    free = ponder.solve("x", model="gmm:ring", process="denoising(steps=6, macro=2)", strategy=strategy)
    assert free.status == "ok" and free.output.shape == (2,) and free.tree is not None
    for name in ("function_evaluations", "transitions"):
        result = ponder.solve(
            "x", model="gmm:ring", process="denoising(steps=6, macro=2)", strategy=strategy, budget=f"{name}={limit}"
        )
        assert getattr(result.total, name) <= limit
        assert result.status == "ok" and result.output is not None and result.candidates[0].finish != "unfinished"


def test_states_that_are_not_finite_are_dropped_and_counted():
    def breaks(x, t, prompt):
        return np.where(x[:, :1] > 0, np.nan, x)

    model = FunctionModel(breaks, (2,), "sample")
    ctx = context(model=model, steps=3)
    levels = grown(ctx, [40])
    assert 0 < len(levels[0]) < 40
    assert len(ctx.failures) == 40 - len(levels[0]) and "not finite" in ctx.failures[0].message


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(CapabilityError, match="needs a diffusion model"):
        ponder.solve("x", model="sim:default", process="denoising")
    with pytest.raises(CapabilityError, match="does not know its exact reverse kernel"):
        Denoising(FunctionModel(lambda x, t, p: x, (2,)), solver="exact")
    with pytest.raises(CapabilityError, match="not a flow-matching model"):
        Denoising(Gmm("a"), solver="flow_sde")
    with pytest.raises(ParameterError, match="eta"):
        Denoising(Gmm("a"), eta=1.5)
    with pytest.raises(CapabilityError, match="writes no text"):
        ponder.solve("x", model="gmm:a", process="text_steps", strategy="single")
    with pytest.raises(ParameterError, match="never rise"):
        Schedule(np.ones(3), np.asarray([1.0, 1.1, 0.0]), np.zeros(3))


@dataclass(frozen=True)
class Net:
    """Something smooth to denoise with."""

    def __call__(self, x, t, prompt):
        return np.tanh(0.5 * x) + 0.01 * np.asarray(t)[:, None] / 1000


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("spacing", ["leading", "linear"])
def test_ddim_equals_diffusers(kind, eta, spacing):
    """To rounding, once its tables are in double precision like ours; in single precision its own error is 1e-5."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    from ponder.diffusion.hub import clip_of, schedule_of

    beta = {"leading": "scaled_linear", "linear": "linear"}[spacing]
    scheduler = diffusers.DDIMScheduler(
        prediction_type=kind, clip_sample=spacing == "linear", beta_schedule=beta, set_alpha_to_one=spacing == "linear"
    )
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.double()
    schedule, clip = schedule_of(scheduler, 20), clip_of(scheduler)
    model = FunctionModel(Net(), (4,), kind, lambda n: schedule, clip)
    ctx = context(model=model, steps=20, macro=20, eta=eta, solver="ddim")
    rng = np.random.default_rng(3)
    start, noises = rng.standard_normal(4), rng.standard_normal((20, 4))

    async def ours():
        ((state,),) = await ctx.extend([ctx.root()], [1], given=[[start]])
        ((state,),) = await ctx.extend([state], [1], given=[[noises if eta else None]])
        return state.payload.x

    scheduler.set_timesteps(20)
    x = torch.from_numpy(start)[None].double()
    for i, t in enumerate(scheduler.timesteps):
        output = torch.from_numpy(Net()(x.numpy(), np.asarray([float(t)]), None))
        x = scheduler.step(
            output, int(t), x, eta=eta, variance_noise=torch.from_numpy(noises[i])[None] if eta else None
        ).prev_sample
    np.testing.assert_allclose(run_sync(ours), x[0].numpy(), atol=1e-9, rtol=1e-7)


def test_all_kinds_of_prediction_say_the_same():
    rng = np.random.default_rng(0)
    x0, eps = rng.standard_normal((2, 3, 4))
    a, s = np.full(3, 0.6), np.full(3, 0.4)
    x = 0.6 * x0 + 0.4 * eps
    said = {"epsilon": eps, "sample": x0, "flow": eps - x0, "score": -eps / 0.4}
    for kind, output in said.items():
        found = as_prediction(output, kind, x, a, s)
        np.testing.assert_allclose(found.x0, x0, atol=1e-12)
        np.testing.assert_allclose(found.eps, eps, atol=1e-12)
    s = np.full(3, 0.8)
    found = as_prediction(0.6 * eps - 0.8 * x0, "v_prediction", 0.6 * x0 + 0.8 * eps, a, s)
    np.testing.assert_allclose(found.x0, x0, atol=1e-12)


def test_flow_sde_keeps_the_marginals_of_the_ode():
    """One Gaussian under the exact velocity: both samplers end with its mean and variance."""
    from ponder.diffusion.gmm import Linear, Mixture

    model = Gmm(mixture=Mixture((1.0,), ((1.0, -1.0),), (0.25,)), reward=Linear((0.0, 0.0)), tables="flow")
    for solver in ("euler", "flow_sde"):
        process = f"denoising(steps=60, solver={solver})"
        result = ponder.solve("x", model=model, process=process, strategy="repeated_sampling(n=600)")
        x = np.asarray([c.output for c in result.candidates])
        np.testing.assert_allclose(x.mean(axis=0), [1.0, -1.0], atol=4 * 0.5 / np.sqrt(600) + 0.02)
        np.testing.assert_allclose(x.var(axis=0), 0.25, rtol=4 * np.sqrt(2 / 600) + 0.04)


def test_renoising_from_the_data_is_the_forward_process():
    x = np.asarray([1.0, 2.0])
    np.testing.assert_allclose(solvers.renoise(x, (1.0, 0.0), (0.6, 0.8), np.ones(2)), 0.6 * x + 0.8)
