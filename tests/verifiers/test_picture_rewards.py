"""image_reward, hps and aesthetic on tiny random weights in published layouts: equal to passes written out by hand."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

import ponder
from ponder.api import run_sync
from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.errors import ModelError, ModelNotFoundError, ParameterError, VerifierError
from ponder.models.diffusers import Diffusers
from ponder.processes.denoising import Denoising
from ponder.verifiers._checkpoints import checkpoint_file, linear_head, read_tensors
from ponder.verifiers._pixels import Pixels
from ponder.verifiers.aesthetic import Aesthetic
from ponder.verifiers.clip_score import ClipScore
from ponder.verifiers.hps import Hps
from ponder.verifiers.image_reward import ImageReward

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
Image = pytest.importorskip("PIL.Image")
F = torch.nn.functional

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))
import tiny_pictures  # noqa: E402

PICTURES = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
PROMPT = "a red fox"


def scores(verifier, outputs, prompt=PROMPT):
    ctx = Context(Problem("x", prompt), Denoising(Diffusers("digits")))
    candidates = [Candidate(output, index=i) for i, output in enumerate(outputs)]
    return np.asarray(run_sync(lambda: verifier.score(ctx.problem, candidates, ctx))), ctx


def pixels_of(pictures):
    mean = np.array([0.48145466, 0.4578275, 0.40821073])
    deviation = np.array([0.26862954, 0.26130258, 0.27577711])
    return torch.from_numpy(np.moveaxis((np.asarray(pictures) / 255.0 - mean) / deviation, -1, 1)).float()


def norm(t, name, x, eps):
    return F.layer_norm(x, x.shape[-1:], t[f"{name}.weight"], t[f"{name}.bias"], eps)


def linear(t, name, x):
    return F.linear(x, t[f"{name}.weight"], t[f"{name}.bias"])


def heads_of(x, n):
    return x.reshape(*x.shape[:2], n, -1).transpose(1, 2)


def attended(q, k, v, n, mask=None):
    """Softmax attention written out; `mask` (batch, keys) says which keys count."""
    q, k, v = (heads_of(x, n) for x in (q, k, v))
    logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if mask is not None:
        logits = logits.masked_fill(mask[:, None, None] == 0, -torch.inf)
    return (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)


def through_head(t, x, prefix=""):
    for place in (0, 2, 4, 6, 7):
        x = linear(t, f"{prefix}layers.{place}", x)
    return x[:, 0]


# ------------------------------------------------------------------ ImageReward


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    folder = tiny_pictures.bert_words(tmp_path_factory.mktemp("blip"))
    tensors = tiny_pictures.image_reward()
    torch.save(tensors, folder / "ImageReward.pt")
    return folder, tensors


def image_reward_by_hand(t, ids, mask, pixels):
    """BLIP's encoders and the head, by the published names."""
    see, read = "blip.visual_encoder", "blip.text_encoder"
    x = F.conv2d(pixels, t[f"{see}.patch_embed.proj.weight"], t[f"{see}.patch_embed.proj.bias"], stride=4)
    x = (
        torch.cat([t[f"{see}.cls_token"].expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], 1)
        + t[f"{see}.pos_embed"]
    )
    for i in range(2):
        block = f"{see}.blocks.{i}"
        q, k, v = linear(t, f"{block}.attn.qkv", norm(t, f"{block}.norm1", x, 1e-6)).chunk(3, -1)
        x = x + linear(t, f"{block}.attn.proj", attended(q, k, v, 2))
        x = x + linear(t, f"{block}.mlp.fc2", F.gelu(linear(t, f"{block}.mlp.fc1", norm(t, f"{block}.norm2", x, 1e-6))))
    seen = norm(t, f"{see}.norm", x, 1e-6)
    y = t[f"{read}.embeddings.word_embeddings.weight"][ids]
    y = norm(
        t, f"{read}.embeddings.LayerNorm", y + t[f"{read}.embeddings.position_embeddings.weight"][: y.shape[1]], 1e-12
    )
    for i in range(2):
        layer = f"{read}.encoder.layer.{i}"
        for name, source, counts in (("attention", None, mask), ("crossattention", seen, None)):
            own = f"{layer}.{name}"
            from_ = y if source is None else source
            q = linear(t, f"{own}.self.query", y)
            k, v = (linear(t, f"{own}.self.{part}", from_) for part in ("key", "value"))
            y = norm(
                t, f"{own}.output.LayerNorm", linear(t, f"{own}.output.dense", attended(q, k, v, 1, counts)) + y, 1e-12
            )
        wide = F.gelu(linear(t, f"{layer}.intermediate.dense", y))
        y = norm(t, f"{layer}.output.LayerNorm", linear(t, f"{layer}.output.dense", wide) + y, 1e-12)
    return (through_head(t, y[:, 0], "mlp.") - 0.16717362830052426) / 1.0333394966054072


