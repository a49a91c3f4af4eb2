"""The torch backend against transformers, and its shared cache against separate sequences."""

import numpy as np
import pytest

from ponder.engine.backend import Row
from ponder.errors import ModelError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from ponder.engine import torch_backend  # noqa: E402
from ponder.engine.torch_backend import TorchBackend, packed  # noqa: E402
from ponder.engine.weights import from_transformers  # noqa: E402

SIZES = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 4096,
}  # fmt: skip


def tiny(kind="Llama", **more):
    """A small random model, weights large enough that attention matters."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, "initializer_range": 0.2, **more})
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(("norm.weight", "bias")):
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model


@pytest.fixture(scope="module")
def model():
    return tiny()


def backend_of(model, precision="fp32", **kw):
    return TorchBackend(from_transformers(model, precision), **{"cells": 8192, "sequences": 16, "threads": 2, **kw})


def expected(model, tokens):
    with torch.inference_mode():
        return model(torch.tensor([tokens])).logits[0].numpy()


def tokens_of(n, seed=0):
    return np.random.default_rng(seed).integers(0, 97, n).tolist()


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("Llama", {}),
        ("Llama", {"tie_word_embeddings": True, "rope_theta": 100000.0}),
        ("Llama", {"num_key_value_heads": 1, "head_dim": 16}),
        ("Qwen2", {}),
        ("Qwen3", {"head_dim": 8}),
    ],
)
def test_logits_are_those_of_transformers(kind, more):
    model = tiny(kind, **more)
    tokens = tokens_of(40)
    found = backend_of(model).evaluate([Row(0, 0, tokens, 40)])
    assert np.abs(found - expected(model, tokens)).max() < 1e-4


@pytest.mark.parametrize("prompt", [1, 5, 127, 128, 200, 600])
def test_forked_and_batched_sequences_give_what_separate_ones_give(model, prompt):
    backend = backend_of(model)
    start, ends = tokens_of(prompt), [tokens_of(70, seed) for seed in range(1, 6)]
    backend.evaluate([Row(0, 0, start, 0)])
    for i in range(1, 5):
        backend.fork(0, i, prompt)
    found = [
        backend.evaluate([Row(i, prompt + step, [ends[i][step]], 1) for i in range(5)]) for step in range(70)
    ]  # token by token, through every room that a tail moves to
    for i in range(5):
        whole = expected(model, [*start, *ends[i]])[prompt:]
        assert np.abs(np.array([f[i] for f in found]) - whole).max() < 2e-4


def test_rows_of_one_and_of_many_tokens_share_a_batch(model):
    backend = backend_of(model)
    a, b, c = tokens_of(30), tokens_of(50, 1), tokens_of(12, 2)
    backend.evaluate([Row(0, 0, a[:29], 0), Row(1, 0, b[:20], 0)])
    found = backend.evaluate([Row(0, 29, a[29:], 1), Row(1, 20, b[20:], 30), Row(2, 0, c, 2)])
    whole = np.concatenate([expected(model, a)[29:], expected(model, b)[20:], expected(model, c)[10:]])
    assert np.abs(found - whole).max() < 1e-4


def test_a_tree_forked_anywhere_rested_and_freed_keeps_every_path_right(model):
    """Random forks at random lengths; each path is checked against transformers."""
    rng = np.random.default_rng(3)
    backend = backend_of(model, sequences=64)
    paths = {0: tokens_of(150)}
    backend.evaluate([Row(0, 0, paths[0], 0)])
    for new in range(1, 40):
        source = int(rng.choice(list(paths)))
        cut = int(rng.integers(1, len(paths[source]) + 1))
        if rng.random() < 0.3:
            backend.rest(source)
        backend.fork(source, new, cut)
        more = tokens_of(int(rng.integers(1, 60)), new)
        found = backend.evaluate([Row(new, cut, more, 1)])
        paths[new] = paths[source][:cut] + more
        assert np.abs(found[0] - expected(model, paths[new])[-1]).max() < 2e-4
        if rng.random() < 0.3:
            gone = int(rng.choice(list(paths)))
            if len(paths) > 1:
                backend.free(gone)
                del paths[gone]


def test_rows_of_few_tokens_taken_back_and_forked_keep_every_sequence_right(model):
    """Drafts of random lengths, cut at random; each row's logits are checked against transformers."""
    rng = np.random.default_rng(4)
    backend = backend_of(model)
    start = tokens_of(150)
    backend.evaluate([Row(0, 0, start, 0)])
    for i in range(1, 6):
        backend.fork(0, i, 150 - i)
    held = {i: start[: 150 - i] for i in range(6)}
    for step in range(25):
        more = {i: tokens_of(int(rng.integers(1, 12)), 100 * step + i) for i in held}
        found = backend.evaluate([Row(i, len(held[i]), more[i], len(more[i])) for i in held])
        at = 0
        for i in held:
            n = len(more[i])
            whole = expected(model, held[i] + more[i])[-n:]
            assert np.abs(found[at : at + n] - whole).max() < 2e-4
            at += n
            keep = int(rng.integers(1, n + 1))
            if rng.random() < 0.1:
                backend.rest(i)
            if keep < n:
                backend.truncate(i, len(held[i]) + keep)
            held[i] = held[i] + more[i][:keep]


