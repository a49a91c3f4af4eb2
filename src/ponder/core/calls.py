"""Paid work of one problem's run: completions and evaluations within the budget, stored, and booked.

Nothing is sent that the budget could not bear at its worst; every finished call is stored before it is used; what is
cancelled is booked as far as it got.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Self, TypeVar

from ponder.core.cache import NoCache, content_keys, price_of, priced, value_of
from ponder.core.merge import batches, one_by_one
from ponder.core.model import Completion, Model, Request, Sampling, Watcher
from ponder.core.problem import Problem, Prompt
from ponder.core.runtime import Runtime
from ponder.core.scheduler import Scheduler
from ponder.errors import BudgetError, EmptyResponseError
from ponder.ledger.budget import Budget, Meter
from ponder.ledger.spend import Ledger, Spend, completion_amounts, completion_spend

V = TypeVar("V")

_READ_AT_ONCE = 1024
"""Stored completions read at once; in between, whatever else waits has its turn."""

_EMPTY_ROUNDS = 3
"""How often a backend may return nothing for a request before the draw is given up."""


class Calls:
    """The part of a context through which everything is paid (see `Context`)."""

    to_end: bool = False
    """Whether a process that is extending should finish the output in this step, if it can."""

    _hold: Spend = Spend()
    _generated: bool = False

    def __init__(
        self,
        problem: Problem,
        sampling: Sampling | None,
        budget: Budget | None,
        runtime: Runtime | None,
        ledger: Ledger | None,
    ) -> None:
        self.problem = problem
        self.sampling = sampling or Sampling()
        self.runtime = runtime or Runtime()
        self.ledger = ledger or Ledger()
        self.meter = Meter(budget or Budget(), self.runtime.meter)
        self.shortfalls: list[str] = []
        self.stage = "draw"
        self._verifying = False
        self._longest = 0
        self._watch: Watcher | None = None
        self._race = False
        self._indices: dict[int, int] = {}
        self._holds: list[Spend] = []

    async def generate(
        self,
        model: Model,
        prompt: Prompt,
        *,
        seeds: Sequence[int],
        sampling: Sampling | None = None,
        prefix: str = "",
    ) -> AsyncGenerator[tuple[int, Completion], None]:
        """Yield `(position in seeds, completion)` as each lands: the only way to a model.

        Stored completions come first, at no cost to the backend but charged like the rest, so that a
        resumed run counts what an undisturbed one does. Nothing is sent that the budget could not bear
        at its worst; what is not affordable does not come.
        """
        sampling = sampling or self.sampling
        model.require_experts(sampling)
        scheduler = self.runtime.scheduler(model)
        price = self.runtime.prices.of(model)
        request = Request(prompt, sampling, tuple(seeds), prefix, self._watch, self._race, problem=self.problem)
        storing = self.storing
        keys = content_keys(model, request) if storing else []
        prompt_bound = model.count_tokens(prompt) + (model.count_tokens(prefix) if prefix else 0)
        remaining = list(range(len(seeds)))
        empty_rounds = 0
        shared_length = longest = 0
        limited = self.meter.limited
        while remaining:
            granted, request, reserved = self._grant(model, request, len(remaining), prompt_bound, price)
            if granted == 0:
                return
            if request.sampling is not sampling:
                sampling = request.sampling
                keys = content_keys(model, replace(request, seeds=tuple(seeds))) if storing else []
            now, spent = remaining[:granted], Spend()
            landed: set[int] = set()
            try:
                async with aclosing(self._fetch(scheduler, request, seeds, keys, now)) as batch:
                    async for position, completion in batch:
                        landed.add(position)
                        shared_length = max(shared_length, completion.prompt_tokens)
                        shape = model.shape and model.shape.at(sampling.experts)
                        cost = completion_amounts(completion, shared_length, shape, price, self._verifying, longest)
                        longest = max(longest, completion.n_tokens)
                        if limited:
                            spent = spent + Spend(*cost)  # type: ignore[arg-type]
                        self.ledger.charge_amounts(self.stage, cost)
                        self._longest = max(self._longest, completion.n_tokens)
                        self._generated = True
                        if completion.finish != "cancelled":
                            yield position, completion
            finally:
                self.meter.settle(reserved, spent)
                self.release_holds(granted - len(landed))
            if self.meter.seconds_left <= 0:
                self._fall_short("the time limit was reached")
                return
            empty_rounds = 0 if landed else empty_rounds + 1
            if empty_rounds >= _EMPTY_ROUNDS:
                error = EmptyResponseError(
                    f"{model} returned no choices {empty_rounds} times for a request of {granted}"
                )
                for position in remaining:
                    yield position, Completion("", 0, "error", error=f"EmptyResponseError: {error}")
                return
            remaining = [p for p in remaining if p not in landed]

    async def _fetch(
        self, scheduler: Scheduler, request: Request, seeds: Sequence[int], keys: Sequence[bytes], wanted: Sequence[int]
    ) -> AsyncGenerator[tuple[int, Completion], None]:
        """Stored completions, then new ones, which are stored before they are passed on (no keys: nothing is)."""
        cache, storing = self.runtime.cache, bool(keys)
        missing = [] if storing else list(wanted)
        for start in range(0, len(wanted) if storing else 0, _READ_AT_ONCE):
            some = wanted[start : start + _READ_AT_ONCE]
            for position, stored in zip(some, cache.get_many([keys[p] for p in some]), strict=True):
                if stored is None:
                    missing.append(position)
                else:
                    yield position, stored
            await asyncio.sleep(0)  # what else is under way goes on meanwhile
        if not missing:
            return
        lost: list[tuple[int, Completion]] = []
        late: list[tuple[int, Completion]] = []
        watch = request.watch
        index_of = [self._indices.get(seeds[p], p) for p in missing] if watch is not None else []
        fresh = replace(
            request,
            seeds=tuple(seeds[p] for p in missing),
            lost=lambda i, c: lost.append((missing[i], c)),
            watch=None if watch is None else lambda chunk: watch(replace(chunk, index=index_of[chunk.index])),
        )
        started, landed = time.monotonic(), set[int]()
        try:
            together = storing and not fresh.stream and fresh.watch is None and fresh.n > 1
            arriving = scheduler.sample(fresh)
            seconds = self.meter.seconds_left
            if together or seconds != math.inf:
                deadline = None if seconds == math.inf else asyncio.get_running_loop().time() + seconds
                arrivals = batches(arriving, deadline=deadline, dropped=late.extend)
            else:
                arrivals = one_by_one(arriving)
            async with aclosing(arrivals):
                async for batch in arrivals:
                    if together:
                        # All choices of one response are stored at once: what is left after a kill is whole calls.
                        batch.sort(key=lambda item: item[0])
                    finished = [(keys[missing[i]], c) for i, c in batch if _is_final(c)] if storing else []
                    try:
                        if finished:
                            await cache.put(finished)
                    except asyncio.CancelledError:  # generated, although nobody waits for it any more
                        lost += [(missing[i], c) for i, c in batch]
                        raise
                    for at, (i, completion) in enumerate(batch):
                        landed.add(missing[i])
                        try:
                            yield missing[i], completion
                        except GeneratorExit:  # paid for, and no longer wanted
                            lost += [(missing[j], c) for j, c in batch[at + 1 :]]
                            raise
        finally:
            lost += [(missing[i], c) for i, c in late]
            told = {position for position, _ in lost}
            for position in missing:
                if position not in landed and position not in told:
                    lost.append((position, _estimated(scheduler, time.monotonic() - started, request)))
            for _, completion in lost:
                if completion.error is None or completion.requests:
                    self._charge_lost(scheduler, completion)

    def _charge_lost(self, scheduler: Scheduler, completion: Completion) -> None:
        """Book what a cancelled draw had generated by then."""
        cost = completion_spend(
            completion,
            prompt_length=completion.prompt_tokens,
            shape=scheduler.model.shape,
            price=self.runtime.prices.of(scheduler.model),
            verifying=self._verifying,
        )
        self.ledger.charge("cancelled", cost)
        self.meter.settle(Spend(), cost)

    def _grant(
        self, model: Model, request: Request, n: int, prompt_bound: int, price: tuple[float, float, float]
    ) -> tuple[int, Request, Spend]:
        """How many of `n` completions fit the budget at their worst, and the reservation made for them."""
        if not self.meter.limited and self.meter.seconds_left == math.inf:
            return n, request, Spend()
        while True:
            unit, shared = self._worst(model, request, n, prompt_bound, price)
            granted = int(min(n, self.meter.affordable(unit + self._hold, shared)))
            if granted > 0:
                self._hold_back(granted)
                return granted, request, self.meter.reserve(unit.times(granted) + shared)
            shorter = self._shorter(request, prompt_bound)
            if shorter is None:
                self._fall_short(f"the budget did not allow any of {n} more completions")
                return 0, request, Spend()
            request = shorter

    def _worst(
        self, model: Model, request: Request, n: int, prompt_bound: int, price: tuple[float, float, float]
    ) -> tuple[Spend, Spend]:
        """The most that one of `n` completions, and what all of them share, can cost."""
        new, shape = request.sampling.max_new_tokens, model.shape
        shape = shape and shape.at(request.sampling.experts)
        read = completion_amounts(Completion("", 0, prompt_tokens=prompt_bound), prompt_bound, shape, price, True)
        prompt = replace(Spend(*read), verifier_tokens=0)  # type: ignore[arg-type]
        written = completion_amounts(Completion("", new), prompt_bound, shape, price, self._verifying)
        unit = replace(Spend(*written), verifier_tokens=0)  # type: ignore[arg-type]
        one_request = n <= model.capabilities.max_n and self.runtime.scheduler(model).honours_n
        sharing = one_request and model.capabilities.n is True and not self._race and self._watch is None
        return (unit, prompt) if sharing else (unit + prompt, Spend())

    def most(self, model: Model, prompt: Prompt, new_tokens: int, prefix_tokens: int = 0) -> Spend:
        """The most that one completion of so many new tokens can cost, prompt and prefix included."""
        price = self.runtime.prices.of(model)
        request = Request(prompt, replace(self.sampling, max_new_tokens=max(new_tokens, 1)), (0,))
        unit, shared = self._worst(model, request, 1, model.count_tokens(prompt) + prefix_tokens, price)
        return unit + shared

    def _shorter(self, request: Request, prompt_bound: int) -> Request | None:
        """The request with a length limit that fits, if it is the first or the last chance of an answer."""
        if self._verifying or (self.ledger.total.generated_tokens and not self.to_end):
            return None
        fits = min(self.meter.left("tokens") - prompt_bound, self.meter.left("generated_tokens"))
        if not 1 <= fits < request.sampling.max_new_tokens:
            return None
        self._fall_short(f"the budget cut an answer to {int(fits)} tokens")
        return replace(request, sampling=replace(request.sampling, max_new_tokens=int(fits)))

    async def evaluate(
        self, n: int, compute: Callable[[int], Any], *, costs: Sequence[Spend] | None = None
    ) -> tuple[int, Any]:
        """Compute up to `n` things without tokens: `(m, compute(m))` for the first `m` ≤ n that the budget allows.

        Each costs one function evaluation and counts as one model call, unless `costs` says what each of them costs.
        """
        m, spent = self._admitted(n, costs)
        if m == 0:
            return 0, None
        self.runtime.admit(spent)
        started = time.monotonic()
        value = compute(m)
        self.ledger.charge(self.stage, replace(spent, seconds=time.monotonic() - started))
        return m, value

    async def evaluate_once(
        self,
        keys: Sequence[bytes | None],
        compute: Callable[[list[int]], Sequence[V]],
        *,
        costs: Sequence[Spend],
        pack: Callable[[V], bytes | None],
        unpack: Callable[[int, bytes], V],
    ) -> list[V]:
        """`evaluate` for what is kept: the first values that the budget allows, the stored ones computed no more.

        A stored value is charged like a new one, its seconds included, so that a resumed run counts what an
        undisturbed one does. New ones are stored before they are passed on, all at once.

        Args:
            keys: what decides each value (`ponder.core.cache.content_key`); None for one that is not to be stored.
            compute: gives the values at some positions, in order.
            costs: of each.
            pack: a value as bytes; None for one that cannot be stored.
            unpack: the value at a position from its bytes.
        """
        m, spent = self._admitted(len(keys), costs)
        if m == 0:
            return []
        cache = self.runtime.cache
        named = list(dict.fromkeys(key for key in keys[:m] if key is not None)) if self.storing else []
        stored = {key: data for key, data in zip(named, cache.get_outputs(named), strict=True) if data is not None}
        values: dict[int, V] = {}
        seconds = 0.0
        for i, key in enumerate(keys[:m]):
            if key in stored:
                seconds += price_of(stored[key]).seconds
                values[i] = unpack(i, value_of(stored[key]))
        made: list[tuple[bytes, bytes]] = []
        if fresh := [i for i in range(m) if i not in values]:
            self.runtime.admit(Spend.total([costs[i] for i in fresh]))
            started = time.monotonic()
            values |= zip(fresh, compute(fresh), strict=True)
            elapsed = time.monotonic() - started
            seconds += elapsed
            for i in fresh:
                if self.storing and (key := keys[i]) is not None and (data := pack(values[i])) is not None:
                    made.append((key, priced(data, costs[i], elapsed / len(fresh))))
        self.ledger.charge(self.stage, replace(spent, seconds=seconds))
        if made:
            await cache.put_outputs(made)
        return [values[i] for i in range(m)]

    @property
    def storing(self) -> bool:
        """Whether anything is kept, so that keys are of use."""
        return not isinstance(self.runtime.cache, NoCache)

    def _admitted(self, n: int, costs: Sequence[Spend] | None) -> tuple[int, Spend]:
        """How many of `n` evaluations the budget allows, and what they cost: taken from the budget at once."""
        unit = Spend(function_evaluations=1, model_calls=0 if self._verifying else 1)
        if costs is None:
            m = int(min(n, self.meter.affordable(unit + self._hold)))
            spent, longest = unit.times(m), 1
        else:
            if self._verifying:
                costs = [replace(cost, model_calls=0) for cost in costs]
            m, spent = self._fitting(costs)
            longest = max((cost.function_evaluations for cost in costs[:m]), default=0)
        if m < n:
            self._fall_short(f"the budget allowed {m} of {n} {self._evaluations(costs)}")
        if m:
            self._hold_back(m)
            self.meter.settle(Spend(), spent)
            self._longest = max(self._longest, longest)
        return m, spent

    def _evaluations(self, costs: Sequence[Spend] | None) -> str:
        """What a number of evaluations is a number of."""
        each = {1} if costs is None else {cost.function_evaluations for cost in costs}
        if each == {1}:
            return "function evaluations"
        if max(each) == 0:
            return "scores" if self._verifying else "computations"
        most = f"{min(each):,}" if len(each) == 1 else f"up to {max(each):,}"
        return f"runs of {most} function evaluations each"

    def charge_reading(self, model: Model, tokens: int, cached: int) -> None:
        """Book a text that a verifier is about to read in this process, with nothing generated.

        Args:
            model: reads it.
            tokens: of the whole text.
            cached: how many of the first ones need no evaluation.

        Raises:
            BudgetError: the budget does not allow it.
        """
        read = Completion("", 0, prompt_tokens=tokens, cached_tokens=cached)
        price = self.runtime.prices.of(model)
        cost = completion_spend(read, prompt_length=tokens, shape=model.shape, price=price, verifying=True)
        if self.meter.limited and self.meter.affordable(cost) < 1:
            raise BudgetError(f"the budget did not allow reading {tokens} tokens for a score")
        self.meter.settle(Spend(), cost)
        self.ledger.charge(self.stage, cost)

    def _fitting(self, costs: Sequence[Spend]) -> tuple[int, Spend]:
        """How many of the costs, in order, the budget bears together with what is held for each, and their sum."""
        whole = Spend.total(costs)
        if not self.meter.limited:
            return (len(costs), whole) if self.meter.seconds_left > 0 else (0, Spend())
        if self.meter.affordable(whole + self._hold.times(len(costs))) >= 1:
            return len(costs), whole
        m, spent, held = 0, Spend(), Spend()
        while m < len(costs) and self.meter.affordable(costs[m] + self._hold, spent + held) >= 1:
            spent, held, m = spent + costs[m], held + self._hold, m + 1
        return m, spent

    def _hold_back(self, n: int) -> None:
        """Keep what `n` candidates will cost later out of reach of further draws."""
        if self.meter.limited and self._hold != Spend():
            self.meter.reserve(self._hold.times(n))
            self._holds += [self._hold] * n

    def release_holds(self, n: int | None = None) -> None:
        """Give back what was held for `n` candidates (all if None): they are about to be scored, or never will be."""
        for _ in range(len(self._holds) if n is None else min(n, len(self._holds))):
            self.meter.settle(self._holds.pop(), Spend())

    def note_sequential(self) -> None:
        """Book the longest generation since the last call as critical-path tokens."""
        if self._longest:
            self.ledger.charge(self.stage, Spend(sequential_tokens=self._longest))
            self._longest = 0

    def _scope(self, stage: str, *, verifying: bool | None = None) -> Self:
        """A view of this context under which costs go to another stage."""
        scope = object.__new__(type(self))
        scope.__dict__.update(self.__dict__)
        scope.stage, scope._longest, scope._generated, scope._hold = stage, 0, False, Spend()
        scope._watch, scope._race, scope.to_end = None, False, False
        if verifying is not None:
            scope._verifying = verifying
        return scope

    def _fall_short(self, what: str) -> None:
        self.shortfalls.append(what)


def _estimated(scheduler: Scheduler, elapsed: float, request: Request) -> Completion:
    """A cancelled draw of which nothing is known: elapsed time by the rate seen so far."""
    guess = int(elapsed * (scheduler.tokens_per_second or 0.0))
    return Completion("", min(guess, request.sampling.max_new_tokens), "cancelled", seconds=elapsed)


def _is_final(completion: Completion) -> bool:
    """Whether drawing it again would give the same: no failure, and not ended by whoever watched it."""
    return completion.error is None and completion.finish != "stopped_early"
