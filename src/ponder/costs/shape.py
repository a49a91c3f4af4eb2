"""How large a decoder is, as far as costs go: parameters, layers, heads, windows, experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ponder.errors import ParameterError, UnknownNameError


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A decoder's size.

    Args:
        params_active: parameters that one token passes, embeddings included, unused experts not.
        layers: with attention.
        q_heads: query heads of a layer.
        kv_heads: key-value heads of a layer; divides `q_heads`.
        head_dim: width of a head.
        params_total: all parameters; 0 is as many as `params_active`.
        kv_bytes_per_element: of the key-value cache.
        weight_bytes_per_param: of the weights.
        experts: routed experts of a layer; None for a dense model. Shared ones are always on and not counted.
        experts_per_token: how many of them a token passes.
        window: tokens that a layer with a sliding window attends to, the newest included.
        windowed_layers: how many layers have it.
        name: for tables.
        notes: what had to be guessed.

    Attributes:
        token_flops: operations of attending to one more token in all layers.
        token_bytes: of the keys and values of one token in all layers.

    Raises:
        ParameterError: a size that no decoder has.
    """

    params_active: int
    layers: int
    q_heads: int
    kv_heads: int
    head_dim: int
    params_total: int = 0
    kv_bytes_per_element: float = 2
    weight_bytes_per_param: float = 2
    experts: int | None = None
    experts_per_token: int | None = None
    window: int | None = None
    windowed_layers: int = 0
    name: str = ""
    notes: tuple[str, ...] = ()
    token_flops: float = field(init=False, repr=False, compare=False)
    token_bytes: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.params_total == 0:
            object.__setattr__(self, "params_total", self.params_active)
        for name in ("params_active", "layers", "q_heads", "kv_heads", "head_dim", "kv_bytes_per_element",
                  "weight_bytes_per_param"):  # fmt: skip
            if not getattr(self, name) > 0:
                raise ParameterError("model shape", name, getattr(self, name), allowed="above 0")
        dense = self.experts is None and self.experts_per_token is None
        checks = [
            (self.q_heads % self.kv_heads == 0, "q_heads", self.q_heads, f"a multiple of kv_heads={self.kv_heads}"),
            (self.params_total >= self.params_active, "params_total", self.params_total,
             f"at least params_active={self.params_active}"),
            (dense or 1 <= (self.experts_per_token or 0) <= (self.experts or 0), "experts_per_token",
             self.experts_per_token, f"from 1 to experts={self.experts}"),
            (0 <= self.windowed_layers <= self.layers, "windowed_layers", self.windowed_layers,
             f"from 0 to layers={self.layers}"),
            (self.windowed_layers == 0 or (self.window or 0) >= 1, "window", self.window, "an integer ≥ 1"),
        ]  # fmt: skip
        for good, parameter, value, allowed in checks:
            if not good:
                raise ParameterError("model shape", parameter, value, allowed=allowed)
        object.__setattr__(self, "token_flops", self.attention_flops(self.layers))
        object.__setattr__(self, "token_bytes", self.kv_bytes(self.layers))

    @classmethod
    def read(cls, text: str) -> ModelShape:
        """Read a name, a file or numbers, with changes after commas.

        Args:
            text: `qwen3-8b`, a path to a `config.json` (or its directory) or a `.gguf` file, or
                `params_active=8.2e9,layers=36,q_heads=32,kv_heads=8,head_dim=128`; `qwen3-8b,kv_bytes_per_element=1`
                changes what was read.

        Raises:
            UnknownNameError: no published shape of that name, and no such file.
            ParameterError: a number that cannot be read, or a size that no decoder has.
        """
        from ponder.costs.published import SHAPES
        from ponder.costs.readers import shape_of_file

        first, *rest = (part.strip() for part in text.split(","))
        numbers = _numbers([first, *rest] if "=" in first else rest)
        if "=" in first:
            missing = [n for n in ("params_active", "layers", "q_heads", "kv_heads", "head_dim") if n not in numbers]
            if missing:
                raise ParameterError("model shape", missing[0], None, allowed="a number ≥ 1", hint=f"in {text!r}")
            return cls(**numbers)
        found = SHAPES[first] if first in SHAPES else shape_of_file(first)
        if found is None:
            raise UnknownNameError("model shape", first, SHAPES)
        return replace(found, **numbers) if numbers else found

    def at(self, experts: int | None) -> ModelShape:
        """The size with so many experts for each token; None is the model's own number, as for a dense model."""
        k = self.experts_per_token
        if experts is None or self.experts is None or k is None or experts == k or self.experts == k:
            return self
        one = (self.params_total - self.params_active) / (self.experts - k)
        active = self.params_active + round((experts - k) * one)
        return replace(self, params_active=active, experts_per_token=experts)

    @property
    def q_width(self) -> int:
        """Query heads times their width, over all layers."""
        return self.q_heads * self.head_dim * self.layers

    @property
    def kv_width(self) -> int:
        """Key-value heads times their width, over all layers."""
        return self.kv_heads * self.head_dim * self.layers

    def over_layers(self, full: float, windowed: float) -> float:
        """Attended tokens summed over layers, from those of one layer without and of one with a window."""
        return (self.layers - self.windowed_layers) * full + self.windowed_layers * windowed

    def attended(self, start: int, n: int, limit: int | None = None) -> float:
        """Tokens that `n` new tokens after `start` earlier ones attend to, themselves included, over all layers.

        Args:
            start: tokens already there.
            n: new ones.
            limit: most that any layer attends to (sparse attention); None is no limit.
        """
        if limit is None and not self.windowed_layers:
            return self.layers * (n * start + n * (n + 1) // 2)
        full = capped_sum(start + n, limit) - capped_sum(start, limit)
        if not self.windowed_layers:
            return self.layers * full
        window = min(w for w in (self.window, limit) if w is not None)
        return self.over_layers(full, capped_sum(start + n, window) - capped_sum(start, window))

    def attention_flops(self, attended: float) -> float:
        """Of attending to so many tokens (over layers): a product with the key and one with the value."""
        return 4.0 * self.q_heads * self.head_dim * attended

    def kv_bytes(self, attended: float) -> float:
        """Of the keys and values of so many tokens (over layers)."""
        return 2.0 * self.kv_bytes_per_element * self.kv_heads * self.head_dim * attended

    def distinct_experts(self, tokens: float) -> float:
        """Expected experts of a layer that a forward pass over so many tokens touches: E·(1 − (1 − k/E)^B).

        Routing is taken as uniform and independent; 0 for a dense model.
        """
        if self.experts is None or self.experts_per_token is None:
            return 0.0
        missed: float = (1 - self.experts_per_token / self.experts) ** tokens
        return self.experts * (1 - missed)

    def weight_bytes(self, tokens: float = 1, distinct_experts: float | None = None) -> float:
        """Weights that one forward pass reads.

        Args:
            tokens: that go through together.
            distinct_experts: experts of a layer that they touch, where a trace says so; None: the expected number.
        """
        read = float(self.params_active)
        if self.experts is not None and self.experts_per_token is not None and self.experts > self.experts_per_token:
            expert = (self.params_total - self.params_active) / (self.experts - self.experts_per_token)
            touched = self.distinct_experts(tokens) if distinct_experts is None else distinct_experts
            read += (touched - self.experts_per_token) * expert
        return read * self.weight_bytes_per_param

    def crossover_tokens(self, intensity: float = 0.0) -> float:
        """Context length at which attending costs a token as much as its parameters do.

        Args:
            intensity: FLOPs that a byte read costs; 0 counts operations only.
        """
        return 2.0 * self.params_active / (self.token_flops + intensity * self.token_bytes)


def capped_sum(n: int, cap: int | None) -> int:
    """Σ min(c, cap) for c = 1 … n; no cap if None.

    >>> capped_sum(5, 3), sum(min(c, 3) for c in range(1, 6)), capped_sum(5, None)
    (12, 12, 15)
    """
    if cap is None or n <= cap:
        return n * (n + 1) // 2
    return cap * (cap + 1) // 2 + (n - cap) * cap


def _numbers(parts: list[str]) -> Mapping[str, Any]:
    allowed = [f.name for f in fields(ModelShape) if f.init and f.name not in ("name", "notes")]
    return read_numbers("model shape", parts, allowed, whole=lambda name: not name.endswith(("_element", "_param")))


def read_numbers(
    owner: str, parts: list[str], allowed: list[str], *, whole: Any = lambda name: False
) -> Mapping[str, Any]:
    """Read `name=number` parts; those that `whole` says so become integers."""
    found: dict[str, Any] = {}
    for part in parts:
        name, sign, value = (x.strip() for x in part.partition("="))
        if name not in allowed or not sign:
            raise UnknownNameError(f"part of a {owner}", name, allowed)
        try:
            number = float(value)
        except ValueError:
            raise ParameterError(owner, name, value, allowed="a number") from None
        found[name] = int(number) if whole(name) and number.is_integer() else number
    return found
