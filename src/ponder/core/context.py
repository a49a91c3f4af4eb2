"""What a strategy is given: the one door to models, verifiers, money and randomness.

Because every draw, extension, score and selection passes through here, the ledger is complete, the
budget holds, finished calls are stored, and seeds do not depend on timing, without a line about any
of it in a strategy.
"""

from __future__ import annotations

import asyncio
import math
import struct
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Hashable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from ponder.core.cache import Cache, NoCache, content_key, content_keys, prompt_key
from ponder.core.candidate import Candidate, Failure
from ponder.core.merge import batches, one_by_one
from ponder.core.model import Completion, Model, Request, Sampling, Watcher
from ponder.core.problem import Problem, Prompt, Task
from ponder.core.process import Process
from ponder.core.scheduler import Scheduler, is_fatal
from ponder.core.seeds import derive_seeds, generator
from ponder.core.state import Slot, State
from ponder.core.verifier import NextStepVerifier, Scorable, Verifier, output_of
from ponder.errors import (
    BudgetError,
    CapabilityError,
    EmptyResponseError,
    MissingExtraError,
    ParameterError,
    PonderError,
    TaskError,
    VerifierError,
)
from ponder.ledger.budget import Budget, Meter
from ponder.ledger.prices import Prices
from ponder.ledger.spend import Ledger, Spend, completion_amounts, completion_spend

if TYPE_CHECKING:
    from ponder.core.answers import Same
    from ponder.core.selector import Selection, Selector
    from ponder.core.strategy import Result, Status

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_COST = struct.Struct("<dqqq")
"""Stands before a stored output: the seconds, function evaluations, transitions and model calls that it took."""

_SCORE = struct.Struct("<d")

_READ_AT_ONCE = 1024
"""Stored completions read at once; in between, whatever else waits has its turn."""

_EMPTY_ROUNDS = 3
"""How often a backend may return nothing for a request before the draw is given up."""


@dataclass
class Runtime:
    """What all problems of a run share: schedulers, the cache of finished calls, prices.

    Args:
        cache: where finished model calls are kept.
        prices: dollars per model.
        meter: a budget over the whole run; None for no limit.
    """

    cache: Cache = field(default_factory=NoCache)
    prices: Prices = field(default_factory=Prices)
    meter: Meter | None = None
    _schedulers: dict[int, Scheduler] = field(default_factory=dict)

    def scheduler(self, model: Model) -> Scheduler:
        """The one scheduler of a model."""
        found = self._schedulers.get(id(model))
        if found is None:
            found = self._schedulers[id(model)] = Scheduler(model)
        return found

    def admit(self, spend: Spend) -> None:
        """Told what evaluations are about to cost that no scheduler sees; a study raises if it may not spend that."""

    async def aclose(self) -> None:
        """Close every model that was used."""
        for scheduler in self._schedulers.values():
            await scheduler.model.aclose()
        self._schedulers.clear()


