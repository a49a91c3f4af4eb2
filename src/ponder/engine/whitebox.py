"""Open access to a decoder in PyTorch: states, gradients, masks, and a cache that can be cut and joined.

`Block` is the cache of a run of tokens with its keys rotated from position 0 on. A *view* is a list of blocks, each put
at its own start: the same block can stand at different places for different readers, and moving it costs a rotation,
no evaluation. What parallel and latent reasoning need (shared caches, soft tokens, several texts that see each other)
is made of these two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ponder.engine import forward as net
from ponder.engine.weights import Weights, need_torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Block:
    """Keys and values [layers, kv_heads, tokens, head_size], keys rotated at positions 0, 1, …; never changed."""

    keys: Tensor
    values: Tensor

    def __len__(self) -> int:
        """Tokens in it."""
        return int(self.keys.shape[2])

    def __getitem__(self, part: slice) -> Block:
        """A beginning `[:n]`, whose positions stay.

        Raises:
            ValueError: another part; its keys would have to be turned (`WhiteBox.moved`).
        """
        if part.start not in (None, 0) or part.step not in (None, 1):
            raise ValueError("only a beginning of a block keeps its positions: block[:n]")
        return Block(self.keys[:, :, part], self.values[:, :, part])


@dataclass(frozen=True, slots=True)
class Seen:
    """What a pass gave: normed last states [tokens, width], logits [tokens, vocabulary], and the new tokens' cache."""

    states: Tensor
    logits: Tensor
    block: Block


class WhiteBox:
    """A decoder to look into.

    Args:
        weights: the decoder; give fp32 weights where gradients matter.
    """

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self._torch = need_torch()

    def empty(self) -> Block:
        """A block of no tokens."""
        w = self.weights
        nothing = self._torch.zeros(len(w.layers), w.kv_heads, 0, w.head_size)
        return Block(nothing, nothing)

    def embed(self, tokens: Sequence[int]) -> Tensor:
        """Input embeddings [tokens, width]; soft tokens are rows of the caller's own."""
        return self.weights.embedding[self._torch.tensor(list(tokens), dtype=self._torch.long)]

    def __call__(
        self,
        x: Tensor | Sequence[int],
        view: Sequence[Block | tuple[Block, int]] = (),
        *,
        start: int | None = None,
        mask: Tensor | None = None,
    ) -> Seen:
        """Evaluate tokens, or embeddings, after what they see. Differentiable in embeddings, blocks and weights.

        Args:
            x: token numbers, or embeddings [tokens, width].
            view: blocks in order; one given as `(block, position)` stands there, another one after those before it.
            start: position of the first new token; by default after everything in the view.
            mask: added to the attention scores, [tokens, tokens seen]; by default new tokens see the whole view, and
                each other causally. The view's tokens come first.

        Raises:
            ValueError: nothing to evaluate, or a mask of another shape.
        """
        torch = self._torch
        inputs: Tensor = x if isinstance(x, torch.Tensor) else self.embed(x)  # type: ignore[arg-type]
        n = len(inputs)
        if n == 0:
            raise ValueError("no tokens to evaluate")
        placed, after = [], 0
        for item in view:
            block, at = item if isinstance(item, tuple) else (item, after)
            placed.append(self.moved(block, at))
            after = max(after, at + len(block))
        start = after if start is None else start
        seen = sum(len(b) for b in placed)
        if mask is None:
            mask = torch.full((n, seen + n), -torch.inf).triu(seen + 1)
        elif tuple(mask.shape) != (n, seen + n):
            raise ValueError(f"mask has shape {tuple(mask.shape)}, expected {(n, seen + n)}: new tokens by tokens seen")
        new_keys: list[Any] = []
        new_values: list[Any] = []

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            mine_k, mine_v = k.transpose(0, 1), v.transpose(0, 1)
            new_keys.append(mine_k)
            new_values.append(mine_v)
            keys = torch.cat([*(b.keys[layer] for b in placed), mine_k], 1)
            values = torch.cat([*(b.values[layer] for b in placed), mine_v], 1)
            group = self.weights.heads // self.weights.kv_heads
            keys, values = keys.repeat_interleave(group, 0), values.repeat_interleave(group, 0)
            scores = q.transpose(0, 1) @ keys.transpose(1, 2) * self.weights.head_size**-0.5 + mask
            read: Tensor = (scores.softmax(-1) @ values).transpose(0, 1)
            return read

        positions = torch.arange(start, start + n)
        states = net.forward(self.weights, inputs, positions, attend)
        block = self.moved(Block(torch.stack(new_keys), torch.stack(new_values)), -start)
        return Seen(states, net.logits(self.weights, states), block)

    def moved(self, block: Block, by: int) -> Block:
        """The block with its keys turned by so many positions, which may be negative; values stay."""
        if by == 0 or not len(block):
            return block
        cos, sin = net.rotation(self.weights, self._torch.tensor([by]))
        return Block(net.rotate(block.keys, cos, sin), block.values)

    def joined(self, *blocks: Block) -> Block:
        """One block of several, one after another."""
        at, keys, values = 0, [], []
        for block in blocks:
            keys.append(self.moved(block, at).keys)
            values.append(block.values)
            at += len(block)
        return Block(self._torch.cat(keys, 2), self._torch.cat(values, 2)) if blocks else self.empty()
