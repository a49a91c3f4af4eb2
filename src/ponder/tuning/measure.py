"""One workload run once on a model, and what was seen: speed, latencies, what the cache saved.

In an open loop a latency counts from the moment at which the request was due, also when it had to wait for a place
among the calls under way (otherwise a slow engine would be asked more gently: coordinated omission). Times come from
the event loop's clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ponder.core.model import Chunk, Completion, Model, Request, Sampling
from ponder.errors import EngineError, ParameterError
from ponder.tuning.workload import Job, Workload


@dataclass(frozen=True)
class SLO:
    """What a request has to meet, to count in the goodput.

    Args:
        ttft_s: most seconds from arrival to the first token.
        tpot_s: most seconds a further token.
    """

    ttft_s: float = 1.0
    tpot_s: float = 0.1

    def __post_init__(self) -> None:
        for name in ("ttft_s", "tpot_s"):
            if not getattr(self, name) > 0:
                raise ParameterError("slo", name, getattr(self, name), allowed="above 0")

    @classmethod
    def parse(cls, text: str) -> SLO:
        """Read `ttft=0.5,tpot=0.05` (seconds).

        >>> SLO.parse("ttft=0.5")
        SLO(ttft_s=0.5, tpot_s=0.1)
        """
        given: dict[str, float] = {}
        for part in filter(None, (p.strip() for p in text.split(","))):
            name, _, value = part.partition("=")
            try:
                given[{"ttft": "ttft_s", "tpot": "tpot_s"}[name.strip()]] = float(value)
            except (KeyError, ValueError):
                raise ParameterError("slo", "text", text, allowed="ttft=SECONDS,tpot=SECONDS") from None
        return cls(**given)


@dataclass(frozen=True)
class Served:
    """One completion, in seconds from the start. `first` is None if its tokens could not be watched."""

    request: int
    arrival: float
    first: float | None
    last: float
    n_tokens: int
    prompt_tokens: int
    cached_tokens: int

    @property
    def ttft(self) -> float | None:
        """Arrival to first token."""
        return None if self.first is None else self.first - self.arrival

    @property
    def tpot(self) -> float | None:
        """Seconds a token after the first; None for a single token."""
        return None if self.first is None or self.n_tokens < 2 else (self.last - self.first) / (self.n_tokens - 1)


@dataclass(frozen=True)
class Measured:
    """A run of a workload.

    Attributes:
        seconds: from the first arrival to the last token.
        requests: answered.
        output_tokens: generated.
        prompt_tokens: of all prompts, as the engine counts; a prompt counts once a call.
        cached_tokens: of them, those that the engine took from a cache.
        ttft, tpot, latency: quantiles in seconds by name (`p50`, `p90`, `p99`); empty where undefined. The latency is
            that of a request with all its completions.
        goodput: requests a second that meet the SLO; None if the first token was not seen.
        peak_rss_bytes: of the process; 0 if it is another one's.
        load_s: seconds to start.
    """

    seconds: float
    requests: int
    output_tokens: int
    prompt_tokens: int
    cached_tokens: int
    ttft: Mapping[str, float] = field(default_factory=dict)
    tpot: Mapping[str, float] = field(default_factory=dict)
    latency: Mapping[str, float] = field(default_factory=dict)
    goodput: float | None = None
    peak_rss_bytes: int = 0
    load_s: float = 0.0

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens a second."""
        return self.output_tokens / self.seconds

    @property
    def requests_per_s(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds

    @property
    def evaluated_tokens(self) -> int:
        """Prompt tokens that were really evaluated."""
        return self.prompt_tokens - self.cached_tokens


OBJECTIVES = ("throughput", "latency", "goodput")


def value_of(measured: Measured, objective: str) -> float:
    """What is to be large: tokens a second, 1 over the p90 latency of a request, or the goodput.

    Raises:
        ParameterError: no such objective.
        EngineError: a goodput without a first token.
    """
    if objective == "throughput":
        return measured.tokens_per_s
    if objective == "latency":
        return 1 / measured.latency["p90"]
    if objective != "goodput":
        raise ParameterError("tune", "objective", objective, allowed="one of " + ", ".join(OBJECTIVES))
    if measured.goodput is None:
        raise EngineError("several completions in one call have no first token to see; the goodput needs max_n=1")
    return measured.goodput


async def measure(
    model: Model, workload: Workload, *, seed: int, repetition: int = 0, fraction: float = 1.0, slo: SLO | None = None
) -> Measured:
    """Run a workload on a model.

    The model's own `max_n` says how many completions one call asks for, its `max_concurrency` how many calls are under
    way at once. A call for one completion is watched token by token.

    Args:
        model: warm already.
        workload: what is asked.
        seed: of lengths and arrivals.
        repetition: other texts of the same lengths.
        fraction: of the requests.
        slo: for the goodput.

    Raises:
        EngineError: a completion failed.
    """
    jobs = workload.jobs(seed, repetition, fraction)
    room = asyncio.Semaphore(max(1, model.max_concurrency))
    now = asyncio.get_running_loop().time
    start = now()
    served: list[Served] = []

    async def answer(number: int, job: Job, arrival: float) -> None:
        most = max(1, model.capabilities.max_n if model.capabilities.n is not False else 1)
        parts = [job.seeds[i : i + most] for i in range(0, len(job.seeds), most)]
        await asyncio.gather(
            *(_call(model, room, workload, number, job, part, arrival, start, served) for part in parts)
        )

    if workload.rate is not None:

        async def due(number: int, job: Job) -> None:
            await asyncio.sleep(max(0.0, start + job.arrival_s - now()))
            await answer(number, job, start + job.arrival_s)

        await asyncio.gather(*(due(i, job) for i, job in enumerate(jobs)))
    else:
        queue = iter(enumerate(jobs))

        async def client() -> None:
            for number, job in queue:
                await answer(number, job, now())

        await asyncio.gather(*(client() for _ in range(min(workload.clients, len(jobs)))))
    return _summary(served, len(jobs), slo or SLO())


async def _call(
    model: Model, room: asyncio.Semaphore, workload: Workload, number: int, job: Job, seeds: Sequence[int],
    arrival: float, start: float, served: list[Served],
) -> None:  # fmt: skip
    """One call for some of a request's completions."""
    now = asyncio.get_running_loop().time
    first: list[float] = []

    def watch(chunk: Chunk) -> bool:
        if not first:
            first.append(now() - start)
        return False

    extra: tuple[tuple[str, Any], ...] = () if workload.natural else (("ignore_eos", True),)
    sampling = Sampling(temperature=1.0, max_new_tokens=job.output, extra=extra)
    request = Request(job.prompt, sampling, tuple(seeds), watch=watch if len(seeds) == 1 else None)
    async with room, aclosing(model.sample(request)) as landing:  # type: ignore[type-var]
        async for _, completion in landing:
            _check(model, completion)
            last = now() - start
            served.append(Served(
                number, arrival - start, first[0] if first else last if len(seeds) == 1 else None, last,
                completion.n_tokens, completion.prompt_tokens, completion.cached_tokens,
            ))  # fmt: skip


def _check(model: Model, completion: Completion) -> None:
    if completion.error:
        raise EngineError(f"{model}: {completion.error}")


def _summary(served: Sequence[Served], requests: int, slo: SLO) -> Measured:
    if not served or not (tokens := sum(s.n_tokens for s in served)):
        raise EngineError("nothing was generated; does the endpoint take plain prompts?")
    by_request: dict[int, list[Served]] = {}
    for s in served:
        by_request.setdefault(s.request, []).append(s)
    seen = all(s.first is not None for s in served)
    seconds = max(max(s.last for s in served) - min(s.arrival for s in served), 1e-9)
    good = sum(all(_meets(s, slo) for s in group) for group in by_request.values())
    return Measured(
        seconds, requests, tokens, sum(s.prompt_tokens for s in served), sum(s.cached_tokens for s in served),
        quantiles([s.ttft for s in served]), quantiles([s.tpot for s in served]),
        quantiles([max(s.last for s in group) - group[0].arrival for group in by_request.values()]),
        good / seconds if seen else None,
    )  # fmt: skip


def _meets(served: Served, slo: SLO) -> bool:
    return (served.ttft or 0.0) <= slo.ttft_s and (served.tpot or 0.0) <= slo.tpot_s


def quantiles(values: Sequence[float | None]) -> dict[str, float]:
    """p50, p90 and p99 of what is known; nothing if nothing is.

    >>> quantiles([1.0, None, 3.0])["p50"]
    2.0
    """
    known = [v for v in values if v is not None]
    return {f"p{q}": float(np.quantile(known, q / 100)) for q in (50, 90, 99)} if known else {}
