"""Runs a study: problems side by side, strategies of one problem on the same draws, everything kept.

For each problem the largest number of samples comes first; smaller points then find their draws in the
store, since a draw's key names its place and not who asked. A row's outcome is stored when it is
graded, so a study that goes on after being killed repeats neither calls nor grading. Outcomes with
lost draws are not stored: the next run tries those again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ponder.api import check_capabilities, default_sampling, run_sync
from ponder.core.cache import Cache, MemoryCache
from ponder.core.context import Context, Runtime
from ponder.core.model import Model, Sampling
from ponder.core.problem import Problem, Task, merged_sampling
from ponder.core.process import Process
from ponder.core.registry import MODELS, TASKS
from ponder.core.strategy import Strategy
from ponder.errors import BudgetError, StudyError
from ponder.ledger.budget import Budget, Meter
from ponder.ledger.spend import Spend
from ponder.processes.text_steps import TextSteps
from ponder.studies.outcome import Outcome, grade_result
from ponder.studies.plan import Study
from ponder.studies.preflight import preflight
from ponder.studies.results import Row, Series, StudyResults, make_row, write_tables, write_whole
from ponder.studies.store import Store

_FAILED_IN_A_ROW = 20
"""So many lost draws in a row, with none that came, stop a study: the endpoint is gone."""


class Progress(Protocol):
    """Told how a study goes on."""

    def begin(self, rows: int, problems: int, most: Spend) -> None:
        """It starts: rows, problems, and the most it can cost."""

    def finished(self, series: Series, outcome: Outcome, replayed: bool) -> None:
        """One problem of one row is done."""


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
            "sampling": self.sampling.key(),
            "process": self.process.identity,
            "budget": str(Budget.parse(self.study.budget)),
        }

    def most(self) -> Spend:
        """The most that the draws of the study can cost; judges and selectors come on top."""
        largest: dict[str, int] = {}
        for strategy, k in self.study.rows():
            key = "draws" if strategy.takes_samples else str(strategy)
            largest[key] = max(largest.get(key, 0), k)
        draws = sum(largest.values())
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
    rules = task or TASKS.build(study.task)
    backend = model or MODELS.build(study.model)
    for strategy in study.parsed:
        check_capabilities(strategy, backend)
    for text in (study.budget, study.study_budget):
        limits = Budget.parse(text)
        zero = [name for name in ("tokens", "generated_tokens", "calls", "seconds") if getattr(limits, name) == 0]
        if zero:
            raise BudgetError(f"a budget of {zero[0]}=0 buys nothing; leave the limit out, or give a number > 0")
    wanted = any("logprobs" in s.requires for s in study.parsed)
    base = default_sampling(study.parsed[0], backend)
    if wanted and base.logprobs is None:
        base = merged_sampling(base, {"logprobs": 0})
    sampling = merged_sampling(base, rules.sampling, study.sampling)
    problems = rules.problems(study.limit, seed=study.seed)
    if not problems:
        raise StudyError(f"{rules} gave no problems")
    return Prepared(study, backend, rules, TextSteps(backend), sampling, problems)


async def abench(
    study: Study | str | Path | Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    *,
    progress: Progress | None = None,
    check: bool = True,
    model: str | Model | None = None,
    task: str | Task | None = None,
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
    if check:
        found = await preflight(prepared.model)
        prepared.warnings += found.warnings(frozenset().union(*(s.requires for s in plan.parsed)))
    if out is None:
        return await _Run(prepared, MemoryCache(), None, progress or Silent()).go()
    with Store(Path(out), prepared.identity) as store:
        write_whole(Path(out) / "study.toml", plan.to_toml().encode())
        return await _Run(prepared, store, store, progress or Silent()).go()


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

    def __init__(self, prepared: Prepared, cache: Cache, store: Store | None, progress: Progress) -> None:
        self.prepared, self.store, self.progress = prepared, store, progress
        study = prepared.study
        meter = Meter(Budget.parse(study.study_budget))
        self.runtime = Runtime(cache=cache, prices=study.price_table, meter=meter)
        self.budget = Budget.parse(study.budget)
        self.rows = [(s.with_samples(k), Series(str(s), k)) for s, k in study.rows()]
        self.lost_in_a_row = 0

    async def go(self) -> StudyResults:
        """Every problem, then the tables; the tables are written when it is stopped, too."""
        self._load()
        self.progress.begin(len(self.rows), len(self.prepared.problems), self.prepared.most())
        gate = asyncio.Semaphore(self.prepared.study.concurrency)
        complete = False
        try:
            async with asyncio.TaskGroup() as group:
                for problem in self.prepared.problems:
                    group.create_task(self._one(problem, gate))
            complete = True
        except BaseExceptionGroup as errors:
            raise _first(errors) from None
        finally:
            rows = self._tables()
            await self.runtime.aclose()
        folder = self.store.folder if self.store else None
        return StudyResults(rows, folder, tuple(self.prepared.warnings), complete)

    def _load(self) -> None:
        """Outcomes of an earlier run."""
        if self.store is None:
            return
        wanted = {p.id for p in self.prepared.problems}
        for _, series in self.rows:
            for problem, data in self.store.outcomes(series.strategy, series.budget):
                if problem in wanted:
                    series.outcomes[problem] = Outcome.of(data)

    async def _one(self, problem: Problem, gate: asyncio.Semaphore) -> None:
        """All rows of one problem, the largest number of samples first."""
        async with gate:
            for strategy, series in sorted(self.rows, key=lambda row: -row[1].budget):
                if problem.id in series.outcomes:
                    self.progress.finished(series, series.outcomes[problem.id], True)
                    continue
                outcome = await self._solve(problem, strategy)
                series.outcomes[problem.id] = outcome
                if self.store is not None and not outcome.lost:
                    await self.store.put_outcome(series.strategy, series.budget, problem.id, outcome.as_dict())
                self._watch_for_outage(outcome)
                self.progress.finished(series, outcome, False)

    async def _solve(self, problem: Problem, strategy: Strategy) -> Outcome:
        prepared = self.prepared
        ctx = Context(
            problem,
            prepared.process,
            task=prepared.task,
            sampling=prepared.sampling,
            budget=self.budget,
            seed=prepared.study.seed,
            runtime=self.runtime,
        )
        result = await strategy.run(problem, ctx)
        return grade_result(result, prepared.task)

    def _watch_for_outage(self, outcome: Outcome) -> None:
        if not outcome.lost:
            self.lost_in_a_row = 0
            return
        self.lost_in_a_row += outcome.lost if outcome.lost == outcome.drawn else 0
        if self.lost_in_a_row >= _FAILED_IN_A_ROW:
            last = outcome.failures[-1] if outcome.failures else "no reason given"
            raise StudyError(
                f"{self.lost_in_a_row} draws in a row failed ({last}). What is finished is kept: "
                "run the same command again when the model answers."
            )

    def _tables(self) -> list[Row]:
        """The rows so far; written if there is a folder."""
        order = [p.id for p in self.prepared.problems]
        largest: dict[str, Series] = {}
        for _, series in self.rows:
            series.outcomes = {p: series.outcomes[p] for p in order if p in series.outcomes}
            known = largest.get(series.strategy)
            if known is None or series.budget > known.budget:
                largest[series.strategy] = series
        draws = {
            name: {p: (o.drawn - o.lost, o.right) for p, o in s.outcomes.items()} for name, s in largest.items()
        }  # fmt: skip
        every = [s for _, s in self.rows]
        model, task = str(self.prepared.model), str(self.prepared.task)
        rows = [make_row(model, task, s, draws[s.strategy]) for s in every]
        if self.store is not None:
            write_tables(self.store.folder, rows, every, order)
        return rows


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of a group that is no consequence of another."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            return _first(error)
        if not isinstance(error, asyncio.CancelledError):
            return error
    return group
