"""What generating costs: operations and bytes of one prompt's trials, in FLOPs, eFLOPs, seconds and dollars.

Paper    Sadhukhan et al. 2025, "Kinetics: Rethinking Test-Time Scaling Laws".
Equal    eFLOPs = FLOPs + I·bytes of key-value cache read; dense, top-k and block top-k attention; trials of one prompt
         read its cache together; I is 562.5 FLOP/byte unless said otherwise.
Differs  Sums over steps are exact; `formula="paper"` gives the closed forms, which leave out half a token a step. The
         released code of top-k adds ½(B − L_in)² where it must be taken away, and holds only above B; the sum is used.
         Off by default: the prompt's own pass (`prefill`) and reading the weights (`batch`).
Needs    A model's shape.    Cost: microseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ponder.costs.profiles import HardwareProfile, hardware
from ponder.costs.shape import ModelShape
from ponder.errors import ParameterError


@dataclass(frozen=True, slots=True)
class Cost:
    """Operations and bytes, whatever does them.

    Args:
        flops: floating-point operations.
        kv_bytes: of key-value cache read.
        weight_bytes: of weights read; 0 if they are taken as shared by a large batch.
        passes: through the model, shared ones in part; 0 where the weights are left out.
    """

    flops: float = 0.0
    kv_bytes: float = 0.0
    weight_bytes: float = 0.0
    passes: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.flops + other.flops, self.kv_bytes + other.kv_bytes, self.weight_bytes + other.weight_bytes,
            self.passes + other.passes,
        )  # fmt: skip

    def times(self, n: float) -> Cost:
        """`n` times each amount."""
        return Cost(n * self.flops, n * self.kv_bytes, n * self.weight_bytes, n * self.passes)

    @property
    def bytes(self) -> float:
        """Everything read."""
        return self.kv_bytes + self.weight_bytes

    def eflops(self, on: HardwareProfile | str = "b200") -> float:
        """Operations, and each byte read counted as the operations that the hardware could do meanwhile."""
        return self.flops + hardware(on).intensity * self.bytes

    def seconds(self, on: HardwareProfile | str = "b200") -> float:
        """Time if nothing overlaps: eFLOPs / peak, unless the profile knows of slower caches or a pass' own time."""
        profile = hardware(on)
        return self.flops / profile.peak_flops + self._reading(profile) + self.passes * profile.step_s

    def seconds_overlapped(self, on: HardwareProfile | str = "b200") -> float:
        """Time if reading and computing overlap perfectly; at the hardware's peak no implementation is faster."""
        profile = hardware(on)
        return max(self.flops / profile.peak_flops, self._reading(profile)) + self.passes * profile.step_s

    def _reading(self, profile: HardwareProfile) -> float:
        caches = profile.kv_bandwidth or profile.memory_bandwidth
        return self.weight_bytes / profile.memory_bandwidth + self.kv_bytes / caches

    def dollars(self, on: HardwareProfile | str) -> float:
        """What `seconds` of the hardware cost.

        Raises:
            ParameterError: the profile has no price.
        """
        profile = hardware(on)
        if profile.usd_per_hour is None:
            raise ParameterError(
                "hardware", "usd_per_hour", None, allowed="a price", hint=f"give one: {profile.name},usd_per_hour=2"
            )
        return self.seconds(profile) / 3600 * profile.usd_per_hour

    def amount(self, unit: str, on: HardwareProfile | str = "b200") -> float:
        """The cost in one unit: flops, eflops, seconds, dollars or bytes.

        Raises:
            ParameterError: no such unit.
        """
        if unit not in UNITS:
            raise ParameterError("cost", "unit", unit, allowed=f"one of {', '.join(UNITS)}")
        if unit in ("flops", "bytes"):
            return float(getattr(self, unit))
        return float(getattr(self, unit)(on))


UNITS = ("eflops", "flops", "seconds", "dollars", "bytes")
"""What a cost can be told in."""


@dataclass(frozen=True, slots=True)
class TopK:
    """Every step attends to the best `budget` tokens, found for nothing; nothing of a prompt is shared.

    Args:
        budget: tokens, budget ≥ 1.
    """

    budget: int

    def __post_init__(self) -> None:
        if self.budget < 1:
            raise ParameterError("TopK", "budget", self.budget, allowed="an integer ≥ 1")


@dataclass(frozen=True, slots=True)
class BlockTopK:
    """Every step attends to the `topk` best blocks and to the last `local` tokens, after scoring a mean key a block.

    Args:
        block_size: tokens of a block.
        topk: blocks, topk ≥ 1.
        local: last tokens that are always attended to.
    """

    block_size: int
    topk: int
    local: int = 0

    def __post_init__(self) -> None:
        for name, least in (("block_size", 1), ("topk", 1), ("local", 0)):
            if getattr(self, name) < least:
                raise ParameterError("BlockTopK", name, getattr(self, name), allowed=f"an integer ≥ {least}")

    @property
    def budget(self) -> int:
        """Tokens that a step attends to at most."""
        return self.local + self.block_size * self.topk