def test_image_reward_is_the_published_forward_pass(blip):
    folder, tensors = blip
    ids = torch.tensor([[2, 9, 5, 7, 3] + [0] * 30]).expand(3, -1)  # [CLS] a red fox [SEP], padded to 35
    expected = image_reward_by_hand(tensors, ids, (ids != 0).long(), pixels_of(PICTURES))
    found, ctx = scores(ImageReward(str(folder / "ImageReward.pt"), str(folder), batch=2), PICTURES)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert np.ptp(found) > 1e-3 and ctx.ledger.total.seconds > 0 and ctx.ledger.total.function_evaluations == 0
    other, _ = scores(ImageReward(str(folder / "ImageReward.pt"), str(folder)), PICTURES, "the blue ball " * 20)
    assert np.abs(other - found).min() > 1e-4, "another prompt is another score, and one that is too long is cut"


# ------------------------------------------------------------------ HPS v2


@pytest.fixture(scope="module")
def open_clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hps")
    words = tiny_pictures.clip_words(folder)
    words.save_pretrained(folder)
    tensors = tiny_pictures.open_clip(len(words))
    torch.save(
        {"epoch": 10, "state_dict": {f"module.{k}": v for k, v in tensors.items()}}, folder / "HPS_v2_compressed.pt"
    )
    return folder, tensors, words


def tower(t, start, x, heads, causal):
    """Blocks of open_clip through torch's own attention module."""
    width = x.shape[-1]
    mask = torch.full((x.shape[1],) * 2, -torch.inf).triu(1) if causal else None
    for i in range(2):
        block = f"{start}transformer.resblocks.{i}"
        module = torch.nn.MultiheadAttention(width, heads, batch_first=True)
        module.load_state_dict(
            {k.removeprefix(f"{block}.attn."): v for k, v in t.items() if k.startswith(f"{block}.attn.")}
        )
        y = norm(t, f"{block}.ln_1", x, 1e-5)
        x = x + module(y, y, y, need_weights=False, attn_mask=mask)[0]
        x = x + linear(
            t, f"{block}.mlp.c_proj", F.gelu(linear(t, f"{block}.mlp.c_fc", norm(t, f"{block}.ln_2", x, 1e-5)))
        )
    return x


def hps_by_hand(t, ids, pixels):
    x = F.conv2d(pixels, t["visual.conv1.weight"], stride=4).flatten(2).transpose(1, 2)
    x = torch.cat([t["visual.class_embedding"].expand(len(x), 1, -1), x], 1) + t["visual.positional_embedding"]
    x = tower(t, "visual.", norm(t, "visual.ln_pre", x, 1e-5), 2, causal=False)
    seen = norm(t, "visual.ln_post", x[:, 0], 1e-5) @ t["visual.proj"]
    y = t["token_embedding.weight"][ids] + t["positional_embedding"][: ids.shape[1]]
    y = norm(t, "ln_final", tower(t, "", y, 1, causal=True), 1e-5)
    read = y[torch.arange(len(ids)), ids.argmax(-1)] @ t["text_projection"]  # the end has the largest number
    return F.cosine_similarity(seen, read, dim=-1)


