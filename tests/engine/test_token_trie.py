"""States from the trie against plain evaluation of each whole sequence; each distinct beginning is evaluated once."""

import numpy as np
import pytest

import ponder

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from ponder.engine import forward as net  # noqa: E402
from ponder.engine.token_trie import TokenTrie  # noqa: E402
from ponder.engine.weights import from_transformers  # noqa: E402
from ponder.engine.whitebox import WhiteBox  # noqa: E402


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.2,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def weights(model):
    return from_transformers(model)


def family(seed=0, n=12):
    """Sequences that share beginnings of several lengths, one twice and one that is the beginning of another."""
    rng = np.random.default_rng(seed)
    stem = rng.integers(0, 61, 20).tolist()
    out = [stem[: int(rng.integers(1, 20))] + rng.integers(0, 4, int(rng.integers(1, 6))).tolist() for _ in range(n)]
    return [*out, out[0], out[1][:3]]


def distinct(sequences):
    return len({tuple(s[:i]) for s in sequences for i in range(1, len(s) + 1)})


@pytest.mark.parametrize("batch", [1, 3, 256])
def test_states_and_logits_are_those_of_reading_each_sequence_alone_and_each_trie_node_is_evaluated_once(
    weights, batch
):
    trie, box, sequences = TokenTrie(weights, batch=batch), WhiteBox(weights), family()
    states = trie.states([trie.place(s) for s in sequences])
    for sequence, state in zip(sequences, states, strict=True):
        alone = box(sequence)
        assert torch.allclose(state, alone.states[-1], atol=1e-4)
        assert torch.allclose(net.logits(weights, state[None])[0], alone.logits[-1], atol=1e-4)
    assert trie.evaluated == distinct(sequences)
    trie.states([trie.place(s) for s in sequences])
    assert trie.evaluated == distinct(sequences)


def test_layers_are_the_residual_streams_that_transformers_shows(model, weights):
    sequence = family()[0]
    trie = TokenTrie(weights, layers=(0, 1, -1))
    got = trie.path_states(trie.place(sequence))
    with torch.no_grad():
        hidden = model.model(torch.tensor([sequence]), output_hidden_states=True).hidden_states
    for i, expected in enumerate((hidden[1][0], hidden[2][0], hidden[-1][0])):
        assert torch.allclose(got[:, 32 * i : 32 * (i + 1)], expected, atol=1e-4)


def test_what_is_cached_is_foretold_also_where_the_trie_gets_full_and_states_survive_that(weights):
    trie, sequences = TokenTrie(weights, cells=30, batch=7), family(3)
    places, foretold = [], 0
    for sequence in sequences:
        foretold += len(sequence) - trie.cached(sequence)
        places.append(trie.place(sequence))
    states = trie.states(places)
    assert trie.evaluated == foretold > 30
    roomy = TokenTrie(weights)
    assert torch.allclose(states, roomy.states([roomy.place(s) for s in sequences]), atol=1e-4)


def test_nothing_to_read_and_too_much_are_errors_and_no_places_have_no_states(weights):
    trie = TokenTrie(weights, cells=5)
    with pytest.raises(ponder.errors.ParameterError, match="one token or more"):
        trie.place([])
    with pytest.raises(ponder.errors.ContextLengthError, match="6 tokens does not fit 5 cells"):
        trie.place([1] * 6)
    with pytest.raises(ponder.errors.ParameterError, match=r"-1 \(last\) and 0 to 2"):
        TokenTrie(weights, layers=(3,))
    assert trie.states([]).shape == (0, 32)
