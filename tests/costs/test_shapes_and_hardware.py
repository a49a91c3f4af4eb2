"""Shapes from files and texts, hardware from the table, from numbers and from this machine."""

import json
import struct

import pytest
from click.testing import CliRunner

from ponder import costs
from ponder.cli.hardware import command
from ponder.costs import hardware_probe
from ponder.costs.readers import shape_of_config, shape_of_gguf
from ponder.errors import ModelNotFoundError, ParameterError, UnknownNameError

LLAMA = {
    "model_type": "llama", "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 49152, "tie_word_embeddings": True,
}  # fmt: skip


def test_a_config_without_head_dim_takes_width_over_heads_and_says_so():
    s = shape_of_config(LLAMA)
    assert (s.params_active, s.head_dim) == (134_515_008, 64) and "head_dim is missing" in s.notes[0]


def test_a_config_is_read_from_its_directory_and_an_index_knows_the_parameters(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {**LLAMA, "torch_dtype": "float32"}}))
    s = costs.ModelShape.read(str(tmp_path))
    assert (s.params_total, s.weight_bytes_per_param, s.name) == (134_515_008, 4, tmp_path.name)
    (tmp_path / "model.safetensors.index.json").write_text('{"metadata": {"total_parameters": 7}}')
    assert costs.ModelShape.read(str(tmp_path / "config.json")).params_total == 7
    (tmp_path / "config.json").write_text("[1")
    with pytest.raises(ModelNotFoundError, match="cannot be read"):
        costs.ModelShape.read(str(tmp_path))


@pytest.mark.parametrize(
    ("more", "window", "windowed"),
    [
        ({"model_type": "qwen2", "sliding_window": 4096}, None, 0),
        ({"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": True, "max_window_layers": 21}, 4096, 9),
        ({"model_type": "mistral", "sliding_window": 4096}, 4096, 30),
        ({"model_type": "gemma2", "sliding_window": 4096, "head_dim": 64}, 4096, 15),
        ({"sliding_window": 512, "layer_types": ["sliding_attention"] * 5 + ["full_attention"] * 25}, 512, 5),
    ],
)
def test_windows_are_read_as_each_family_means_them(more, window, windowed):
    s = shape_of_config({**LLAMA, **more})
    assert (s.window, s.windowed_layers) == (window, windowed)


def test_published_sizes_of_families_with_biases_experts_and_windows():
    qwen25 = {**LLAMA, "model_type": "qwen2", "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14,
              "num_key_value_heads": 2, "intermediate_size": 4864, "vocab_size": 151936}  # fmt: skip
    assert shape_of_config(qwen25).params_total == 494_032_768
    assert costs.ModelShape.read("gemma-3-1b").params_total == 999_885_952
    assert costs.ModelShape.read("qwen3-30b-a3b").params_total == 30_532_122_624


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**LLAMA, "kv_lora_rank": 512}, "give the numbers yourself"),
        ({**LLAMA, "model_type": "gpt2"}, "cannot be counted from the config"),
        ({"model_type": "llama"}, "num_hidden_layers"),
        ({**LLAMA, "num_key_value_heads": 4}, "multiple of kv_heads=4"),
    ],
)
def test_a_config_that_does_not_tell_is_refused(config, message):
    with pytest.raises(ParameterError, match=message):
        shape_of_config(config)


def gguf(path, metadata, tensors):
    """A GGUF header by hand, and no data."""

    def text(value):
        return struct.pack("<Q", len(value)) + value.encode()

    def value(v):
        if isinstance(v, str):
            return struct.pack("<I", 8) + text(v)
        if isinstance(v, list):
            return struct.pack("<IIQ", 9, 4, len(v)) + struct.pack(f"<{len(v)}I", *v)
        return struct.pack("<II", 4, v)

    data = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    data += b"".join(text(k) + value(v) for k, v in metadata.items())
    for name, dims in tensors.items():
        data += (
            text(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims) + struct.pack("<IQ", 0, 0)
        )
    path.write_bytes(data)


