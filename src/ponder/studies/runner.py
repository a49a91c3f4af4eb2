"""Runs a study: problems side by side, strategies of one problem on the same draws, everything kept.

For each problem the largest number of samples comes first; smaller points then find their draws in the
store, since a draw's key names its place and not who asked. A row's outcome is stored when it is
graded, so a study that goes on after being killed repeats neither calls nor grading. Outcomes with
errors are not stored: the next run tries those again, on the draws that came.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ponder.api import build_process, check_capabilities, default_sampling, run_sync
from ponder.core.allocator import Allocator
from ponder.core.cache import Cache, MemoryCache
from ponder.core.context import Context
from ponder.core.model import Model, Sampling
from ponder.core.problem import Problem, Task, merged_sampling
from ponder.core.process import Process
from ponder.core.registry import MODELS, TASKS, Registered
from ponder.core.scheduler import is_fatal
from ponder.core.strategy import Result, Strategy
from ponder.core.verifier import Verifier
from ponder.errors import (
    BudgetError,
    CapabilityError,
    MissingExtraError,
    ParameterError,
    PonderError,
    SpecError,
    StoreError,
    StudyError,
    TaskError,
)
from ponder.ledger.budget import Allowance, Budget, Meter
from ponder.ledger.spend import Ledger, Spend, completion_spend
from ponder.studies.baselines import with_baselines
from ponder.studies.guard import StudyRuntime
from ponder.studies.outcome import Outcome, crashed, grade_result
from ponder.studies.plan import Study
from ponder.studies.preflight import preflight
from ponder.studies.results import Row, Series, StudyResults, make_row, write_tables, write_whole
from ponder.studies.rounds import Rounds
from ponder.studies.search_notes import search_notes
from ponder.studies.store import Store
from ponder.studies.tree_record import tree_record, worth_showing

_KNOW_THE_TRUTH = ("exact", "imperfect_oracle")
"""Verifiers that look at the reference: nothing is to be learnt from trying them."""

_MOST_SAMPLES = 1 << 16
"""Samples of all problems under way together: enough to keep any endpoint busy, few enough for memory."""


class Progress(Protocol):
    """Told how a study goes on."""

    def begin(self, rows: int, problems: int, most: Spend) -> None:
        """It starts: rows, problems, and the most it can cost."""

    def finished(self, series: Series, outcome: Outcome, replayed: bool) -> None:
        """One problem of one row is done."""


@runtime_checkable
class Watcher(Protocol):
    """Progress that also looks at what is spent."""

    def watch(self, runtime: StudyRuntime) -> None:
        """The study's shared parts, before it starts."""


class Silent:
    """Tells nobody."""

    def begin(self, rows: int, problems: int, most: Spend) -> None:
        """Nothing."""

    def finished(self, series: Series, outcome: Outcome, replayed: bool) -> None:
        """Nothing."""


@dataclass
class Prepared:
    """A study with its objects made and checked, ready to spend."""

    study: Study
    model: Model
    task: Task
    process: Process
    sampling: Sampling
    problems: Sequence[Problem]
    warnings: list[str] = field(default_factory=list)

    @property
    def identity(self) -> dict[str, str]:
        """What must agree before two runs may share a store."""
        return {
            "model": self.model.identity,
            "task": self.task.identity,
            "seed": str(self.study.seed),
            "sampling": replace(self.sampling, logprobs=None).key(),
            "process": self.process.identity,
            "budget": str(Budget.parse(self.study.budget)),
        }

    def most(self) -> Spend:
        """The most that the draws of the study can cost; judges and selectors come on top."""
        largest: dict[str, int] = {}
        for strategy, k in self.study.rows():
            key = "draws" if strategy.takes_samples else str(strategy)
            largest[key] = max(largest.get(key, 0), k)
        for allocator, k in self.study.allocator_rows():
            largest[str(allocator)] = k
        draws = sum(largest.values())
        if self.model.process is not None:  # it has no tokens
            return Spend(model_calls=draws * len(self.problems))
        prompt = sum(self.model.count_tokens(p.prompt) for p in self.problems)
        prompt *= len(largest) if self.model.capabilities.n is True else draws
        generated = draws * self.sampling.max_new_tokens * len(self.problems)
        price = self.study.price_table.of(self.model)
        cost = (prompt * price[0] + generated * price[2]) / 1e6
        calls = draws * len(self.problems)
        return Spend(prompt_tokens=prompt, generated_tokens=generated, model_calls=calls, cost_usd=cost)


