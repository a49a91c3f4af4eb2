"""Plan a job from a pilot: which strategy, at how many samples, will give the best accuracy for what is left.

A budget is for the whole job. At most a share of it (a tenth) goes into a pilot over candidate strategies; the rest
buys the recommended one on the problems that are left. The choice is the option (strategy and number of samples) with
the highest expected accuracy, the cheapest of equal ones: what a wrong choice costs is the accuracy that is missed, so
doubt about an option counts neither for nor against it. All options are compared on the same problems, resamples and
orders of draws, so what they share cancels. Options that the pilot cannot tell from the choice are named, with what
would decide. For a target the choice is the cheapest option that reaches it with a probability of three quarters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from ponder.api import check_capabilities, run_sync
from ponder.core.model import Model
from ponder.core.problem import Task
from ponder.core.registry import MODELS, TASKS, VERIFIERS
from ponder.core.seeds import generator
from ponder.core.strategy import Strategy, parse_strategy
from ponder.core.taxonomy import TagFilter
from ponder.errors import CapabilityError, ParameterError, TaskError
from ponder.laws.intervals import percentiles
from ponder.studies.measured import ORACLE
from ponder.studies.pilot import Pilot, Trial, budget_axis, run_pilot
from ponder.studies.pilot_curve import PoolCurve
from ponder.studies.plan import Study
from ponder.studies.recommend import amount
from ponder.studies.results import write_whole
from ponder.studies.runner import Progress

Floats = NDArray[np.float64]

_FAR_POOLED, _FAR_SEARCH = 16, 4
"""How many times as many samples as were measured an option may have: read off a pool, or run."""

_QUARTILE = 0.25
"""Of an option's accuracy: it has to reach a target, so that the option does with a probability of three quarters."""

_MATTERS = 0.01
"""A strategy is a rival of the choice if the pilot cannot rule out that it is better by more than this."""

_SURE = 0.95

_DOUBT = 0.5
"""Problems that speak for either side beside the pilot's own (Jeffreys): 26 alike do not show that all are."""


@dataclass(frozen=True)
class Prediction:
    """An option as it is predicted.

    Attributes:
        strategy: complete text.
        samples: its number of samples.
        accuracy: predicted share of problems answered rightly.
        low: lower end of the 95 % interval.
        high: upper end.
        cost: predicted compute per problem.
        measured: whether the pilot ran it at this number of samples (or has a pool as large).
        best: probability that it is the best of the budget.
    """

    strategy: str
    samples: int
    accuracy: float
    low: float
    high: float
    cost: float
    measured: bool
    best: float


@dataclass(frozen=True)
class Plan:
    """What to do with a budget.

    Attributes:
        axis: what compute means.
        budget: for the whole job.
        paid: what the pilot took of it.
        problems: how many the rest is for.
        per_problem: what each of them may cost.
        pilot_problems: how many the pilot saw.
        choice: the recommended option; None if nothing fits.
        target: accuracy to reach, if one was given.
        reaches: probability that the choice reaches it.
        decided: whether the pilot tells the choice from every other strategy (with a target: says that it is reached)
            with 95 % probability.
        rivals: the best option of each other strategy that the pilot cannot tell from the choice, likeliest first.
        options: everything that was predicted within the budget, by strategy and samples.
        front: the Pareto front of the options, cheapest first.
        left_out: candidates that were not tried, with the reason.
        study: path of the study file that carries the plan out; None if nothing fits.
        headline: one sentence.
        notes: more of them.
    """

    axis: str
    budget: float
    paid: float
    problems: int
    per_problem: float
    pilot_problems: int
    choice: Prediction | None
    target: float | None
    reaches: float | None
    decided: bool
    rivals: tuple[Prediction, ...]
    options: tuple[Prediction, ...]
    front: tuple[Prediction, ...]
    left_out: dict[str, str]
    study: str | None
    headline: str
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join([self.headline, *(f"  {note}" for note in self.notes)])


