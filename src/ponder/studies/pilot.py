"""A pilot: candidate strategies on a few problems, within a share of a budget, as a study that can be killed.

The candidates that only select among independent draws, or stop drawing by what they have seen, share one pool, so that
all of them at all numbers of draws cost what the pool costs; all are averaged over the same orders of its draws.
Searches are run at two widths each. Problems come in rungs that double; after each rung the searches are ranked by what
they promise, and the worse half is dropped (successive halving) unless it may still win.

Everything is `bench` on one directory: a pilot that is started again replays what is stored, takes the same decisions,
and pays only for what is missing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from ponder.core.candidate import Candidate
from ponder.core.model import Model
from ponder.core.problem import Grade, Problem, Task
from ponder.core.selector import Selector
from ponder.core.strategy import Pipeline, Strategy, parse_strategy
from ponder.core.verifier import Verifier
from ponder.errors import BudgetError, ParameterError, PonderError, StudyError
from ponder.ledger.budget import Allowance, Budget
from ponder.ledger.spend import FIELDS, Spend
from ponder.studies.measured import AXES, Axis, Measured, Point, add_eflops
from ponder.studies.offline import StoredStudy
from ponder.studies.pilot_curve import (
    CostCurve,
    Curve,
    Draws,
    PoolCurve,
    ReplayCurve,
    Resamples,
    Rule,
    SearchCurve,
    orders,
)
from ponder.studies.plan import Study
from ponder.studies.replay import Replayed, replay
from ponder.studies.results import write_whole
from ponder.studies.runner import Progress, abench

Floats = NDArray[np.float64]

POOLED = (
    "single", "repeated_sampling", "best_of_n", "adaptive_consistency", "early_stopping_consistency",
    "bayesian_stopping", "stop_at_saturation", "resample_until",
)  # fmt: skip
"""Strategies whose draws are the first of one pool."""

_LADDER: tuple[tuple[int, tuple[int, ...]], ...] = (
    (16, (4, 16)), (16, (4, 8)), (8, (4, 8)), (8, (4,)), (8, ()), (4, ()), (2, ()),
)  # fmt: skip
"""Pool and search widths, the richest first."""

_ENOUGH = 24
"""Problems that the pilot wants to see at least before it takes a richer rung of the ladder."""

_FIRST, _PROBES = 8, 2

_MARGIN = 0.85
"""How much of what is left a rung may take by what problems have cost so far; lengths vary."""


@dataclass(frozen=True)
class Chosen(Task):
    """Some problems of a task, by its rules.

    Args:
        rules: the task.
        chosen: the problems.
    """

    rules: Task
    chosen: tuple[Problem, ...]

    def problems(self, limit: int | None = None, *, seed: int = 0) -> Sequence[Problem]:
        """The chosen ones."""
        return self.chosen[:limit]

    def grade(self, problem: Problem, output: Any) -> Grade:
        """As the task does."""
        return self.rules.grade(problem, output)

    def extract(self, output: Any) -> Any | None:
        """As the task does."""
        return self.rules.extract(output)

    def same(self, first: Any, second: Any) -> bool:
        """As the task does."""
        return self.rules.same(first, second)

    @property
    def sampling(self) -> Mapping[str, Any]:
        """The task's."""
        return self.rules.sampling

    @property
    def identity(self) -> str:
        """The task's: draws are shared with studies of all its problems."""
        return self.rules.identity

    def __str__(self) -> str:
        return str(self.rules)