def test_hps_is_the_published_forward_pass(open_clip):
    folder, tensors, words = open_clip
    ids = torch.tensor([words(PROMPT)["input_ids"] + [0] * 3])  # open_clip pads with zeros, which nothing looks at
    with torch.no_grad():
        expected = hps_by_hand(tensors, ids, pixels_of(PICTURES))
    verifier = Hps(str(folder / "HPS_v2_compressed.pt"), str(folder), batch=2)
    found, _ = scores(verifier, PICTURES)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert np.ptp(found) > 1e-3 and verifier.range == (-1.0, 1.0)


def test_hps_sees_a_wide_picture_whole_with_black_around_it(open_clip):
    folder, *_ = open_clip
    wide = np.full((8, 16, 3), 200, dtype=np.uint8)
    padded = np.zeros((16, 16, 3), dtype=np.uint8)
    padded[4:12] = 200
    found, _ = scores(Hps(str(folder / "HPS_v2_compressed.pt"), str(folder)), [wide, padded])
    assert found[0] == pytest.approx(found[1], abs=1e-6)


# ------------------------------------------------------------------ the aesthetic predictor


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    folder = tiny_pictures.clip(tmp_path_factory.mktemp("clip"))
    tensors = tiny_pictures.head(8)
    torch.save(tensors, folder / "linearMSE.pth")
    return folder, tensors


def test_aesthetic_is_the_head_on_normed_clip_embeddings_and_does_not_read_the_prompt(predictor):
    folder, tensors = predictor
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    with torch.no_grad():
        seen = model.vision_model(pixels_of(PICTURES)).pooler_output @ model.visual_projection.weight.T
        expected = through_head(tensors, seen / seen.norm(dim=1, keepdim=True))
    verifier = Aesthetic(str(folder / "linearMSE.pth"), clip=str(folder), batch=2)
    found, _ = scores(verifier, PICTURES)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    np.testing.assert_array_equal(found, scores(verifier, PICTURES, "the blue ball")[0])
    assert np.ptp(found) > 1e-4


# ------------------------------------------------------------------ for all of them


@pytest.fixture(params=["image_reward", "hps", "aesthetic"])
def published(request):
    """A verifier, its checkpoint's tensors, and how to build it on another file."""
    if request.param == "image_reward":
        folder, tensors = request.getfixturevalue("blip")
        return tensors, lambda path: ImageReward(str(path), str(folder)), folder / "ImageReward.pt"
    if request.param == "hps":
        folder, tensors, _ = request.getfixturevalue("open_clip")
        return tensors, lambda path: Hps(str(path), str(folder)), folder / "HPS_v2_compressed.pt"
    folder, tensors = request.getfixturevalue("predictor")
    return tensors, lambda path: Aesthetic(str(path), clip=str(folder)), folder / "linearMSE.pth"


def test_safetensors_give_the_same_scores(published, tmp_path):
    from safetensors.torch import save_file

    tensors, build, path = published
    save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / "w.safetensors")
    np.testing.assert_allclose(scores(build(tmp_path / "w.safetensors"), PICTURES)[0], scores(build(path), PICTURES)[0])


