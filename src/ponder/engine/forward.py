"""The forward pass of a Llama-like decoder. How tokens attend is the caller's: caches differ, the rest does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ponder.engine.weights import Weights, need_torch

if TYPE_CHECKING:
    from torch import Tensor

Attend = Callable[[int, "Tensor", "Tensor", "Tensor"], "Tensor"]
"""Given the layer, queries [tokens, heads, size], keys and values [tokens, kv_heads, size] (queries and keys rotated):
what each token reads, [tokens, heads, size]."""


Multiply = Callable[["Tensor", "Tensor", "Tensor | None"], "Tensor"]
"""Inputs [tokens, in], a matrix [out, in] and a bias [out]: the product [tokens, out]."""


def linear(x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    """The plain, differentiable product."""
    out: Tensor = need_torch().nn.functional.linear(x, matrix, bias)
    return out


def forward(
    weights: Weights,
    x: Tensor,
    positions: Tensor,
    attend: Attend,
    multiply: Multiply = linear,
    watch: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """The normed last states [tokens, width] of embedded tokens; differentiable.

    Args:
        weights: the decoder.
        x: embeddings [tokens, width], float32. The residual stream stays in float32.
        positions: [tokens], what the rotation counts.
        attend: reads and writes the cache.
        multiply: by the large matrices.
        watch: shown the residual stream [tokens, width] after each block, with the block's number.
    """
    functional = need_torch().nn.functional
    n, kind = len(x), weights.head.dtype
    width = (x.shape[1],)
    q_size = weights.heads * weights.head_size
    cos, sin = rotation(weights, positions)
    for i, layer in enumerate(weights.layers):
        h = functional.rms_norm(x, width, layer.attention_norm, weights.epsilon).to(kind)
        qkv = multiply(h, layer.qkv, layer.qkv_bias).float()
        heads = qkv.reshape(n, -1, weights.head_size)
        qk, v = heads[:, : -weights.kv_heads], heads[:, -weights.kv_heads :]
        if layer.query_norm is not None and layer.key_norm is not None:
            q, k = qk[:, : weights.heads], qk[:, weights.heads :]
            q = functional.rms_norm(q, (weights.head_size,), layer.query_norm, weights.epsilon)
            k = functional.rms_norm(k, (weights.head_size,), layer.key_norm, weights.epsilon)
            qk = need_torch().cat((q, k), 1)
        qk = rotate(qk, cos, sin)
        seen = attend(i, qk[:, : weights.heads], qk[:, weights.heads :], v)
        x = x + multiply(seen.reshape(n, q_size).to(kind), layer.output, None)
        h = functional.rms_norm(x, width, layer.feed_norm, weights.epsilon).to(kind)
        gate, up = multiply(h, layer.gate_up, None).chunk(2, dim=1)
        x = x + multiply(functional.silu(gate) * up, layer.down, None)
        if watch is not None:
            watch(i, x)
    last: Tensor = functional.rms_norm(x, width, weights.norm, weights.epsilon)
    return last


def logits(weights: Weights, states: Tensor, multiply: Multiply = linear) -> Tensor:
    """[tokens, vocabulary], float32, of normed last states."""
    return multiply(states.to(weights.head.dtype), weights.head, None).float()


def rotation(weights: Weights, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine [tokens, 1, head_size / 2] for positions, which may be negative."""
    angles = positions.float()[:, None] * weights.frequencies
    return angles.cos()[:, None], angles.sin()[:, None]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Heads [tokens, heads, size] turned by the angles of their positions."""
    first, second = x.chunk(2, dim=-1)
    turned: Tensor = need_torch().cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return turned