@dataclass
class Trial:
    """A candidate in the pilot.

    Attributes:
        strategy: with its number of samples open, or fixed.
        widths: numbers of samples it is run at.
        points: what was measured, by number of samples.
        curve: accuracy against samples; None until it was measured.
        cost: cost against samples.
        problems: how many it was measured on.
        dropped: whether a rung dropped it.
    """

    strategy: Strategy
    widths: tuple[int, ...] = ()
    points: dict[int, Point] = field(default_factory=dict)
    curve: Curve | None = None
    cost: CostCurve = field(default_factory=lambda: CostCurve({}))
    problems: int = 0
    dropped: bool = False

    @property
    def pooled(self) -> bool:
        """Whether its draws are those of the pool, and it pays for nothing else but its verifier."""
        selectors = self.strategy.selectors if isinstance(self.strategy, Pipeline) else ()
        asks = any(type(s).choose is not Selector.choose for s in selectors)
        inner = _inner(self.strategy)
        wrapped = getattr(inner, "strategy", None)
        plain = wrapped is None or (Trial(wrapped).pooled and not Trial(wrapped).judge)
        compares = getattr(getattr(inner, "verifier", None), "compares", False)  # its scores depend on the other draws
        priced = getattr(inner, "value", None) is not None  # it stops by what it has paid, and a replay pays nothing
        return inner.name in POOLED and not asks and plain and not compares and not priced

    @property
    def judge(self) -> str:
        """The verifier that scores its draws; empty if none does."""
        return str(getattr(_inner(self.strategy), "verifier", None) or "")

    def at(self, n: int) -> Strategy:
        """It at n samples."""
        return self.strategy.with_samples(n)

    def usable(self, widths: Sequence[int]) -> tuple[int, ...]:
        """Those of the widths that it can have; the number it fixes itself if it does."""
        if not self.strategy.takes_samples:
            return (int(getattr(_inner(self.strategy), "n", None) or 1),)
        return tuple(w for w in widths if _allowed(self, w))


@dataclass(frozen=True)
class Pilot:
    """What a pilot found.

    Attributes:
        trials: the candidates that were measured.
        axis: what compute means.
        paid: compute that the pilot took, on the axis, within its allowance; an upper bound where draws are shared.
        problems: ids of its problems.
        left_out: candidates that were not tried, with the reason.
        resamples: the bootstrap that all curves share.
    """

    trials: tuple[Trial, ...]
    axis: Axis
    paid: float
    problems: tuple[str, ...]
    left_out: Mapping[str, str]
    resamples: Resamples


Promise = Callable[[Trial], Floats]
"""The best accuracy that a candidate is predicted to reach within the budget, in each resample."""


async def run_pilot(
    study: Study, candidates: Sequence[Strategy], problems: Sequence[Problem], allowance: float, axis: Axis, out: Path,
    promise: Promise, *, model: Model | None, task: Task, check: bool = True, progress: Progress | None = None,
) -> Pilot:  # fmt: skip
    """Measure candidates on some of the problems, for at most `allowance` on the axis.

    Args:
        study: model, task, seed, sampling, process; its strategies and samples are not read.
        candidates: what to try.
        problems: what may be used, in the order in which it is.
        allowance: the most that the pilot may spend, a hard limit; rungs are sized by what problems have cost so far.
        axis: what compute means.
        out: the study's directory.
        promise: ranks candidates between rungs.
        model: instead of the one that the study names.
        task: the study's.
        check: probe the model first.
        progress: told how each rung goes on.

    Raises:
        BudgetError: the allowance does not suffice for two problems.
        PonderError: as `bench` does.
    """
    runner = _Rungs(study, problems, allowance, axis, out, model, task, progress, check)
    trials = [Trial(s) for s in candidates]
    per_draw = await runner.probe()
    pool, widths = _richest(trials, per_draw, allowance)
    left_out: dict[str, str] = {}
    resamples = Resamples.of(1)
    for trial in trials:
        trial.widths = trial.usable(_powers(pool) if trial.pooled else widths)
        if not trial.widths:
            left_out[str(trial.strategy)] = "the pilot's share of the budget is too small to run a search at 4 samples"
    trials = [t for t in trials if t.widths]
    share = _MARGIN / 2
    per_problem = per_draw * (pool + sum(sum(t.widths) for t in trials if not t.pooled))
    while not runner.ended and runner.done < len(problems):
        wanted = max(_FIRST, 2 * runner.done) - runner.done
        room = int(share * (allowance - runner.paid(trials)) / max(per_problem, 1e-12))
        more = min(wanted, room, len(problems) - runner.done)
        if more < 1 or (not runner.done and more < 2):
            break
        await runner.rung(trials, runner.done + more)
        if not runner.done:
            break
        share, resamples = _MARGIN, Resamples.of(runner.done, seed=study.seed)
        await runner.curves(trials, resamples)
        per_problem = runner.per_problem(trials)
        if runner.done < len(problems):
            _halve(trials, promise)
    done = runner.done
    if done < 2:
        raise BudgetError(
            f"the pilot may spend {allowance:,.4g} {axis.unit}, which is too little for two problems; one draw costs "
            f"about {per_draw:,.3g}. Give a larger budget or a larger --pilot share"
        )
    ids = tuple(p.id for p in problems[:done])
    return Pilot(tuple(trials), axis, runner.paid(trials), ids, left_out, resamples)


