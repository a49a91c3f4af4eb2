"""Tune a strategy's parameters: quality against cost, searched with Optuna, and checked on problems that it never saw.

The objectives are accuracy (up) and compute per problem (down), so the result is a Pareto front. Problems are rungs: a
trial runs on a quarter of the tuning problems, then half, then all, and is given up as soon as an earlier trial that
costs no more is better on the same problems with 95 % probability. The front is then run on held-out problems: the best
of many trials looks better than it is (the winner's curse), and the difference is shown.

Differs  Optuna prunes single-objective studies only; the rule here needs pairs of trials and is ours. Each proposal's
         randomness comes from the seed and the number of finished trials, so a search that was killed goes on as an
         undisturbed one would have.
Needs    The extra `tune` (optuna).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from ponder.api import check_capabilities, run_sync
from ponder.core.model import Model
from ponder.core.problem import Problem, Task
from ponder.core.registry import MODELS, TASKS
from ponder.core.seeds import derive_seed, generator
from ponder.core.strategy import Strategy, parse_strategy
from ponder.errors import CapabilityError, MissingExtraError, ParameterError, StudyError, TaskError
from ponder.laws.intervals import bootstrap_interval, paired_difference
from ponder.studies.measured import ORACLE, Axis, Measured, Point
from ponder.studies.pilot import Chosen
from ponder.studies.plan import Study
from ponder.studies.results import write_whole
from ponder.studies.runner import Progress, abench
from ponder.studies.search_space import Choice, SearchSpace

if TYPE_CHECKING:
    import optuna

_RUNGS = (0.25, 0.5, 1.0)
_SURE = 0.95
_LEAST = 8
"""Problems below which no trial is given up."""


@dataclass(frozen=True)
class Measurement:
    """A strategy on some problems.

    Attributes:
        accuracy: share answered rightly.
        low: lower end of its 95 % interval.
        high: upper end.
        cost: compute per problem.
        problems: how many.
    """

    accuracy: float
    low: float
    high: float
    cost: float
    problems: int


@dataclass(frozen=True)
class TunedPoint:
    """A point of the front.

    Attributes:
        strategy: complete text.
        tuned: on the problems that it was chosen by.
        held_out: on others.
        still: whether it is on the front of the held-out problems too.
    """

    strategy: str
    tuned: Measurement
    held_out: Measurement
    still: bool


@dataclass(frozen=True)
class Tuning:
    """What a search found.

    Attributes:
        axis: what compute means.
        front: the Pareto front of the tuning problems, cheapest first.
        finished: trials that ran on all tuning problems.
        pruned: trials that were given up.
        impossible: trials whose parameters do not go together, with the reason.
        curse: how much better the most accurate points look than they are: accuracy of the front's best point on tuning
            problems minus that on held-out ones.
        curse_low: lower end of its 95 % interval, over problems.
        curse_high: upper end.
        notes: what a reader has to know.
    """

    axis: str
    front: tuple[TunedPoint, ...]
    finished: int
    pruned: int
    impossible: dict[str, str]
    curse: float
    curse_low: float
    curse_high: float
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def tune(
    model: str | Model, task: str | Task, space: str | Sequence[str], out: str | Path, *, trials: int = 30,
    held_out: float = 0.5, limit: int | None = None, axis: str | None = None, check: bool = True,
    progress: Progress | None = None, **settings: Any,
) -> Tuning:  # fmt: skip
    """Search strategy parameters for the Pareto front of accuracy and cost, or go on with a search.

    Args:
        model: text form or object.
        task: text form or object, with references.
        space: strategies with ranges (`n=4..32`) and choices (`branch=2|4|8`); several are searched together.
        out: directory: the study with every call, the trials (`trials.log`), and `tuning.json`.
        trials: how many in all, those of an earlier run included.
        held_out: share of the problems that are kept for checking the front, in (0, 1).
        limit: how many problems the task has.
        axis: what compute means; what the study says by default.
        check: probe the model first.
        progress: told how each run goes on.
        settings: further fields of a study: seed, sampling, process, prices, hardware, concurrency.

    Raises:
        SpecError: a space that cannot be read.
        ParameterError: no trials, a share out of range, a strategy that sees the reference or leaves its number of
            samples open.
        MissingExtraError: optuna is not installed.
        StudyError: not a single trial could be finished.
    """
    return run_sync(
        lambda: atune(
            model, task, space, out, trials=trials, held_out=held_out, limit=limit, axis=axis, check=check,
            progress=progress, **settings,
        )
    )  # fmt: skip


async def atune(
    model: str | Model, task: str | Task, space: str | Sequence[str], out: str | Path, *, trials: int = 30,
    held_out: float = 0.5, limit: int | None = None, axis: str | None = None, check: bool = True,
    progress: Progress | None = None, **settings: Any,
) -> Tuning:  # fmt: skip
    """`tune` inside an event loop."""
    texts = [space] if isinstance(space, str) else list(space)
    if trials < 1:
        raise ParameterError("tune", "trials", trials, allowed="an integer ≥ 1")
    if not 0 < held_out < 1:
        raise ParameterError("tune", "held_out", held_out, allowed="a share of the problems between 0 and 1")
    if not texts:
        raise ParameterError("tune", "space", texts, allowed="a strategy such as 'beam_search(n=4..32, branch=2|4)'")
    spaces = [SearchSpace.parse(t, f"{i}." if len(texts) > 1 else "") for i, t in enumerate(texts)]
    first = [_example(s) for s in spaces]
    backend = MODELS.build(model) if isinstance(model, str) else model
    rules = TASKS.build(task) if isinstance(task, str) else task
    if "process" not in settings and any(s.stepwise for s in first):
        settings["process"] = "text_steps(step=paragraph)"
    study = Study.of(
        {"model": str(backend), "task": str(rules), "strategies": [str(s) for s in first], "baselines": False}
        | settings,
        where="tune",
    )
    every = list(rules.problems(limit, seed=study.seed))
    if len(every) < 4:
        raise TaskError(f"{rules} gave {len(every)} problems; tuning needs 4 or more, some of which are held out")
    order = [every[i] for i in generator("tune_problems", study.seed).permutation(len(every))]
    kept = min(max(round(held_out * len(every)), 2), len(every) - 2)
    runner = _Trials(study, backend, rules, Path(out), axis, progress, check)
    search = _Search(spaces, texts, Path(out), study)
    await search.run(trials, runner, order[kept:])
    return await _result(search, runner, order[:kept], len(order) - kept, Path(out))


class _Trials:
    """Runs strategies on problems, all in one study's directory."""

    def __init__(
        self,
        study: Study,
        model: Model,
        task: Task,
        out: Path,
        axis: str | None,
        progress: Progress | None,
        check: bool,
    ) -> None:
        self.study, self.model, self.task, self.out = study, model, task, out
        self.progress, self.check, self.wanted = progress, check, axis
        self.axis: Axis | None = None

    async def run(self, strategies: Sequence[Strategy], problems: Sequence[Problem]) -> list[Point]:
        study = replace(self.study, strategies=tuple(str(s) for s in strategies), samples=(1,), limit=None)
        await abench(
            study, self.out, model=self.model, task=Chosen(self.task, tuple(problems)), check=self.check,
            progress=self.progress,
        )  # fmt: skip
        self.check = False
        data = Measured.load(self.out, hardware=study.hardware or None)
        self.axis = self.axis or data.axis(self.wanted or (None if study.compute else _default_axis(data)))
        by_name = {p.strategy: p for p in data.points}
        return [by_name[str(s)] for s in strategies]

    def cost(self, point: Point) -> float:
        assert self.axis is not None
        return point.cost(self.axis) or 0.0

    def measured(self, point: Point) -> Measurement:
        low, high = point.interval
        return Measurement(point.accuracy, low, high, self.cost(point), point.n_problems)