def test_what_is_taken_back_from_a_tail_that_became_a_segment_is_gone_and_the_fork_of_it_is_not(model):
    backend = backend_of(model)
    tokens = tokens_of(515)
    backend.evaluate([Row(0, 0, tokens[:508], 0)])
    backend.evaluate([Row(0, 508, tokens[508:], 1)])  # the tail is now longer than a tail may be
    assert backend._held[0].tail == 0
    backend.fork(0, 1, 515)
    for length in (509, 100):
        backend.truncate(0, length)
        found = backend.evaluate([Row(0, length, [7, 8, 9], 3)])
        assert np.abs(found - expected(model, [*tokens[:length], 7, 8, 9])[-3:]).max() < 2e-4
    found = backend.evaluate([Row(1, 515, [5], 1)])
    assert np.abs(found[0] - expected(model, [*tokens, 5])[-1]).max() < 2e-4


def test_freed_rooms_are_used_again(model):
    backend = backend_of(model)
    for _ in range(20):
        backend.evaluate([Row(i, 0, [1, 2, 3], 0) for i in range(8)])
        for i in range(8):
            backend.free(i)
    assert backend._rooms[0].keys.shape[1] == 8


def test_a_long_text_becomes_segments_and_stays_right(model):
    backend = backend_of(model)
    tokens = tokens_of(1300)
    for at in range(0, 1299, 433):
        backend.evaluate([Row(0, at, tokens[at : at + 433], 0)])
    found = backend.evaluate([Row(0, 1299, tokens[1299:], 1)])
    assert len(backend._held[0].parts) == 1 and backend._held[0].tail < 512
    assert np.abs(found[0] - expected(model, tokens)[-1]).max() < 2e-4


def test_in_bfloat16_log_probabilities_are_within_a_tenth_of_a_nat(model):
    tokens = tokens_of(40)
    exact, rounded = (backend_of(model, p).evaluate([Row(0, 0, tokens, 40)]) for p in ("fp32", "bf16"))
    shift = [x - np.log(np.exp(x).sum(1, keepdims=True)) for x in (exact, rounded)]
    likely = shift[0] > -6
    assert 0 < np.abs(shift[0] - shift[1])[likely].max() < 0.1 * np.abs(exact).max()


def test_a_torch_without_packed_products_gives_the_same(model, monkeypatch):
    tokens = tokens_of(20)
    usual = backend_of(model).evaluate([Row(0, 0, tokens, 20)])
    monkeypatch.setattr(torch_backend, "packed", lambda weights: (weights, torch_backend.net.linear))
    assert np.abs(usual - backend_of(model).evaluate([Row(0, 0, tokens, 20)])).max() < 1e-4
    assert packed is not torch_backend.packed


def test_a_rotation_that_depends_on_the_length_is_refused():
    model = tiny(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0})
    with pytest.raises(ModelError, match=r"dynamic rotation.*engine=llamacpp"):
        from_transformers(model)