class _Rungs:
    """Runs rungs of a pilot and keeps what they cost."""

    def __init__(
        self, study: Study, problems: Sequence[Problem], allowance: float, axis: Axis, out: Path, model: Model | None,
        task: Task, progress: Progress | None, check: bool,
    ) -> None:  # fmt: skip
        self.base = {k: v for k, v in vars(study).items() if v is not None}
        self.problems, self.allowance, self.axis, self.out = problems, allowance, axis, out
        self.model, self.task, self.progress, self.check = model, task, progress, check
        self.intensity = study.intensity
        self.done, self.probed, self.cut, self.ended = 0, 0.0, 0.0, False
        self.rows: dict[str, Point] = {}
        self.pools: dict[str, list[_Pool]] = {}
        self.replays: dict[str, list[Replayed]] = {}
        self.sources: set[str] = set()

    async def probe(self) -> float:
        """What a draw costs, from two draws on each of two problems."""
        meter = Allowance(self.allowance, self._measure)
        try:
            data = await self._bench(["repeated_sampling(n=2)"], min(_PROBES, len(self.problems)), meter)
        except BudgetError as error:
            raise BudgetError(
                f"the pilot may spend {self.allowance:,.4g} {self.axis.unit}, which is too little for two problems; "
                f"one draw costs too much at its worst. Give a larger budget or a larger --pilot share"
            ) from error
        total = self.axis.total(data.points[0].row)
        if not total:
            raise StudyError(
                f"{self.axis.name} cannot be a budget here: the model and task count none (0 for two draws). "
                f"They count {', '.join(a.name for a in data.usable_axes()) or 'nothing'}"
            )
        self.probed = meter.spent
        return total / (2 * data.points[0].n_problems)

    async def rung(self, trials: Sequence[Trial], problems: int) -> None:
        """Run what is still in on the first so many problems, or on as many as the allowance bears.

        What pays runs under a hard limit: the searches, and the pool's draws and scores once for each verifier. All
        other rows select among what is then stored. A problem that the limit cuts ends the pilot; it is not looked
        at, and what it took is in `paid`.
        """
        alive = [t for t in trials if not t.dropped]
        searches = [str(t.at(w)) for t in alive if not t.pooled for w in t.widths]
        sources = _sources(alive)
        self.sources |= set(sources)
        for paying in [[*searches, *sources[:1]], *([s] for s in sources[1:])]:
            problems = await self._limited(trials, paying, problems)
        self.done = problems
        if not problems:
            return
        names = {str(t.at(w)): (t, w) for t in alive for w in t.widths}
        for point in (await self._bench(list(names), problems)).points:
            trial, width = names[point.strategy]
            trial.points[width] = point
            trial.problems = point.n_problems

    async def _limited(self, trials: Sequence[Trial], paying: Sequence[str], problems: int) -> int:
        """Run rows as far as the allowance bears; how many of the first problems are then finished.

        What is under way may hold so much back that little is free, so what was cut is tried again one by one. An
        earlier run of this pilot that was cut has left where.
        """
        if not paying or not problems:
            return problems
        done, ended = 0, self._ended_before()
        if ended is not None and problems >= ended["problems"]:
            self.ended, self.cut, done = True, ended["cut"], int(ended["problems"])
        else:
            meter = Allowance(self.allowance - self._beside(trials, paying), self._measure)
            for alone in (False, True):
                try:
                    ids = set((await self._bench(paying, problems, meter, alone=alone)).problem_ids)
                except BudgetError:
                    ids = set()
                done = next((i for i, p in enumerate(self.problems[:problems]) if p.id not in ids), problems)
                if done == problems:
                    break
            if done < problems:  # what was under way when the limit was met is paid for, and in no row
                kept = (await self._bench(paying, done)).points if done else ()
                self.cut += meter.spent - sum(self._full(point) for point in kept)
            self.ended = done < problems
            if self.ended:
                ended = {"allowance": self.allowance, "problems": done, "cut": self.cut}
                write_whole(self.out / "pilot.json", orjson.dumps(ended))
        if done:
            self.rows |= {p.strategy: p for p in (await self._bench(paying, done)).points}
        return done

    def _ended_before(self) -> dict[str, float] | None:
        """Where an earlier run of this pilot was cut."""
        path = self.out / "pilot.json"
        found = orjson.loads(path.read_bytes()) if path.exists() else {}
        return found if found.get("allowance") == self.allowance else None

    async def _bench(
        self, strategies: Sequence[str], problems: int, allowance: Allowance | None = None, *, alone: bool = False
    ) -> Measured:
        chosen = Chosen(self.task, tuple(self.problems[:problems]))
        study = Study.of({**self.base, "strategies": list(strategies), "samples": [1]})
        if alone:
            study = replace(study, concurrency=1)
        await abench(
            study, self.out, model=self.model, task=chosen, check=self.check, progress=self.progress,
            allowance=allowance,
        )  # fmt: skip
        self.check = False
        return Measured.load(self.out, hardware=study.hardware or None)

    def paid(self, trials: Sequence[Trial]) -> float:
        """What was spent: the pool's draws once, each verifier's scores of the pool once, every search in full."""
        draws = max([self.probed, *(self._drawn(s) for s in self.rows)])
        return draws + self._beside(trials, ())

    def _beside(self, trials: Sequence[Trial], paying: Sequence[str]) -> float:
        """What other rows than these took, but for the pool's draws: every row that draws the pool counts them."""
        pool = [s for s in self.rows if s in self.sources]
        searches = {str(t.at(w)): p for t in trials if not t.pooled for w, p in t.points.items()}
        searches |= {s: p for s, p in self.rows.items() if s not in pool}
        total = self.cut + sum(self._full(p) for s, p in searches.items() if s not in paying)
        total += sum(self._full(self.rows[s]) - self._drawn(s) for s in pool if s not in paying)
        return total

    def _drawn(self, row: str) -> float:
        """The pool's draws as a row of `_sources` counts them; 0 for a search."""
        return self._amount(self.rows[row].stages.get("draw", {})) if row in self.sources else 0.0

    def _full(self, point: Point) -> float:
        return sum(self._amount(stage) for stage in point.stages.values())

    def per_problem(self, trials: Sequence[Trial]) -> float:
        """What one more problem costs."""
        alive = [t for t in trials if not t.dropped]
        return (self.paid(alive) - self.cut) / max(self.done, 1)

    def _measure(self, spend: Spend) -> float:
        return self._amount(add_eflops(spend.as_dict(), self.intensity))

    def _amount(self, stage: Mapping[str, float]) -> float:
        return self.axis.total({**dict.fromkeys(FIELDS, 0.0), **stage}) or 0.0

    async def curves(self, trials: Sequence[Trial], resamples: Resamples) -> None:
        """Accuracy and cost against samples, for everything that was measured."""
        for trial in trials:
            trial.cost = CostCurve({w: p.cost(self.axis) or 0.0 for w, p in trial.points.items()})
            rule = _rule(trial.strategy)
            if trial.pooled and trial.points:
                pools = await self._pools(_source([t for t in trials if t.pooled], trial.judge), trial.problems)
                if rule is not None:
                    draws = [pool.draws for pool in pools]
                    trial.curve = PoolCurve(draws, rule, max(trial.widths), resamples)
                else:
                    await self._replay(trial, pools, resamples)
            elif trial.points:
                correct = {w: p.correct for w, p in trial.points.items() if p.correct is not None}
                trial.curve = SearchCurve(correct, resamples, str(trial.strategy))

    async def _pools(self, source: Strategy, problems: int) -> list[_Pool]:
        """The draws of the first so many problems, read from the store once."""
        known = self.pools.setdefault(str(source), [])
        if len(known) < problems:
            judge: Verifier | None = getattr(source, "verifier", None)
            with StoredStudy.open(self.out, task=self.task) as stored:
                for problem in self.problems[len(known) : problems]:
                    _, candidates = await stored.candidates(problem, source)
                    draws = _draws(stored, problem, candidates, judge.name if judge else "")
                    known.append(_Pool(problem, tuple(candidates), draws, judge))
        return known[:problems]

    async def _replay(self, trial: Trial, pools: Sequence[_Pool], resamples: Resamples) -> None:
        """Accuracy and cost as means over orders of the pool, of what cannot be read off it."""
        right: dict[int, Floats] = {}
        cost: dict[int, float] = {}
        with StoredStudy.open(self.out, task=self.task) as stored:
            context = partial(stored.context, budget=Budget(calls=0))
            for width, point in trial.points.items():
                done = self.replays.setdefault(str(trial.at(width)), [])
                for i, pool in list(enumerate(pools))[len(done) :]:
                    rows = orders(len(pool.candidates), width, resamples.seed, i)
                    found = await replay(
                        trial.at(width), pool.problem, pool.candidates, rows, context, verifier=pool.judge
                    )
                    done.append(found)
                some = done[: len(pools)]
                right[width] = np.array([p.draws.chosen(r.chosen).mean() for p, r in zip(pools, some, strict=True)])
                mean, own = sum(r.draws.mean() for r in some), sum(r.draws[0] for r in some)
                cost[width] = (point.cost(self.axis) or 0.0) * float(mean / own if own else 1.0)
        trial.curve, trial.cost = ReplayCurve(right, resamples), CostCurve(cost)