class _Search:
    """The trials, kept by Optuna in a journal."""

    def __init__(self, spaces: Sequence[SearchSpace], texts: Sequence[str], out: Path, study: Study) -> None:
        self.seed, self.spaces = study.seed, spaces
        self.several = Choice("space", tuple((t, s.parts) for t, s in zip(texts, spaces, strict=True)))
        self.optuna = _optuna()
        out.mkdir(parents=True, exist_ok=True)
        journal = self.optuna.storages.journal
        storage = self.optuna.storages.JournalStorage(journal.JournalFileBackend(str(out / "trials.log")))
        told = " ; ".join(texts)
        self.study = self.optuna.create_study(
            storage=storage, study_name="ponder", directions=["maximize", "minimize"], load_if_exists=True
        )
        known = self.study.user_attrs.get("space")
        if known not in (None, told):
            raise StudyError(f"{out} holds the search of another space: {known}. Use another --out")
        if known is None:
            self.study.set_user_attr("space", told)
        self.rungs: dict[int, list[tuple[Point, float]]] = {}
        self.finished: dict[str, Point] = {}
        self.pruned = 0
        self.impossible: dict[str, str] = {}

    async def run(self, trials: int, runner: _Trials, problems: Sequence[Problem]) -> None:
        """Replay what is known (stored, so free), then propose until there are enough trials."""
        state = self.optuna.trial.TrialState
        known = self.study.get_trials(deepcopy=False)
        for trial in known:
            if trial.state in (state.COMPLETE, state.PRUNED):
                await self._evaluate(trial.user_attrs["strategy"], runner, problems)
        for trial in known:
            if trial.state == state.RUNNING:  # it was under way when the search was killed: the same once more
                self.study.tell(trial.number, state=state.FAIL)
                if trial.params:
                    self.study.enqueue_trial(trial.params)
        done = sum(t.state in (state.COMPLETE, state.PRUNED) for t in known)
        for finished in range(done, trials):
            self.study.sampler = self._sampler(finished)
            trial = self.study.ask()
            text = self.spaces[0].suggest(trial) if len(self.spaces) == 1 else self.several.suggest(trial)
            trial.set_user_attr("strategy", text)
            point = await self._evaluate(text, runner, problems)
            if point is None:
                self.study.tell(trial, state=state.PRUNED)
            else:
                self.study.tell(trial, [point.accuracy, runner.cost(point)])

    async def _evaluate(self, text: str, runner: _Trials, problems: Sequence[Problem]) -> Point | None:
        """Rung by rung; None if it was given up."""
        try:
            strategy = _checked(text, text)
            check_capabilities(strategy, runner.model)
        except (ParameterError, CapabilityError) as error:
            self.impossible[text] = str(error)
            return None
        if str(strategy) in self.finished:
            return self.finished[str(strategy)]
        point = None
        for rung, share in enumerate(_RUNGS):
            count = max(2, round(share * len(problems)))
            (point,) = await runner.run([strategy], problems[:count])
            seen = self.rungs.setdefault(rung, [])
            last = rung == len(_RUNGS) - 1
            if not last and count >= _LEAST and any(_beaten(point, runner.cost(point), *other) for other in seen):
                self.pruned += 1
                return None
            seen.append((point, runner.cost(point)))
        assert point is not None
        self.finished[str(strategy)] = point
        return point

    def _sampler(self, finished: int) -> optuna.samplers.BaseSampler:
        """A fresh one for each trial, so that what it proposes depends on the trials before it and on nothing else."""
        seed = derive_seed("tune", self.seed, finished)
        return self.optuna.samplers.TPESampler(seed=seed)


