"""The engine's arithmetic by a Hugging Face model: whatever decoder transformers runs with a plain key-value cache.

The texts under way stay together as one batch of transformers' own cache, padded on the left, from step to step; only
when its members change is it put together anew. A text that rests, and a prefix that is forked, are kept as segments
that any number of sequences share.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ponder.engine.backend import Logits, Row
from ponder.engine.hf_experts import Routers
from ponder.engine.torch_backend import first_parts
from ponder.engine.weights import need_torch
from ponder.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

    Layers = list[tuple[Tensor, Tensor]]

_KNOWN_LAYERS = {"full_attention", "sliding_attention"}
_SHARED = 64
"""Tokens from which on a part is worth sharing; a shorter one is copied when what follows it becomes a segment."""


@dataclass(eq=False, slots=True)
class _Batch:
    """Sequences that are decoded together: transformers' cache, and how many of its last columns each row fills."""

    cache: Any
    members: list[int]
    lengths: list[int]


@dataclass(eq=False, slots=True)
class _Held:
    """A sequence: parts of segments (each layer's keys and values [heads, tokens, size]), then its row's last columns.

    Attributes:
        parts: segments, and how many tokens of each.
        batch: where it is decoded; the row holds the parts too.
        row: which row of it.
        tail: tokens that only the row holds.
    """

    parts: list[tuple[Layers, int]] = field(default_factory=list)
    batch: _Batch | None = None
    row: int = 0
    tail: int = 0

    @property
    def length(self) -> int:
        """Tokens."""
        return sum(used for _, used in self.parts) + self.tail