def plan(
    model: str | Model,
    task: str | Task,
    budget: str,
    out: str | Path,
    *,
    pilot: float = 0.1,
    target: float | None = None,
    candidates: Sequence[str] | None = None,
    verifiers: Sequence[str] = (),
    problems: int | None = None,
    limit: int | None = None,
    check: bool = True,
    progress: Progress | None = None,
    **settings: Any,
) -> Plan:
    """Run a pilot (or go on with it) and say what to do with the rest of a budget.

    Args:
        model: text form or object.
        task: text form or object, with references: the pilot's outputs are graded.
        budget: one limit for the whole job, such as `tokens=2e6`, `usd=5`, `calls=10000`, `eflops=1e16`.
        out: directory of the pilot, which is a study; `plan.json` and `plan.toml` are written there.
        pilot: the most that the pilot may take, as a share of the budget, in (0, 1); a hard limit (of seconds, which
            are known afterwards only, what is under way may pass it).
        target: accuracy to reach: the cheapest option that does is chosen.
        candidates: strategies; None takes `default_candidates`.
        verifiers: for the default candidates.
        problems: how many problems the rest of the budget is for; None: those of the task that the pilot does not see.
        limit: how many problems the task has; the pilot sees at most half of them, chosen by lot.
        check: probe the model first.
        progress: told how the pilot goes on.
        settings: further fields of a study: seed, sampling, process, prices, hardware, concurrency.

    Raises:
        ParameterError: a share or target out of range, a budget that is not one limit, or a candidate that sees the
            reference.
        BudgetError: the pilot's share is too small for two problems.
        PonderError: as `bench` does.

    >>> import ponder, tempfile
    >>> from ponder.testing import Sums
    >>> found = ponder.plan("sim:strong", Sums(), "tokens=100000", tempfile.mkdtemp(), limit=40, check=False)
    >>> found.paid < 0.1 * found.budget
    True
    """
    return run_sync(
        lambda: aplan(
            model, task, budget, out, pilot=pilot, target=target, candidates=candidates, verifiers=verifiers,
            problems=problems, limit=limit, check=check, progress=progress, **settings,
        )
    )  # fmt: skip