def test_a_gguf_header_tells_heads_windows_and_which_parameters_are_experts(tmp_path):
    path = tmp_path / "m.gguf"
    head = {
        "general.architecture": "qwen3moe", "qwen3moe.block_count": 2, "qwen3moe.embedding_length": 8,
        "qwen3moe.attention.head_count": 4, "qwen3moe.attention.head_count_kv": [2, 2],
        "qwen3moe.attention.key_length": 16, "qwen3moe.expert_count": 4, "qwen3moe.expert_used_count": 1,
        "qwen3moe.attention.sliding_window": 32, "qwen3moe.attention.sliding_window_pattern": [1, 0],
    }  # fmt: skip
    gguf(path, head, {"blk.0.attn_q.weight": [8, 64], "blk.0.ffn_up_exps.weight": [8, 10, 4]})
    s = costs.ModelShape.read(str(path))
    assert (s.params_total, s.params_active) == (512 + 320, 512 + 80)
    assert (s.q_heads, s.kv_heads, s.head_dim, s.experts, s.experts_per_token) == (4, 2, 16, 4, 1)
    assert (s.window, s.windowed_layers, s.name) == (32, 1, "m")
    gguf(path, {"general.architecture": "bert"}, {})
    with pytest.raises(ModelNotFoundError, match="how many layers and heads"):
        costs.ModelShape.read(str(path))
    assert shape_of_gguf({"general.architecture": "x", "x.block_count": 1}, 5) is None


@pytest.mark.model
def test_the_embedded_model_has_the_published_shape():
    read, known = (
        costs.ModelShape.read("llamacpp:smollm2-135m".partition(":")[2]),
        costs.ModelShape.read("smollm2-135m"),
    )
    from ponder.models.catalog import CATALOG

    read = costs.ModelShape.read(str(CATALOG["smollm2-135m"].path))
    fields = ("params_active", "layers", "q_heads", "kv_heads", "head_dim")
    assert [getattr(read, f) for f in fields] == [getattr(known, f) for f in fields]
    assert 0.5 < read.weight_bytes_per_param < 1