def test_every_tensor_that_is_missing_or_of_another_shape_is_an_error(published, tmp_path):
    tensors, build, _ = published
    unused = ("blip.vision_proj", "blip.text_proj", "blip.text_encoder.embeddings.position_ids")
    used = [name for name in tensors if not name.startswith(unused)]
    for i, name in enumerate(used[:: max(1, len(used) // 12)] + used[-1:]):
        torch.save({k: v for k, v in tensors.items() if k != name}, tmp_path / f"{i}.pt")
        with pytest.raises(ModelError, match=r"lacks|there is no"):
            scores(build(tmp_path / f"{i}.pt"), PICTURES)
    torch.save({k: v[:-1] if k == used[-1] and v.dim() else v for k, v in tensors.items()}, tmp_path / "shape.pt")
    with pytest.raises(ModelError):
        scores(build(tmp_path / "shape.pt"), PICTURES)


def test_what_is_no_such_checkpoint_is_refused_and_no_code_of_it_is_run(published, tmp_path):
    _, build, _ = published
    with pytest.raises(ModelNotFoundError, match="no file here"):
        scores(build(tmp_path / "none.pt"), PICTURES)
    with pytest.raises(ModelNotFoundError, match="give the file in it"):
        scores(build(tmp_path), PICTURES)
    torch.save({"some": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(ModelError, match="there is no"):
        scores(build(tmp_path / "other.pt"), PICTURES)
    (tmp_path / "broken.pt").write_bytes(b"not tensors")
    with pytest.raises(ModelError, match="cannot be read as plain tensors"):
        scores(build(tmp_path / "broken.pt"), PICTURES)
    torch.save({"n": 3}, tmp_path / "empty.pt")
    with pytest.raises(ModelError, match="holds no tensors"):
        scores(build(tmp_path / "empty.pt"), PICTURES)
    torch.save({"state_dict": Evil(tmp_path / "ran")}, tmp_path / "evil.pt")
    with pytest.raises(ModelError, match="cannot be read as plain tensors"):
        scores(build(tmp_path / "evil.pt"), PICTURES)
    assert not (tmp_path / "ran").exists()


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_that_evil_file_would_run_code_if_it_were_unpickled(tmp_path):
    pickle.loads(pickle.dumps(Evil(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


def test_gradients_are_those_of_finite_differences_and_scores_those_of_the_pictures(published):
    _, build, path = published
    verifier = build(path)
    ctx = Context(Problem("x", PROMPT), Denoising(Diffusers("digits")))
    x = torch.from_numpy(PICTURES / 255.0).requires_grad_()
    found = verifier.score_tensors(ctx.problem, x, ctx)
    np.testing.assert_allclose(found.detach(), scores(verifier, PICTURES)[0], atol=2e-5)
    (slope,) = torch.autograd.grad(found.sum(), x)
    direction = slope[0] / slope[0].norm()
    step = 1e-2
    up, down = (verifier.score_tensors(ctx.problem, x.detach()[:1] + s * step * direction, ctx) for s in (1, -1))
    assert float(up - down) / (2 * step) == pytest.approx(float(slope[0].norm()), rel=2e-2)


def test_noise_ascent_climbs_a_reward_model_through_the_sampler(open_clip):
    folder, *_ = open_clip
    reward = Hps(str(folder / "HPS_v2_compressed.pt"), str(folder))
    plan = ponder.strategy(f'noise_ascent(n=8, restarts=1, verifier=hps("{reward.model}", processor="{folder}"))')
    result = ponder.solve("7", model="diffusers:digits", process="denoising(steps=2, solver=euler)", strategy=plan)
    found = [next(iter(c.scores.values())) for c in result.candidates]
    assert result.details["gradient"] == "autograd" and max(found) > found[0] + 1e-3


def test_clip_scores_have_gradients_on_every_scale(predictor):
    folder, _ = predictor
    ctx = Context(Problem("x", PROMPT), Denoising(Diffusers("digits")))
    for scale in ("cosine", "clipscore", "preference"):
        verifier = ClipScore(str(folder), scale=scale)
        x = torch.from_numpy(PICTURES / 255.0).requires_grad_()
        found = verifier.score_tensors(ctx.problem, x, ctx)
        np.testing.assert_allclose(found.detach(), scores(verifier, PICTURES)[0], atol=2e-4)
        assert torch.isfinite(torch.autograd.grad(found.sum(), x)[0]).all()


def test_text_forms_settings_and_a_broken_picture(blip, open_clip, predictor):
    for text in ("image_reward", "hps", "hps(device=cpu, batch=4)", 'aesthetic("a/b.pth", clip="c")', "hpsv2"):
        verifier = ponder.verifier(text)
        assert str(ponder.verifier(str(verifier))) == str(verifier)
    for bad in ("image_reward(batch=0)", "hps(batch=0)", 'aesthetic("x", batch=0)'):
        with pytest.raises(ParameterError, match="batch"):
            ponder.verifier(bad)
    folder, _ = blip
    ctx = Context(Problem("x", PROMPT), Denoising(Diffusers("digits")))
    outputs = [PICTURES[0], np.full((16, 16), np.nan), PICTURES[0]]
    candidates = [Candidate(output, index=i) for i, output in enumerate(outputs)]
    verifier = ImageReward(str(folder / "ImageReward.pt"), str(folder))
    found = run_sync(lambda: ctx.score(ctx.problem, candidates, verifier))
    assert found[0] == pytest.approx(found[2]) and np.isnan(found[1]) and [f.index for f in ctx.failures] == [1]


def test_a_head_that_gives_two_numbers_or_has_rectifiers_between_its_layers_is_refused(tmp_path):
    good = tiny_pictures.head(8)
    wide = good | {"layers.7.weight": torch.zeros(2, 4), "layers.7.bias": torch.zeros(2)}
    with pytest.raises(ModelError, match="more than a number"):
        linear_head(wide, tmp_path, "cpu")
    with pytest.raises(ModelError, match=r"there is no layers\.2"):
        linear_head({k.replace("layers.2.", "layers.3."): v for k, v in good.items()}, tmp_path, "cpu")
    with pytest.raises(ModelError, match=r"layers\.9\.weight is no part"):
        linear_head(good | {"layers.9.weight": torch.zeros(1, 1)}, tmp_path, "cpu")


def test_a_checkpoint_of_another_clip_model_than_the_predictors_is_refused(predictor, tmp_path):
    folder, _ = predictor
    torch.save(tiny_pictures.head(9), tmp_path / "nine.pth")
    with pytest.raises(ModelError, match="embeddings of 9 numbers"):
        scores(Aesthetic(str(tmp_path / "nine.pth"), clip=str(folder)), PICTURES)


def test_hub_names_have_three_parts():
    with pytest.raises(ModelNotFoundError, match="ORGANISATION/NAME/FILE"):
        checkpoint_file("THUDM/ImageReward")


def test_tensors_are_found_inside_a_training_runs_file(tmp_path):
    torch.save({"model": {"module.a.weight": torch.ones(2)}, "epoch": 3}, tmp_path / "run.pt")
    assert list(read_tensors(tmp_path / "run.pt")) == ["a.weight"]


@pytest.mark.parametrize("shape", [(20, 31), (31, 20), (16, 16), (9, 9), (40, 16)])
@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_pictures_and_tensors_are_brought_to_the_same_pixels(shape, fit):
    """Pillow rounds to bytes where torch does not: a byte is 1/255, and CLIP's smallest deviation 0.26."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    smooth = np.stack([0.5 + 0.4 * np.sin(0.3 * x + i) * np.cos(0.2 * y) for i in range(3)], -1)
    bytes_ = np.rint(smooth * 255).astype(np.uint8)
    prepared = Pixels(16, fit)
    of_image = prepared.of_pictures([Image.fromarray(bytes_)])
    of_tensor = prepared.of_tensors(torch.from_numpy(bytes_ / 255.0)[None])
    assert of_image.shape == of_tensor.shape == (1, 3, 16, 16)
    np.testing.assert_allclose(of_image, of_tensor, atol=2.0 / 255 / 0.26)


def test_cropped_pixels_are_those_of_transformers_clip_preprocessing():
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (24, 40, 3), dtype=np.uint8))
    size = {"height": 16, "width": 16}
    theirs = transformers.CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=size)(
        [picture], return_tensors="pt"
    )
    np.testing.assert_allclose(Pixels(16).of_pictures([picture]), theirs["pixel_values"], atol=1e-5)


def test_tensors_that_are_no_pictures_are_refused():
    with pytest.raises(VerifierError, match="height, width"):
        Pixels(16).of_tensors(torch.zeros(2, 16))
