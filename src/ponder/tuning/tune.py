"""Tuning an engine: search on one seed, prove it on another, and keep the default unless the proof is clear.

What a search finds best is partly luck (the winner's curse). So the default and the finalists are measured anew on
texts and lengths that the search has not seen, in turns (A B C, C A B, …), and compared pair by pair. Another
configuration is taken only if the interval of its ratio to the default, corrected for the number of finalists, lies
above 1.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ponder.core.seeds import derive_seed
from ponder.errors import EngineError, NoisyHostError, ParameterError, TuningPausedError
from ponder.tuning._keeper import Keeper
from ponder.tuning.bench import Bench, Session
from ponder.tuning.compare import Ratio, paired_ratio, spread
from ponder.tuning.history import load_average
from ponder.tuning.measure import OBJECTIVES, Measured, value_of
from ponder.tuning.profiles import MOST_SPREAD
from ponder.tuning.search import Searcher, Trial, config_key
from ponder.tuning.space import Config, Space, told
from ponder.tuning.workload import Workload


@dataclass(frozen=True)
class Proof:
    """A configuration in the validation.

    Attributes:
        config: what differs from the default.
        values: the objective, one a repetition.
        ratio: to the default, repetition by repetition.
        searched: the ratio that the search had seen.
        measured: the runs.
        failure: why it could not be measured.
    """

    config: Config
    values: tuple[float, ...]
    ratio: Ratio
    searched: float
    measured: tuple[Measured, ...] = ()
    failure: str = ""

    @property
    def optimism(self) -> float:
        """How much better the search saw it than it is."""
        return self.searched - self.ratio.value


@dataclass(frozen=True)
class Sameness:
    """Greedy outputs of a configuration beside the default's.

    Attributes:
        equal: share of prompts with the same text.
        first_difference: characters until the first difference, the least over prompts; None if there is none.
    """

    equal: float
    first_difference: int | None


@dataclass(frozen=True)
class Tuned:
    """What came of a tuning.

    Attributes:
        config: what to use; empty is the default.
        spec: the model's text form with it.
        environment: variables to set before the process starts.
        flags: arguments of the server's command, if it has one.
        proofs: the default first, then the finalists.
        trials: all that was searched.
        spread: interquartile range over median of the default's repetitions.
        sameness: of what was chosen; None for the default.
        lossy: whether it may change what is written beyond rounding.
        effects: by knob and value, the median ratio to the default over the trials that had it.
        notes: what else should be known.
    """

    model: str
    workload: str
    objective: str
    config: Config
    spec: str
    environment: Mapping[str, str]
    flags: Sequence[str]
    proofs: tuple[Proof, ...]
    trials: tuple[Trial, ...]
    spread: float
    sameness: Sameness | None
    lossy: bool
    effects: Mapping[str, Mapping[str, float]]
    host: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def kept_default(self) -> bool:
        """Whether nothing was clearly better."""
        return not self.config

    @property
    def gain(self) -> Ratio | None:
        """Of what was chosen over the default, on the fresh seed; None if it is the default."""
        return next((p.ratio for p in self.proofs[1:] if p.config == self.config), None)


@dataclass(frozen=True)
class Plan:
    """How a tuning is done.

    Args:
        objective: `throughput`, `latency` or `goodput`.
        trials: configurations besides the default, ≥ 1.
        seconds: of the search; validation comes on top.
        repetitions: of the validation, ≥ 3.
        finalists: configurations that are validated, ≥ 1.
        seed: of lengths, texts and proposals.
        allow_noise: decide on a busy machine too.
        slice_s: stop after about so many seconds, between two measurements; started again it goes on from the history.
    """

    objective: str = "throughput"
    trials: int = 20
    seconds: float = 600.0
    repetitions: int = 5
    finalists: int = 3
    seed: int = 0
    allow_noise: bool = False
    slice_s: float | None = None

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ParameterError("tune", "objective", self.objective, allowed="one of " + ", ".join(OBJECTIVES))
        for name, least in (("trials", 1), ("repetitions", 3), ("finalists", 1)):
            if getattr(self, name) < least:
                raise ParameterError("tune", name, getattr(self, name), allowed=f"an integer ≥ {least}")
        for name in ("seconds", "slice_s"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ParameterError("tune", name, getattr(self, name), allowed="above 0")


def tune(
    space: Space,
    workload: Workload,
    bench: Bench,
    plan: Plan | None = None,
    *,
    engine: str = "",
    host: Mapping[str, Any] | None = None,
    model_features: Mapping[str, float] | None = None,
    history: Path | None = None,
    report: Callable[[str], None] = lambda line: None,
    clock: Callable[[], float] = time.monotonic,
) -> Tuned:
    """Find settings that are clearly better than the default, or keep it.

    Args:
        space: what may be set.
        workload: what is to be fast.
        bench: starts configurations.
        plan: how much to do.
        engine: with its version, for the history.
        host: the machine, for the history.
        model_features: for the history.
        history: rows are appended here, and a search with the same arguments goes on from them; None keeps nothing.
        report: told a line for each thing done.
        clock: seconds, for the time limit.

    Raises:
        TuningPausedError: the slice is used up.
        NoisyHostError: the default's repetitions differ by more than 20 %, and noise is not allowed.
        EngineError: the default cannot be measured.
    """
    plan = plan or Plan()
    where = dict(host or {})
    keeper = Keeper(space, workload, plan, engine, where, dict(model_features or {}), history)
    known = keeper.known()
    if plan.slice_s is not None and history is None:
        raise ParameterError("tune", "slice_s", plan.slice_s, allowed="none without a history to go on from")
    started = clock()

    def pause() -> None:
        if plan.slice_s is not None and clock() - started > plan.slice_s:
            raise TuningPausedError(
                f"paused after {clock() - started:.0f} s (slice_s={plan.slice_s:g}); what is measured is kept: "
                "run the same command again to go on"
            )

    def done(trial: Trial) -> None:
        keeper.keep(trial)
        report(f"{told(trial.config)}: {_outcome(trial)}")

    if known:
        report(f"{len(known)} configurations are known from an earlier run and not measured again")
    searcher = Searcher(space, bench.open, plan.objective, plan.seed, known, done, clock, pause)
    trials = searcher.run(plan.trials, plan.seconds)
    candidates = [trials[0], *searcher.finalists(plan.finalists)]
    if len(candidates) == 1:
        report("nothing came to the whole workload but the default, so there is nothing to validate")
        only = trials[0]
        seen = () if only.measured is None else (only.measured,)
        proofs: tuple[Proof, ...] = (Proof(only.config, (only.values[1.0],), Ratio(1.0, 1.0, 1.0), 1.0, seen),)
    else:
        report(f"validating {len(candidates) - 1} on a fresh seed, {plan.repetitions} times in turns")
        proofs = _validate(bench, candidates, plan, keeper, pause, report)
        keeper.prove(proofs)
    noise = spread(proofs[0].values)
    notes = [] if where.get("load") is None else [f"load average {where['load']} before, {load_average()} after"]
    if noise > MOST_SPREAD:
        said = (f"the default's repetitions differ by {noise:.0%} (limit {MOST_SPREAD:.0%}): the machine is busy with "
                "something else, or the workload is too short to measure")  # fmt: skip
        if not plan.allow_noise:
            raise NoisyHostError(f"{said}. Nothing is decided; run it again on a quiet machine, or with --allow-noise")
        notes.append(said)
    better = [p for p in proofs[1:] if not p.failure and p.ratio.better]
    best = max(better, key=lambda p: p.ratio.value, default=proofs[0])
    sameness = None
    if best.config:
        try:
            sameness = _sameness(bench, best.config)
        except EngineError as error:
            notes.append(f"the outputs could not be compared: {error}")
    return Tuned(
        space.base, str(workload), plan.objective, best.config, space.spec(best.config),
        space.environment(best.config), space.flags(best.config), proofs, tuple(trials), noise, sameness,
        space.is_lossy(best.config), effects(space, trials), where, tuple(notes),
    )  # fmt: skip


def _validate(
    bench: Bench, candidates: Sequence[Trial], plan: Plan, keeper: Keeper, pause: Callable[[], None],
    report: Callable[[str], None],
) -> tuple[Proof, ...]:  # fmt: skip
    """All candidates in turns, on a seed that the search has not used.

    A pause comes between repetitions only, and one that was interrupted is measured anew: what is compared pair by
    pair was measured in one go.
    """
    kept = keeper.repetitions()
    keys = [config_key(trial.config) for trial in candidates]
    seed = derive_seed("engine validation", plan.seed)
    limit = max(60.0, 10 * max(t.seconds for t in candidates))
    runs: list[list[Measured]] = [[] for _ in candidates]
    failures = ["" for _ in candidates]
    with contextlib.ExitStack() as stack:
        sessions: dict[int, Session] = {}
        for repetition in range(plan.repetitions):
            if all((key, repetition) in kept for key in keys):
                for run, key in zip(runs, keys, strict=True):
                    run.append(kept[key, repetition])
                continue
            pause()
            order = [(i - repetition) % len(candidates) for i in range(len(candidates))]
            for i in order:
                if failures[i]:
                    continue
                try:
                    session = sessions.get(i)
                    if session is None:
                        session = bench.open(candidates[i].config, 300.0)
                        stack.callback(session.close)
                        if bench.several:
                            sessions[i] = session
                    runs[i].append(session.measure(seed=seed, repetition=repetition, fraction=1.0, timeout_s=limit))
                    keeper.repeat(candidates[i].config, repetition, runs[i][-1])
                    if not bench.several:
                        session.close()
                except EngineError as error:
                    if i == 0:
                        raise
                    failures[i] = str(error)
    values = [tuple(value_of(m, plan.objective) for m in run) for run in runs]
    level = 1 - 0.05 / max(1, len(candidates) - 1)
    proofs = []
    for trial, run, mine, failure in zip(candidates, runs, values, failures, strict=True):
        ratio = Ratio(0.0, 0.0, 0.0) if failure else paired_ratio(mine, values[0], level=level)
        proofs.append(Proof(trial.config, mine, ratio, trial.ratio, tuple(run), failure))
        report(f"  {told(trial.config)}: {failure or ratio}")
    return tuple(proofs)


def _sameness(bench: Bench, config: Config) -> Sameness:
    texts = []
    for settings in ({}, config):
        session = bench.open(settings, 300.0)
        try:
            texts.append(session.greedy())
        finally:
            session.close()
    return compare_outputs(*texts)


def compare_outputs(ours: Sequence[str], theirs: Sequence[str]) -> Sameness:
    """How alike two lists of outputs are.

    >>> compare_outputs(["abc", "x"], ["abd", "x"])
    Sameness(equal=0.5, first_difference=2)
    """
    places = []
    for a, b in zip(ours, theirs, strict=True):
        if a != b:
            places.append(next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))))
    return Sameness(1 - len(places) / len(ours), min(places, default=None))


def effects(space: Space, trials: Sequence[Trial]) -> dict[str, dict[str, float]]:
    """By knob and value, the median ratio over the trials that had it: where the landscape is steep."""
    out: dict[str, dict[str, float]] = {}
    for knob in space.knobs:
        by: dict[str, list[float]] = {}
        for trial in trials:
            if not trial.failure:
                by.setdefault(str(trial.config.get(knob.name, knob.default)), []).append(trial.ratio)
        if len(by) > 1:
            out[knob.name] = {value: sorted(ratios)[len(ratios) // 2] for value, ratios in by.items()}
    return out


def _outcome(trial: Trial) -> str:
    if trial.failure:
        return f"infeasible: {trial.failure.splitlines()[0][:200]}"
    share = max(trial.values)
    stopped = "" if share == 1 else f", stopped after {share:.0%} of the workload"
    return f"{trial.values[share]:.4g} ({trial.ratio:.2f} of the default{stopped})"