@dataclass(frozen=True)
class _Pool:
    """A problem's draws, as candidates and as numbers; `judge` has scored them."""

    problem: Problem
    candidates: tuple[Candidate, ...]
    draws: Draws
    judge: Verifier | None


def _sources(trials: Sequence[Trial]) -> list[str]:
    """The rows that pay for the pool: the widest draws, with the scores of each verifier that is asked about them."""
    pooled = [t for t in trials if t.pooled]
    judges = dict.fromkeys(t.judge for t in pooled)
    widest = {judge: max(w for t in pooled if t.judge == judge for w in t.widths) for judge in judges}
    if widest.get("", 0) <= max((n for judge, n in widest.items() if judge), default=0):
        widest.pop("", None)
    return [str(_source(pooled, judge)) for judge in widest]


def _source(pooled: Sequence[Trial], judge: str) -> Strategy:
    """What draws the widest pool that the verifier scores; the widest of all if none does."""
    n = max(w for t in pooled if judge in ("", t.judge) for w in t.widths)
    return parse_strategy(f"best_of_n(n={n}, verifier={judge})" if judge else f"repeated_sampling(n={n})")


def _draws(stored: StoredStudy, problem: Problem, candidates: Sequence[Candidate], judge: str) -> Draws:
    """One problem's candidates as numbers; two answers are one group if the task says that they are the same."""
    answers: list[Any] = []
    right: list[bool] = []
    groups = np.full(len(candidates), -1, dtype=np.int64)
    for i, candidate in enumerate(candidates):
        if not candidate.valid:
            continue
        same = (k for k, a in enumerate(answers) if a == candidate.answer or stored.task.same(a, candidate.answer))
        group = next(same, None)
        if group is None:
            group = len(answers)
            answers.append(candidate.answer)
            right.append(bool(stored.right(problem, candidate.output)))
        groups[i] = group
    scores = np.array([c.scores.get(judge, math.nan) for c in candidates]) if judge else None
    return Draws(groups, np.array(right, dtype=bool), scores)


