"""clip_score on a tiny CLIP with random weights: equal to its forward pass written out by hand."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

import ponder
from ponder.api import run_sync
from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.errors import ModelNotFoundError, ParameterError, VerifierError
from ponder.models.diffusers import Diffusers
from ponder.processes.denoising import Denoising
from ponder.verifiers._pictures import picture_of
from ponder.verifiers.clip_score import ClipScore

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
Image = pytest.importorskip("PIL.Image")

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))
import tiny_pictures  # noqa: E402

PICTURES = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
PROMPT = "red fox"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_pictures.clip(tmp_path_factory.mktemp("clip"))


def by_hand(folder, pictures, text):
    """Cosines, and the factor of the logits: the towers, projections and norms one by one."""
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    words = transformers.AutoTokenizer.from_pretrained(folder)
    mean = np.array([0.48145466, 0.4578275, 0.40821073])
    deviation = np.array([0.26862954, 0.26130258, 0.27577711])
    pixels = np.moveaxis((np.asarray(pictures) / 255.0 - mean) / deviation, -1, 1)
    with torch.inference_mode():
        seen = model.vision_model(torch.from_numpy(pixels).float()).pooler_output @ model.visual_projection.weight.T
        ids = torch.tensor([words(text)["input_ids"]])
        states = model.text_model(ids).last_hidden_state
        read = states[:, ids[0].tolist().index(words.eos_token_id)] @ model.text_projection.weight.T
        cosines = (seen @ read.T)[:, 0] / seen.norm(dim=1) / read.norm()
        return cosines.numpy(), float(model.logit_scale.exp())


def scores(verifier, outputs, prompt=PROMPT):
    ctx = Context(Problem("x", prompt), Denoising(Diffusers("digits")))
    candidates = [Candidate(output, index=i) for i, output in enumerate(outputs)]
    return np.asarray(run_sync(lambda: verifier.score(ctx.problem, candidates, ctx))), ctx


def test_each_scale_is_the_forward_pass_written_out(folder):
    cosines, factor = by_hand(folder, PICTURES, PROMPT)
    assert np.ptp(cosines) > 1e-4 and factor > 10  # another picture would be noticed
    for scale, expected in (
        ("cosine", cosines),
        ("clipscore", 2.5 * np.maximum(cosines, 0)),
        ("preference", factor * cosines),
    ):
        found, ctx = scores(ClipScore(str(folder), scale=scale, batch=2), PICTURES)
        np.testing.assert_allclose(found, expected, atol=2e-5)
        assert ctx.ledger.total.function_evaluations == 0 and ctx.ledger.total.seconds > 0
        low, high = ClipScore(str(folder), scale=scale).range
        assert (found >= low).all() and (found <= high).all()


def test_an_array_an_image_and_a_file_are_the_same_picture(folder, tmp_path):
    Image.fromarray(PICTURES[0]).save(tmp_path / "a.png")
    same = [PICTURES[0], PICTURES[0] / 255.0, Image.fromarray(PICTURES[0]), tmp_path / "a.png", str(tmp_path / "a.png")]
    found, _ = scores(ClipScore(str(folder), scale="cosine"), same)
    np.testing.assert_allclose(found, found[0], atol=1e-6)
    other, _ = scores(ClipScore(str(folder), scale="cosine"), PICTURES[:1], "blue car " * 30)  # too long: cut
    assert other[0] != pytest.approx(found[0], abs=1e-6)


@pytest.mark.parametrize(
    "bad", [None, "no such file.png", np.full((4, 4), np.nan), np.zeros((2, 2, 7)), np.zeros((0, 3))]
)
def test_what_is_no_picture_is_refused(bad):
    with pytest.raises(VerifierError, match="picture"):
        picture_of(bad)


def test_text_form_processor_elsewhere_and_errors(folder, tmp_path):
    verifier = ponder.verifier(f'clip_score("{folder}", scale=preference)')
    assert str(ponder.verifier(str(verifier))) == str(verifier)
    bare = tmp_path / "bare"
    transformers.CLIPModel.from_pretrained(folder).save_pretrained(bare)
    with pytest.raises(ModelNotFoundError):
        scores(ClipScore(str(bare)), PICTURES)
    split = ClipScore(str(bare), processor=str(folder), scale="cosine")
    whole = dataclasses.replace(split, model=str(folder), processor=None)
    np.testing.assert_array_equal(scores(split, PICTURES)[0], scores(whole, PICTURES)[0])
    with pytest.raises(ModelNotFoundError, match="no directory"):
        scores(ClipScore("/nowhere"), PICTURES)
    (bare / "model.safetensors").rename(bare / "pytorch_model.bin")
    with pytest.raises(ModelNotFoundError, match="holds no"):
        scores(ClipScore(str(bare), precision="float32"), PICTURES)
    with pytest.raises(ParameterError, match="batch"):
        ClipScore("x", batch=0)


def test_a_broken_picture_costs_itself_its_score_and_no_other(folder):
    ctx = Context(Problem("x", PROMPT), Denoising(Diffusers("digits")))
    outputs = [PICTURES[0], np.full((16, 16, 3), np.nan), PICTURES[1]]
    verifier = ClipScore(str(folder), scale="cosine")
    candidates = [Candidate(output, index=i) for i, output in enumerate(outputs)]
    found = run_sync(lambda: ctx.score(ctx.problem, candidates, verifier))
    np.testing.assert_allclose(found[[0, 2]], by_hand(folder, PICTURES[:2], PROMPT)[0], atol=2e-5)
    assert np.isnan(found[1]) and [f.index for f in ctx.failures] == [1]