class HfBackend:
    """A causal language model of transformers, with a cache of shared prefixes.

    Memory: resting sequences share what they have in common; those under way each hold their own copy, padded to
    the longest.

    Args:
        model: an `AutoModelForCausalLM` with gradients and dropout off.
        cells: tokens of key-value cache.
        sequences: sequences it can hold.
        routers: where the number of experts is set; None if the model has none.

    Raises:
        ModelError: the model keeps something else than keys and values, which cannot be forked at any token.
    """

    def __init__(self, model: Any, cells: int, sequences: int, routers: Routers | None = None) -> None:
        self._torch = need_torch()
        self.cells, self.sequences = cells, sequences
        self.batch = max(512, sequences)
        config = model.config.get_text_config()
        strange = set(getattr(config, "layer_types", None) or ()) - _KNOWN_LAYERS
        if strange or getattr(model, "_is_stateful", False) or config.is_encoder_decoder:
            what = ", ".join(sorted(strange)) or "a state that is no key-value cache"
            raise ModelError(f"{type(model).__name__} has {what}, which cannot be forked at any token")
        self.model = model
        self._routers = routers
        taken = inspect.signature(model.forward).parameters
        self._takes_positions, self._takes_keep = "position_ids" in taken, "logits_to_keep" in taken
        self._held = [_Held() for _ in range(sequences)]
        self._running: dict[int | None, _Batch] = {}

    # ------------------------------------------------------------------ the contract

    def evaluate(self, rows: Sequence[Row]) -> Logits:
        """See `Backend`. Rows of as many tokens (and experts) are one batch, without padding between tokens."""
        groups: dict[tuple[int | None, int], list[int]] = {}
        for i, row in enumerate(rows):
            groups.setdefault((row.experts, len(row.tokens)), []).append(i)
        found: dict[int, Logits] = {}
        try:
            with self._torch.inference_mode():
                for (experts, _), places in groups.items():
                    some = [rows[i] for i in places]
                    found.update(zip(places, self._append(some, experts), strict=True))
        except (RuntimeError, ValueError, IndexError) as error:
            self._running.clear()
            raise ModelError(f"transformers could not evaluate {len(rows)} sequences: {error}") from error
        return np.concatenate([found[i] for i in range(len(rows))])

    def fork(self, source: int, target: int, length: int) -> None:
        """See `Backend`: the parts are shared."""
        old = self._held[source]
        if length > old.length - old.tail:
            self._freeze(old)
        self._held[target].parts = first_parts(old.parts, length)

    def truncate(self, sequence: int, length: int) -> None:
        """See `Backend`: it leaves its batch."""
        self.rest(sequence)
        held = self._held[sequence]
        held.parts = first_parts(held.parts, length)

    def rest(self, sequence: int) -> None:
        """See `Backend`: it leaves its batch."""
        self._freeze(self._held[sequence])
        self._leave(self._held[sequence])

    def free(self, sequence: int) -> None:
        """See `Backend`."""
        self._leave(self._held[sequence])
        self._held[sequence] = _Held()

    def close(self) -> None:
        """See `Backend`."""
        self._held, self._running = [], {}

    # ------------------------------------------------------------------ one batch

    def _append(self, rows: Sequence[Row], experts: int | None) -> list[Logits]:
        """Append as many tokens to each; who gets one stays in the batch for the next."""
        members = [row.sequence for row in rows]
        n = len(rows[0].tokens)
        batch = self._running.get(experts) if n == 1 else None
        if batch is None or batch.members != members or any(self._held[s].batch is not batch for s in members):
            batch = self._gathered(members)
            for place, sequence in enumerate(members):
                held = self._held[sequence]
                held.batch, held.row = batch, place
        logits = self._forward(batch, rows, experts)
        for sequence in members:
            self._held[sequence].tail += n
            if n > 1:
                self.rest(sequence)
        if n == 1:
            self._running[experts] = batch
        return logits

    def _forward(self, batch: _Batch, rows: Sequence[Row], experts: int | None) -> list[Logits]:
        torch, device = self._torch, self.model.device
        n = len(rows[0].tokens)
        lengths = torch.tensor(batch.lengths, device=device)[:, None]
        columns = max(batch.lengths)
        mask = torch.arange(columns + n, device=device)[None] >= columns - lengths
        asked: dict[str, Any] = {"attention_mask": mask.long(), "past_key_values": batch.cache, "use_cache": True}
        if self._takes_positions:
            asked["position_ids"] = lengths + torch.arange(n, device=device)[None]
        most = max(1, max(row.wanted for row in rows))
        if self._takes_keep:
            asked["logits_to_keep"] = most
        tokens = torch.tensor([list(row.tokens) for row in rows], device=device)
        if self._routers is None:
            out = self.model(tokens, **asked)
        else:
            with self._routers.at(experts):
                out = self.model(tokens, **asked)
        batch.lengths = [length + n for length in batch.lengths]
        logits = out.logits[:, -most:].float().cpu().numpy()
        return [logits[i, most - row.wanted :] for i, row in enumerate(rows)]

    # ------------------------------------------------------------------ where keys and values are

    def _gathered(self, members: Sequence[int]) -> _Batch:
        """A batch of these sequences, each at the right of its row."""
        from transformers import DynamicCache

        held = [self._held[s] for s in members]
        lengths = [h.length for h in held]
        columns = max(lengths)
        cache = DynamicCache()
        before = held[0].batch
        if before is not None and all(h.batch is before for h in held):
            rows = self._torch.tensor([h.row for h in held], device=self.model.device)
            for i, layer in enumerate(before.cache.layers):
                k, v = (x[:, :, x.shape[2] - columns :].index_select(0, rows) for x in (layer.keys, layer.values))
                cache.update(k, v, i)
        elif columns:
            for h in held:
                self._freeze(h)
            for i, (keys, values) in enumerate(next(h.parts[0][0] for h in held if h.parts)):
                k, v = (x.new_zeros(len(held), x.shape[0], columns, x.shape[2]) for x in (keys, values))
                for place, h in enumerate(held):
                    at = columns - lengths[place]
                    for layers, used in h.parts:
                        k[place, :, at : at + used] = layers[i][0][:, :used]
                        v[place, :, at : at + used] = layers[i][1][:, :used]
                        at += used
                cache.update(k, v, i)
        return _Batch(cache, list(members), lengths)

    def _freeze(self, held: _Held) -> None:
        """Make what only its row holds a segment, with the short ones before it, which the row holds too."""
        if held.tail:
            batch, n, parts = held.batch, held.tail, list(held.parts)
            assert batch is not None
            while parts and parts[-1][1] < _SHARED:
                n += parts.pop()[1]
            end = [(x.keys[held.row, :, -n:].clone(), x.values[held.row, :, -n:].clone()) for x in batch.cache.layers]
            held.parts, held.tail = [*parts, (end, n)], 0

    def _leave(self, held: _Held) -> None:
        """Its row counts no more; a batch without any is given back."""
        held.batch = None
        self._running = {k: b for k, b in self._running.items() if any(h.batch is b for h in self._held)}