def _rule(strategy: Strategy) -> Rule | None:
    """How a strategy chooses among a fixed number of independent draws; None if it does not, or by another rule."""
    inner = _inner(strategy)
    selectors = [s.name for s in strategy.selectors] if isinstance(strategy, Pipeline) else []
    plain = all(str(s) == s.name for s in strategy.selectors) if isinstance(strategy, Pipeline) else True
    if inner.name == "repeated_sampling" and selectors == ["majority"] and plain:
        return "majority"
    if inner.name == "best_of_n" and not selectors:
        return "best"
    if inner.name == "best_of_n" and selectors == ["weighted_majority"] and plain and _probabilities(inner):
        return "weighted"
    return None


def _probabilities(strategy: Strategy) -> bool:
    """Whether its verifier's scores count as they are: numbers from 0."""
    low, _ = getattr(strategy, "verifier").range  # noqa: B009 - not every strategy has one
    return bool(low >= 0)


def _richest(trials: Sequence[Trial], per_draw: float, allowance: float) -> tuple[int, tuple[int, ...]]:
    """The widest pool and searches with which enough problems can be seen."""
    searches = sum(not t.pooled for t in trials)
    for pool, widths in _LADDER:
        if allowance >= _ENOUGH * per_draw * (pool + searches * sum(widths)):
            return pool, widths
    return _LADDER[-1]


