"""Hidden states of many token sequences, each distinct beginning evaluated once.

Sequences are put into a trie; what is new of them is evaluated in batches in which every token attends to its own
ancestors only (tree attention). Keys and values stay until the trie is full, states as long as somebody holds a place.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ponder.engine import forward as net
from ponder.engine.weights import Weights, need_torch
from ponder.errors import ContextLengthError, ParameterError

if TYPE_CHECKING:
    from torch import Tensor

Ints = npt.NDArray[np.int64]

LAST = -1
"""The layer that stands for the decoder's own last state, normed."""


@dataclass(frozen=True, slots=True)
class Place:
    """The end of a sequence in the trie.

    Attributes:
        path: nodes from the first token to the last.
    """

    content: _Content
    path: Ints


class TokenTrie:
    """A decoder that reads sequences of tokens; safe to use from several threads.

    Args:
        weights: the decoder, in fp32.
        layers: which states make a feature vector, one after another: `-1` is the normed last state (what the logits
            are computed from), `i` ≥ 0 the residual stream after block `i`.
        cells: tokens whose keys and values are kept; when they are full, all are dropped.
        batch: tokens evaluated together.

    Attributes:
        evaluated: tokens the model has computed.
        width: numbers in a feature vector.
    """

    def __init__(self, weights: Weights, layers: Sequence[int] = (LAST,), cells: int = 4096, batch: int = 256) -> None:
        top = len(weights.layers) - 1
        if not layers or any(not LAST <= i <= top for i in layers):
            raise ParameterError("layers", "layers", tuple(layers), allowed=f"one or more of -1 (last) and 0 to {top}")
        self._torch = need_torch()
        self.weights, self.layers, self.cells, self.batch = weights, tuple(layers), cells, batch
        self.width = len(self.layers) * int(weights.norm.shape[0])
        self.evaluated = 0
        self._content = _Content(self)
        self._lock = threading.RLock()

    def cached(self, tokens: Sequence[int]) -> int:
        """How many of the first tokens need no evaluation."""
        with self._lock:
            known = self._content.match(tokens)
            return 0 if self._overflows(len(tokens) - len(known)) else len(known)

    def place(self, tokens: Sequence[int]) -> Place:
        """Put a sequence into the trie; it is evaluated when states are asked for.

        Raises:
            ContextLengthError: it has more tokens than there are cells.
            ParameterError: it has none.
        """
        if not tokens:
            raise ParameterError("token_trie", "tokens", (), allowed="one token or more")
        if len(tokens) > self.cells:
            raise ContextLengthError(f"a text of {len(tokens)} tokens does not fit {self.cells} cells; shorten it")
        with self._lock:
            if self._overflows(len(tokens) - len(self._content.match(tokens))):
                self._content.evaluate()  # what is placed there already keeps its states
                self._content.forget()
                self._content = _Content(self)
            return Place(self._content, self._content.add(tokens))

    def states(self, places: Sequence[Place]) -> Tensor:
        """Features of the last tokens of places, [places, width]."""
        with self._lock:
            for content in {id(p.content): p.content for p in places}.values():
                content.evaluate()
            if not places:
                empty: Tensor = self._torch.zeros(0, self.width)
                return empty
            out: Tensor = self._torch.stack([p.content.states[int(p.path[-1])] for p in places])
            return out

    def path_states(self, place: Place) -> Tensor:
        """Features of all tokens of a place, [tokens, width]."""
        with self._lock:
            place.content.evaluate()
            out: Tensor = place.content.states[self._torch.from_numpy(place.path)]
            return out

    def _overflows(self, more: int) -> bool:
        return len(self._content.tokens) + more > self.cells


