"""A decoder's weights in PyTorch, read from a GGUF file or taken from a transformers model.

Llama-like decoders: RMS norms, rotary positions, grouped-query attention, gated feed-forward. Products that read the
same input are stored as one matrix. Rotation is by halves of a head (the transformers layout); GGUF files of the
`llama` family interleave the two halves, which is undone here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ponder.engine.threads import quiet_threads
from ponder.errors import MissingExtraError, ModelError

if TYPE_CHECKING:
    from torch import Tensor

Precision = Literal["fp32", "bf16"]

_FAMILIES = {"llama": True, "qwen2": False, "qwen3": False}
"""GGUF families, and whether their query and key rows are interleaved."""


_GGUF_NAMES = {
    "attention_norm": "attn_norm.weight", "q": "attn_q.weight", "k": "attn_k.weight", "v": "attn_v.weight",
    "q_bias": "attn_q.bias", "k_bias": "attn_k.bias", "v_bias": "attn_v.bias", "query_norm": "attn_q_norm.weight",
    "key_norm": "attn_k_norm.weight", "output": "attn_output.weight", "feed_norm": "ffn_norm.weight",
    "gate": "ffn_gate.weight", "up": "ffn_up.weight", "down": "ffn_down.weight",
}  # fmt: skip
_TRANSFORMERS_NAMES = {
    "attention_norm": "input_layernorm.weight", "q": "self_attn.q_proj.weight", "k": "self_attn.k_proj.weight",
    "v": "self_attn.v_proj.weight", "q_bias": "self_attn.q_proj.bias", "k_bias": "self_attn.k_proj.bias",
    "v_bias": "self_attn.v_proj.bias", "query_norm": "self_attn.q_norm.weight",
    "key_norm": "self_attn.k_norm.weight", "output": "self_attn.o_proj.weight",
    "feed_norm": "post_attention_layernorm.weight", "gate": "mlp.gate_proj.weight", "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Layer:
    """One block. Shapes are [out, in]; `None` where a family has none."""

    attention_norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    query_norm: Tensor | None
    key_norm: Tensor | None
    output: Tensor
    feed_norm: Tensor
    gate_up: Tensor
    down: Tensor


@dataclass(frozen=True)
class Weights:
    """A whole decoder.

    Attributes:
        heads: query heads.
        kv_heads: key and value heads.
        head_size: numbers in a head.
        epsilon: of the norms.
        frequencies: of the rotation, [head_size / 2], in radians per position.
        embedding: [vocabulary, width].
        layers: the blocks.
        norm: of the last state.
        head: [vocabulary, width], in the precision of the products.
    """

    heads: int
    kv_heads: int
    head_size: int
    epsilon: float
    frequencies: Tensor
    embedding: Tensor
    layers: tuple[Layer, ...]
    norm: Tensor
    head: Tensor


def from_gguf(path: Path, precision: Precision = "fp32") -> Weights:
    """Read and dequantise a GGUF file.

    Raises:
        MissingExtraError: torch or gguf is not installed.
        ModelError: a family, or a scaling of the rotation, that this engine does not know.
    """
    torch = need_torch()
    try:
        from gguf import GGUFReader
        from gguf.quants import dequantize
    except ImportError:
        raise MissingExtraError("GGUF files in torch", "gguf", "torch") from None
    reader = GGUFReader(str(path))
    facts = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("tokenizer.")}
    family = str(facts.get("general.architecture"))
    if family not in _FAMILIES:
        raise _unknown(path, f"the family {family}")

    def fact(name: str, default: Any = None) -> Any:
        return facts.get(f"{family}.{name}", default)

    if fact("rope.scaling.type", "none") not in ("none", ""):
        raise _unknown(path, f"the rotation scaling {fact('rope.scaling.type')}")
    width, heads = int(fact("embedding_length")), int(fact("attention.head_count"))
    kv_heads = int(fact("attention.head_count_kv", heads))
    size = int(fact("attention.key_length", width // heads))
    stored = {tensor.name: tensor for tensor in reader.tensors}

    def read(name: str) -> Any:
        tensor = stored.get(name)
        if tensor is None:
            return None
        return torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type), np.float32))

    def straight(rows: Any, n: int) -> Any:
        if rows is None or not _FAMILIES[family]:
            return rows
        return rows.reshape(n, size // 2, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)

    def part(layer: int, name: str) -> Any:
        found = read(f"blk.{layer}.{_GGUF_NAMES[name]}")
        if name in ("q", "q_bias"):
            return straight(found, heads)
        return straight(found, kv_heads) if name in ("k", "k_bias") else found

    base = float(fact("rope.freq_base", 10000.0))
    factors = read("rope_freqs.weight")
    return _assemble(
        heads, kv_heads, size, float(fact("attention.layer_norm_rms_epsilon", 1e-5)),
        _frequencies(base, size) if factors is None else _frequencies(base, size) / factors,
        int(fact("block_count")), part,
        {"embedding": read("token_embd.weight"), "norm": read("output_norm.weight"), "head": read("output.weight")},
        precision,
    )  # fmt: skip


def from_transformers(model: Any, precision: Precision = "fp32") -> Weights:
    """The weights of a Llama-, Qwen2- or Qwen3-like `AutoModelForCausalLM`, shared with it where nothing is joined.

    Raises:
        ModelError: the rotation depends on the length, or attention slides.
    """
    config = model.config
    kind = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if kind not in ("default", "linear", "llama3") or getattr(config, "use_sliding_window", False):
        raise _unknown(type(model).__name__, f"{kind} rotation or sliding attention")
    state = model.state_dict()
    return _assemble(
        config.num_attention_heads, config.num_key_value_heads,
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads, config.rms_norm_eps,
        model.model.rotary_emb.inv_freq.float(), config.num_hidden_layers,
        lambda layer, part: state.get(f"model.layers.{layer}.{_TRANSFORMERS_NAMES[part]}"),
        {
            "embedding": state["model.embed_tokens.weight"], "norm": state["model.norm.weight"],
            "head": state.get("lm_head.weight"),
        },
        precision,
    )  # fmt: skip


def native_precision() -> Precision:
    """bfloat16 where the processor multiplies it natively (AVX-512-BF16, AMX), else float32."""
    cpu = need_torch().cpu
    check = getattr(cpu, "_is_avx512_bf16_supported", None)
    return "bf16" if (check is not None and check()) or cpu._is_amx_tile_supported() else "fp32"


def need_torch() -> Any:
    """The package torch.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        with quiet_threads():
            import torch
    except ImportError:
        raise MissingExtraError("the torch engine", "torch", "torch") from None
    return torch


