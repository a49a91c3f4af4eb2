"""What trees share, and what ledgers say, against a count token by token."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ponder
from ponder import costs
from ponder.core.model import Completion
from ponder.core.problem import Problem
from ponder.core.state import root
from ponder.errors import ParameterError
from ponder.ledger.spend import Spend, completion_amounts, completion_spend

SHAPE = costs.ModelShape(10, 4, 2, 1, 1)
WINDOWED = costs.ModelShape(10, 4, 2, 1, 1, window=5, windowed_layers=3)


@st.composite
def trees(draw):
    """All nodes of a random tree, of steps with random lengths (0 too)."""
    nodes = [root(Problem("p", "?"))]
    for i in range(draw(st.integers(0, 14))):
        parent = nodes[draw(st.integers(0, len(nodes) - 1))]
        nodes.append(parent.child(i, "x", n_tokens=draw(st.integers(0, 5))))
    return nodes


def counted(nodes, prompt, shape):
    """Every step of every layer: the set of cached tokens that some branch reads."""

    def line(state):
        states = list(state.ancestry())[::-1]
        return [("prompt", i) for i in range(prompt)] + [(id(s), i) for s in states for i in range(s.n_tokens)]

    lines = [line(s) for s in nodes]
    steps = max(len(x) for x in lines) - prompt
    attended = read = 0
    for layer in range(shape.layers):
        reach = shape.window if layer < shape.windowed_layers else 10**9
        for t in range(1, steps + 1):
            alive = [x[: prompt + t] for x in lines if len(x) >= prompt + t]
            read += len({token for x in alive for token in x[-reach:]})
            new = {x[-1]: len(x[-reach:]) for x in alive}
            attended += sum(new.values())
    return steps, len({t for x in lines for t in x if t[0] != "prompt"}), attended, read


@settings(deadline=None)
@given(trees(), st.integers(0, 9), st.sampled_from([SHAPE, WINDOWED]))
def test_a_tree_is_counted_as_token_by_token(nodes, prompt, shape):
    got = costs.tree_counts(nodes, prompt, shape)
    assert (got.steps, got.generated, got.attended, got.read) == counted(nodes, prompt, shape)
    assert got.read <= got.unshared_read or got.generated == 0
    assert got.cost(shape).flops == 20 * got.generated + 8 * got.attended


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(0, 9), st.sampled_from([SHAPE, WINDOWED]))
def test_a_star_is_the_trials_of_one_prompt(lengths, prompt, shape):
    top = root(Problem("p", "?"))
    got = costs.tree_counts([top.child(i, "", n_tokens=n) for i, n in enumerate(lengths)], prompt, shape)
    assert got.cost(shape) == costs.generation(shape, prompt, lengths)


def test_the_leaves_alone_tell_the_tree():
    a = root(Problem("p", "?")).child(0, "", n_tokens=3)
    leaves = [a.child(i, "", n_tokens=2) for i in range(3)]
    assert costs.tree_counts(leaves, 4, SHAPE) == costs.tree_counts([a, *leaves], 4, SHAPE)
    assert costs.tree_counts([], 4, SHAPE).read == 0
    with pytest.raises(ParameterError, match="≥ 0"):
        costs.tree_counts(leaves, -1, SHAPE)


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=6), st.integers(0, 12), st.sampled_from([SHAPE, WINDOWED]),
    st.integers(0, 12),
)  # fmt: skip
def test_what_a_ledger_adds_up_is_the_cost_of_the_call_in_any_order(lengths, prompt, shape, cached):
    cached = min(cached, prompt)
    longest, flops, read = 0, 0.0, 0.0
    for i, n in enumerate(lengths):
        share = {"prompt_tokens": prompt, "cached_tokens": cached} if i == 0 else {}
        amounts = completion_amounts(Completion("", n, **share), prompt, shape, (0, 0, 0), False, longest)
        longest = max(longest, n)
        spent = Spend(*amounts)
        flops, read = flops + spent.flops, read + spent.kv_bytes
    whole = costs.generation(shape, prompt, lengths)
    prefill = 20 * (prompt - cached) + 8 * shape.attended(cached, prompt - cached)
    assert (flops, read) == (whole.flops + prefill, whole.kv_bytes)


def test_a_ledger_of_unknown_shape_counts_nothing():
    spend = completion_spend(Completion("", 5), prompt_length=3, shape=None, price=(0, 0, 0), verifying=False)
    assert (spend.flops, spend.kv_bytes) == (0, 0)
    with pytest.raises(ParameterError, match="does not know the model's size"):
        costs.of(spend)


def test_a_result_is_counted_by_its_model_or_as_if_another_had_done_it():
    result = ponder.solve("What is 17+25?", model="sim:strong(size=qwen3-8b)", strategy="repeated_sampling(n=4)")
    shape, prompt = costs.ModelShape.read("qwen3-8b"), result.total.prompt_tokens
    lengths = [c.n_tokens for c in result.candidates]
    told = costs.of(result)
    assert told == costs.generation(shape, prompt, lengths, prefill=True)
    again = costs.of(result, "qwen3-8b", prompt_tokens=prompt)
    assert (again.flops, again.kv_bytes) == (pytest.approx(told.flops), pytest.approx(told.kv_bytes))
    unshared = costs.of(result.total, shape)
    assert unshared.kv_bytes == costs.generation(shape, prompt, lengths, share_prompt=False).kv_bytes
    small = costs.of(result, "qwen3-0.6b", batch=8)
    assert small.flops < told.flops and small.weight_bytes == pytest.approx(sum(lengths) / 8 * 2 * 596_049_920)
    assert told.eflops() > told.flops
    with pytest.raises(ParameterError, match="counting anew needs one"):
        costs.of(result, prompt_tokens=prompt)
    with pytest.raises(ParameterError, match="has no tree"):
        costs.of(result.total, shape, prompt_tokens=prompt)


def test_a_search_reads_less_when_its_tree_is_shared():
    result = ponder.solve(
        "What is 17+25?", model="sim:strong(size=qwen3-8b)",
        strategy="beam_search(n=8, keep=2, verifier=random_score)", process="text_steps(step=paragraph)",
    )  # fmt: skip
    prompt = 5
    shared = costs.of(result, "qwen3-8b", prompt_tokens=prompt)
    assert 0 < shared.kv_bytes < costs.of(result, "qwen3-8b").kv_bytes
