"""Families of diffusers' pipelines, tiny and with random weights: our steps give what each gives itself."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from ponder.api import run_sync
from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.diffusion.gradients import reward_gradients
from ponder.diffusion.hub import kind_of, schedule_of, shift_of
from ponder.diffusion.pipelines import FAMILIES, Size, taken_apart
from ponder.errors import CapabilityError, ParameterError
from ponder.models.diffusers import Diffusers
from ponder.processes.denoising import At, Denoising

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parent.parent / "support"))
import tiny_pipelines  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # diffusers', of numpy
]
STEPS = 3
VIDEO = ("ltx", "wan", "wan_2_2")
PROMPT = "a red fox"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of a family's pipeline, made once."""
    made = {}

    def of(family):
        if family not in made:
            made[family] = tiny_pipelines.saved(family, tmp_path_factory.mktemp(family))
        return made[family]

    return of


def size_of(family):
    """Heights differ from widths where a pipeline lets them, so that none is taken for the other."""
    if family in ("dit", "stable_diffusion"):
        return {}
    if family in VIDEO:
        return {"frames": 9} | ({"height": 32, "width": 64} if family == "ltx" else {"height": 16, "width": 32})
    return {"height": 16, "width": 24}


def prompt_of(family):
    return "3" if family == "dit" else PROMPT


def ours(folder, family, guidance=1.0, **options):
    return Diffusers(str(folder(family)), guidance=guidance, **(size_of(family) | options))


def theirs(folder, family, start, guidance):
    """The output of the pipeline's own loop for this starting noise."""
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder(family))
    pipeline.set_progress_bar_config(disable=True)
    latents = torch.from_numpy(start)[None]
    asked = dict(num_inference_steps=STEPS, output_type="np", guidance_scale=guidance) | size_of(family)
    if family == "dit":  # takes no latents: the generator's first numbers are they
        return pipeline([3], generator=torch.Generator().manual_seed(0), **asked).images[0]
    if family.startswith("flux"):
        latents = pipeline._pack_latents(latents, 1, *start.shape)
    if family == "flux_schnell":
        asked |= dict(true_cfg_scale=guidance, negative_prompt="")
    if family == "ltx":
        latents = pipeline._pack_latents(latents)
    if family in VIDEO:
        frames = asked.pop("frames")
        return pipeline(PROMPT, latents=latents, num_frames=frames, **asked).frames[0]
    return pipeline(PROMPT, latents=latents, **asked).images[0]


def denoised(model, start, steps=STEPS, prompt=PROMPT, condition=None):
    """The output by the ODE; with its latents where the condition is given."""
    ctx = Context(Problem("x", prompt), Denoising(model, steps=steps, solver="euler"))
    if condition is not None:
        ctx.process._conditions[f"x\x1f{prompt}"] = condition
    ((state,),) = run_sync(lambda: ctx.extend([ctx.root()], [1], given=[[start]], to_end=True))
    output = ctx.process.output(state)
    return output if condition is None else (output, state.payload.x)


def noise_for(model):
    """The first numbers of a generator of seed 0, as DiT's pipeline draws them."""
    return torch.randn(1, *model.latent_shape, generator=torch.Generator().manual_seed(0))[0].numpy()


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("family", tiny_pipelines.FAMILIES)
def test_our_steps_give_what_the_pipeline_gives_itself(folder, family, guidance):
    model = ours(folder, family, guidance)
    start = noise_for(model)
    mine = denoised(model, start, prompt=prompt_of(family))
    expected = theirs(folder, family, start, guidance)
    size = {"height": 16, "width": 16} | size_of(family)
    frames = (size["frames"],) if family in VIDEO else ()
    assert mine.shape == expected.shape == (*frames, size["height"], size["width"], 3)
    assert expected.std() > 0.05
    np.testing.assert_allclose(mine, expected, atol=1e-3 + 0.5 / 255)  # ours has 8 bits
    assert model.denoiser_calls == (1 if guidance == 1 or family == "flux" else 2)


@pytest.mark.parametrize("family", tiny_pipelines.FAMILIES)
def test_prompt_and_guidance_change_the_output_and_rows_of_a_batch_do_not_touch_each_other(folder, family):
    prompts = ("3", "7") if family == "dit" else (PROMPT, "blue 7")
    model = ours(folder, family, 5.0)
    start = noise_for(model)
    outputs = [denoised(m, start, prompt=p) for m in (model, ours(folder, family)) for p in prompts]
    for other in outputs[1:]:
        assert np.abs(other - outputs[0]).max() > 1e-6
    x = np.random.default_rng(0).standard_normal((3, *model.latent_shape))
    schedule, at, condition = model.schedule(STEPS), np.asarray([0, 1, 2]), model.encode(prompts[0])
    levels = [v[at] for v in (schedule.a, schedule.s, schedule.t)]
    together = model.predict(x, *levels, condition)
    for i in range(3):
        alone = model.predict(x[i : i + 1], *(v[i : i + 1] for v in levels), condition)
        np.testing.assert_allclose(together.x0[i : i + 1], alone.x0, atol=1e-4)