def prepare(study: Study, *, model: Model | None = None, task: Task | None = None) -> Prepared:
    """Make a study's objects and check that they fit together; nothing is sent.

    Args:
        study: the plan.
        model: instead of the one that the plan names.
        task: instead of the one that the plan names.

    Raises:
        SpecError, TaskError, CapabilityError, ModelNotFoundError: it cannot run as planned.
        BudgetError: its budget is zero.
    """
    warnings: list[str] = []
    rules = task or TASKS.build(study.task)
    backend = model or MODELS.build(study.model)
    if tuned := getattr(backend, "profile_note", ""):
        warnings.append(tuned)
        study = replace(study, model=str(backend))  # what it runs with, also when the profile is gone
    for strategy in study.everything:
        check_capabilities(strategy, backend)
    for text in (study.budget, study.study_budget):
        limits = Budget.parse(text)
        zero = [f.name for f in fields(limits) if getattr(limits, f.name) == 0]
        if zero:
            raise BudgetError(f"a budget of {zero[0]}=0 buys nothing; leave the limit out, or give a number > 0")
        if limits.cost_usd is not None and not any(study.price_table.of(backend)):
            warnings.append(f"{backend} has no price, so a limit in dollars cannot bind; give one with --price")
    if study.compute in ("flops", "eflops") and backend.shape is None:
        raise StudyError(
            f"compute={study.compute} needs the size of {backend}, which is unknown; give it, as in "
            "openai:NAME@URL(size=qwen3-8b), or choose compute=tokens"
        )
    problems = rules.problems(study.limit, seed=study.seed)
    if not problems:
        raise TaskError(f"{rules} gave no problems; check its filters and the file or data set behind it")
    twice = [name for name, count in Counter(p.id for p in problems).items() if count > 1]
    if twice:
        raise TaskError(f"{rules}: {len(twice)} problem ids are not unique, the first is {twice[0]!r}; ids name draws")
    process = build_process(study.process, study.everything, backend)
    study = with_baselines(study, process)
    return Prepared(study, backend, rules, process, study_sampling(study, backend, rules), problems, warnings)


def study_sampling(study: Study, model: Model, task: Task, stored: str | None = None) -> Sampling:
    """The settings that all draws of a study share, so that its strategies can share draws.

    Args:
        study: its own settings win.
        model: log-probabilities are asked for if it is known to give them, or if a strategy needs them.
        task: its settings come next.
        stored: whether the store's draws have log-probabilities (`yes` or `no`); those in it have to be found.
    """
    base = default_sampling(study.everything[0], model)
    needed = any("logprobs" in s.requires for s in study.everything)
    wanted = needed or (base.logprobs is not None if stored is None else stored == "yes")
    return merged_sampling(replace(base, logprobs=0 if wanted else None), task.sampling, study.sampling)


async def abench(
    study: Study | str | Path | Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    *,
    progress: Progress | None = None,
    check: bool = True,
    model: str | Model | None = None,
    task: str | Task | None = None,
    allowance: Allowance | None = None,
    **settings: Any,
) -> StudyResults:
    """Run a study, or go on with it.

    Args:
        study: a Study, a TOML file, or plain data; None takes everything from `settings`.
        out: directory for store, results and report; None keeps everything in memory.
        progress: told how it goes on.
        check: probe the model first (remembered per endpoint and model).
        model: text form or object, over the plan's.
        task: the same.
        allowance: what its rows may take together, each counted in full, those of an earlier run included. A problem
            that it cuts is not kept, and ends the study as its budget does.
        settings: fields of `Study`, over those of `study`.

    Returns:
        The rows, as in `results.json`.

    Raises:
        PonderError: it cannot start, or cannot go on. What is finished is in the store, and running it
            again goes on from there.
    """
    plan = _plan(study, {**settings, "model": model and str(model), "task": task and str(task)})
    prepared = prepare(
        plan, model=model if isinstance(model, Model) else None, task=task if isinstance(task, Task) else None
    )
    if out is None:
        return await _Run(prepared, MemoryCache(), None, progress or Silent(), allowance).start(check)
    with Store(Path(out), prepared.identity) as store:
        sampling = study_sampling(plan, prepared.model, prepared.task, store.fact("logprobs"))
        prepared = replace(prepared, sampling=sampling)
        await store.note("logprobs", "no" if sampling.logprobs is None else "yes")
        prices = str(sorted(plan.prices.items()))
        if store.fact("prices") != prices:  # stored outcomes carry dollars: count them anew, from stored draws
            await store.forget_outcomes()
            await store.note("prices", prices)
        write_whole(Path(out) / "study.toml", prepared.study.to_toml().encode())
        return await _Run(prepared, store, store, progress or Silent(), allowance).start(check)


