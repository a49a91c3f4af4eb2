"""The backend on transformers' models: forked, batched and padded equals one pass over the whole text."""

import itertools

import numpy as np
import pytest

from ponder.engine.backend import Row
from ponder.errors import ModelError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from ponder.engine.hf_backend import HfBackend  # noqa: E402
from ponder.engine.hf_experts import experts_of, routers_of, shape_of  # noqa: E402

SIZES = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 2048, "initializer_range": 0.2,
}  # fmt: skip
KINDS = {
    "Llama": {},
    "Gemma3Text": {"head_dim": 8, "sliding_window": 16, "layer_types": ["sliding_attention"] * 2 + ["full_attention"]},
    "Mistral": {"sliding_window": 24},
    "GPT2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 2048},
    "Bloom": {"n_layer": 3, "n_head": 4},
    "Mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
}
MOE = {
    "Mixtral": {"num_local_experts": 5, "num_experts_per_tok": 2},
    "Qwen3Moe": {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "norm_topk_prob": True},
    "Olmoe": {"num_experts": 5, "num_experts_per_tok": 2, "norm_topk_prob": False},
}


def tiny(kind="Llama", **more):
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, "pad_token_id": 0, **KINDS.get(kind, {}), **more})
    found = transformers.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    return found.float()


def backend_of(model, **kw):
    return HfBackend(model, **{"cells": 8192, "sequences": 16, "routers": routers_of(model), **kw})


def expected(model, tokens):
    with torch.inference_mode():
        return model(torch.tensor([tokens])).logits[0].numpy()


def tokens_of(n, seed=0):
    return np.random.default_rng(seed).integers(1, 97, n).tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_forked_and_padded_sequences_give_what_one_pass_over_each_text_gives(kind):
    model = tiny(kind)
    backend = backend_of(model)
    a, b = tokens_of(40), tokens_of(23, 9)
    found = backend.evaluate([Row(0, 0, a, 40), Row(8, 0, b, 1)])  # a prompt each, of different lengths
    assert np.abs(found[:40] - expected(model, a)).max() < 1e-4
    texts = {0: a, 8: b}
    for i in range(1, 5):
        cut = 40 - 3 * i
        backend.fork(0, i, cut)
        texts[i] = a[:cut]
    rng = np.random.default_rng(5)
    for step in range(12):
        if step == 4:  # one leaves, another is forked from a text under way
            backend.rest(2)
            gone = texts.pop(2)
            backend.fork(1, 9, len(texts[1]) - 1)
            texts[9] = texts[1][:-1]
        if step == 8:
            backend.fork(2, 10, len(gone))
            texts[10] = list(gone)
            backend.free(2)
            backend.free(8)
            del texts[8]
            backend.evaluate([Row(8, 0, a[:5], 0)])  # the number of a freed text means another one now
            texts[8] = a[:5]
        rows = []
        for s in texts:
            token = int(rng.integers(1, 97))
            rows.append(Row(s, len(texts[s]), [token], 1))
            texts[s] = [*texts[s], token]
        found = backend.evaluate(rows)
        for row, logits in zip(rows, found, strict=True):
            assert np.abs(logits - expected(model, texts[row.sequence])[-1]).max() < 1e-4


def test_a_random_tree_keeps_every_path_right():
    model, rng = tiny(), np.random.default_rng(3)
    backend = backend_of(model, sequences=64)
    paths = {0: tokens_of(150)}
    backend.evaluate([Row(0, 0, paths[0], 0)])
    for new in range(1, 40):
        source = int(rng.choice(list(paths)))
        cut = int(rng.integers(1, len(paths[source]) + 1))
        if rng.random() < 0.3:
            backend.rest(source)
        backend.fork(source, new, cut)
        paths[new] = paths[source][:cut]
        for more in (tokens_of(1, new), tokens_of(int(rng.integers(1, 60)), new), tokens_of(1, new)):
            found = backend.evaluate([Row(new, len(paths[new]), more, 1)])
            paths[new] = paths[new] + more
            assert np.abs(found[0] - expected(model, paths[new])[-1]).max() < 1e-4
        if rng.random() < 0.3 and len(paths) > 1:
            gone = int(rng.choice(list(paths)))
            backend.free(gone)
            del paths[gone]


def test_nothing_stays_in_memory_when_all_texts_rest_but_their_own_tokens():
    backend = backend_of(tiny())
    backend.evaluate([Row(0, 0, tokens_of(200), 1)])
    for i in range(1, 8):
        backend.fork(0, i, 200)
    for step in range(3):
        backend.evaluate([Row(i, 200 + step, [1], 1) for i in range(1, 8)])
    for i in range(8):
        backend.rest(i)
    assert not backend._running
    segments = {id(layers): layers for held in backend._held for layers, _ in held.parts}
    assert sum(layers[0][0].shape[1] for layers in segments.values()) == 200 + 7 * 3