class Context:
    """One problem's run.

    Args:
        problem: what is being solved.
        process: builds outputs.
        task: grades, extracts and compares answers; None for a bare prompt.
        verifier: the default for `score`.
        sampling: settings that states may override by their `meta`.
        budget: the hard limit for this problem.
        seed: the study's seed.
        runtime: shared parts.
        ledger: where costs go.
    """

    def __init__(
        self,
        problem: Problem,
        process: Process,
        *,
        task: Task | None = None,
        verifier: Verifier | None = None,
        sampling: Sampling | None = None,
        budget: Budget | None = None,
        seed: int = 0,
        runtime: Runtime | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        self.problem, self.process, self.task, self.verifier = problem, process, task, verifier
        self.sampling = sampling or Sampling()
        self.seed = seed
        self.runtime = runtime or Runtime()
        self.ledger = ledger or Ledger()
        self.meter = Meter(budget or Budget(), self.runtime.meter)
        self.failures: list[Failure] = []
        self.shortfalls: list[str] = []
        self.stage = "draw"
        self._verifying = False
        self._longest = 0
        self._watch: Watcher | None = None
        self._race = False
        self._indices: dict[int, int] = {}
        self._roots: dict[str, State] = {}
        self._next_slot: dict[tuple[Slot, ...], int] = {}
        self._next_index = 0
        self._holds: list[Spend] = []
        self._why: dict[int, Exception] = {}
        self._remarks: dict[object, str] = {}
        self.memo: dict[object, Any] = {}
        self.given: dict[tuple[State, Slot], Any] = {}
        self._ready: dict[int, Candidate] = {}
        self._ready_scores: dict[tuple[str, object], float] = {}

    # ------------------------------------------------------------------ randomness

    def rng(self, *path: object) -> np.random.Generator:
        """A generator that depends on the study's seed, the problem and `path`, and on nothing else."""
        return generator(self.seed, self.problem.id, *path)

    def seeds(self, n: int, *path: object) -> tuple[int, ...]:
        """Seeds for `n` completions at a place named by `path`."""
        return derive_seeds((self.seed, self.problem.id, *path), range(n))

    def seeds_for(self, state: State, slots: Sequence[Slot]) -> tuple[int, ...]:
        """Seeds for children of a state."""
        return derive_seeds((self.seed, self.problem.id, *state.path), slots)

    # ------------------------------------------------------------------ drawing

    @property
    def same(self) -> Same | None:
        """The task's own equivalence of answers, if it has one."""
        if self.task is None or type(self.task).same is Task.same:
            return None
        return self.task.same

    def root(self, meta: Mapping[str, Any] | None = None) -> State:
        """The root of the tree; one per distinct `meta`, whose settings all its descendants inherit."""
        label = ",".join(f"{k}={meta[k]}" for k in sorted(meta)) if meta else ""
        if label not in self._roots:
            self._roots[label] = self.process.start(self.problem, label=label, meta=meta)
        return self._roots[label]

    def take_up(self, drawn: Mapping[State, int]) -> None:
        """Go on from nodes of an earlier run of this problem: so many children of each were drawn already."""
        self._next_slot.update({state.path: count for state, count in drawn.items()})

    def reuse(
        self, candidates: Iterable[Candidate], verifier: Verifier | None = None, scores: Iterable[float] = ()
    ) -> None:
        """Let draws of whole outputs begin with those that another child of this problem's context has paid for.

        They come back at their own places, so that a strategy answers as it would alone, and are not charged again;
        nor are scores by the same verifier, unless it scores by comparing. Draws with settings of their own, in a
        race, or watched are made anew, and so are steps of a search.
        """
        drawn = [c for c in candidates if c.error is None]
        self._ready = {c.index: c for c in drawn}
        if verifier is not None and not verifier.compares:
            given = zip(candidates, scores, strict=True)
            self._ready_scores = {(str(verifier), _key(c)): s for c, s in given if not math.isnan(s)}

    async def draw(self, problem: Problem, n: int, **options: Any) -> list[Candidate]:
        """`n` finished candidates, in draw order; fewer if the budget does not allow them.

        Repeated calls go on where the last one stopped. Options are those of `stream`.
        """
        async with aclosing(self.stream(problem, n, **options)) as landing:
            drawn = [candidate async for candidate in landing]
        return sorted(drawn, key=lambda c: c.index)

    async def stream(
        self,
        problem: Problem,
        n: int,
        *,
        meta: Mapping[str, Any] | None = None,
        parts: Sequence[tuple[Mapping[str, Any] | None, int]] | None = None,
        race: bool = False,
        watch: Watcher | None = None,
        hold: Spend = Spend(),
    ) -> AsyncGenerator[Candidate, None]:
        """Yield candidates as they are finished. Leaving the loop cancels the rest.

        Args:
            problem: the problem of this context.
            n: how many to draw.
            meta: settings for these draws, such as `{"temperature": 0.7}`.
            parts: several distinct settings at once, each with its number of draws; `n` and `meta` then
                say nothing.
            race: stream each draw by itself, so that cancelling saves what it has not generated yet,
                and what it has generated is known exactly.
            watch: sees every draw while it grows (chunks carry the candidate's index) and may end it.
            hold: what each candidate will cost later (its score): draw only as many as leave room for it.
        """
        level: list[State] = []
        slots: list[Sequence[int]] = []
        offsets: dict[State, int] = {}
        ready: list[Candidate] = []
        for settings, count in [(meta, n)] if parts is None else parts:
            start = self.root(settings)
            first = self._next_slot.get(start.path, 0)
            self._next_slot[start.path] = first + count
            offsets[start] = self._next_index - first
            self._next_index += count
            places = range(first, first + count)
            paid = [] if settings or race or watch is not None else [k for k in places if k in self._ready]
            ready += [replace(self._ready[k], index=k + offsets[start]) for k in paid]
            if len(paid) < count:
                level.append(start)
                slots.append([k for k in places if k not in paid] if paid else places)
        scope = self._scope(self.stage)
        scope._watch, scope._race, scope._hold, scope._indices = watch, race, hold, {}
        scope.to_end = self.process.draws_whole
        for candidate in ready:
            if self.meter.affordable(hold) >= 1:
                scope._hold_back(1)
            yield candidate
        origin: dict[State, int] = {}
        try:
            while level:
                longer: list[State] = []
                if watch is not None:
                    for state, wanted in zip(level, slots, strict=True):
                        at = offsets.get(state)
                        indices = [origin[state]] if at is None else [slot + at for slot in wanted]
                        scope._indices.update(zip(self.seeds_for(state, wanted), indices, strict=True))
                async with aclosing(
                    cast(AsyncGenerator[State, None], self.process.extend(level, slots, scope))
                ) as children:
                    async for child in children:
                        assert child.parent is not None
                        offset = offsets.get(child.parent)
                        index = origin[child.parent] if offset is None else int(child.slot) + offset
                        if child.error is not None or self.process.done(child):
                            yield self.candidate(child, index)
                        else:
                            origin[child] = index
                            longer.append(child)
                level, slots = longer, [(0,)] * len(longer)
                scope._hold = Spend()  # held once for each candidate, not again for its further steps
                scope.note_sequential()
        finally:
            scope.note_sequential()

    async def extend(
        self,
        states: Sequence[State],
        counts: Sequence[int],
        *,
        hold: Spend = Spend(),
        to_end: bool = False,
        given: Sequence[Sequence[Any]] | None = None,
    ) -> list[list[State]]:
        """`counts[i]` new children of `states[i]`, grouped by parent and in slot order.

        Children that failed or that the budget did not allow are missing from their group. `hold` is what each
        child will cost later (its score): only as many are drawn as leave room for it. `to_end` asks the process to
        finish the output in this one step, if it can. `given[i][j]`, if it is not None, is what the process takes for
        the j-th child of `states[i]` instead of drawing it (see `Process.takes_given`).

        Raises:
            CapabilityError: something is given to a process that only draws.
        """
        if given is not None and not self.process.takes_given:
            raise CapabilityError(f"the process {self.process.name} draws its steps; it cannot be given one")
        slots: list[Sequence[int]] = []
        for state, count in zip(states, counts, strict=True):
            first = self._next_slot.get(state.path, 0)
            self._next_slot[state.path] = first + count
            slots.append(range(first, first + count))
        wanted = [(s, k) for s, k in zip(states, slots, strict=True) if k]
        scope = self._scope(self._extending)
        scope._hold, scope.to_end = hold, to_end
        if given is not None:
            for state, own, what in zip(states, slots, given, strict=True):
                scope.given.update({(state, slot): v for slot, v in zip(own, what, strict=True) if v is not None})
        groups: dict[State, list[State]] = {state: [] for state in states}
        if wanted:
            extending = self.process.extend([s for s, _ in wanted], [k for _, k in wanted], scope)
            async with aclosing(cast(AsyncGenerator[State, None], extending)) as children:
                async for child in children:
                    if child.error is not None:
                        self.failures.append(Failure("extend", None, "step", child.error))
                    elif child.parent is not None:
                        groups[child.parent].append(child)
        scope.note_sequential()
        return [sorted(groups[state], key=lambda s: s.slot) for state in states]

    async def branch(self, states: Sequence[State], most: int) -> list[list[State]]:
        """The likeliest next steps of each state, at most `most`, in one call per state.

        A state whose call failed, or that the budget did not allow, has none.
        """
        scope = self._scope(self._extending)
        groups: dict[State, list[State]] = {state: [] for state in states}
        listing = self.process.branch(states, scope, most=most)
        async with aclosing(cast(AsyncGenerator[tuple[State, list[State]], None], listing)) as found:
            async for state, children in found:
                for child in children:
                    if child.error is not None:
                        self.failures.append(Failure("extend", None, "step", child.error))
                    else:
                        groups[state].append(child)
        scope.note_sequential()
        return [groups[state] for state in states]

    async def score_next(
        self, problem: Problem, groups: Sequence[Sequence[State]], verifier: NextStepVerifier
    ) -> list[list[float]]:
        """Scores of listed next steps, grouped by their parents: one verifier call per group."""
        parents = [group[0].parent for group in groups if group]
        steps = {group[0].parent: [s.step for s in group] for group in groups if group}
        given: dict[State, Sequence[float]] = {}

        class PerParent(Verifier):
            """One number per parent for the account; the steps' own are kept aside."""

            name = verifier.name

            def __str__(self) -> str:
                return str(verifier)

            async def score(self, problem: Problem, items: Sequence[Scorable], ctx: Context) -> Sequence[float]:
                states = [item for item in items if isinstance(item, State)]
                values = await verifier.score_next(problem, states, [steps[s] for s in states], ctx)
                given.update(zip(states, values, strict=True))
                return [max(v, default=-math.inf) for v in values]

        await self.score(problem, [p for p in parents if p is not None], PerParent())
        missing = [math.nan]
        return [
            list(given.get(group[0].parent, missing * len(group))) if group and group[0].parent else []
            for group in groups
        ]

    def candidate(self, leaf: State, index: int | None = None) -> Candidate:
        """A finished (or failed) leaf as a candidate; a failing `extract` is recorded, not raised."""
        if index is None:
            index, self._next_index = self._next_index, self._next_index + 1
        if leaf.error is not None:
            self.failures.append(Failure("draw", index, leaf.error.partition(":")[0], leaf.error))
            return Candidate(None, None, index=index, finish="error", error=leaf.error, meta=leaf.meta, state=leaf)
        output = self.process.output(leaf)
        answer = output
        if self.task is not None:
            try:
                answer = self.task.extract(output)
            except Exception as error:  # a task's fault concerns this sample only
                self.failures.append(Failure("extract", index, type(error).__name__, str(error)))
                answer = None
        logprob, n_tokens = self.process.measure(leaf)
        if logprob is not None and math.isnan(logprob):
            self.failures.append(Failure("draw", index, "nan_logprob", "the backend returned a NaN log-probability"))
        return Candidate(
            output, answer, logprob, n_tokens, {}, index, leaf.finish or "stop", None, leaf.meta, leaf
        )  # fmt: skip

    # ------------------------------------------------------------------ scoring and selecting

    async def score(
        self, problem: Problem, items: Sequence[Scorable], verifier: Verifier | None = None
    ) -> npt.NDArray[np.float64]:
        """Scores of states or candidates, shape (len(items),); NaN where there is none.

        A verifier that raises is asked again item by item; what still fails is recorded as a failure of
        that item. Failed draws are not scored. What the budget does not allow stays NaN.
        """
        verifier = verifier or self.verifier
        if verifier is None:
            raise ParameterError("score", "verifier", None, allowed="a verifier", hint="for example log_probability")
        scores = np.full(len(items), np.nan)
        if self._ready_scores:
            name = str(verifier)
            scores[:] = [self._ready_scores.get((name, _key(item)), np.nan) for item in items]
        open_items = [i for i, item in enumerate(items) if item.error is None and np.isnan(scores[i])]
        if not self._verifying:  # a verifier that asks another one holds nothing
            self.release_holds(len(items))
        unit = Spend(verifier_calls=1)
        allowed = self.meter.affordable(unit)
        if allowed < len(open_items):
            self._fall_short(f"{len(open_items) - int(allowed)} scores by {verifier} were not affordable")
            open_items = open_items[: int(allowed)]
        if not open_items:
            return scores
        reserved = self.meter.reserve(Spend(verifier_calls=len(open_items)))
        scope = self._scope("verify", verifying=True)
        wanted = [items[i] for i in open_items]
        keys = self._score_keys(problem, wanted, verifier)
        values, before = self._stored_scores(keys)
        fresh = [i for i, value in enumerate(values) if math.isnan(value)]
        started = time.monotonic()
        try:
            if fresh:
                found = await self._try_scores(problem, [wanted[i] for i in fresh], verifier, scope)
                for i, value in zip(fresh, found, strict=True):
                    values[i] = value
        finally:
            seconds = before + (0.0 if scope._generated else time.monotonic() - started)
            spent = Spend(verifier_calls=len(open_items), seconds=seconds)
            self.meter.settle(reserved, spent)
            self.ledger.charge("verify", spent)
            scope.note_sequential()
        share = _cost_bytes(Spend(), (seconds - before) / max(len(fresh), 1))
        made = [(key, share + _SCORE.pack(values[i])) for i in fresh if (key := keys[i]) and not math.isnan(values[i])]
        if made:
            await self.runtime.cache.put_outputs(made)
        scores[open_items] = values
        return scores

    def _score_keys(self, problem: Problem, items: Sequence[Scorable], verifier: Verifier) -> list[bytes | None]:
        """What decides each score; None for scores that are not stored: those of texts, and of unfinished states."""
        if not (self.storing and verifier.by_output):
            return [None] * len(items)
        asked = (str(verifier), prompt_key(problem.prompt), str(problem.reference))
        keys: list[bytes | None] = []
        for item in items:
            whole = not isinstance(item, State) or self.process.done(item)
            output = output_of(item, self) if whole else None
            if isinstance(output, np.ndarray):
                keys.append(content_key("score", *asked, f"{output.dtype.str}{output.shape}", output.tobytes()))
            else:
                keys.append(None)
        return keys

    def _stored_scores(self, keys: Sequence[bytes | None]) -> tuple[list[float], float]:
        """The stored scores (NaN where there is none), and the seconds that they took."""
        named = list(dict.fromkeys(key for key in keys if key is not None))
        stored = dict(zip(named, self.runtime.cache.get_outputs(named), strict=True)) if named else {}
        found = [None if key is None else stored[key] for key in keys]
        scores = [math.nan if data is None else _SCORE.unpack_from(data, _COST.size)[0] for data in found]
        return scores, sum(cost_of_stored(data).seconds for data in found if data is not None)

    async def _try_scores(
        self, problem: Problem, items: Sequence[Scorable], verifier: Verifier, scope: Context
    ) -> list[float]:
        try:
            values = [float(v) for v in await verifier.score(problem, items, scope)]
            if len(values) != len(items):
                raise VerifierError(f"{verifier} returned {len(values)} scores for {len(items)} items")
        except BudgetError as error:
            self._fall_short(str(error))
            values = [math.nan]
        except Exception as error:
            if _is_configuration(error):
                raise
            values = [math.nan]
            if len(items) == 1:
                self._record_failure("verify", items[0], error)
                return values
        else:
            for item, value in zip(items, values, strict=True):
                if not math.isnan(value):
                    continue
                why = scope._why.get(id(item), VerifierError(f"{verifier} returned NaN"))
                if isinstance(why, BudgetError):
                    self._fall_short(str(why))
                else:
                    self._record_failure("verify", item, why)
            return values
        if len(items) == 1:
            return values
        return [(await self._try_scores(problem, [item], verifier, scope))[0] for item in items]

    async def score_each(
        self, items: Sequence[Scorable], one: Callable[[Scorable], Coroutine[Any, Any, float]]
    ) -> list[float]:
        """Scores by one coroutine per item, all under way at once: for verifiers that ask a model about each.

        An item whose coroutine raises has no score (NaN) and is recorded; the others keep theirs, and nothing is left
        running.

        Raises:
            CapabilityError, …: what would fail for every item alike.
        """
        outcomes = await asyncio.gather(*(one(item) for item in items), return_exceptions=True)
        scores = []
        for item, outcome in zip(items, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                if not isinstance(outcome, Exception) or _is_configuration(outcome):
                    raise outcome
                self.no_score(item, outcome)
                outcome = math.nan
            scores.append(outcome)
        return scores

    def knows(self, owner: object, key: Hashable) -> bool:
        """Whether `once_each` would not have to ask."""
        return (str(owner), self.problem.id, key) in self.memo

    async def once_each(
        self, owner: object, keys: Iterable[K], ask: Callable[[K], Coroutine[Any, Any, V]]
    ) -> dict[K, V | Exception]:
        """What `ask` says about each distinct key, all asked at once; what is known from before is not asked again.

        Known is what the same `owner` (by its text form) was told before in this problem's run. An exception stands
        for its key and is not remembered, so that a budget that has room again is tried again.

        Raises:
            CapabilityError, …: what would fail for every key alike.
        """
        place = (str(owner), self.problem.id)
        distinct = list(dict.fromkeys(keys))
        fresh = [key for key in distinct if (*place, key) not in self.memo]
        outcomes: dict[K, V | Exception] = {}
        told = await asyncio.gather(*(ask(key) for key in fresh), return_exceptions=True)
        for key, outcome in zip(fresh, told, strict=True):
            if isinstance(outcome, BaseException):
                if not isinstance(outcome, Exception) or _is_configuration(outcome):
                    raise outcome
                outcomes[key] = outcome
            else:
                self.memo[(*place, key)] = outcome
        return {key: outcomes[key] if key in outcomes else self.memo[(*place, key)] for key in distinct}

    def no_score(self, item: Scorable, why: Exception) -> None:
        """Say why a verifier that scores many at once returns NaN for one of them."""
        self._why[id(item)] = why

    def remark(self, item: Scorable, text: str) -> None:
        """Keep what a verifier has to say about an item beside its score, for those who revise it."""
        self._remarks[_key(item)] = text

    def remark_on(self, item: Scorable) -> str:
        """What the verifier that scored an item last has remarked; nothing by default."""
        return self._remarks.get(_key(item), "")

    async def select(self, result: Result, selector: Selector, k: int = 1) -> Result:
        """The result with its choice made by `selector`; a result without candidates stays as it is."""
        usable = [i for i, c in enumerate(result.candidates) if c.error is None]
        if not usable:
            return result
        scope = self._scope("select", verifying=True)
        try:
            chosen = await selector.choose(self.problem, [result.candidates[i] for i in usable], scope, k)
        except Exception as error:
            if _is_configuration(error) or not isinstance(error, PonderError):
                raise
            self.failures.append(Failure("select", None, type(error).__name__, str(error)))
            return replace(result, chosen=(), status="abstain", reason=str(error), failures=tuple(self.failures))
        scope.note_sequential()
        return self._with_selection(result, chosen, usable)

    def _with_selection(self, result: Result, selection: Selection, usable: Sequence[int]) -> Result:
        return replace(
            result,
            chosen=tuple(usable[i] for i in selection.indices),
            status="ok" if selection.indices else "abstain",
            reason=result.reason if selection.indices else selection.fallback,
            selection=selection,
            spend=self.ledger.stages,
            failures=tuple(self.failures),
        )

    def result(
        self,
        candidates: Sequence[Candidate],
        chosen: int | Sequence[int] | None = None,
        *,
        scores: Sequence[float] | npt.NDArray[np.float64] | None = None,
        verifier: Verifier | None = None,
        reason: str | None = None,
        **details: Any,
    ) -> Result:
        """What a strategy returns.

        Args:
            candidates: everything finished.
            chosen: index or indexes of the best ones; None to abstain.
            scores: one per candidate, kept under the verifier's name.
            verifier: who gave them; the context's own if None.
            reason: why it abstains or fell short.
            details: whatever else the strategy wants to show.
        """
        from ponder.core.strategy import Result

        candidates = tuple(candidates)
        if scores is not None:
            judge = verifier or self.verifier
            label = judge.name if judge is not None else "score"
            candidates = tuple(
                c if math.isnan(s) else replace(c, scores={**c.scores, label: float(s)})
                for c, s in zip(candidates, scores, strict=True)
            )
        picks = () if chosen is None else (chosen,) if isinstance(chosen, int) else tuple(chosen)
        status: Status = "ok" if picks else "abstain" if any(c.error is None for c in candidates) else "failed"
        if reason is None and self.shortfalls:
            reason = "; ".join(dict.fromkeys(self.shortfalls))
        if reason is None and status == "failed":
            reason = self.failures[-1].message if self.failures else "nothing was drawn"
        return Result(
            self.problem, candidates, picks, status, reason, None, self.ledger.stages, tuple(self.failures), details
        )

    # ------------------------------------------------------------------ spending

    memo: dict[object, Any]
    """What is worked out once for a run and shared by all its scopes and children; keys begin with whose it is."""

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
                seconds += cost_of_stored(stored[key]).seconds
                values[i] = unpack(i, stored[key][_COST.size :])
        made: list[tuple[bytes, bytes]] = []
        if fresh := [i for i in range(m) if i not in values]:
            self.runtime.admit(Spend.total([costs[i] for i in fresh]))
            started = time.monotonic()
            values |= zip(fresh, compute(fresh), strict=True)
            elapsed = time.monotonic() - started
            seconds += elapsed
            for i in fresh:
                if self.storing and (key := keys[i]) is not None and (data := pack(values[i])) is not None:
                    made.append((key, _cost_bytes(costs[i], elapsed / len(fresh)) + data))
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
            self._fall_short(f"the budget allowed {m} of {n} function evaluations")
        if m:
            self._hold_back(m)
            self.meter.settle(Spend(), spent)
            self._longest = max(self._longest, longest)
        return m, spent

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

    # ------------------------------------------------------------------ scopes

    to_end: bool = False
    """Whether a process that is extending should finish the output in this step, if it can."""

    _hold: Spend = Spend()
    _generated: bool = False

    @property
    def _extending(self) -> str:
        """The stage of further steps: what a verifier has written (rollouts) is its own cost."""
        return self.stage if self._verifying else "extend"

    def _scope(self, stage: str, *, verifying: bool | None = None) -> Context:
        """A view of this context under which costs go to another stage."""
        scope = object.__new__(Context)
        scope.__dict__.update(self.__dict__)
        scope.stage, scope._longest, scope._generated, scope._hold = stage, 0, False, Spend()
        scope._watch, scope._race, scope.to_end, scope._why = None, False, False, {}
        scope.given = {}
        if verifying is not None:
            scope._verifying = verifying
        return scope

    def staged(self, stage: str) -> Context:
        """A view of this context under which costs go to `stage`, for what is asked of a model beside outputs."""
        return self._scope(stage)

    def child(self, problem: Problem, *, process: Process | None = None) -> Context:
        """A context for a part or another form of the problem: a tree of its own, ledger and budget shared.

        Args:
            problem: its id should begin with this problem's id (`ID/part`), so that seeds and stored calls follow.
            process: builds its outputs; None: this context's.
        """
        scope = self._scope(self.stage)
        scope.problem, scope.process = problem, process or self.process
        scope._roots, scope._next_slot, scope._next_index = {}, {}, 0
        scope._ready, scope._ready_scores = {}, {}
        return scope

    def note_sequential(self) -> None:
        """Book the longest generation since the last call as critical-path tokens."""
        if self._longest:
            self.ledger.charge(self.stage, Spend(sequential_tokens=self._longest))
            self._longest = 0

    def _fall_short(self, what: str) -> None:
        self.shortfalls.append(what)

    def note_failure(self, stage: str, error: BaseException) -> None:
        """Record that something about this problem failed which is no candidate."""
        self.failures.append(Failure(stage, None, type(error).__name__, str(error)))

    def _record_failure(self, stage: str, item: Scorable, error: BaseException) -> None:
        index = item.index if isinstance(item, Candidate) else None
        self.failures.append(Failure(stage, index, type(error).__name__, str(error)))


def cost_of_stored(data: bytes) -> Spend:
    """What a stored output took, from its first bytes."""
    seconds, evaluations, transitions, calls = _COST.unpack_from(data)
    return Spend(function_evaluations=evaluations, transitions=transitions, model_calls=calls, seconds=seconds)


def _cost_bytes(cost: Spend, seconds: float) -> bytes:
    return _COST.pack(seconds, cost.function_evaluations, cost.transitions, cost.model_calls)


def _key(item: Scorable) -> object:
    """What an item is known by: its state where there is one."""
    state = item.state if isinstance(item, Candidate) else item
    return item.index if state is None and isinstance(item, Candidate) else state


def _estimated(scheduler: Scheduler, elapsed: float, request: Request) -> Completion:
    """A cancelled draw of which nothing is known: elapsed time by the rate seen so far."""
    guess = int(elapsed * (scheduler.tokens_per_second or 0.0))
    return Completion("", min(guess, request.sampling.max_new_tokens), "cancelled", seconds=elapsed)


def _is_final(completion: Completion) -> bool:
    """Whether drawing it again would give the same: no failure, and not ended by whoever watched it."""
    return completion.error is None and completion.finish != "stopped_early"


def _is_configuration(error: BaseException) -> bool:
    """Errors that concern the whole run, not one sample."""
    return is_fatal(error) or isinstance(error, (CapabilityError, MissingExtraError, ParameterError, TaskError))