@pytest.mark.parametrize("family", [*tiny_pipelines.FAMILIES, "stable_diffusion"])
def test_gradients_go_through_network_guidance_and_decoder(folder, family):
    """Against finite differences, in double precision so that these are sharp."""
    model = ours(folder, family, 3.0 if family in ("stable_diffusion", "wan_2_2", "flux") else 1.0)
    parts = model._parts
    for module in (parts.network, getattr(parts, "_low", None), parts.vae):
        if module is not None:
            module.double()
    condition = tuple(
        {key: v.double() if v.is_floating_point() else v for key, v in c.items()}
        for c in model.encode(prompt_of(family))
    )
    process = Denoising(model, steps=2, solver="euler")
    noise, way = np.random.default_rng(0).standard_normal((2, 2, *model.latent_shape))

    def bright(outputs):
        return outputs.double().flatten(1)[:, ::7].sum(1)

    latents, values, gradients = reward_gradients(process, condition, noise, [bright])
    assert latents.shape == gradients[0].shape == noise.shape
    for z, x, value in zip(noise, latents, values[0], strict=True):
        output, finished = denoised(model, z, steps=2, condition=condition)
        np.testing.assert_allclose(finished, x, atol=1e-5)
        seen = output.ravel()[::7]
        assert value == pytest.approx(seen.sum(), abs=0.5 / 255 * len(seen))  # `output` has 8 bits, `bright` has not
    h = 1e-4
    up, down = (reward_gradients(process, condition, noise + d, [bright])[1][0] for d in (h * way, -h * way))
    along = (gradients[0] * way).reshape(2, -1).sum(1)
    np.testing.assert_allclose(along, (up - down) / (2 * h), rtol=0.02, atol=1e-3)
    assert np.abs(along).max() > 0.05


def test_levels_are_shifted_by_the_size_of_the_output_where_the_scheduler_says_so(folder):
    small, large = (ours(folder, "flux", height=h, width=h).schedule(4) for h in (16, 64))
    assert (large.s[1:-1] > small.s[1:-1]).all() and small.is_flow
    assert ours(folder, "flux_schnell", height=64, width=64).schedule(4).s.tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert shift_of({}, 256) == 0.5 and shift_of({}, 4096) == pytest.approx(1.15)
    three = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    assert (schedule_of(three, 5, tokens=4096).s[1:-1] > schedule_of(three, 5, tokens=256).s[1:-1]).all()


def test_a_schedulers_hidden_counter_is_neither_read_nor_moved(folder):
    model = ours(folder, "flux")
    scheduler = model._parts.pipeline.scheduler
    before = model.schedule(STEPS)
    scheduler.set_timesteps(STEPS, mu=0.7)
    x = torch.zeros(1, 4)
    scheduler.step(x, scheduler.timesteps[0], x)
    counter, sigmas = scheduler.step_index, scheduler.sigmas.clone()
    model._parts._tables.clear()
    np.testing.assert_array_equal(model.schedule(STEPS).s, before.s)
    start = noise_for(model)
    first = denoised(model, start)
    assert scheduler.step_index == counter == 1 and torch.equal(scheduler.sigmas, sigmas)
    ctx = Context(Problem("x", PROMPT), Denoising(model, steps=STEPS, solver="euler"))

    async def interleaved():
        """Another state is taken to its end between the steps of this one."""
        ((state, other),) = await ctx.extend([ctx.root()], [2], given=[[start, 2 * start]])
        while not ctx.process.done(state):
            await ctx.extend([other], [1], to_end=True)
            ((state,),) = await ctx.extend([state], [1])
        return ctx.process.output(state)

    np.testing.assert_allclose(run_sync(interleaved), first, atol=1e-6)


def test_schedulers_with_a_history_give_their_levels_and_are_never_stepped(folder):
    """Wan is published with UniPC, a multistep solver of flow matching: ours are first-order steps on its levels."""
    unipc = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, num_train_timesteps=1000
    )
    schedule = schedule_of(unipc, 6)
    unipc.set_timesteps(6)
    assert kind_of(unipc) == "flow" and schedule.is_flow and schedule.steps == 6
    np.testing.assert_array_equal(schedule.s, unipc.sigmas.numpy())
    np.testing.assert_array_equal(schedule.t[:-1], unipc.timesteps.numpy())
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder("wan"))
    pipeline.scheduler = unipc
    assert taken_apart(pipeline).schedule(6) is not None and unipc.step_index is None


def test_spacings_of_levels_are_the_schedulers_own():
    euler = diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear", use_karras_sigmas=True)
    schedule = schedule_of(euler, 5)
    euler.set_timesteps(5)
    np.testing.assert_allclose(schedule.s[:-1] / schedule.a[:-1], euler.sigmas.numpy()[:-1], rtol=1e-5)
    np.testing.assert_allclose(np.hypot(schedule.a, schedule.s), 1.0)
    with pytest.raises(CapabilityError, match="in between"):
        schedule_of(diffusers.HeunDiscreteScheduler(use_karras_sigmas=True), 5)


