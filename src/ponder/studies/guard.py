"""What a running study keeps an eye on: the endpoint's health, the study's budget, draws that failed.

All of it sits where fresh model calls pass, in the scheduler; stored draws never come by here. So a
study's budget counts what is really sent, once, however many rows use it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from dataclasses import replace as changed

from ponder.core.cache import Cache, content_keys
from ponder.core.model import Completion, Model, Request
from ponder.core.runtime import Runtime
from ponder.core.scheduler import Scheduler
from ponder.errors import BudgetError, StudyError
from ponder.ledger.budget import Budget, Meter
from ponder.ledger.spend import Spend, completion_spend

_LOST_IN_A_ROW, _LOST_CALLS = 20, 3
"""So many lost draws in a row, from at least so many calls, stop a study: the endpoint is gone."""


@dataclass
class SessionCache:
    """A study's cache as one run sees it: a draw that failed stays failed until the run ends.

    Without this a smaller point of the sample axis would draw again what a larger one could not get, and the
    points would no longer be the first k of the same draws. The next run tries again.
    """

    kept: Cache
    failed: dict[bytes, Completion] = field(default_factory=dict)

    def get_many(self, keys: Sequence[bytes]) -> list[Completion | None]:
        """Of each key the stored completion, the failure seen in this run, or None."""
        found = self.kept.get_many(keys)
        if not self.failed:
            return found
        return [self.failed.get(k) if c is None else c for k, c in zip(keys, found, strict=True)]

    async def put(self, items: Sequence[tuple[bytes, Completion]]) -> None:
        """Keep completions."""
        await self.kept.put(items)

    def get_outputs(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Of each key the stored output, or None."""
        return self.kept.get_outputs(keys)

    async def put_outputs(self, items: Sequence[tuple[bytes, bytes]]) -> None:
        """Keep outputs."""
        await self.kept.put_outputs(items)


@dataclass
class StudyRuntime(Runtime):
    """The shared parts of a study's run.

    Args:
        limits: hard limits over the whole study; `seconds` count from this run's start.
        already: what earlier runs of the study have spent.
        stop: why the study cannot go on, once that is known.
        watched: whether somebody wants to know `spent` although nothing limits it.
        spent: what this run's fresh calls have cost, if the study is limited or watched.
    """

    limits: Budget = field(default_factory=Budget)
    already: Spend = field(default_factory=Spend)
    stop: Exception | None = None
    watched: bool = False
    spent: Spend = field(default_factory=Spend)

    def __post_init__(self) -> None:
        self.session = SessionCache(self.cache)
        self.cache = self.session
        self.meter = Meter(Budget(seconds=self.limits.seconds))
        self.study_meter = Meter(changed(self.limits, seconds=None))
        self.study_meter.settle(Spend(), self.already)
        self._lost: list[int] = []

    def scheduler(self, model: Model) -> Scheduler:
        """The one scheduler of a model, which reports here."""
        found = self._schedulers.get(id(model))
        if found is None:
            found = self._schedulers[id(model)] = _Guarded(model, self)
        return found

    @property
    def out_of_time(self) -> bool:
        """Whether the study's time is over."""
        return self.meter is not None and self.meter.seconds_left <= 0

    def reserve(self, model: Model, request: Request) -> Spend:
        """Set the most that a request can cost aside.

        Raises:
            BudgetError: it is more than the study may still spend; `stop` then says so.
        """
        if not self.study_meter.limited:
            return Spend()
        price = self.prices.of(model)
        prompt = model.count_tokens(request.prompt) + (model.count_tokens(request.prefix) if request.prefix else 0)
        new, n = request.sampling.max_new_tokens, request.n
        prompts = prompt * (1 if model.capabilities.n is True and not request.stream and not request.watch else n)
        worst = Spend(
            prompt_tokens=prompts,
            generated_tokens=new * n,
            model_calls=n,
            cost_usd=(prompts * price[0] + new * n * price[2]) / 1e6,
        )
        if self.study_meter.affordable(worst) < 1:
            self.stop = BudgetError(f"the study's budget ({self.limits}) does not allow any of {n} more draws")
            raise self.stop
        return self.study_meter.reserve(worst)

    def admit(self, spend: Spend) -> None:
        """Book evaluations of a process without tokens.

        Raises:
            BudgetError: they are more than the study may still spend; `stop` then says so.
        """
        if self.study_meter.affordable(spend) < 1:
            self.stop = BudgetError(f"the study's budget ({self.limits}) does not allow further evaluations")
            raise self.stop
        self.study_meter.settle(Spend(), spend)
        if self.study_meter.limited or self.watched:
            self.spent = self.spent + spend

    def landed(self, model: Model, request: Request, index: int, completion: Completion) -> Spend:
        """Take note of a fresh completion; returns what it cost, if the study has limits or is watched.

        Raises:
            StudyError: too many in a row were lost.
        """
        cost = Spend()
        if self.study_meter.limited or self.watched:
            price = self.prices.of(model)
            cost = completion_spend(completion, prompt_length=0, shape=None, price=price, verifying=False)
            self.spent = self.spent + cost
        if completion.error is None:
            self._lost.clear()
            return cost
        key = content_keys(model, changed(request, seeds=(request.seeds[index],)))[0]
        self.session.failed[key] = completion
        if not completion.error.startswith("ContextLengthError"):
            self._lost.append(id(request))
        if len(self._lost) >= _LOST_IN_A_ROW and len(set(self._lost)) >= _LOST_CALLS:
            self.stop = StudyError(f"{len(self._lost)} draws in a row failed, the last with {completion.error}")
            raise self.stop
        return cost


class _Guarded(Scheduler):
    """A scheduler whose calls a study watches."""

    def __init__(self, model: Model, runtime: StudyRuntime) -> None:
        super().__init__(model)
        self._runtime = runtime

    async def sample(self, request: Request) -> AsyncGenerator[tuple[int, Completion], None]:
        """As a scheduler does, unless the study has to stop."""
        runtime = self._runtime
        if runtime.stop is not None:
            raise runtime.stop
        reserved, spent = runtime.reserve(self.model, request), Spend()
        told = request.lost

        def lost(position: int, completion: Completion) -> None:
            nonlocal spent
            spent = spent + runtime.landed(self.model, request, position, changed(completion, error=None))
            if told is not None:
                told(position, completion)

        try:
            async with aclosing(super().sample(changed(request, lost=lost))) as completions:
                async for index, completion in completions:
                    spent = spent + runtime.landed(self.model, request, index, completion)
                    yield index, completion
        finally:
            runtime.study_meter.settle(reserved, spent)
