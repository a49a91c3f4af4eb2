"""Pipelines of diffusers, tiny and with random weights: taken apart, stepped by us, equal to their own sampling."""

import numpy as np
import pytest

from ponder.api import run_sync
from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.diffusion.hub import clip_of, schedule_of
from ponder.errors import CapabilityError, ModelNotFoundError, ParameterError
from ponder.models.diffusers import Diffusers
from ponder.processes.denoising import Denoising

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def ddim(tmp_path_factory):
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 8), norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"), layers_per_block=1,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("ddim")
    diffusers.DDIMPipeline(unet, diffusers.DDIMScheduler(clip_sample=True)).save_pretrained(folder)
    return folder


def test_a_pipeline_sampled_by_us_gives_the_picture_it_gives_itself(ddim):
    model = Diffusers(str(ddim))
    assert model.latent_shape == (1, 8, 8)
    ctx = Context(Problem("x", "anything"), Denoising(model, steps=5, eta=0.0))
    start = np.random.default_rng(0).standard_normal((1, 8, 8)).astype(np.float32)
    ((state,),) = run_sync(lambda: ctx.extend([ctx.root()], [1], given=[[start]], to_end=True))
    theirs = diffusers.DDIMPipeline.from_pretrained(ddim)
    theirs.scheduler.set_timesteps(5)
    x = torch.from_numpy(start)[None]
    with torch.inference_mode():
        for t in theirs.scheduler.timesteps:
            x = theirs.scheduler.step(theirs.unet(x, t).sample, t, x, eta=0.0).prev_sample
    picture = np.clip(x[0, 0].numpy() / 2 + 0.5, 0, 1)
    np.testing.assert_allclose(ctx.process.output(state), picture, atol=1e-4 + 0.5 / 255)  # ours has 8 bits
    again = Denoising(model, steps=5)
    together = Context(Problem("x", "anything"), again)
    assert len(run_sync(lambda: together.draw(together.problem, 3))) == 3


def test_flow_tables_are_read_once_and_other_kinds_are_refused(ddim):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    schedule = schedule_of(scheduler, 6)
    assert schedule.is_flow and schedule.steps == 6 and clip_of(scheduler) is None and schedule.s[-1] == 0
    with pytest.raises(CapabilityError, match="not a scheduler whose tables"):
        schedule_of(diffusers.EDMEulerScheduler(), 5)
    with pytest.raises(ModelNotFoundError, match="cannot be loaded"):
        Diffusers("/nowhere/at/all").latent_shape  # noqa: B018
    with pytest.raises(ParameterError, match="guidance"):
        Diffusers("digits", guidance=-1.0)
