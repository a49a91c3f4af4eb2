"""Closed forms and exact sums against a count step by step, for published shapes."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ponder import costs
from ponder.costs.shape import capped_sum
from ponder.errors import ParameterError

# Name: parameters, layers, query heads, key-value heads, head width: from each model's config.json and weights.
PUBLISHED = {
    "qwen3-0.6b": (596_049_920, 28, 16, 8, 128),
    "qwen3-1.7b": (1_720_574_976, 28, 16, 8, 128),
    "qwen3-4b": (4_022_468_096, 36, 32, 8, 128),
    "qwen3-8b": (8_190_735_360, 36, 32, 8, 128),
    "qwen3-14b": (14_768_307_200, 40, 40, 8, 128),
    "qwen3-32b": (32_762_123_264, 64, 64, 8, 128),
    "llama-3.1-8b": (8_030_261_248, 32, 32, 8, 128),
    "smollm2-135m": (134_515_008, 30, 9, 3, 64),
}
I = 562.5  # noqa: E741


def by_steps(name, prompt, length, trials, attend=None, shared=True):
    """eFLOPs, one step and one trial after the other, straight from what a step does."""
    p, layers, q, kv, d = PUBLISHED[name]
    flops = read = 0
    for t in range(1, length + 1):
        for trial in range(trials):
            context = prompt + t if attend is None else min(prompt + t, attend)
            flops += 2 * p + 4 * q * d * layers * context
            own = t if shared and attend is None else context
            read += 2 * 2 * kv * d * layers * (own + (prompt if trial == 0 and own == t and attend is None else 0))
    return flops + I * read


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_table_holds_the_published_sizes(name):
    s = costs.ModelShape.read(name)
    assert (s.params_active, s.layers, s.q_heads, s.kv_heads, s.head_dim) == PUBLISHED[name]


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize(("prompt", "length", "trials"), [(100, 400, 1), (37, 150, 8), (0, 60, 3)])
def test_dense_equals_the_count_by_steps_and_the_closed_form_up_to_one_token(name, prompt, length, trials):
    s = costs.ModelShape.read(name)
    exact = costs.generation(s, prompt, length, trials=trials)
    assert exact.eflops() == pytest.approx(by_steps(name, prompt, length, trials), rel=1e-12)
    p, layers, q, kv, d = PUBLISHED[name]
    width, n = d * layers, trials
    flops = n * (2 * p * length + 2 * (2 * prompt + length) * length * q * width)
    memory = 2 * (2 * prompt + n * length) * length * kv * width
    paper = costs.generation(s, prompt, length, trials=trials, formula="paper")
    assert paper.eflops() == pytest.approx(flops + I * memory, rel=1e-12)
    assert abs(paper.eflops() / exact.eflops() - 1) < 1 / length


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("budget", [1, 64, 150, 10_000])
def test_top_k_equals_the_count_by_steps(name, budget):
    s = costs.ModelShape.read(name)
    got = costs.generation(s, 100, 200, trials=4, attention=costs.TopK(budget))
    assert got.eflops() == pytest.approx(by_steps(name, 100, 200, 4, attend=budget), rel=1e-12)


def test_the_term_of_top_k_is_taken_away_not_added():
    s, prompt, length, budget = costs.ModelShape(1, 1, 1, 1, 1), 1000, 9000, 6000
    attended = s.attended(prompt, length, budget)
    limit = budget * length - (budget - prompt) ** 2 / 2
    assert attended == pytest.approx(limit, rel=1e-3)
    assert abs(attended / (budget * length + (budget - prompt) ** 2 / 2) - 1) > 0.3


@pytest.mark.parametrize("name", ["qwen3-8b", "smollm2-135m"])
def test_block_top_k_adds_one_mean_key_a_block(name):
    s, (prompt, length, n, size) = costs.ModelShape.read(name), (100, 203, 3, 16)
    p, layers, q, kv, d = PUBLISHED[name]
    width, how = d * layers, costs.BlockTopK(size, topk=4, local=32)
    flops = memory = 0
    for t in range(1, length + 1):
        context = min(prompt + t, 96)
        blocks = (prompt + t) // size
        flops += n * (2 * p + 4 * q * width * context + 2 * q * width * blocks)
        memory += n * 4 * kv * width * context + 2 * kv * width * (prompt // size + n * (blocks - prompt // size))
    exact = costs.generation(s, prompt, length, trials=n, attention=how)
    assert (exact.flops, exact.kv_bytes) == (pytest.approx(flops, rel=1e-12), pytest.approx(memory, rel=1e-12))
    total = sum(min(prompt + t, 96) for t in range(1, length + 1))
    paper = costs.generation(s, prompt, length, trials=n, attention=how, formula="paper")
    assert (
        paper.flops
        == n * (2 * p * length + 4 * total * q * width) + n * ((2 * prompt + length) // 16) * length * q * width
    )
    assert paper.kv_bytes == n * 4 * total * kv * width + ((2 * prompt + n * length) // 16) * length * kv * width


@settings(deadline=None)
@given(st.integers(0, 200), st.integers(1, 60))
def test_a_capped_sum_is_the_sum(n, cap):
    assert capped_sum(n, cap) == sum(min(c, cap) for c in range(1, n + 1))


@settings(deadline=None)
@given(st.integers(0, 80), st.lists(st.integers(0, 60), min_size=1, max_size=6), st.integers(1, 70), st.integers(0, 4))
def test_windows_and_shared_prompts_equal_a_count_of_the_tokens_that_are_read(prompt, lengths, window, windowed):
    s = costs.ModelShape(10, 4, 2, 1, 1, window=window, windowed_layers=windowed)
    computed = read = 0
    for layer in range(4):
        reach = window if layer < windowed else 10**9
        for t in range(1, max(lengths) + 1):
            seen = set()
            for trial, length in enumerate(lengths):
                if t <= length:
                    places = [p for p in range(1, prompt + t + 1) if p > prompt + t - reach]
                    computed += len(places)
                    seen |= {(p, -1 if p <= prompt else trial) for p in places}
            read += len(seen)
    got = costs.generation(s, prompt, lengths)
    assert got.flops == 20 * sum(lengths) + 4 * 2 * computed
    assert got.kv_bytes == 2 * 2 * read


def test_the_options_are_off_by_default_and_add_what_they_say():
    s = costs.ModelShape.read("smollm2-135m")
    plain = costs.generation(s, 50, 10, trials=2)
    assert plain.weight_bytes == 0
    prefilled = costs.generation(s, 50, 10, trials=2, prefill=True)
    assert prefilled.flops - plain.flops == 2 * s.params_active * 50 + 4 * s.q_width * 50 * 51 / 2
    assert costs.generation(s, 50, [10, 4], batch=1).weight_bytes == 10 * 2 * s.params_active  # passes are shared
    assert costs.generation(s, 50, 10, batch=5).weight_bytes == 10 * 2 * s.params_active / 5
    alone = costs.generation(s, 50, 10, trials=2, share_prompt=False)
    assert alone.kv_bytes == 2 * costs.generation(s, 50, 10).kv_bytes
    assert costs.generation(s, 50, 0) == costs.Cost()


def test_a_mixture_computes_little_and_reads_what_its_batch_touches():
    moe = costs.ModelShape.read("mixtral-8x7b")
    assert (moe.params_total, moe.params_active) == (46_702_792_704, 12_879_925_248)
    assert moe.distinct_experts(1) == pytest.approx(2) and moe.distinct_experts(1e6) == pytest.approx(8)
    assert moe.distinct_experts(4) == pytest.approx(8 * (1 - (1 - 2 / 8) ** 4))
    assert moe.weight_bytes(1) == pytest.approx(2 * moe.params_active)
    assert moe.weight_bytes(1e6) == pytest.approx(2 * moe.params_total)
    assert moe.weight_bytes(4, distinct_experts=3) == pytest.approx(
        2 * (moe.params_active + (moe.params_total - moe.params_active) / 6)
    )
    # Two trials, one ends after 3 of 5 steps: three passes over two tokens, two over one.
    got = costs.generation(moe, 0, [5, 3], batch=1).weight_bytes
    assert got == pytest.approx(3 * moe.weight_bytes(2) + 2 * moe.weight_bytes(1))


def test_the_crossover_of_the_small_model_is_where_the_specification_has_it():
    s = costs.ModelShape.read("smollm2-135m")
    assert round(s.crossover_tokens()) == 3892
    assert s.crossover_tokens(I) == pytest.approx(2 * 134_515_008 / (4 * 9 * 1920 + I * 4 * 3 * 1920))


def test_seconds_and_dollars_follow_from_the_hardware():
    cost = costs.Cost(flops=4.5e15, kv_bytes=8e12)
    assert cost.eflops() == 9e15 and cost.seconds() == 2 and cost.seconds_overlapped() == 1
    assert cost.dollars("b200,usd_per_hour=3600") == pytest.approx(2)
    assert cost.amount("bytes") == 8e12 and cost.times(2) == cost + cost
    with pytest.raises(ParameterError, match="give one: b200,usd_per_hour=2"):
        cost.dollars("b200")
    with pytest.raises(ParameterError, match="one of eflops, flops, seconds, dollars, bytes"):
        cost.amount("tokens")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: costs.generation(s, 5, 5, trials=0), "integer ≥ 1"),
        (lambda s: costs.generation(s, 5, []), "one length a trial"),
        (lambda s: costs.generation(s, 5, [1, 2], trials=3), "2 given"),
        (lambda s: costs.generation(s, -1, 5), "≥ 0"),
        (lambda s: costs.generation(s, 5, 5, batch=0), "above 0"),
        (lambda s: costs.generation(s, 5, [1, 2], formula="paper"), "exact, for different lengths"),
        (lambda s: costs.TopK(0), "integer ≥ 1"),
        (lambda s: costs.BlockTopK(16, 0), "integer ≥ 1"),
    ],
)
def test_what_cannot_be_counted_is_refused(call, message):
    with pytest.raises(ParameterError, match=message):
        call(costs.ModelShape.read("qwen3-8b"))


def test_costs_load_without_numpy_and_without_torch():
    code = (
        "import sys, ponder; ponder.costs.generation(ponder.costs.ModelShape.read('qwen3-8b'), 9, 9).eflops(); "
        "assert not {'numpy', 'torch'} & set(sys.modules), 'heavy'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
