"""What a strategy is given: the one door to models, verifiers, money and randomness.

Because every draw, extension, score and selection passes through here, the ledger is complete, the
budget holds, finished calls are stored, and seeds do not depend on timing, without a line about any
of it in a strategy.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import numpy.typing as npt

from ponder.core.candidate import Candidate, Failure
from ponder.core.model import Sampling, Watcher
from ponder.core.problem import Problem, Task
from ponder.core.process import Process
from ponder.core.runtime import Runtime
from ponder.core.scores import Scores, is_configuration
from ponder.core.seeds import derive_seeds, generator
from ponder.core.state import Slot, State
from ponder.core.verifier import NextStepVerifier, Scorable, Verifier, key_of
from ponder.errors import (
    CapabilityError,
    PonderError,
)
from ponder.ledger.budget import Budget
from ponder.ledger.spend import Ledger, Spend

if TYPE_CHECKING:
    from ponder.core.answers import Same
    from ponder.core.selector import Selection, Selector
    from ponder.core.strategy import Result, Status


class Context(Scores):
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
        super().__init__(problem, sampling, budget, runtime, ledger)
        self.process, self.task, self.verifier = process, task, verifier
        self.seed = seed
        self.failures = []
        self._roots: dict[str, State] = {}
        self._next_slot: dict[tuple[Slot, ...], int] = {}
        self._next_index = 0
        self._why = {}
        self._remarks = {}
        self.memo = {}
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
            self._ready_scores = {(str(verifier), key_of(c)): s for c, s in given if not math.isnan(s)}

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

    # ------------------------------------------------------------------ choosing and reporting

    async def select(self, result: Result, selector: Selector, k: int = 1) -> Result:
        """The result with its choice made by `selector`; a result without candidates stays as it is."""
        usable = [i for i, c in enumerate(result.candidates) if c.error is None]
        if not usable:
            return result
        scope = self._scope("select", verifying=True)
        try:
            chosen = await selector.choose(self.problem, [result.candidates[i] for i in usable], scope, k)
        except Exception as error:
            if is_configuration(error) or not isinstance(error, PonderError):
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

    # ------------------------------------------------------------------ scopes

    @property
    def _extending(self) -> str:
        """The stage of further steps: what a verifier has written (rollouts) is its own cost."""
        return self.stage if self._verifying else "extend"

    def _scope(self, stage: str, *, verifying: bool | None = None) -> Self:
        scope = super()._scope(stage, verifying=verifying)
        scope._why, scope.given = {}, {}
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
