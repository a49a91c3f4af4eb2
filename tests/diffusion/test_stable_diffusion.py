"""A Stable Diffusion pipeline, tiny and with random weights: its own sampling, and searches steered by CLIP."""

import sys
from pathlib import Path

import numpy as np
import pytest

import ponder
from ponder.api import run_sync
from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.errors import CapabilityError, ModelNotFoundError, ParameterError
from ponder.models.diffusers import Diffusers
from ponder.processes.denoising import Denoising

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parent.parent / "support"))
import tiny_pictures  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
STEPS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_pictures.stable_diffusion(tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return tiny_pictures.clip(tmp_path_factory.mktemp("clip"))


@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_our_steps_give_the_picture_that_the_pipeline_gives_itself(folder, guidance):
    model = Diffusers(str(folder), guidance=guidance)
    assert model.latent_shape == (4, 8, 8)
    ctx = Context(Problem("x", "a red fox"), Denoising(model, steps=STEPS, eta=0.0))
    start = np.random.default_rng(0).standard_normal((4, 8, 8)).astype(np.float32)
    ((state,),) = run_sync(lambda: ctx.extend([ctx.root()], [1], given=[[start]], to_end=True))
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    theirs.scheduler = diffusers.DDIMScheduler.from_config(theirs.scheduler.config, clip_sample=False)
    theirs.set_progress_bar_config(disable=True)
    asked = dict(latents=torch.from_numpy(start)[None], num_inference_steps=STEPS, guidance_scale=guidance, eta=0.0)
    picture = theirs("a red fox", output_type="np", **asked).images[0]
    assert picture.shape == (16, 16, 3) and picture.std() > 0.01
    np.testing.assert_allclose(ctx.process.output(state), picture, atol=2e-4 + 0.5 / 255)  # ours has 8 bits


@pytest.mark.parametrize(
    ("strategy", "evaluations"),
    [
        ("best_of_n(n=3, verifier={})", 3 * STEPS),
        ("zero_order_search(n=4, neighbours=2, verifier={})", 4 * STEPS),
        ("particle_filter(n=3, verifier={})", 3 * STEPS),
    ],
)
def test_searches_run_count_and_repeat(folder, clip, strategy, evaluations):
    def run(seed):
        return ponder.solve(
            "a red fox",
            model=f"diffusers:{folder}(guidance=3)",
            process=f"denoising(steps={STEPS})",
            strategy=strategy.format(f'clip_score("{clip}", scale=preference)'),
            seed=seed,
        )

    first, again, other = run(1), run(1), run(2)
    assert first.output.shape == (16, 16, 3) and first.output.min() >= 0 and first.output.max() <= 1
    np.testing.assert_array_equal(first.output, again.output)
    assert not np.array_equal(first.output, other.output)
    assert first.total.function_evaluations == evaluations and first.total.transitions == evaluations
    assert first.total.model_calls == 2 * evaluations  # guidance asks twice
    assert first.total.verifier_calls > 0 and not first.failures
    if strategy.startswith("best_of_n"):
        scores = [max(c.scores.values()) for c in first.candidates]
        assert len(set(scores)) == 3 and first.chosen == (int(np.argmax(scores)),)


def test_the_prompt_is_seen_and_size_precision_and_device_are_as_asked(folder):
    def picture(prompt="a red fox", **options):
        ctx = Context(Problem("x", prompt), Denoising(Diffusers(str(folder), **options), steps=2))
        (candidate,) = run_sync(lambda: ctx.draw(ctx.problem, 1))
        return candidate.output

    plain = picture()
    assert np.abs(picture("blue 7") - plain).max() > 1e-6  # no guidance: the prompt is all that differs
    assert picture(height=24, width=32).shape == (24, 32, 3)
    half = picture(precision="bfloat16", device="cpu")
    assert 0 < np.abs(half - plain).max() < 0.1
    with pytest.raises(ParameterError, match="factor 2"):
        picture(height=15)
    with pytest.raises(CapabilityError, match="device"):
        picture(device="abacus")


def test_pickled_weights_are_not_read(folder, tmp_path):
    diffusers.StableDiffusionPipeline.from_pretrained(folder).save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(ModelNotFoundError, match="safetensors"):
        Diffusers(str(tmp_path)).latent_shape  # noqa: B018