def _beaten(point: Point, cost: float, other: Point, other_cost: float) -> bool:
    """Whether another point costs no more and is better on the same problems with 95 % probability."""
    if other_cost > cost or other.correct is None or point.correct is None:
        return False
    return paired_difference(other.correct, point.correct, resamples=500).probability >= _SURE


async def _result(search: _Search, runner: _Trials, held: Sequence[Problem], tuned_on: int, out: Path) -> Tuning:
    """The front, run on the held-out problems."""
    if not search.finished:
        why = next(iter(search.impossible.items()), None)
        raise StudyError(f"no trial could be finished{f'; for example {why[0]}: {why[1]}' if why else ''}")
    front = _front(list(search.finished.values()), runner)
    checked = await runner.run([parse_strategy(p.strategy) for p in front], held)
    still = {p.strategy for p in _front(checked, runner)}
    points = tuple(
        TunedPoint(a.strategy, runner.measured(a), runner.measured(b), a.strategy in still)
        for a, b in zip(front, checked, strict=True)
    )
    best, real = front[-1], checked[-1]
    gap = best.accuracy - real.accuracy
    low, high = _curse(best, real)
    notes = [
        f"{len(search.finished)} strategies ran on all {tuned_on} tuning problems, {search.pruned} trials were given "
        f"up early; the front was checked on {len(held)} problems that it was not chosen by.",
        f"The most accurate point has {best.accuracy:.1%} on the tuning problems and {real.accuracy:.1%} on the "
        f"held-out ones: {gap * 100:+.1f} points ({low * 100:+.0f} to {high * 100:+.0f}) of winner's curse and chance.",
    ]
    lost = [p.strategy for p in points if not p.still]
    if lost:
        notes.append(f"No longer on the front of the held-out problems: {', '.join(lost)}.")
    if search.impossible:
        text, reason = next(iter(search.impossible.items()))
        notes.append(f"{len(search.impossible)} proposals were impossible, for example {text}: {reason}")
    assert runner.axis is not None
    found = Tuning(
        runner.axis.name, points, len(search.finished), search.pruned, search.impossible, gap, low, high, tuple(notes)
    )
    write_whole(out / "tuning.json", orjson.dumps(found.as_dict(), option=orjson.OPT_INDENT_2))
    return found