def _halve(trials: Sequence[Trial], promise: Promise) -> None:
    """Drop the worse half of the searches, but none that is the best of all in a tenth of the resamples."""
    values = [promise(t) for t in trials]
    best = np.max(values, axis=0)
    searches = [i for i, t in enumerate(trials) if not t.pooled and not t.dropped]
    ranked = sorted(searches, key=lambda i: -float(values[i].mean()))
    for i in ranked[math.ceil(len(ranked) / 2) :]:
        trials[i].dropped = bool((values[i] >= best - 1e-9).mean() < 0.1)


def _inner(strategy: Strategy) -> Strategy:
    return strategy.strategy if isinstance(strategy, Pipeline) else strategy


def _allowed(trial: Trial, n: int) -> bool:
    try:
        trial.at(n)
    except PonderError:
        return False
    return True


def _powers(most: int) -> tuple[int, ...]:
    return tuple(1 << i for i in range(most.bit_length()))


def budget_axis(text: str) -> tuple[Axis, float]:
    """The axis and amount of a budget such as `tokens=200000`, `usd=5` or `eflops=1e15`.

    Raises:
        ParameterError: not one limit on a known axis.
    """
    key, sign, value = text.partition("=")
    name = {"usd": "cost_usd", "dollars": "cost_usd", "generated": "generated_tokens"}.get(key.strip(), key.strip())
    known = [a for a in AXES if a != "samples"]
    try:
        amount = float(value)
    except ValueError:
        amount = math.nan
    if name not in known or not sign or not (amount > 0 and math.isfinite(amount)):
        raise ParameterError(
            "plan", "budget", text, allowed=f"one limit above 0, NAME=NUMBER, with {', '.join(known)}",
            hint="tokens=2e6 is for the whole job, the pilot included",
        )  # fmt: skip
    return AXES[name], amount