def test_zero_signal_at_the_first_level_is_no_trouble(folder):
    """Pure noise, a = 0."""
    for family in ("ltx", "stable_diffusion_3"):
        process = Denoising(ours(folder, family), steps=STEPS)
        assert process.level(0) == (0.0, 1.0)
        ctx = Context(Problem("x", PROMPT), process)

        async def back(ctx=ctx, process=process):
            ((state,),) = await ctx.extend([ctx.root()], [1], to_end=True)
            noise = np.random.default_rng(1).standard_normal(process.noise_shape)
            at = process.renoised(state, 1, noise)
            ((again,),) = await ctx.extend([state], [1], given=[[At(at.x, at.index)]], to_end=True)
            return ctx.process.output(again), process.renoised(state, 0, noise).x, noise

        output, pure, noise = run_sync(back)
        assert np.isfinite(output).all()
        np.testing.assert_allclose(pure, noise)


def test_wans_two_transformers_share_a_batch_by_noise_level(folder):
    model = ours(folder, "wan_2_2")
    parts, x = model._parts, torch.randn(3, *model.latent_shape)
    condition = {key: value.expand(3, -1, -1) for key, value in model.encode(PROMPT)[0].items()}
    t = torch.tensor([900.0, 100.0, 800.0])
    with torch.inference_mode():
        found = parts.ask(x, t, condition)
        high, low = (
            network(x, timestep=t, return_dict=False, **condition)[0] for network in (parts.network, parts._low)
        )
    torch.testing.assert_close(found, torch.stack([high[0], low[1], high[2]]), atol=1e-5, rtol=1e-4)
    assert (high - low).abs().max() > 1e-3


def test_a_time_for_each_token_where_wan_wants_it(folder):
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder("wan"))
    pipeline.register_to_config(expand_timesteps=True)
    plain, expanded = ours(folder, "wan"), ours(folder, "wan")
    expanded.__dict__["_parts"] = taken_apart(pipeline, Size(**size_of("wan")))
    start = noise_for(plain)
    np.testing.assert_allclose(denoised(expanded, start), denoised(plain, start), atol=1e-4)


def test_classes_are_numbers_or_names(folder):
    model = ours(folder, "dit")
    number, name = (model.encode(prompt)[0]["class_labels"] for prompt in ("3", "vixen"))
    assert torch.equal(number, name) and number.tolist() == [3]
    for wrong in ("1000", "-1", "zebra", "", "٣٣٣٣"):
        with pytest.raises(ParameterError, match="class number from 0 to 999 or one of 2 names"):
            model.encode(wrong)


@pytest.mark.parametrize(
    ("family", "size", "message"),
    [
        ("flux", {"height": 18}, "height=18 .* a multiple of 4 .*patches of 2"),
        ("stable_diffusion_3", {"width": 18}, "width=18 .* a multiple of 4"),
        ("stable_diffusion_xl", {"height": 15}, r"a multiple of 2 \(the decoder's factor 2\)"),
        ("stable_diffusion_xl", {"frames": 9}, "frames=9 .* left out: this pipeline makes pictures"),
        ("ltx", {"frames": 8}, "frames=8 .* 1 more than a multiple of 4"),
        ("wan", {"height": 8}, "height=8 .* a multiple of 16"),
        ("wan", {"frames": -3}, "1 more than a multiple of 4"),
        ("ltx", {"frames": 0}, "1 more than a multiple of 4"),
        ("flux", {"height": 0}, "height=0"),
        ("dit", {"height": 32, "width": 32}, r"\(32, 32\) .* left out: the network has one size"),
    ],
)
def test_sizes_that_a_family_cannot_have_are_refused(folder, family, size, message):
    with pytest.raises(ParameterError, match=message):
        ours(folder, family, **size).latent_shape  # noqa: B018


def test_other_pipelines_are_refused_with_a_list_of_those_that_are_known():
    known = re.escape(", ".join(FAMILIES))
    with pytest.raises(CapabilityError, match=f"AudioLDM2Pipeline is not one of .*{known}"):
        taken_apart(type("AudioLDM2Pipeline", (), {})())
    assert {"StableDiffusionXLPipeline", "FluxPipeline", "LTXPipeline", "WanPipeline"} <= set(FAMILIES)


def test_offloaded_weights_and_halved_ones_give_the_same_picture(folder):
    square = {"height": 16, "width": 16}  # one tile of this decoder
    whole = ours(folder, "stable_diffusion_xl", **square)
    start = noise_for(whole)
    picture = denoised(whole, start)
    waiting = ours(folder, "stable_diffusion_xl", offload=True, device="cpu", **square)
    np.testing.assert_allclose(denoised(waiting, start), picture, atol=1e-5)
    assert waiting._parts.network._hf_hook is not None and waiting._parts.vae.use_tiling
    half = ours(folder, "stable_diffusion_xl", precision="bfloat16", **square)
    assert half._parts.vae.dtype == torch.bfloat16
    assert 0 < np.abs(denoised(half, start) - picture).max() < 0.1
    narrow = ours(folder, "stable_diffusion_xl", precision="float16", device="cpu", **square)._parts
    assert narrow.dtype == torch.float16
    assert narrow.vae.dtype == torch.float32, "its configuration says that it overflows"