def bench(study: Study | str | Path | Mapping[str, Any] | None = None, out: Any = None, **options: Any) -> StudyResults:
    """`abench` for scripts and notebooks; works inside a running event loop too.

    >>> from ponder.testing import Sums
    >>> results = bench(model="sim:strong", task=Sums(), strategies=["repeated_sampling | majority"],
    ...                 samples=[1, 5], check=False)
    >>> [row["budget"] for row in results.rows]
    [1, 5]
    """
    return run_sync(lambda: abench(study, out, **options))


def _plan(study: Study | str | Path | Mapping[str, Any] | None, settings: Mapping[str, Any]) -> Study:
    if isinstance(study, Study):
        return Study.of({k: v for k, v in asdict(study).items() if v is not None}, **settings)
    if isinstance(study, (str, Path)):
        return Study.from_toml(Path(study), **settings)
    return Study.of(study or {}, **settings)


class _Run:
    """One run of a prepared study."""

    def __init__(
        self, prepared: Prepared, cache: Cache, store: Store | None, progress: Progress, allowance: Allowance | None
    ) -> None:
        self.prepared, self.store, self.progress, self.allowance = prepared, store, progress, allowance
        study = prepared.study
        limits = Budget.parse(study.study_budget)
        already = Spend() if limits.unlimited or store is None else self._spent_before(store)
        self.runtime = StudyRuntime(cache=cache, prices=study.price_table, limits=limits, already=already)
        if allowance is not None:
            self.runtime.meter = Meter(Budget(seconds=limits.seconds), allowance)
        self.limit = Budget.parse(study.budget)
        plain = [(s.with_samples(k), Series(str(s), k)) for s, k in study.rows()]
        self.in_order = sorted(plain, key=lambda row: -row[1].budget)
        self.allocated = [(a.with_samples(k), Series(str(a), k)) for a, k in study.allocator_rows()]
        self.series = [series for _, series in (*plain, *self.allocated)]
        self.warnings = list(prepared.warnings)
        if isinstance(progress, Watcher):
            self.runtime.watched = True
            progress.watch(self.runtime)

    async def start(self, check: bool) -> StudyResults:
        """Probe the model and the verifiers if asked to, then run; the probes are about text."""
        try:
            if check and self.prepared.model.process is None:
                await self._check()
            return await self._go()
        finally:
            await self.runtime.aclose()

    async def _check(self) -> None:
        prepared = self.prepared
        study = prepared.study
        needs = frozenset[str]().union(*(s.requires for s in study.everything))
        found = await preflight(prepared.model)
        self.warnings += found.warnings(needs)
        for verifier in _judges((*study.parsed, *study.parsed_allocators)):
            tried = await preflight(prepared.model, task=prepared.task, verifier=verifier, runtime=self.runtime)
            self.warnings += [f"{verifier}: {line}" for line in tried.warnings(needs) if line.startswith("verifier")]

    async def _go(self) -> StudyResults:
        """Every problem, then the tables: of all problems, or of those that were finished when it had to stop."""
        self._load()
        self.progress.begin(len(self.series), len(self.prepared.problems), self.prepared.most())
        waiting = iter(self.prepared.problems)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._side_by_side()):
                    group.create_task(self._work(waiting))
            for allocator, series in self.allocated:
                await self._allocate(allocator, series)
        except (BaseExceptionGroup, PonderError) as errors:
            error = _first(errors) if isinstance(errors, BaseExceptionGroup) else errors
            stopped = self.runtime.stop or error
            if isinstance(stopped, BudgetError) or self.runtime.out_of_time:
                return self._cut_short(stopped)
            if not isinstance(error, Exception):
                raise error from None
            raise self._explained(stopped if isinstance(stopped, Exception) else error) from error
        folder = self.store.folder if self.store else None
        rows = self._tables()
        return StudyResults(rows, folder, tuple(self.warnings), True)

    def _side_by_side(self) -> int:
        """Problems under way at once: as many as the study wants, but no more samples in memory than it takes."""
        study = self.prepared.study
        largest = max((series.budget for series in self.series), default=1)
        return min(study.concurrency, len(self.prepared.problems), max(1, _MOST_SAMPLES // max(largest, 1)))

    def _cut_short(self, why: BaseException) -> StudyResults:
        """The study's own budget is used up: what is finished is a result."""
        unfinished = [series for _, series in self.allocated if not series.outcomes]
        if unfinished:
            self.series = [series for series in self.series if series not in unfinished]
            self.warnings.append(f"no row for {', '.join(dict.fromkeys(s.strategy for s in unfinished))}: {why}")
        done = self._finished() if self.series else []
        if not done:
            raise BudgetError(f"{why}; no problem could be finished. Give a larger study budget.") from why
        self.warnings.append(
            f"stopped after {len(done)} of {len(self.prepared.problems)} problems: {why}. The rows are about those; "
            "run the same command with a larger study budget to go on"
        )
        folder = self.store.folder if self.store else None
        rows = self._tables()
        return StudyResults(rows, folder, tuple(self.warnings), False)

    def _explained(self, error: Exception) -> Exception:
        """An error that ends the study, with what is kept and how to go on."""
        kept = f"{len(self._finished())} of {len(self.prepared.problems)} problems are finished"
        where = f" and kept in {self.store.folder}: run the same command again to go on" if self.store else ""
        return StudyError(f"the study stopped: {type(error).__name__}: {error}\n{kept}{where}.")

    def _finished(self) -> list[str]:
        """Problems that all rows have an outcome of."""
        return [p.id for p in self.prepared.problems if all(p.id in series.outcomes for series in self.series)]

    def _spent_before(self, store: Store) -> Spend:
        """What the stored draws have cost, at the price of the study's model."""
        price = self.prepared.study.price_table.of(self.prepared.model)
        costs = (
            completion_spend(c, prompt_length=0, shape=None, price=price, verifying=False) for c in store.completions()
        )
        return sum((*costs, *store.output_costs()), Spend())

    def _load(self) -> None:
        """Outcomes of an earlier run."""
        if self.store is None:
            return
        wanted = {p.id for p in self.prepared.problems}
        for series in self.series:
            for problem, data in self.store.outcomes(series.strategy, series.budget):
                if problem in wanted:
                    series.outcomes[problem] = Outcome.of(data)
        if self.allowance is not None:
            known = (o.spend.values() for series in self.series for o in series.outcomes.values())
            self.allowance.begin(sum((Spend(**amounts) for stages in known for amounts in stages), Spend()))  # type: ignore[arg-type]
        for _, series in self.allocated:  # its problems depend on each other: all of them, or none
            if len(series.outcomes) < len(wanted):
                series.outcomes = {}

    async def _work(self, waiting: Iterator[Problem]) -> None:
        """All rows of one problem, the largest number of samples first; then the next problem."""
        for problem in waiting:
            for strategy, series in self.in_order:
                if problem.id in series.outcomes:
                    self.progress.finished(series, series.outcomes[problem.id], True)
                    continue
                outcome = await self._solve(problem, strategy, series)
                self._check_up()
                await self._keep(problem, series, outcome)

    def _check_up(self) -> None:
        """Raise what concerns all problems: a verifier's failure is its sample's, but not that study or store gave way.

        Raises:
            PonderError: why the study cannot go on.
        """
        if self.runtime.stop is not None:
            raise self.runtime.stop
        if self.runtime.out_of_time:
            raise BudgetError(f"the study's time ({self.runtime.limits}) is over")
        if self.store is not None and self.store.broken is not None:
            raise self.store.broken

    async def _keep(self, problem: Problem, series: Series, outcome: Outcome) -> None:
        """A finished problem of a row."""
        series.outcomes[problem.id] = outcome
        if self.store is not None and not outcome.errors:
            await self.store.put_outcome(series.strategy, series.budget, problem.id, outcome.as_dict())
        self.progress.finished(series, outcome, False)

    def _context(self, problem: Problem, budget: Budget | None = None) -> Context:
        prepared = self.prepared
        return Context(
            problem,
            prepared.process,
            task=prepared.task,
            sampling=prepared.sampling,
            budget=budget,
            seed=prepared.study.seed,
            runtime=self.runtime,
            ledger=_SimulatedTime() if prepared.model.name == "sim" else Ledger(),
        )

    async def _solve(self, problem: Problem, strategy: Strategy, series: Series) -> Outcome:
        ctx = self._context(problem, self.limit)
        try:
            result = await strategy.run(problem, ctx)
        except Exception as error:
            if self.runtime.stop is not None or _concerns_all(error):
                raise
            return crashed(error, ctx.ledger.stages)
        if self.allowance is not None and ctx.shortfalls:
            raise BudgetError(f"the allowance is used up: {ctx.shortfalls[-1]}")
        return await self._graded(result, series)

    async def _graded(self, result: Result, series: Series) -> Outcome:
        if self.store is not None and worth_showing(result) and self.store.broken is None:
            record = tree_record(result, self.prepared.task, self.prepared.process.output)
            await self.store.put_tree(series.strategy, series.budget, result.problem.id, record)
        return grade_result(result, self.prepared.task)

    async def _allocate(self, allocator: Allocator, series: Series) -> None:
        """A row whose problems share what there is: round by round, then graded all together."""
        problems, study = self.prepared.problems, self.prepared.study
        if series.outcomes:
            for problem in problems:
                self.progress.finished(series, series.outcomes[problem.id], True)
            return

        def concerns_all(error: Exception) -> bool:
            return self.runtime.stop is not None or _concerns_all(error)

        rounds = Rounds(allocator, study.seed, self.limit, study.concurrency, self._context, concerns_all)
        seats = await rounds.run(problems)
        self._check_up()
        for problem, seat in zip(problems, seats, strict=True):
            spent = seat.ctx.ledger.stages
            result = seat.standing.result or seat.ctx.result(())
            if seat.error is not None:
                await self._keep(problem, series, crashed(seat.error, spent))
            else:
                await self._keep(problem, series, await self._graded(replace(result, spend=spent), series))

    def _tables(self) -> list[Row]:
        """The rows about all finished problems; written if there is a folder."""
        order = self._finished()
        largest: dict[str, Series] = {}
        for series in self.series:
            series.outcomes = {p: series.outcomes[p] for p in order}
            known = largest.get(series.strategy)
            if known is None or series.budget > known.budget:
                largest[series.strategy] = series
        draws = {
            name: {p: (o.drawn - o.lost, o.right) for p, o in s.outcomes.items()} for name, s in largest.items()
        }  # fmt: skip
        every = self.series
        model, task = str(self.prepared.model), str(self.prepared.task)
        intensity = self.prepared.study.intensity
        rows = [make_row(model, task, s, draws[s.strategy], intensity) for s in every]
        notes = search_notes([series for _, series in self.in_order], order)
        self.warnings += notes
        if self.store is not None:
            write_tables(self.store.folder, rows, every, order, intensity, notes)
        return rows


class _SimulatedTime(Ledger):
    """Leaves measured time out: beside a simulated model's simulated time it means nothing."""

    def charge(self, stage: str, spend: Spend) -> None:
        """Add a cost; scores and evaluations come with measured seconds."""
        measured = spend.verifier_calls or spend.function_evaluations
        super().charge(stage, replace(spend, seconds=0.0) if measured else spend)


def _concerns_all(error: Exception) -> bool:
    """Whether every further problem would meet the same error."""
    return is_fatal(error) or isinstance(
        error, (CapabilityError, MissingExtraError, ParameterError, SpecError, StoreError, StudyError)
    )


def _judges(strategies: Sequence[Registered]) -> list[Verifier]:
    """The verifiers in strategies, allocators and what they contain that are worth trying on known cases."""
    found: dict[Verifier, None] = {}
    parts: list[Any] = list(strategies)
    while parts:
        part = parts.pop(0)
        if isinstance(part, Verifier) and part.name not in _KNOW_THE_TRUTH and "logprobs" not in part.needs:
            found[part] = None
        for value in getattr(part, "__dict__", {}).values():
            parts += [v for v in (value if isinstance(value, tuple) else (value,)) if isinstance(v, Registered)]
    return list(found)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of a group that is no consequence of another."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            return _first(error)
        if not isinstance(error, asyncio.CancelledError):
            return error
    return group
