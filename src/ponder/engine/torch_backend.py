"""The engine's arithmetic by PyTorch: full-precision products, best for many sequences.

A sequence is a list of segments, which other sequences may share, and a tail of its own. In one step all live
sequences' tails are one batched product, and each shared segment is one product with the queries of everybody who
reads it, so a prompt of a hundred samples is read once, not a hundred times. What the parts give is merged by their
log-sum-exps, which is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ponder.engine import forward as net
from ponder.engine.backend import Logits, Row
from ponder.engine.weights import Weights, need_torch

if TYPE_CHECKING:
    from torch import Tensor

_ROOMS = (64, 256, 1024)
"""Tokens that a tail has room for; it moves to the next larger room when it is full."""
_SHARED = 128
"""Tokens from which on a part is worth sharing; a fork copies a shorter end."""
_LONGEST_TAIL = 512
"""A longer tail becomes a segment."""


_FEW = 8
"""Rows of no more tokens are read together with those of one, as long as they are padded to."""

_P = TypeVar("_P")


@dataclass(eq=False, slots=True)
class _Segment:
    """Keys and values [layers, kv_heads, tokens, head_size] of tokens that follow each other, as products take them."""

    keys: Tensor
    values: Tensor


@dataclass(eq=False, slots=True)
class _Sequence:
    """Parts of segments, and a tail in a room."""

    parts: list[tuple[_Segment, int]] = field(default_factory=list)
    room: int | None = None
    slot: int = 0
    tail: int = 0

    @property
    def base(self) -> int:
        """Tokens before the tail."""
        return sum(used for _, used in self.parts)


class _Rooms:
    """Tails of one size: keys and values [layers, slots, kv_heads, size, head_size]."""

    def __init__(self, weights: Weights, size: int) -> None:
        self.size = size
        self._shape = (weights.kv_heads, size, weights.head_size)
        self._layers = len(weights.layers)
        self._unused: list[int] = []
        self.keys = self.values = self._empty(0)

    def take(self) -> int:
        """The lowest free slot, so that those in use lie together."""
        if not self._unused:
            n = self.keys.shape[1]
            more = max(4, n)
            cat = need_torch().cat
            self.keys = cat((self.keys, self._empty(more)), 1)
            self.values = cat((self.values, self._empty(more)), 1)
            self._unused = list(range(n, n + more))
        slot = min(self._unused)
        self._unused.remove(slot)
        return slot

    def give_back(self, slot: int) -> None:
        """The slot is free."""
        self._unused.append(slot)

    def _empty(self, slots: int) -> Any:
        return need_torch().zeros(self._layers, slots, *self._shape)


class TorchBackend:
    """A decoder in PyTorch with a cache of shared prefixes.

    Args:
        weights: the decoder.
        cells: tokens of key-value cache.
        sequences: sequences it can hold.
        threads: processor threads.
    """

    def __init__(self, weights: Weights, cells: int, sequences: int, threads: int) -> None:
        self._torch = need_torch()
        if self._torch.get_num_threads() != threads:
            self._torch.set_num_threads(threads)
        self.weights, self._multiply = packed(weights)
        self.cells, self.sequences = cells, sequences
        self.batch = max(512, sequences)
        self._rooms = [_Rooms(weights, size) for size in _ROOMS]
        self._held = [_Sequence() for _ in range(sequences)]
        self._scale = weights.head_size**-0.5
        self._flash = self._torch.ops.aten._scaled_dot_product_flash_attention_for_cpu

    def evaluate(self, rows: Sequence[Row]) -> Logits:
        """See `Backend`."""
        torch = self._torch
        with torch.inference_mode():
            tokens = [t for row in rows for t in row.tokens]
            positions = [p for row in rows for p in range(row.start, row.start + len(row.tokens))]
            plan = self._plan(rows)
            x = self.weights.embedding[torch.tensor(tokens)]
            states = net.forward(self.weights, x, torch.tensor(positions), plan.attend, self._multiply)
            ends = np.cumsum([len(row.tokens) for row in rows])
            wanted = [i for end, row in zip(ends, rows, strict=True) for i in range(end - row.wanted, end)]
            out = net.logits(self.weights, states if len(wanted) == len(tokens) else states[wanted], self._multiply)
            for row in rows:
                held = self._held[row.sequence]
                held.tail += len(row.tokens)
                if held.tail >= _LONGEST_TAIL:
                    self._freeze(held)
        found: Logits = out.numpy()
        return found

    def fork(self, source: int, target: int, length: int) -> None:
        """See `Backend`. A short end is copied, the rest shared."""
        old, new = self._held[source], self._held[target]
        with self._torch.inference_mode():
            own = length - old.base
            if own >= _SHARED:
                self._freeze(old)
            parts = first_parts(old.parts, length)
            left = length - sum(used for _, used in parts)
            copied = [] if not left else [self._tail(old, left)]
            short = left
            while parts and short + parts[-1][1] < _SHARED:
                segment, used = parts.pop()
                copied.insert(0, (segment.keys[:, :, :used], segment.values[:, :, :used]))
                short += used
            new.parts = parts
            if copied:
                self._make_room(new, short)
                keys, values = self._tail(new, short)
                keys.copy_(self._torch.cat([k for k, _ in copied], 2))
                values.copy_(self._torch.cat([v for _, v in copied], 2))
                new.tail = short

    def truncate(self, sequence: int, length: int) -> None:
        """See `Backend`: the tail ends earlier, and gives its room back if nothing is left of it."""
        held = self._held[sequence]
        held.tail = max(length - held.base, 0)
        if not held.tail:
            self._leave(held)
            held.parts = first_parts(held.parts, length)

    def rest(self, sequence: int) -> None:
        """See `Backend`: the tail gives its room back."""
        with self._torch.inference_mode():
            self._freeze(self._held[sequence])

    def free(self, sequence: int) -> None:
        """See `Backend`."""
        self._leave(self._held[sequence])
        self._held[sequence] = _Sequence()

    def close(self) -> None:
        """See `Backend`."""
        self._held, self._rooms = [], []

    # ------------------------------------------------------------------ where keys and values are

    def _tail(self, held: _Sequence, length: int) -> tuple[Tensor, Tensor]:
        """Views [layers, kv_heads, length, head_size] of a tail's beginning."""
        assert held.room is not None
        room = self._rooms[held.room]
        return room.keys[:, held.slot, :, :length], room.values[:, held.slot, :, :length]

    def _freeze(self, held: _Sequence) -> None:
        """Make the tail a segment."""
        if held.tail:
            keys, values = self._tail(held, held.tail)
            kind = self.weights.head.dtype
            held.parts = [*held.parts, (_Segment(keys.to(kind, copy=True), values.to(kind, copy=True)), held.tail)]
        self._leave(held)

    def _leave(self, held: _Sequence) -> None:
        if held.room is not None:
            self._rooms[held.room].give_back(held.slot)
        held.room, held.tail = None, 0

    def _make_room(self, held: _Sequence, length: int) -> None:
        """See that the tail has room for so many tokens."""
        if held.room is not None and _ROOMS[held.room] >= length:
            return
        wider = next(i for i, size in enumerate(_ROOMS) if size >= length)
        before = self._tail(held, held.tail) if held.tail else None
        slot = self._rooms[wider].take()
        if before is not None:
            room = self._rooms[wider]
            room.keys[:, slot, :, : held.tail] = before[0]
            room.values[:, slot, :, : held.tail] = before[1]
        if held.room is not None:
            self._rooms[held.room].give_back(held.slot)
        held.room, held.slot = wider, slot

    # ------------------------------------------------------------------ attention

    def read_shared(self, q: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """What queries [kv_heads, queries, size] read of a segment, and their log-sum-exps [kv_heads, queries]."""
        read, top = self._flash(q.to(keys.dtype)[None], keys[None], values[None], scale=self._scale)
        return read[0].float(), top[0]

    def _plan(self, rows: Sequence[Row]) -> _Plan:
        few: dict[tuple[int, bool], list[tuple[int, int, _Sequence]]] = {}
        blocks: list[tuple[int, int, _Sequence]] = []
        shared: dict[tuple[int, int], tuple[_Segment, list[int]]] = {}
        at = 0
        for row in rows:
            held, n = self._held[row.sequence], len(row.tokens)
            self._make_room(held, held.tail + n)
            assert held.room is not None
            if n <= _FEW:
                few.setdefault((held.room, n > 1), []).append((at, n, held))
                for segment, used in held.parts:
                    shared.setdefault((id(segment), used), (segment, []))[1].extend(range(at, at + n))
            else:
                blocks.append((at, n, held))
            at += n
        torch = self._torch
        tails = [_Tails(torch, self._rooms[room], at, some) for (room, _), some in few.items()]
        readers = [
            _Readers(segment, used, len(who), _places(torch, who, at)) for (_, used), (segment, who) in shared.items()
        ]
        return _Plan(self, at, tails, readers, blocks)


def first_parts(parts: Sequence[tuple[_P, int]], length: int) -> list[tuple[_P, int]]:
    """The first `length` tokens of segments of which so many tokens are used, or all if they have no more."""
    out, left = [], length
    for segment, used in parts:
        if left > 0:
            out.append((segment, min(used, left)))
        left -= used
    return out


def packed(weights: Weights) -> tuple[Weights, net.Multiply]:
    """The same decoder with its matrices in the order that the processor's products read them, and their product.

    Packed once instead of in every call: measured 2.6 times as fast at 4 tokens, 1.2 times at 64. A torch that
    was built without oneDNN keeps the plain matrices.
    """
    torch = need_torch()
    try:
        pack, product = torch.ops.mkldnn._reorder_linear_weight, torch.ops.mkldnn._linear_pointwise
        first = pack(weights.layers[0].output)
        product(torch.zeros(1, weights.layers[0].output.shape[1], dtype=first.dtype), first, None, "none", [], "")
    except (AttributeError, RuntimeError):  # no such operation, or none for this kind of number
        return weights, net.linear

    def multiply(x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
        out: Tensor = product(x, matrix, bias, "none", [], "")
        return out

    with torch.inference_mode():
        layers = tuple(
            replace(x, qkv=pack(x.qkv), output=pack(x.output), gate_up=pack(x.gate_up), down=pack(x.down))
            for x in weights.layers
        )
        return replace(weights, layers=layers, head=pack(weights.head)), multiply


def _places(torch: Any, places: list[int], n: int) -> Any:
    """An index of these places of n; a slice, which copies nothing, if they are all of them in order."""
    return slice(None) if places == list(range(n)) else torch.tensor(places)


class _Tails:
    """Tails in rooms of one size that get a few tokens each: where they are and how long.

    Args:
        torch: the module.
        rooms: theirs.
        batch: tokens in the batch.
        members: place in the batch, number of tokens, sequence.

    Attributes:
        width: tokens that each is padded to.
        rows: the tokens' places in the batch.
        where: the same tokens' places in the padded block [slots * width].
        mask: [slots, 1, width, 1, longest], -inf where a token may not look.
    """

    def __init__(self, torch: Any, rooms: _Rooms, batch: int, members: Sequence[tuple[int, int, _Sequence]]) -> None:
        self.rooms = rooms
        slots = [held.slot for _, _, held in members]
        self.width = max(n for _, n, _ in members)
        self.longest = max(held.tail + n for _, n, held in members)
        high = max(slots) + 1
        self.high = high if high <= 2 * len(slots) else None
        self.chosen = torch.tensor(slots)
        count = high if self.high is not None else len(slots)
        lines = slots if self.high is not None else list(range(count))
        each = [(i, step) for i, (_, n, _) in enumerate(members) for step in range(n)]
        self.rows = _places(torch, [members[i][0] + step for i, step in each], batch)
        self.where = _places(torch, [lines[i] * self.width + step for i, step in each], count * self.width)
        self.slots = torch.tensor([slots[i] for i, _ in each])
        self.places = torch.tensor([members[i][2].tail + step for i, step in each])
        ends = torch.zeros(count, dtype=torch.long)
        ends[torch.tensor(lines)] = torch.tensor([held.tail for _, _, held in members])
        last = ends[:, None] + torch.arange(self.width)[None]
        beyond = torch.arange(self.longest) > last[..., None]
        self.mask = torch.zeros(beyond.shape).masked_fill_(beyond, float("-inf"))[:, None, :, None]

    def cache(self, kept: Tensor) -> Tensor:
        """One layer's [slots, kv_heads, longest, head_size], from [slots, kv_heads, room, head_size]."""
        chosen = kept[: self.high] if self.high is not None else kept[self.chosen]
        return chosen[:, :, : self.longest]


@dataclass(frozen=True, slots=True)
class _Readers:
    """A segment's first tokens, and the rows that read them."""

    segment: _Segment
    used: int
    count: int
    rows: Tensor | slice


class _Plan:
    """Who attends to what in one batch.

    Args:
        backend: whose cache it is.
        n: tokens in the batch.
        tails: rows of few tokens, by the size of their rooms.
        readers: the segments that these rows read.
        blocks: rows of many tokens: place in the batch, number of tokens, sequence.
    """

    def __init__(
        self, backend: TorchBackend, n: int, tails: Sequence[_Tails], readers: Sequence[_Readers],
        blocks: Sequence[tuple[int, int, _Sequence]],
    ) -> None:  # fmt: skip
        self._backend, self._n = backend, n
        self._tails, self._readers, self._blocks = tails, readers, blocks
        w = backend.weights
        self._shape = (w.kv_heads, w.heads // w.kv_heads, w.head_size)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Put the new keys and values into the cache, and read it."""
        out: Tensor = self._backend._torch.empty_like(q)
        q = q.reshape(self._n, *self._shape)
        if self._tails:
            self._read_few(layer, q, k, v, out.view(self._n, *self._shape))
        for at, n, held in self._blocks:
            out[at : at + n] = self._read_block(layer, held, q[at : at + n], k[at : at + n], v[at : at + n])
        return out

    def _read_few(self, layer: int, q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> None:
        torch, scale = self._backend._torch, self._backend._scale
        kv_heads, group, size = self._shape
        weight = out.new_empty((self._n, kv_heads, group, 1))  # log-sum-exps of what was read so far
        for tails in self._tails:
            keys, values = tails.rooms.keys[layer], tails.rooms.values[layer]
            keys[tails.slots, :, tails.places] = k[tails.rows]
            values[tails.slots, :, tails.places] = v[tails.rows]
            keys, values = tails.cache(keys), tails.cache(values)
            count, width = len(keys), tails.width
            asked = q.new_zeros((count * width, kv_heads, group, size))
            asked[tails.where] = q[tails.rows] * scale
            asked = asked.view(count, width, kv_heads, group, size).transpose(1, 2)
            scores = torch.matmul(asked.reshape(count, kv_heads, width * group, size), keys.transpose(2, 3))
            scores.view(count, kv_heads, width, group, -1).add_(tails.mask)
            top = scores.amax(-1, keepdim=True)
            weights = torch.exp(scores.sub_(top))
            total = weights.sum(-1, keepdim=True)
            read = torch.matmul(weights, values).div_(total)
            for target, found in ((out, read), (weight, total.log_().add_(top))):
                by_token = found.view(count, kv_heads, width, group, -1).transpose(1, 2)
                target[tails.rows] = by_token.reshape(count * width, kv_heads, group, -1)[tails.where]
        for readers in self._readers:
            n, rows = readers.count, readers.rows
            read, also = self._backend.read_shared(
                q[rows].transpose(0, 1).reshape(kv_heads, n * group, size),
                readers.segment.keys[layer][:, : readers.used],
                readers.segment.values[layer][:, : readers.used],
            )
            also = also.reshape(kv_heads, n, group, 1).transpose(0, 1)
            read = read.reshape(kv_heads, n, group, size).transpose(0, 1)
            out[rows] = torch.lerp(out[rows], read, torch.sigmoid(also - weight[rows]))
            weight[rows] = torch.logaddexp(weight[rows], also)

    def _read_block(self, layer: int, held: _Sequence, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Several new tokens of one sequence: everything before them, and each other causally."""
        torch = self._backend._torch
        kv_heads, group, size = self._shape
        n, end = len(q), held.tail + len(q)
        assert held.room is not None
        room = self._backend._rooms[held.room]
        room.keys[layer, held.slot, :, held.tail : end] = k.transpose(0, 1)
        room.values[layer, held.slot, :, held.tail : end] = v.transpose(0, 1)
        keys = [s.keys[layer][:, :used] for s, used in held.parts] + [room.keys[layer, held.slot, :, :end]]
        values = [s.values[layer][:, :used] for s, used in held.parts] + [room.values[layer, held.slot, :, :end]]
        all_keys, all_values = (t[0] if len(t) == 1 else torch.cat(t, 1) for t in (keys, values))
        before = all_keys.shape[1] - n
        mask = torch.ones(n, before + n, dtype=torch.bool).tril_(before)
        read: Tensor = torch.nn.functional.scaled_dot_product_attention(
            q.permute(1, 2, 0, 3).reshape(1, kv_heads * group, n, size),
            all_keys[None],
            all_values[None],
            attn_mask=mask,
            enable_gqa=True,
        )
        return read[0].transpose(0, 1)