def _assemble(
    heads: int, kv_heads: int, size: int, epsilon: float, frequencies: Any, count: int,
    part: Callable[[int, str], Any], whole: Mapping[str, Any], precision: Precision,
) -> Weights:  # fmt: skip
    torch = need_torch()
    kind = torch.bfloat16 if precision == "bf16" else torch.float32

    def joined(layer: int, *names: str) -> Any:
        parts = [part(layer, name) for name in names]
        return None if parts[0] is None else torch.cat(parts)

    layers = []
    for i in range(count):
        bias = joined(i, "q_bias", "k_bias", "v_bias")
        layers.append(
            Layer(
                part(i, "attention_norm").float(),
                joined(i, "q", "k", "v").to(kind),
                None if bias is None else bias.to(kind),
                part(i, "query_norm"),
                part(i, "key_norm"),
                part(i, "output").to(kind),
                part(i, "feed_norm").float(),
                joined(i, "gate", "up").to(kind),
                part(i, "down").to(kind),
            )
        )
    head = whole["embedding"] if whole["head"] is None else whole["head"]
    return Weights(
        heads, kv_heads, size, epsilon, frequencies, whole["embedding"].float(), tuple(layers),
        whole["norm"].float(), head.to(kind),
    )  # fmt: skip


def _frequencies(base: float, size: int) -> Any:
    torch = need_torch()
    return torch.exp(torch.arange(0, size, 2, dtype=torch.float32) * (-math.log(base) / size))


def _unknown(what: object, feature: str) -> ModelError:
    return ModelError(
        f"{what}: the torch engine does not know {feature}; it runs {', '.join(_FAMILIES)} with plain rotary "
        "positions. Use engine=llamacpp"
    )
