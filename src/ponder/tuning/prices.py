"""What a measured workload costs in dollars: by the hour of the machine, or by the tokens of a hosted endpoint."""

from __future__ import annotations

from dataclasses import dataclass

from ponder.errors import ParameterError
from ponder.ledger.prices import Price
from ponder.tuning.measure import Measured
from ponder.tuning.replay import Replay
from ponder.tuning.workload import Workload


@dataclass(frozen=True)
class PriceCard:
    """Dollars.

    Attributes:
        run: of the whole workload.
        per_million_tokens: generated ones; prompts are part of what they cost.
        per_request: of a request with all its completions.
        per_correct: of a problem that one completion is expected to solve; None if nothing is known to be right.
        per_solved: of a problem with a right completion among its own; None the same.
    """

    run: float
    per_million_tokens: float
    per_request: float
    per_correct: float | None = None
    per_solved: float | None = None

    def __str__(self) -> str:
        parts = [f"${self.per_million_tokens:.3g} per million generated tokens", f"${self.per_request:.3g} a request"]
        if self.per_correct is not None:
            parts.append(f"${self.per_correct:.3g} per correct answer of single completions")
        if self.per_solved is not None:
            parts.append(f"${self.per_solved:.3g} per problem with a right one among all")
        return ", ".join(parts)


def price_card(
    measured: Measured, workload: Workload, *, usd_per_hour: float | None = None, price: Price | None = None
) -> PriceCard:
    """The price of a run.

    A single completion's share of the cost is taken for `per_correct`; what a trace solved is what was recorded, not
    what this run wrote.

    Args:
        measured: a run of the whole workload.
        workload: a `replay:` one may know which answers were right.
        usd_per_hour: rent of the machine.
        price: dollars per million prompt, cached and generated tokens instead.

    Raises:
        ParameterError: neither or both are given, or one is negative.
    """
    if (usd_per_hour is None) == (price is None):
        raise ParameterError("price", "usd_per_hour", usd_per_hour, allowed="either an hour's price or tokens' prices")
    if min(price or (usd_per_hour or 0.0,)) < 0:
        raise ParameterError("price", "usd_per_hour/price", price or usd_per_hour, allowed="≥ 0")
    if price is None:
        run = measured.seconds / 3600 * (usd_per_hour or 0.0)
    else:
        fresh = measured.prompt_tokens - measured.cached_tokens
        run = (fresh * price[0] + measured.cached_tokens * price[1] + measured.output_tokens * price[2]) / 1e6
    correct = solved = None
    requests = measured.requests
    if isinstance(workload, Replay):
        requests = len(workload.trace)
        found = workload.solved()
        if found is not None:
            draws = sum(len(r.outputs) for r in workload.trace) / len(workload.trace)
            correct = run / draws / found.single if found.single else None
            solved = run / found.any if found.any else None
    return PriceCard(run, run / measured.output_tokens * 1e6, run / requests, correct, solved)
