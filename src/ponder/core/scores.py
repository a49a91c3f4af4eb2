"""How verifiers are asked in one problem's run: within the budget, and item by item where one fails."""

from __future__ import annotations

import asyncio
import math
import struct
import time
from collections.abc import Callable, Coroutine, Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from ponder.core.cache import content_key, price_of, priced, prompt_key, value_of
from ponder.core.calls import Calls
from ponder.core.candidate import Candidate, Failure
from ponder.core.problem import Problem
from ponder.core.process import Process
from ponder.core.scheduler import is_fatal
from ponder.core.state import State
from ponder.core.verifier import Scorable, Verifier, key_of, output_of
from ponder.errors import (
    BudgetError,
    CapabilityError,
    MissingExtraError,
    ParameterError,
    TaskError,
    VerifierError,
)
from ponder.ledger.spend import Spend

if TYPE_CHECKING:
    from ponder.core.context import Context

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_SCORE = struct.Struct("<d")


class Scores(Calls):
    """The part of a context through which verifiers are asked (see `Context`)."""

    memo: dict[object, Any]
    """What is worked out once for a run and shared by all its scopes and children; keys begin with whose it is."""

    process: Process
    verifier: Verifier | None
    failures: list[Failure]
    _ready_scores: dict[tuple[str, object], float]
    _why: dict[int, Exception]
    _remarks: dict[object, str]

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
            scores[:] = [self._ready_scores.get((name, key_of(item)), np.nan) for item in items]
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
        scope = cast("Context", self._scope("verify", verifying=True))
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
        share = (seconds - before) / max(len(fresh), 1)
        known = [(key, _SCORE.pack(values[i])) for i in fresh if (key := keys[i]) and not math.isnan(values[i])]
        if known:
            await self.runtime.cache.put_outputs([(key, priced(score, Spend(), share)) for key, score in known])
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
            output = output_of(item, cast("Context", self)) if whole else None
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
        scores = [math.nan if data is None else _SCORE.unpack(value_of(data))[0] for data in found]
        return scores, sum(price_of(data).seconds for data in found if data is not None)

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
            if is_configuration(error):
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
                if not isinstance(outcome, Exception) or is_configuration(outcome):
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
                if not isinstance(outcome, Exception) or is_configuration(outcome):
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
        self._remarks[key_of(item)] = text

    def remark_on(self, item: Scorable) -> str:
        """What the verifier that scored an item last has remarked; nothing by default."""
        return self._remarks.get(key_of(item), "")

    def note_failure(self, stage: str, error: BaseException) -> None:
        """Record that something about this problem failed which is no candidate."""
        self.failures.append(Failure(stage, None, type(error).__name__, str(error)))

    def _record_failure(self, stage: str, item: Scorable, error: BaseException) -> None:
        index = item.index if isinstance(item, Candidate) else None
        self.failures.append(Failure(stage, index, type(error).__name__, str(error)))


def is_configuration(error: BaseException) -> bool:
    """Errors that concern the whole run, not one sample."""
    return is_fatal(error) or isinstance(error, (CapabilityError, MissingExtraError, ParameterError, TaskError))
