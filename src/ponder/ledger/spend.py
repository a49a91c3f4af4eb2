"""What was spent: one record to add up, and the ledger that keeps it per stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from operator import add, attrgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ponder.core.model import Completion
    from ponder.costs.shape import ModelShape


@dataclass(frozen=True, slots=True)
class Spend:
    """Amounts that add up.

    Attributes:
        prompt_tokens: prompt tokens that the backends were sent, once per request, cached ones included.
        cached_tokens: those of them that a backend took from its cache.
        generated_tokens: tokens generated, those of cancelled draws and of judges included.
        model_calls: completions drawn for candidates (eight samples are eight, in one request or in eight).
        verifier_calls: scores given; a judge's completions are counted here and not in `model_calls`.
        verifier_tokens: the part of prompt and generated tokens that verifiers and selectors caused.
        requests: requests that backends received.
        sequential_tokens: generated tokens on the critical path: the latency if all that is parallel were free.
        kv_token_steps: sum over generated tokens of the length that each attends to, no prefix shared.
        function_evaluations: evaluations of a process that has no tokens (denoiser predictions, energies).
        transitions: steps of such a process, with an evaluation of their own or not (what papers on denoising count).
        flops: floating-point operations, 0 if the model's shape is unknown.
        kv_bytes: key-value cache read while generating, 0 if the model's shape is unknown; completions of one call
            read their prompt together.
        seconds: time in model and verifier calls, added up over parallel calls.
        cost_usd: by the configured prices.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    model_calls: int = 0
    verifier_calls: int = 0
    verifier_tokens: int = 0
    requests: int = 0
    sequential_tokens: int = 0
    kv_token_steps: int = 0
    function_evaluations: int = 0
    transitions: int = 0
    flops: float = 0.0
    kv_bytes: float = 0.0
    seconds: float = 0.0
    cost_usd: float = 0.0

    def __add__(self, other: Spend) -> Spend:
        return Spend(*map(add, self.values(), other.values()))

    def times(self, n: int) -> Spend:
        """`n` times each amount."""
        return Spend(*[n * value for value in self.values()])  # type: ignore[arg-type]

    @staticmethod
    def total(costs: Iterable[Spend]) -> Spend:
        """The sum of many."""
        return Spend(*map(sum, zip(*map(_values, costs), strict=True)))

    def values(self) -> tuple[float, ...]:
        """All amounts, in the order of the fields."""
        amounts: tuple[float, ...] = _values(self)
        return amounts

    def as_dict(self) -> dict[str, float]:
        """Amounts by name."""
        return dict(zip(FIELDS, self.values(), strict=True))

    @property
    def tokens(self) -> int:
        """Prompt and generated tokens together: what a token budget counts."""
        return self.prompt_tokens + self.generated_tokens

    @property
    def calls(self) -> int:
        """Model and verifier calls together: what a call budget counts."""
        return self.model_calls + self.verifier_calls


FIELDS = tuple(f.name for f in fields(Spend))
_values = attrgetter(*FIELDS)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the trace: a stage and what it cost."""

    stage: str
    spend: Spend


class Ledger:
    """Totals per stage; every entry also goes to `trace`, if one is given.

    The totals equal the sums over the trace: charging is the only way to change them.
    """

    def __init__(self, trace: Callable[[Entry], None] | None = None) -> None:
        self._totals: dict[str, tuple[float, ...]] = {}
        self._trace = trace

    def charge(self, stage: str, spend: Spend) -> None:
        """Add a cost to a stage."""
        self.charge_amounts(stage, spend.values())

    def charge_amounts(self, stage: str, amounts: tuple[float, ...]) -> None:
        """Add a cost to a stage: the amounts of a `Spend` in the order of its fields, as `completion_amounts` gives."""
        totals = self._totals.get(stage)
        self._totals[stage] = amounts if totals is None else tuple(map(add, totals, amounts))
        if self._trace is not None:
            self._trace(Entry(stage, Spend(*amounts)))  # type: ignore[arg-type]

    @property
    def stages(self) -> Mapping[str, Spend]:
        """What was spent, by stage."""
        return {stage: Spend(*totals) for stage, totals in self._totals.items()}  # type: ignore[arg-type]

    @property
    def total(self) -> Spend:
        """What was spent altogether."""
        return sum(self.stages.values(), Spend())


def completion_spend(
    completion: Completion,
    *,
    prompt_length: int,
    shape: ModelShape | None,
    price: tuple[float, float, float],
    verifying: bool,
) -> Spend:
    """The cost of one completion, as a record; see `completion_amounts`."""
    return Spend(*completion_amounts(completion, prompt_length, shape, price, verifying))  # type: ignore[arg-type]


def completion_amounts(
    completion: Completion,
    prompt_length: int,
    shape: ModelShape | None,
    price: tuple[float, float, float],
    verifying: bool,
    longest: int = 0,
) -> tuple[float, ...]:
    """The cost of one completion: the amounts of a `Spend` in the order of its fields.

    Args:
        completion: its own share of prompt, cached and generated tokens.
        prompt_length: tokens it attends to before its first own one.
        shape: the decoder's size; None leaves FLOPs and bytes at 0.
        price: dollars per million prompt, cached and generated tokens.
        verifying: whether a verifier or selector asked for it.
        longest: tokens of the longest completion of the same call so far: until there, the prompt's cache was read
            for that one.

    FLOPs per token at context t are 2·P + 4·H_q·d·Σ min(t, window) over layers, for P active parameters and H_q heads
    of width d; the prompt's share is charged for what was not cached. A token's own and its prompt's keys and values
    are read once a step: the prompt's by all completions of the call together.
    """
    n, prompt, cached = completion.n_tokens, completion.prompt_tokens, completion.cached_tokens
    attended = n * prompt_length + n * (n + 1) // 2
    flops = kv_bytes = 0.0
    if shape is not None:
        fresh, more = prompt - cached, max(n - longest, 0)
        if not shape.windowed_layers:
            prefilled = prompt * (prompt + 1) // 2 - cached * (cached + 1) // 2
            flops = 2.0 * shape.params_active * (n + fresh) + shape.token_flops * (attended + prefilled)
            kv_bytes = shape.token_bytes * (n * (n + 1) // 2 + more * prompt_length)
        else:
            spent = shape.attended(prompt_length, n) + shape.attended(cached, fresh)
            flops = 2.0 * shape.params_active * (n + fresh) + shape.attention_flops(spent)
            beside = shape.attended(prompt_length + longest, more) - shape.attended(longest, more)
            kv_bytes = shape.kv_bytes(shape.attended(0, n) + beside)
    cost = ((prompt - cached) * price[0] + cached * price[1] + n * price[2]) / 1e6
    calls = 0 if verifying or completion.error is not None else 1
    judged = prompt + n if verifying else 0
    return (
        prompt, cached, n, calls, 0, judged, completion.requests, 0, attended, 0, 0, flops, kv_bytes,
        completion.seconds, cost,
    )  # fmt: skip
