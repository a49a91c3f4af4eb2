"""Search of a space of settings: the default first, then a grid if it is small, else Optuna's TPE.

Each configuration is tried on a quarter of the workload, then a half, then all of it, as long as it is at least
as good as the default, or among the better half of what was measured at that size (successive halving, without waiting
for a round to fill). What counts is the ratio to the default at the same size.

Source  Bergstra et al. 2011 (TPE); Li et al. 2018 (asynchronous successive halving).
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ponder.core.seeds import derive_seed, generator
from ponder.errors import EngineError, MissingExtraError
from ponder.tuning.measure import Measured, value_of
from ponder.tuning.space import Config, Space, Value

RUNGS = (0.25, 0.5, 1.0)
"""Shares of the workload's requests."""

LARGEST_GRID = 40
"""Spaces of up to so many configurations are searched one by one."""

_PATIENCE = 3.0
"""A configuration may take so many times as long as the best so far."""

_LEAST_S = 10.0
_START_S = 300.0


@dataclass(frozen=True)
class Trial:
    """One configuration that was tried.

    Attributes:
        config: what differs from the default.
        values: the objective by share of the workload.
        ratio: to the default at the largest share that both have; 0 if it is infeasible.
        seconds: of the workload's largest share.
        failure: why it is infeasible; empty if it is not.
        measured: at the largest share.
        spent_s: seconds that the trial took, starting included.
    """

    config: Config
    values: Mapping[float, float]
    ratio: float
    seconds: float = 0.0
    failure: str = ""
    measured: Measured | None = None
    spent_s: float = 0.0


@dataclass
class Searcher:
    """Tries configurations.

    Args:
        space: what may be tried.
        open: starts a configuration (see `Bench.open`).
        objective: see `value_of`.
        seed: of the workload and the proposals.
        known: trials of an earlier, interrupted search by configuration; not measured again.
        done: told of each trial that was measured.
        clock: seconds, for the time limit.
        pause: called before each trial that is measured; raises `TuningPausedError` when it is time.
    """

    space: Space
    open: Callable[[Config, float], Any]
    objective: str
    seed: int
    known: Mapping[str, Trial] = field(default_factory=dict)
    done: Callable[[Trial], None] = lambda trial: None
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[], None] = lambda: None
    trials: list[Trial] = field(default_factory=list, init=False)

    def run(self, most: int, seconds: float) -> list[Trial]:
        """Try the default, then up to `most` more, or until so many seconds were spent, earlier runs' included.

        Raises:
            EngineError: the default itself cannot be measured.
        """
        default = self._try({})
        if default.failure:
            raise EngineError(f"the default settings cannot be measured: {default.failure}")
        tell: Callable[[Trial], None]
        proposals, tell = self._grid() if self._is_small() else self._tpe(most)
        for config in proposals:
            if len(self.trials) > most or sum(t.spent_s for t in self.trials) > seconds:
                break
            tell(self._try(config))
        return self.trials

    def _is_small(self) -> bool:
        return len([None for _, _ in zip(self.space.grid(), range(LARGEST_GRID + 1), strict=False)]) <= LARGEST_GRID

    def _grid(self) -> tuple[Iterator[Config], Callable[[Trial], None]]:
        """All of it, in random order: what a time limit cuts off is then no corner of the space."""
        rest = [config for config in self.space.grid() if config]
        order = generator("engine grid", self.seed).permutation(len(rest))
        return iter([rest[i] for i in order]), lambda trial: None

    def _tpe(self, most: int) -> tuple[Iterator[Config], Callable[[Trial], None]]:
        try:
            import optuna
        except ImportError:
            raise MissingExtraError(
                f"a search of more than {LARGEST_GRID} configurations (or narrow it with knobs)", "optuna", "tune"
            ) from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        choices = {
            k.name: optuna.distributions.CategoricalDistribution(list(range(len(k.values)))) for k in self.space.knobs
        }
        sampler = optuna.samplers.TPESampler(seed=derive_seed("engine tpe", self.seed), n_startup_trials=8)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        default = {k.name: k.values.index(k.default) for k in self.space.knobs}
        study.add_trial(optuna.trial.create_trial(params=default, distributions=choices, value=0.0))
        asked: list[Any] = []

        def propose() -> Iterator[Config]:
            tried = {config_key({})}
            for _ in range(50 * (most + 1)):
                trial = study.ask(choices)
                config = self.space.sparse({k.name: k.values[trial.params[k.name]] for k in self.space.knobs})
                if not self.space.allowed(config):
                    study.tell(trial, state=optuna.trial.TrialState.FAIL)
                elif config_key(config) in tried:
                    study.tell(trial, math.log(max(self._ratio(config), 1e-3)))
                else:
                    tried.add(config_key(config))
                    asked.append(trial)
                    yield config

        def tell(done: Trial) -> None:
            study.tell(asked.pop(), math.log(max(done.ratio, 1e-3)))

        return propose(), tell

    def _ratio(self, config: Config) -> float:
        return next(t.ratio for t in self.trials if config_key(t.config) == config_key(config))

    # ------------------------------------------------------------------ one configuration

    def _try(self, config: Config) -> Trial:
        trial = self.known.get(config_key(config))
        if trial is None:
            self.pause()
            start = self.clock()
            trial = self._measure(config)
            trial = replace(trial, spent_s=self.clock() - start)
            self.done(trial)
        self.trials.append(trial)
        return trial

    def _measure(self, config: Config) -> Trial:
        default = self.trials[0] if self.trials else None
        values: dict[float, float] = {}
        last: Measured | None = None
        ratio = 1.0
        try:
            session = self.open(config, _START_S)
            try:
                for repetition, share in enumerate(RUNGS):
                    last = session.measure(
                        seed=self.seed, repetition=repetition, fraction=share, timeout_s=self._limit(share)
                    )
                    values[share] = value_of(last, self.objective)
                    if default is not None:
                        ratio = values[share] / default.values[share] if default.values[share] > 0 else 1.0
                        if ratio < 1 and ratio <= self._middle(share):
                            break
            finally:
                session.close()
        except EngineError as error:
            return Trial(config, values, 0.0, failure=str(error))
        assert last is not None
        return Trial(config, values, ratio, last.seconds, measured=last)

    def _limit(self, share: float) -> float:
        """Three times what the best takes; the default may take what it wants."""
        whole = [t.seconds for t in self.trials if 1.0 in t.values and not t.failure]
        return max(_LEAST_S, _PATIENCE * min(whole) * share) if whole else 10 * _START_S

    def _middle(self, share: float) -> float:
        """Median ratio of what was measured at this share, the default's 1 included."""
        first = self.trials[0].values
        ratios = [t.values[share] / first[share] for t in self.trials if share in t.values and first[share] > 0]
        return statistics.median(ratios) if ratios else 0.0

    def finalists(self, most: int) -> list[Trial]:
        """The best feasible ones that came to the whole workload, best first, without the default."""
        whole = [t for t in self.trials[1:] if not t.failure and 1.0 in t.values]
        return sorted(whole, key=lambda t: -t.ratio)[:most]


def config_key(config: Mapping[str, Value]) -> str:
    """Text that is equal exactly for equal configurations."""
    return repr(sorted(config.items()))