class _Content:
    """Nodes, by number in the order they came; the first `done` are evaluated."""

    def __init__(self, trie: TokenTrie) -> None:
        torch, w = need_torch(), trie.weights
        self._trie, self._torch = trie, torch
        self.tokens: list[int] = []
        self.paths: list[Ints] = []
        self.children: list[dict[int, int]] = [{}]  # by node + 1; the first are those of the root
        self.done = 0
        self.states = torch.zeros(0, trie.width)
        self._keys = self._values = torch.zeros(len(w.layers), w.kv_heads, 0, w.head_size)

    def match(self, tokens: Sequence[int]) -> list[int]:
        """The nodes of the longest known beginning."""
        found: list[int] = []
        node = -1
        for token in tokens:
            child = self.children[node + 1].get(token)
            if child is None:
                break
            found.append(child)
            node = child
        return found

    def add(self, tokens: Sequence[int]) -> Ints:
        """The nodes of a sequence, made where they are missing."""
        known = self.match(tokens)
        if len(known) == len(tokens):
            return self.paths[known[-1]]
        first = len(self.tokens)
        whole = np.array([*known, *range(first, first + len(tokens) - len(known))], dtype=np.int64)
        for depth in range(len(known), len(tokens)):
            self.children[int(whole[depth - 1]) + 1 if depth else 0][tokens[depth]] = int(whole[depth])
            self.children.append({})
            self.tokens.append(tokens[depth])
            self.paths.append(whole[: depth + 1])
        return whole

    def forget(self) -> None:
        """Drop keys and values; states stay."""
        self._keys, self._values = self._keys[:, :, :0], self._values[:, :, :0]

    def evaluate(self) -> None:
        """Evaluate what is new, in batches of consecutive nodes (a node comes after its parent)."""
        total = len(self.tokens)
        if self.done == total:
            return
        with self._torch.inference_mode():
            self._make_room(total)
            while self.done < total:
                self._step(self.done, min(self.done + self._trie.batch, total))

    def _make_room(self, total: int) -> None:
        if self._keys.shape[2] >= total:
            return
        more = max(2 * self._keys.shape[2], total, 256)
        torch, shape = self._torch, self._keys.shape
        keys, values = (torch.zeros(shape[0], shape[1], more, shape[3]) for _ in range(2))
        keys[:, :, : self.done], values[:, :, : self.done] = (
            self._keys[:, :, : self.done],
            self._values[:, :, : self.done],
        )
        states = torch.zeros(more, self._trie.width)
        states[: self.done] = self.states[: self.done]
        self._keys, self._values, self.states = keys, values, states

    def _step(self, start: int, end: int) -> None:
        torch, w, layers = self._torch, self._trie.weights, self._trie.layers
        n = end - start
        paths = self.paths[start:end]
        before = np.unique(np.concatenate(paths))
        before = before[before < start]
        allowed = np.zeros((n, len(before) + n), dtype=bool)
        for row, path in enumerate(paths):
            cut = int(np.searchsorted(path, start))
            allowed[row, np.searchsorted(before, path[:cut])] = True
            allowed[row, len(before) + path[cut:] - start] = True
        mask, seen = torch.from_numpy(allowed), torch.from_numpy(before)
        kept: dict[int, Tensor] = {}

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            mine_k, mine_v = k.transpose(0, 1), v.transpose(0, 1)
            self._keys[layer, :, start:end], self._values[layer, :, start:end] = mine_k, mine_v
            keys = torch.cat([self._keys[layer][:, seen], mine_k], 1)
            values = torch.cat([self._values[layer][:, seen], mine_v], 1)
            read: Any = torch.nn.functional.scaled_dot_product_attention(
                q.transpose(0, 1)[None], keys[None], values[None], attn_mask=mask, enable_gqa=True
            )
            out: Tensor = read[0].transpose(0, 1)
            return out

        def watch(layer: int, x: Tensor) -> None:
            if layer in layers:
                kept[layer] = x

        x = w.embedding[torch.tensor(self.tokens[start:end])]
        positions = torch.tensor([len(path) - 1 for path in paths])
        kept[LAST] = net.forward(w, x, positions, attend, watch=watch)
        self.states[start:end] = torch.cat([kept[layer] for layer in layers], 1)
        self.done = end
        self._trie.evaluated += n