async def aplan(
    model: str | Model,
    task: str | Task,
    budget: str,
    out: str | Path,
    *,
    pilot: float = 0.1,
    target: float | None = None,
    candidates: Sequence[str] | None = None,
    verifiers: Sequence[str] = (),
    problems: int | None = None,
    limit: int | None = None,
    check: bool = True,
    progress: Progress | None = None,
    **settings: Any,
) -> Plan:
    """`plan` inside an event loop."""
    axis, total = budget_axis(budget)
    if not 0 < pilot < 1:
        raise ParameterError("plan", "pilot", pilot, allowed="a share of the budget between 0 and 1, such as 0.1")
    if target is not None and not 0 < target <= 1:
        raise ParameterError("plan", "target", target, allowed="an accuracy above 0 and at most 1, such as 0.8")
    if problems is not None and problems < 1:
        raise ParameterError("plan", "problems", problems, allowed="an integer ≥ 1, or none for the rest of the task")
    backend = MODELS.build(model) if isinstance(model, str) else model
    rules = TASKS.build(task) if isinstance(task, str) else task
    tried, left_out = usable_candidates(
        candidates or default_candidates(backend, verifiers, settings.get("process")), backend
    )
    stepwise = any(s.stepwise for s in tried) and "process" not in settings
    if stepwise:
        settings["process"] = "text_steps(step=paragraph)"
    study = Study.of(
        {"model": str(backend), "task": str(rules), "strategies": [str(s) for s in tried], "baselines": False}
        | settings,
        where="plan",
    )
    every = list(rules.problems(limit, seed=study.seed))
    if len(every) < 4:
        raise TaskError(f"{rules} gave {len(every)} problems; a pilot needs 4 or more, half of which it may use")
    order = generator("pilot_problems", study.seed).permutation(len(every))[: len(every) // 2]
    seen = [every[i] for i in order]
    job = problems or len(every) - len(seen)
    promise = _Promise(total * (1 - pilot) / job)
    found = await run_pilot(
        study, tried, seen, pilot * total, axis, Path(out), promise,
        model=backend, task=rules, check=check, progress=progress,
    )  # fmt: skip
    found = replace(found, left_out={**left_out, **found.left_out})
    job = problems or len(every) - len(found.problems)
    result = decide(found, total, job, target, seed=study.seed)
    return _written(result, study, Path(out), limit)


def default_candidates(model: Model, verifiers: Sequence[str] = (), process: str | None = None) -> list[str]:
    """Strategies worth trying with a model and verifiers.

    Args:
        model: searches by step are left out if it cannot continue an answer.
        verifiers: text forms; without any the model's own log-probabilities serve, if it gives them.
        process: text form; with a process of its own every verifier is asked, with text only those that score steps.
    """
    out = ["repeated_sampling | majority", "adaptive_consistency"]
    own_steps = process is not None and not process.startswith("text_steps")
    judges = list(verifiers)
    if not judges and not own_steps and model.capabilities.logprobs is True:
        judges = ["log_probability"]
    for text in judges:
        verifier = VERIFIERS.build(text)
        judge = str(verifier)
        out += [f"best_of_n(verifier={judge})", f"best_of_n(verifier={judge}) | weighted_majority"]
        scores_steps = (
            TagFilter((("how", "verification:process"),)).fits(VERIFIERS.entry(verifier.name).tags)
            or verifier.name == "log_probability"
        )
        if scores_steps and (own_steps or model.capabilities.prefix is not False):
            out += [f"{name}(verifier={judge})" for name in ("beam_search", "dvts", "rebase")]
            if verifier.range[0] >= 0:  # particles are weighted by scores, which then have to be numbers from 0
                out.append(f"particle_filter(verifier={judge})")
    return out


def usable_candidates(texts: Sequence[str], model: Model) -> tuple[list[Strategy], dict[str, str]]:
    """The candidates that the model can run, and the others with the reason.

    Raises:
        ParameterError: one looks at the reference, or none can be run.
    """
    usable: dict[Strategy, None] = {}
    left_out: dict[str, str] = {}
    for text in texts:
        strategy = parse_strategy(text)
        if ORACLE.search(str(strategy)):
            raise ParameterError(
                "plan", "candidates", text, allowed="strategies that do not look at the reference",
                hint="nobody has the reference of an open question",
            )  # fmt: skip
        try:
            check_capabilities(strategy, model)
        except CapabilityError as error:
            left_out[str(strategy)] = str(error)
        else:
            usable[strategy] = None
    if not usable:
        raise ParameterError("plan", "candidates", list(texts), allowed=f"at least one strategy that {model} can run")
    return list(usable), left_out


@dataclass(frozen=True)
class _Promise:
    """The best accuracy that a trial reaches at a cost of at most `most` a problem, in each resample."""

    most: float

    def __call__(self, trial: Trial) -> Floats:
        if trial.curve is None:
            return np.zeros(0)
        options = [trial.curve.accuracy(n) for n in _samples(trial) if trial.cost.at(n) <= self.most]
        options = options or [trial.curve.accuracy(min(trial.points))]
        return max(options, key=lambda a: float(a.mean()))


def decide(pilot: Pilot, budget: float, problems: int, target: float | None = None, *, seed: int = 0) -> Plan:
    """Choose from a pilot.

    Args:
        pilot: what it found.
        budget: for the whole job.
        problems: how many the rest is for.
        target: accuracy to reach.
        seed: of the doubt that the resampled problems leave.
    """
    most = (budget - pilot.paid) / problems
    rows = [(t, n) for t in pilot.trials if t.curve is not None for n in _samples(t)]
    inside = [(t, n) for t, n in rows if t.cost.at(n) <= most * (1 + 1e-9)]
    shared = (pilot.axis.name, budget, pilot.paid, problems, most, len(pilot.problems))
    if not inside:
        cheapest = min(rows, key=lambda r: r[0].cost.at(r[1]))
        headline = (
            f"Nothing fits the {amount(most, pilot.axis)} that are left for each of {problems} problems: the cheapest, "
            f"'{cheapest[0].at(cheapest[1])}', takes {amount(cheapest[0].cost.at(cheapest[1]), pilot.axis)}."
        )
        return Plan(*shared, None, target, None, True, (), (), (), dict(pilot.left_out), None, headline, ())
    accuracy = np.stack([t.curve.accuracy(n) for t, n in inside if t.curve is not None])
    hedged = np.stack(
        [_hedged(a, t.problems, seed, i) for i, ((t, _), a) in enumerate(zip(inside, accuracy, strict=True))]
    )
    top = accuracy.max(axis=0)
    share = (accuracy >= top - 1e-9) / (accuracy >= top - 1e-9).sum(axis=0)
    options = [_predicted(t, n, accuracy[i], hedged[i], float(share[i].mean())) for i, (t, n) in enumerate(inside)]
    chosen, reaches = _choose(options, accuracy, hedged, target)
    rivals = _rivals(chosen, inside, options, accuracy, seed)
    decided = not rivals if target is None else reaches is not None and reaches >= _SURE
    notes = _notes(pilot, rows, inside, options, chosen, rivals, accuracy, target, reaches)
    choice = options[chosen]
    reach = "" if target is None else f" (the target is {target:.0%})"
    headline = (
        f"Use '{choice.strategy}': predicted accuracy {_percent(choice)}{reach} for {amount(choice.cost, pilot.axis)} "
        f"a problem, of {amount(most, pilot.axis)} that are left for each of {problems}."
    )
    front = _front(options)
    return Plan(
        *shared, choice, target, reaches, decided, tuple(options[i] for i in rivals), tuple(options), front,
        dict(pilot.left_out), None, headline, notes,
    )  # fmt: skip


def _hedged(values: Floats, problems: int, *place: object, low: float = 0.0) -> Floats:
    """Resampled means as if half a problem of each extreme (1 and `low`) had been seen beside the pilot's own.

    The bootstrap of 26 problems that all went alike has no spread at all. With a share this is Jeffreys' posterior,
    Beta(k + ½, m - k + ½); with a difference of two strategies, of one problem in which either is the better one.
    """
    weights = generator("hedged", *place).dirichlet([_DOUBT, _DOUBT, problems], size=len(values))
    return np.asarray(weights[:, 0] + low * weights[:, 1] + weights[:, 2] * values)


def _choose(
    options: Sequence[Prediction], accuracy: Floats, hedged: Floats, target: float | None
) -> tuple[int, float | None]:
    """The option with the highest expected accuracy, or the cheapest whose lower quartile reaches the target."""
    cost = np.array([o.cost for o in options])
    if target is not None:
        careful = np.quantile(accuracy, _QUARTILE, axis=1)
        reach = (hedged >= target - 1e-12).mean(axis=1)
        enough = np.flatnonzero(careful >= target - 1e-12)
        chosen = int(enough[np.argmin(cost[enough])]) if enough.size else int(np.argmax(reach + 1e-6 * careful))
        return chosen, float(reach[chosen])
    expected = accuracy.mean(axis=1)
    best = np.flatnonzero(expected >= expected.max() - 1e-9)
    return int(best[np.argmin(cost[best])]), None


def _rivals(
    chosen: int, inside: Sequence[tuple[Trial, int]], options: Sequence[Prediction], accuracy: Floats, seed: int
) -> list[int]:
    """Of each other strategy the best option, if the pilot cannot tell it from the choice."""
    out = []
    for trial in dict.fromkeys(id(t) for t, _ in inside):
        own = [i for i, (t, _) in enumerate(inside) if id(t) == trial]
        if chosen in own:
            continue
        best = max(own, key=lambda i: options[i].accuracy)
        problems = min(inside[i][0].problems for i in (chosen, best))
        gap = _hedged(accuracy[chosen] - accuracy[best], problems, seed, "gap", best, low=-1.0)
        low, _ = percentiles(gap, 2 * _SURE - 1)
        if low < -_MATTERS:
            out.append(best)
    return sorted(out, key=lambda i: -options[i].accuracy)


def _notes(
    pilot: Pilot, rows: Sequence[tuple[Trial, int]], inside: Sequence[tuple[Trial, int]], options: Sequence[Prediction],
    chosen: int, rivals: Sequence[int], accuracy: Floats, target: float | None, reaches: float | None,
) -> tuple[str, ...]:  # fmt: skip
    choice, m = options[chosen], len(pilot.problems)
    notes = [f"The pilot took {amount(pilot.paid, pilot.axis)} on {m} problems."]
    if target is not None and reaches is not None:
        notes.append(f"It reaches the target with probability {reaches:.0%}.")
        if reaches < 0.05:
            notes.append("Nothing that was tried is likely to reach it within this budget.")
    if not choice.measured:
        notes.append("This number of samples was not run: the prediction goes beyond what the pilot saw.")
    if rivals:
        names = ", ".join(f"'{options[i].strategy}' ({_percent(options[i])})" for i in rivals[:3])
        needed = _needed(m, accuracy[chosen] - accuracy[rivals[0]])
        more = f"about {needed:,} pilot problems would" if needed else "no pilot would, they promise the same"
        notes.append(
            f"The pilot cannot tell it from {names}{' and others' if len(rivals) > 3 else ''}. To decide, {more}."
        )
    if len(rows) == len(inside):
        notes.append("The budget would buy more samples than can be predicted from this pilot.")
    dropped = [str(t.strategy) for t in pilot.trials if t.dropped]
    if dropped:
        notes.append(f"Dropped on the way: {', '.join(dropped)}.")
    notes += [f"Not tried: {name} ({why})" for name, why in pilot.left_out.items()]
    return tuple(notes)


def _needed(problems: int, gap: Floats) -> int | None:
    """Roughly how many problems would tell a difference of this size from nothing."""
    mean, spread = abs(float(gap.mean())), float(gap.std())
    if mean < 1e-3:
        return None
    return math.ceil(problems * max(1.0, (2.8 * spread / mean) ** 2))


def _samples(trial: Trial) -> list[int]:
    """Numbers of samples that a trial's accuracy can be predicted at: powers of two, and what was measured."""
    if not trial.points or trial.curve is None:
        return []
    if not trial.strategy.takes_samples:
        return list(trial.points)
    far = _FAR_POOLED if isinstance(trial.curve, PoolCurve) else _FAR_SEARCH
    smallest, most = min(trial.points), max(trial.points) * far
    powers = (1 << i for i in range(most.bit_length()))
    return sorted({*trial.points, *trial.usable([k for k in powers if smallest <= k <= most])})


def _predicted(trial: Trial, n: int, accuracy: Floats, hedged: Floats, best: float) -> Prediction:
    low, high = percentiles(hedged)
    mean = float(accuracy.mean())
    return Prediction(
        str(trial.at(n)), n, mean, min(low, mean), max(high, mean), trial.cost.at(n), n in trial.points, best
    )


def _front(options: Sequence[Prediction]) -> tuple[Prediction, ...]:
    """Options that no cheaper one equals, cheapest first."""
    front: list[Prediction] = []
    for option in sorted(options, key=lambda o: (o.cost, -o.accuracy)):
        if not front or option.accuracy > front[-1].accuracy + 1e-12:
            front.append(option)
    return tuple(front)


def _written(result: Plan, study: Study, out: Path, limit: int | None) -> Plan:
    """The plan on disk: as data, and as a study file that carries it out in the same directory."""
    if result.choice is not None:
        path = out / "plan.toml"
        todo = replace(study, strategies=(result.choice.strategy,), samples=(result.choice.samples,), limit=limit)
        write_whole(path, todo.to_toml().encode())
        result = replace(result, study=str(path))
        result = replace(result, notes=(*result.notes, f"To carry it out: ponder bench --study {path} --out {out}"))
    write_whole(out / "plan.json", orjson.dumps(result.as_dict(), option=orjson.OPT_INDENT_2))
    return result


def _percent(option: Prediction) -> str:
    return f"{option.accuracy * 100:.0f} % ({option.low * 100:.0f} to {option.high * 100:.0f})"