def _curse(tuned: Point, real: Point) -> tuple[float, float]:
    """95 % interval of the difference of two accuracies on different problems."""
    if tuned.correct is None or real.correct is None:
        return -1.0, 1.0
    sides = [np.asarray(p.correct) for p in (tuned, real)]
    a, b = map(bootstrap_interval, sides)
    gap, half = a.estimate - b.estimate, math.hypot(a.high - a.low, b.high - b.low) / 2
    return gap - half, gap + half


def _front(points: Sequence[Point], runner: _Trials) -> list[Point]:
    """Points that no cheaper one equals, cheapest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (runner.cost(p), -p.accuracy)):
        if not front or point.accuracy > front[-1].accuracy + 1e-12:
            front.append(point)
    return front


def _default_axis(data: Measured) -> str:
    """Tokens if any are counted, else calls."""
    names = [a.name for a in data.usable_axes()]
    return next(n for n in ("generated_tokens", "calls", *names) if n in names)


def _checked(text: str, space: str) -> Strategy:
    """A strategy that can be tuned."""
    strategy = parse_strategy(text)
    if ORACLE.search(str(strategy)):
        raise ParameterError("tune", "space", space, allowed="strategies that do not look at the reference")
    if strategy.takes_samples:
        raise ParameterError("tune", "space", space, allowed="a strategy with a number of samples, such as n=4..32")
    return strategy


def _example(space: SearchSpace) -> Strategy:
    """A strategy of the space: one at its lower ends, or at its upper ends if those do not go together."""
    try:
        return _checked(space.example(), space.text)
    except ParameterError:
        return _checked(space.example(last=True), space.text)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise MissingExtraError("tuning", "optuna", "tune") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna
