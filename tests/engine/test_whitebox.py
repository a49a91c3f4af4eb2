"""Blocks and views against plain evaluation of the whole text."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from ponder.engine.weights import from_transformers  # noqa: E402
from ponder.engine.whitebox import WhiteBox  # noqa: E402


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.2,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def box(model):
    return WhiteBox(from_transformers(model))


def tokens_of(n, seed=0):
    return np.random.default_rng(seed).integers(0, 61, n).tolist()


def near(a, b, within=1e-4):
    assert (a - b).abs().max().item() < within


def test_logits_and_states_are_those_of_transformers(model, box):
    tokens = tokens_of(20)
    with torch.no_grad():
        expected = model.model(torch.tensor([tokens])).last_hidden_state[0]
        seen = box(tokens)
        near(seen.states, expected)
        near(seen.logits, model.lm_head(expected))


def test_reading_in_blocks_gives_what_reading_at_once_gives(box):
    tokens = tokens_of(24)
    whole = box(tokens)
    first = box(tokens[:7])
    second = box(tokens[7:15], [first.block])
    third = box(tokens[15:], [first.block, second.block])
    near(torch.cat([first.logits, second.logits, third.logits]), whole.logits)
    near(box.joined(first.block, second.block, third.block).keys, whole.block.keys)


def test_moving_a_block_is_a_rotation_that_adds_up_and_moving_by_nothing_changes_nothing(box):
    block = box(tokens_of(9)).block
    near(box.moved(box.moved(block, 5), -12).keys, box.moved(block, -7).keys, 1e-5)
    assert box.moved(block, 0) is block


def test_empty_blocks_anywhere_in_a_view_change_nothing(box):
    block = box(tokens_of(5)).block
    plain, more = box([1, 2], [block]), box([1, 2], [box.empty(), block, box.empty()])
    assert torch.equal(plain.logits, more.logits)


def test_only_differences_of_positions_count(box):
    block = box(tokens_of(6)).block
    near(box([3, 4], [(block, 100)], start=106).logits, box([3, 4], [block]).logits, 1e-3)


def test_a_text_written_after_a_beginning_of_a_block_does_not_see_its_rest(box):
    tokens = tokens_of(12)
    block = box(tokens).block
    near(box([5], [block[:4]]).logits, box([*tokens[:4], 5]).logits[-1:])
    with pytest.raises(ValueError, match="only a beginning"):
        block[2:]


def test_a_mask_of_two_paths_gives_each_what_it_gives_alone(box):
    """Two continuations of one prompt in a single pass, at the same positions, hidden from each other."""
    prompt = box(tokens_of(6))
    a, b = tokens_of(1, 1), tokens_of(1, 2)
    mask = torch.zeros(2, 8)
    mask[0, 7] = mask[1, 6] = -torch.inf
    one_by_one = torch.cat([box(a, [prompt.block]).logits, box(b, [prompt.block]).logits])
    assert not torch.allclose(box([*a, *b], [prompt.block], mask=mask).logits[1], one_by_one[1], atol=1e-4)
    near(box([*a, *b], [prompt.block], mask=mask).logits[0], one_by_one[0])  # the second stands one place later
    with pytest.raises(ValueError, match=r"expected \(2, 8\)"):
        box([*a, *b], [prompt.block], mask=torch.zeros(2, 2))


def test_gradients_reach_soft_tokens_and_equal_finite_differences(box):
    soft = box.embed(tokens_of(3)).clone().requires_grad_()

    def loss(x):
        seen = box(torch.cat([x, box.embed([7])]))
        return -seen.logits[-1].log_softmax(-1)[11]

    loss(soft).backward()
    direction = torch.randn_like(soft)
    direction /= direction.norm()
    step = 1e-2
    with torch.no_grad():
        slope = (loss(soft + step * direction) - loss(soft - step * direction)) / (2 * step)
    assert (soft.grad * direction).sum().item() == pytest.approx(slope.item(), rel=0.02, abs=1e-3)


def test_nothing_to_evaluate_is_said(box):
    with pytest.raises(ValueError, match="no tokens"):
        box([])
