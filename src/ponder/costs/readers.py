"""Shapes from a model's own files: a `config.json`, or the header of a GGUF file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ponder.costs.shape import ModelShape
from ponder.errors import ModelNotFoundError, ParameterError

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1}
_UNGATED = {"gpt2", "gpt_neox", "gptj", "opt", "phi", "bloom", "falcon", "starcoder2"}
"""Their layers are not three matrices of an MLP and four of attention, so that a config does not tell their size."""
_EVERY_NTH_FULL = {"gemma2": 2, "gemma3": 6, "gemma3_text": 6, "cohere2": 4}
"""Families in which every n-th layer attends to everything and the others to a window."""


def shape_of_file(source: str) -> ModelShape | None:
    """The shape that a path (or a name of the model catalog) tells; None if there is no such file."""
    from ponder.models.catalog import CATALOG, model_file

    path = model_file(source, "model shape") if source in CATALOG else Path(source).expanduser()
    if path.is_dir():
        path = path / "config.json"
    if not path.is_file():
        return None
    if path.suffix == ".gguf":
        from ponder.models.gguf import shape

        found, _ = shape(path)
        if found is None:
            raise ModelNotFoundError(f"{path} does not say how many layers and heads it has; give the numbers")
        return found
    try:
        config = json.loads(path.read_bytes())
        index = path.with_name("model.safetensors.index.json")
        stored = json.loads(index.read_bytes())["metadata"].get("total_parameters") if index.is_file() else None
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ModelNotFoundError(f"{path} cannot be read as a model's config: {error}") from None
    if not isinstance(config, dict):
        raise ModelNotFoundError(f"{path} is no model's config: an object is expected")
    return shape_of_config(config, parameters=stored, name=path.parent.name)


def shape_of_config(config: Mapping[str, Any], *, parameters: int | None = None, name: str = "") -> ModelShape:
    """The shape of a transformers `config.json`.

    Args:
        config: its content; a text model inside (`text_config`) is taken.
        parameters: all parameters; None counts them, which is exact for decoders with gated MLPs and
            grouped-query attention (Llama, Mistral, Mixtral, Qwen, SmolLM, Gemma) up to a few vectors.
        name: for tables.

    Raises:
        ParameterError: a number is missing, or the family's cost is not of this form (say the numbers then).
    """
    c = {**config, **config["text_config"]} if isinstance(config.get("text_config"), Mapping) else dict(config)
    family = str(c.get("model_type", ""))
    if c.get("kv_lora_rank"):
        raise ParameterError("model shape", "kv_lora_rank", c["kv_lora_rank"], allowed="absent",
                             hint="its cache holds no heads; give the numbers yourself")  # fmt: skip
    layers, hidden = _number(c, "num_hidden_layers", "n_layer"), _number(c, "hidden_size", "n_embd")
    heads = _number(c, "num_attention_heads", "n_head")
    kv = int(c.get("num_key_value_heads") or heads)
    notes = []
    head_dim = c.get("head_dim")
    if not head_dim:
        head_dim = hidden // heads
        notes.append(f"head_dim is missing, taken as hidden_size / heads = {head_dim}")
    experts = c.get("num_local_experts") or c.get("num_experts") or c.get("n_routed_experts")
    per_token = c.get("num_experts_per_tok") if experts else None
    expert_params = 0
    if experts:
        inner = int(c.get("moe_intermediate_size") or _number(c, "intermediate_size"))
        expert_params = _sparse_layers(c, layers) * 3 * hidden * inner
    if parameters is None:
        if family in _UNGATED:
            raise ParameterError("model shape", "model_type", family, allowed="a decoder with gated MLPs",
                                 hint="its parameters cannot be counted from the config; give them")  # fmt: skip
        parameters = _count(c, family, layers, hidden, heads, kv, int(head_dim), experts, expert_params)
    active = parameters - expert_params * (int(experts) - int(per_token or experts)) if experts else parameters
    window, windowed = _windows(c, family, layers)
    weight_bytes = _BYTES.get(str(c.get("torch_dtype") or c.get("dtype")), 2)
    return ModelShape(
        active, layers, heads, kv, int(head_dim), parameters, 2, weight_bytes,
        experts, per_token, window, windowed, name, tuple(notes),
    )  # fmt: skip


def shape_of_gguf(
    metadata: Mapping[str, Any], parameters: int, expert_parameters: int = 0, bytes_of_weights: int = 0, name: str = ""
) -> ModelShape | None:
    """The shape of a GGUF header.

    Args:
        metadata: its keys.
        parameters: elements of all tensors.
        expert_parameters: those of the routed experts' tensors.
        bytes_of_weights: of all tensors as stored; 0 is unknown.
        name: for tables.

    Returns:
        None if the header does not say how many layers or heads there are.
    """
    family = str(metadata.get("general.architecture", ""))

    def get(key: str) -> Any:
        return metadata.get(f"{family}.{key}")

    layers, width, heads = get("block_count"), get("embedding_length"), get("attention.head_count")
    notes = []
    if isinstance(heads, list) or isinstance(get("attention.head_count_kv"), list):
        notes.append("heads differ between layers; the largest number is taken")
    heads, kv = _largest(heads), _largest(get("attention.head_count_kv"))
    if not (layers and heads and width):
        return None
    head_dim = get("attention.key_length")
    if not head_dim:
        head_dim = width // heads
        notes.append(f"the key length is missing, taken as embedding length / heads = {head_dim}")
    experts, per_token = get("expert_count") or None, get("expert_used_count") or None
    active = parameters
    if experts and per_token:
        active -= round(expert_parameters * (experts - per_token) / experts)
    window, pattern = get("attention.sliding_window") or None, get("attention.sliding_window_pattern")
    windowed = 0
    if window:
        if isinstance(pattern, list):
            windowed = sum(map(bool, pattern[: int(layers)]))
        else:
            nth = int(pattern or _EVERY_NTH_FULL.get(family, 0))
            windowed = layers - layers // nth if nth else layers
    return ModelShape(
        active, int(layers), int(heads), int(kv or heads), int(head_dim), parameters, 2,
        bytes_of_weights / parameters if bytes_of_weights else 2, experts, per_token if experts else None,
        window, windowed, name, tuple(notes),
    )  # fmt: skip


def _largest(value: Any) -> Any:
    return max(value) if isinstance(value, list) and value else value


def _number(config: Mapping[str, Any], *names: str) -> int:
    for name in names:
        if isinstance(config.get(name), int) and config[name] > 0:
            return int(config[name])
    raise ParameterError("model shape", names[0], config.get(names[0]), allowed="an integer ≥ 1 in the config")


def _sparse_layers(c: Mapping[str, Any], layers: int) -> int:
    step = int(c.get("decoder_sparse_step") or c.get("moe_layer_freq") or 1)
    dense = {*(c.get("mlp_only_layers") or ()), *range(int(c.get("first_k_dense_replace") or 0))}
    return sum(i not in dense and (i + 1) % step == 0 for i in range(layers))


def _count(
    c: Mapping[str, Any], family: str, layers: int, hidden: int, heads: int, kv: int, head_dim: int, experts: Any,
    expert_params: int,
) -> int:  # fmt: skip
    """Parameters of a decoder with gated MLPs; `expert_params` is what one expert has, over all layers."""
    sparse = _sparse_layers(c, layers) if experts else 0
    embedding = (
        _number(c, "vocab_size") * hidden * (1 if c.get("tie_word_embeddings", family.startswith("gemma")) else 2)
    )
    attention = 2 * hidden * head_dim * (heads + kv)
    if c.get("attention_bias") or family in ("qwen2", "qwen2_moe"):
        attention += head_dim * (heads + 2 * kv) + (0 if family.startswith("qwen2") else hidden)
    norms = (4 if family in ("gemma2", "gemma3", "gemma3_text") else 2) * hidden
    if family.startswith(("qwen3", "gemma3")):
        norms += 2 * head_dim
    mlp = 3 * hidden * int(c.get("intermediate_size") or 0) * (layers - sparse)
    shared = int(c.get("shared_expert_intermediate_size") or 0)
    if not shared and c.get("n_shared_experts"):
        shared = int(c["n_shared_experts"]) * int(c["moe_intermediate_size"])
    routing = (
        sparse * hidden * (int(experts or 0) + (1 if c.get("shared_expert_intermediate_size") else 0) + 3 * shared)
    )
    return embedding + layers * (attention + norms) + hidden + mlp + routing + expert_params * int(experts or 0)


def _windows(c: Mapping[str, Any], family: str, layers: int) -> tuple[int | None, int]:
    """The sliding window, and how many layers have it."""
    window, kinds = c.get("sliding_window"), c.get("layer_types")
    if not window or c.get("use_sliding_window", True) is False:
        return None, 0
    if isinstance(kinds, list):
        count = sum(kind == "sliding_attention" for kind in kinds[:layers])
        return (window, count) if count else (None, 0)
    if family in ("qwen2", "qwen2_moe", "qwen3", "qwen3_moe"):
        if not c.get("use_sliding_window"):
            return None, 0
        count = max(layers - int(c.get("max_window_layers") or 0), 0)
        return (window, count) if count else (None, 0)
    nth = int(c.get("sliding_window_pattern") or _EVERY_NTH_FULL.get(family, 0))
    return window, layers - layers // nth if nth else layers