def generation(
    shape: ModelShape,
    prompt_tokens: int,
    generated_tokens: int | Sequence[int],
    *,
    trials: int | None = None,
    attention: TopK | BlockTopK | None = None,
    prefill: bool = False,
    batch: float | None = None,
    share_prompt: bool = True,
    formula: Literal["exact", "paper"] = "exact",
) -> Cost:
    """What trials of one prompt cost.

    Args:
        shape: the model's.
        prompt_tokens: of the prompt.
        generated_tokens: of each trial: one number for all, or one a trial. 0 costs the prompt only.
        trials: how many, if `generated_tokens` is one number; 1 by default.
        attention: sparse attention; None is dense.
        prefill: count the prompt's own pass, once.
        batch: count reading the weights: as many problems like this one share each pass. None leaves them out.
        share_prompt: dense trials read the prompt's cache together (each step once while any is alive).
        formula: `exact` sums over steps; `paper` takes the published closed forms (no windows).

    Raises:
        ParameterError: no trials, negative lengths, a batch ≤ 0, or `paper` for what has no closed form.

    >>> from ponder.costs import ModelShape
    >>> small = ModelShape.read("qwen3-0.6b")
    >>> generation(small, 100, 1000, trials=4).eflops() > 4 * generation(small, 100, 1000).flops
    True
    """
    lengths = _lengths(prompt_tokens, generated_tokens, trials)
    if batch is not None and not batch > 0:
        raise ParameterError("generation", "batch", batch, allowed="above 0, or none to leave the weights out")
    if formula == "paper":
        spent = _closed_form(shape, prompt_tokens, lengths, attention)
    else:
        spent = _summed(shape, prompt_tokens, lengths, attention, share_prompt)
    if prefill:
        attended = (
            shape.attended(0, prompt_tokens) if formula == "exact" else shape.layers * prompt_tokens * prompt_tokens / 2
        )
        spent += Cost(2.0 * shape.params_active * prompt_tokens + shape.attention_flops(attended))
    if batch is not None:
        spent += Cost(weight_bytes=_weights(shape, lengths, batch), passes=max(lengths) / batch)
    return spent


def shared_prompt_reads(shape: ModelShape, prompt_tokens: int, steps: int) -> float:
    """Prompt tokens read in so many steps by all that share the prompt together, over all layers.

    With a window of w tokens, step t still sees min(L_in, w − t) of them.
    """
    return shape.attended(prompt_tokens, steps) - shape.attended(0, steps)


def _summed(
    shape: ModelShape, prompt: int, lengths: list[int], attention: TopK | BlockTopK | None, share: bool
) -> Cost:
    limit = None if attention is None else attention.budget
    counts = {n: lengths.count(n) for n in set(lengths)}
    attended = sum(count * shape.attended(prompt, n, limit) for n, count in counts.items())
    read = attended
    if attention is None and share:
        own = sum(count * shape.attended(0, n) for n, count in counts.items())
        read = own + shared_prompt_reads(shape, prompt, max(lengths))
    spent = Cost(2.0 * shape.params_active * sum(lengths) + shape.attention_flops(attended), shape.kv_bytes(read))
    if isinstance(attention, BlockTopK):  # a step scores one mean key a block: half of what attending to it costs
        size = attention.block_size
        grown = {n: _blocks(prompt + n, size) - _blocks(prompt, size) for n in counts}
        scored = sum(count * grown[n] for n, count in counts.items())
        beside = sum(count * (grown[n] - n * (prompt // size)) for n, count in counts.items())
        beside += max(lengths) * (prompt // size)
        spent += Cost(shape.attention_flops(shape.layers * scored) / 2, shape.kv_bytes(shape.layers * beside) / 2)
    return spent


def _closed_form(shape: ModelShape, prompt: int, lengths: list[int], attention: TopK | BlockTopK | None) -> Cost:
    n, length = len(lengths), lengths[0]
    if len(set(lengths)) > 1 or shape.windowed_layers:
        raise ParameterError("generation", "formula", "paper", allowed="exact, for different lengths or windows")
    both, q, b = (2 * prompt + length), shape.q_width, shape.kv_bytes_per_element
    flops = n * 2.0 * shape.params_active * length
    if attention is None:
        return Cost(flops + n * 2.0 * both * length * q, b * (2 * prompt + n * length) * length * shape.kv_width)
    s = shape.attended(prompt, length, attention.budget) / shape.layers
    spent = Cost(flops + n * 4.0 * s * q, n * 2.0 * b * s * shape.kv_width)
    if isinstance(attention, BlockTopK):
        size = attention.block_size
        flops = n * (both // size) * length * q
        spent += Cost(flops, b / 2 * ((2 * prompt + n * length) // size) * length * shape.kv_width)
    return spent


def _blocks(n: int, size: int) -> int:
    """Σ ⌊c / size⌋ for c = 1 … n."""
    q = n // size
    return size * q * (q - 1) // 2 + q * (n - q * size + 1)


def _weights(shape: ModelShape, lengths: list[int], batch: float) -> float:
    """Bytes of weights, pass by pass: trials that have ended no longer choose experts."""
    total, before = 0.0, 0
    alive = len(lengths)
    for n in sorted(set(lengths)):
        total += (n - before) * shape.weight_bytes(alive * batch) / batch
        alive, before = alive - lengths.count(n), n
    return total


def _lengths(prompt_tokens: int, generated: int | Sequence[int], trials: int | None) -> list[int]:
    if isinstance(generated, int):
        count = 1 if trials is None else trials
        if count < 1:
            raise ParameterError("generation", "trials", count, allowed="an integer ≥ 1")
        lengths = [generated] * count
    else:
        lengths = [int(n) for n in generated]
        if not lengths or (trials is not None and trials != len(lengths)):
            raise ParameterError("generation", "trials", trials, allowed=f"one length a trial; {len(lengths)} given")
    if prompt_tokens < 0 or min(lengths) < 0:
        raise ParameterError("generation", "tokens", min(prompt_tokens, *lengths), allowed="integers ≥ 0")
    return lengths