def test_a_shape_is_given_by_numbers_and_changed_after_a_comma():
    s = costs.ModelShape.read("params_active=8e9,layers=32,q_heads=32,kv_heads=8,head_dim=128")
    assert s.params_total == 8_000_000_000 and isinstance(s.params_active, int)
    assert costs.ModelShape.read("qwen3-8b,kv_bytes_per_element=0.5").kv_bytes(1) == 0.25 * costs.ModelShape.read(
        "qwen3-8b"
    ).kv_bytes(1)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("qwen3-9b", UnknownNameError, "qwen3-8b"),
        ("params_active=8e9,layers=32", ParameterError, "q_heads"),
        ("qwen3-8b,heads=3", UnknownNameError, "heads"),
        ("qwen3-8b,layers=many", ParameterError, "a number"),
        ("qwen3-8b,kv_heads=5", ParameterError, "multiple of kv_heads=5"),
        ("qwen3-8b,experts=4,experts_per_token=5", ParameterError, "from 1 to experts=4"),
        ("qwen3-8b,windowed_layers=3", ParameterError, "window"),
        ("qwen3-8b,layers=0", ParameterError, "above 0"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(text, error, message):
    with pytest.raises(error, match=message):
        costs.ModelShape.read(text)


def test_hardware_is_named_given_or_changed():
    assert costs.hardware().intensity == 562.5
    assert costs.hardware("h100,usd_per_hour=2.5").usd_per_hour == 2.5
    assert costs.hardware("peak_flops=1e12,memory_bandwidth=1e11").intensity == 10
    with pytest.raises(ParameterError, match=r"one of b200, h200.*here"):
        costs.hardware("hal9000")
    with pytest.raises(ParameterError, match="memory_bandwidth=…"):
        costs.hardware("peak_flops=1e12")
    with pytest.raises(ParameterError, match="above 0"):
        costs.hardware("h100,peak_flops=0")


def test_this_machine_is_measured_once_and_remembered(tmp_path, monkeypatch):
    monkeypatch.setenv("PONDER_CACHE", str(tmp_path))
    real, calls = hardware_probe.measure_hardware, []
    monkeypatch.setattr(
        hardware_probe, "measure_hardware",
        lambda: calls.append(1) or real(repetitions=5, side=64, copied_bytes=1 << 16, torch=False),
    )  # fmt: skip
    first = costs.hardware("here")
    assert costs.hardware("here") == first and len(calls) == 1 and first.peak_flops > 0
    out = CliRunner().invoke(command, ["--json"])
    told = json.loads(out.output)
    assert not told["measured_now"] and told["intensity"] == pytest.approx(first.intensity)
    assert told["crossover"]["flops_tokens"] == pytest.approx(3892.2, abs=0.1)
    assert json.loads(CliRunner().invoke(command, ["--json", "--refresh"]).output)["measured_now"] and len(calls) == 2
    (tmp_path / "hardware.json").write_text("{damaged")
    costs.hardware("here")
    assert len(calls) == 3
    with pytest.raises(ParameterError, match="≥ 5"):
        real(repetitions=4)


def test_the_command_shows_named_hardware_and_the_table():
    assert "I = 562.5 FLOP/byte" in CliRunner().invoke(command, ["b200"]).output
    assert len(json.loads(CliRunner().invoke(command, ["--list", "--json"]).output)) > 10
    assert "mi300x" in CliRunner().invoke(command, ["--list"]).output


# ---------------------------------------------------------------- what an engine reaches


def test_a_fitted_profile_gives_back_the_rates_that_steps_were_made_with():
    shape = costs.ModelShape.read("smollm2-135m")
    engine = costs.hardware("peak_flops=8e10,memory_bandwidth=2e10,step_s=0.004,kv_bandwidth=5e9")
    steps = [costs.generation(shape, c, 1, batch=b).times(b) for b in (1, 4, 16, 64) for c in (64, 512)]
    found = costs.fit_profile([(s, s.seconds(engine)) for s in steps], "peak_flops=4e11,memory_bandwidth=2e10")
    assert found.peak_flops == pytest.approx(8e10) and found.kv_bandwidth == pytest.approx(5e9)
    assert found.step_s == pytest.approx(0.004) and "fitted to 8 measured steps" in found.source


def test_a_step_costs_its_least_time_once_however_many_share_it():
    shape = costs.ModelShape.read("smollm2-135m")
    slow = costs.hardware("peak_flops=1e30,memory_bandwidth=1e30,step_s=0.01")
    alone, shared = (costs.generation(shape, 10, 7, trials=n, batch=b) for n, b in ((1, 1), (5, 2)))
    assert alone.passes == 7 and alone.seconds(slow) == pytest.approx(0.07)
    assert shared.passes == 3.5 and costs.generation(shape, 10, 7).passes == 0
    assert (alone + shared).times(2).passes == 21


@pytest.mark.parametrize("given", [[], [(costs.Cost(1, 1, 1, 1), 1.0)] * 3, [(costs.Cost(1, 1, 1, 1), 0.0)] * 4])
def test_a_profile_is_not_fitted_to_too_little(given):
    with pytest.raises(ParameterError, match="four costs or more"):
        costs.fit_profile(given, "peak_flops=4e11,memory_bandwidth=2e10")


def test_caches_may_be_read_at_another_rate_and_a_negative_step_is_refused():
    cost = costs.Cost(kv_bytes=1e9, weight_bytes=2e9)
    assert cost.seconds("peak_flops=1e12,memory_bandwidth=1e9") == pytest.approx(3)
    assert cost.seconds("peak_flops=1e12,memory_bandwidth=1e9,kv_bandwidth=5e8") == pytest.approx(4)
    assert cost.seconds_overlapped("peak_flops=1e12,memory_bandwidth=1e9,kv_bandwidth=5e8") == pytest.approx(4)
    with pytest.raises(ParameterError, match="step_s"):
        costs.hardware("peak_flops=1e12,memory_bandwidth=1e9,step_s=-1")
