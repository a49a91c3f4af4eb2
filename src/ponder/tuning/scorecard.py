"""Models and engines side by side on one workload: measured in turns, compared pair by pair, and priced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ponder.errors import ParameterError
from ponder.ledger.prices import Price
from ponder.tuning.bench import Bench
from ponder.tuning.compare import Ratio, paired_ratio
from ponder.tuning.measure import Measured, value_of
from ponder.tuning.prices import PriceCard, price_card
from ponder.tuning.workload import Workload

_START_S = 300.0
_RUN_S = 3600.0


@dataclass(frozen=True)
class Card:
    """One model on the workload.

    Attributes:
        model: text form.
        measured: its runs.
        values: the objective of each.
        ratio: to the first model, repetition by repetition; 1 for the first.
        prices: of each run; empty if no price was given.
    """

    model: str
    measured: tuple[Measured, ...]
    values: tuple[float, ...]
    ratio: Ratio
    prices: tuple[PriceCard, ...]


def scorecard(
    models: Sequence[str],
    workload: Workload,
    bench_for: Callable[[str], Bench],
    *,
    objective: str = "throughput",
    repetitions: int = 3,
    seed: int = 0,
    usd_per_hour: float | None = None,
    price: Price | None = None,
) -> tuple[Card, ...]:
    """Measure models in turns (A B C, C A B, …), each in a process of its own.

    Args:
        models: text forms, one or more.
        workload: the same for all.
        bench_for: starts a model's process.
        objective: see `value_of`.
        repetitions: with texts of their own, ≥ 1.
        seed: of lengths and texts.
        usd_per_hour: price of the machine.
        price: of a hosted endpoint's tokens instead.

    Raises:
        ParameterError: no model, or no repetition.
        EngineError: one cannot be measured.
    """
    if not models or repetitions < 1:
        raise ParameterError("scorecard", "models/repetitions", (len(models), repetitions), allowed="≥ 1 each")
    runs: list[list[Measured]] = [[] for _ in models]
    sessions = []
    try:
        for model in models:
            sessions.append(bench_for(model).open({}, _START_S))
        for repetition in range(repetitions):
            for i in range(len(models)):
                which = (i - repetition) % len(models)
                runs[which].append(
                    sessions[which].measure(seed=seed, repetition=repetition, fraction=1.0, timeout_s=_RUN_S)
                )
    finally:
        for session in sessions:
            session.close()
    priced = usd_per_hour is not None or price is not None
    values = [tuple(value_of(m, objective) for m in mine) for mine in runs]
    return tuple(
        Card(
            model, tuple(mine), got, paired_ratio(got, values[0]) if i else Ratio(1.0, 1.0, 1.0),
            tuple(price_card(m, workload, usd_per_hour=usd_per_hour, price=price) for m in mine) if priced else (),
        )
        for i, (model, mine, got) in enumerate(zip(models, runs, values, strict=True))
    )  # fmt: skip