@pytest.mark.parametrize("kind", MOE)
def test_the_number_of_experts_changes_logits_and_all_of_them_are_the_dense_mixture(kind):
    model = tiny(kind, **MOE[kind])
    tokens = tokens_of(12)
    backend = backend_of(model)
    found = [backend.evaluate([Row(k, 0, tokens, 12, k)]) for k in range(1, 6)]
    assert all(np.abs(a - b).max() > 1e-3 for a, b in itertools.pairwise(found))
    own = backend.evaluate([Row(9, 0, tokens, 12)])
    assert np.abs(own - found[1]).max() < 1e-5 and np.abs(own - expected(model, tokens)).max() < 1e-5
    # by hand: every expert on every token, weighted by the softmax over all of them
    for block in [layer.mlp for layer in model.model.layers]:
        block.forward = lambda states, block=block: dense(block, states)
    assert np.abs(found[4] - expected(model, tokens)).max() < 1e-4


def dense(block, states):
    flat = states.reshape(-1, states.shape[-1])
    weights = (flat @ block.gate.weight.T).softmax(-1)
    out = torch.zeros_like(flat)
    for e in range(weights.shape[1]):
        gate, up = (flat @ block.experts.gate_up_proj[e].T).chunk(2, -1)
        out += weights[:, e : e + 1] * ((torch.nn.functional.silu(gate) * up) @ block.experts.down_proj[e].T)
    return out.reshape(states.shape)


@pytest.mark.parametrize("kind", MOE)
def test_different_numbers_of_experts_in_one_batch_equal_separate_ones(kind):
    model = tiny(kind, **MOE[kind])
    backend, tokens = backend_of(model), tokens_of(12)
    ks = [1, 3, None, 3, 5]
    for i, k in enumerate(ks):
        backend.evaluate([Row(i, 0, tokens[:9], 0, k)])
    for at in range(9, 12):
        together = backend.evaluate([Row(i, at, tokens[at : at + 1], 1, k) for i, k in enumerate(ks)])
    for logits, k in zip(together, ks, strict=True):
        alone = backend_of(model).evaluate([Row(0, 0, tokens, 1, k)])
        assert np.abs(logits - alone[0]).max() < 1e-5
    assert model.model.layers[0].mlp.gate.top_k == 2  # as it was


def test_a_size_counts_the_experts_that_work_on_a_token():
    model = tiny("Mixtral", **MOE["Mixtral"])
    whole = sum(p.numel() for p in model.parameters())
    one = 3 * 3 * 32 * 48  # layers, matrices, width, hidden
    size = shape_of(model)
    assert (size.params_total, size.params_active, size.experts, size.experts_per_token) == (
        whole,
        whole - 3 * one,
        5,
        2,
    )
    assert size.at(5).params_active == whole and size.at(1).params_active == whole - 4 * one and size.at(None) is size
    with torch.device("meta"):
        assert shape_of(transformers.AutoModelForCausalLM.from_config(model.config)) == size
    dense_model = tiny()
    dense = shape_of(dense_model)
    assert dense.params_active == dense.params_total == sum(p.numel() for p in dense_model.parameters())
    assert (dense.layers, dense.experts, dense.at(4)) == (3, None, dense)
    assert experts_of(dense_model.config) == 0 and routers_of(dense_model) is None


def test_only_the_experts_of_open_groups_count_where_a_model_has_groups():
    config = transformers.DeepseekV3Config(n_routed_experts=16, n_group=4, topk_group=2)
    assert experts_of(config) == 8


def test_a_model_that_keeps_a_recurrent_state_is_refused():
    config = transformers.MambaConfig(vocab_size=97, hidden_size=16, num_hidden_layers=1, state_size=4)
    with pytest.raises(ModelError, match="cannot be forked at any token"):
        backend_of(transformers.MambaForCausalLM(config))


def test_an_error_of_the_model_is_a_model_error_and_the_next_batch_works():
    model = tiny()
    backend = backend_of(model)
    with pytest.raises(ModelError, match="could not evaluate 1 sequences"):
        backend.evaluate([Row(0, 0, [5000], 1)])
    backend.free(0)
    tokens = tokens_of(5)
    assert np.abs(backend.evaluate([Row(0, 0, tokens, 1)])[0] - expected(model, tokens)[-1]).max() < 1e-4


def test_what_is_taken_back_is_gone_and_the_others_of_its_batch_go_on():
    model = tiny()
    backend = backend_of(model)
    held = {0: tokens_of(20), 1: tokens_of(9, 1)}
    backend.evaluate([Row(i, 0, held[i], 1) for i in held])
    for more, keep in (([4], 1), ([5, 6, 7], 2), ([8], 1)):
        backend.evaluate([Row(i, len(held[i]), more, len(more)) for i in held])
        if keep < len(more):
            backend.truncate(0, len(held[0]) + keep)
        held[0], held[1] = held[0] + more[:keep], held[1] + more
    backend.truncate(0, 15)
    held[0] = held[0][:15]
    found = backend.evaluate([Row(i, len(held[i]), [3], 1) for i in held])
    for i in held:
        assert np.abs(found[i] - expected(model, [*held[i], 3])[-1]).max() < 1e-4
