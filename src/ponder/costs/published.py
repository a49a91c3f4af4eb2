"""Shapes of published models, from the numbers of their `config.json` files."""

from __future__ import annotations

from ponder.costs.readers import shape_of_config
from ponder.costs.shape import ModelShape


def _shape(
    name: str, family: str, hidden: int, layers: int, heads: int, kv: int, head_dim: int, inner: int, vocabulary: int,
    tied: bool, **more: object,
) -> ModelShape:  # fmt: skip
    config = {
        "model_type": family, "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv, "head_dim": head_dim, "intermediate_size": inner, "vocab_size": vocabulary,
        "tie_word_embeddings": tied, **more,
    }  # fmt: skip
    return shape_of_config(config, name=name)


_EXPERTS_OF_30B = {"moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8}

SHAPES: dict[str, ModelShape] = {
    s.name: s
    for s in (
        _shape("smollm2-135m", "llama", 576, 30, 9, 3, 64, 1536, 49152, True),
        _shape("smollm2-360m", "llama", 960, 32, 15, 5, 64, 2560, 49152, True),
        _shape("smollm2-1.7b", "llama", 2048, 24, 32, 32, 64, 8192, 49152, True),
        _shape("qwen3-0.6b", "qwen3", 1024, 28, 16, 8, 128, 3072, 151936, True),
        _shape("qwen3-1.7b", "qwen3", 2048, 28, 16, 8, 128, 6144, 151936, True),
        _shape("qwen3-4b", "qwen3", 2560, 36, 32, 8, 128, 9728, 151936, True),
        _shape("qwen3-8b", "qwen3", 4096, 36, 32, 8, 128, 12288, 151936, False),
        _shape("qwen3-14b", "qwen3", 5120, 40, 40, 8, 128, 17408, 151936, False),
        _shape("qwen3-32b", "qwen3", 5120, 64, 64, 8, 128, 25600, 151936, False),
        _shape("qwen3-30b-a3b", "qwen3_moe", 2048, 48, 32, 4, 128, 6144, 151936, False, **_EXPERTS_OF_30B),
        _shape("llama-3.2-1b", "llama", 2048, 16, 32, 8, 64, 8192, 128256, True),
        _shape("llama-3.2-3b", "llama", 3072, 28, 24, 8, 128, 8192, 128256, True),
        _shape("llama-3.1-8b", "llama", 4096, 32, 32, 8, 128, 14336, 128256, False),
        _shape("llama-3.1-70b", "llama", 8192, 80, 64, 8, 128, 28672, 128256, False),
        _shape("llama-3.1-405b", "llama", 16384, 126, 128, 8, 128, 53248, 128256, False),
        _shape("mixtral-8x7b", "mixtral", 4096, 32, 32, 8, 128, 14336, 32000, False, num_local_experts=8,
               num_experts_per_tok=2),
        _shape("gemma-3-1b", "gemma3_text", 1152, 26, 4, 1, 256, 6912, 262144, True, sliding_window=512),
    )
}  # fmt: skip
