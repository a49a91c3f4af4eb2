"""Which settings to try first, learnt from what was measured on other workloads, models and machines.

A ridge regression with a Gaussian kernel predicts the logarithm of the objective relative to its group's mean: what a
setting is worth everywhere, and what it is worth on groups like this one. Its width and strength are chosen by leaving
groups out.

Idea     MetaInf ("Meta-Learning for Speeding Up Large Model Inference in Decentralized Environments"): learn from
         descriptions and a history which acceleration to choose, without trying.
Differs  Numbers describe model, hardware and workload instead of embedded texts; a kernel ridge instead of boosted
         trees; settings of engines instead of whole methods. The paper's body could not be read here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ponder.tuning.history import Row, groups, read
from ponder.tuning.space import Config, Value
from ponder.tuning.workload import Workload

if TYPE_CHECKING:
    from ponder.core.model import Model

Floats = NDArray[np.float64]

FEW_ROWS = 20
"""With fewer the average order is taken."""

_NEAR = 0.05
"""A setting is as good as the best if it is at most so far behind it."""

_LEARN_ANEW = 400
"""Rows up to which leaving a group out means learning without it."""


@dataclass(frozen=True)
class Pick:
    """A configuration, and what it is expected to bring relative to the default."""

    config: Config
    ratio: float


@dataclass(frozen=True)
class Choice:
    """Configurations, the most promising first."""

    picks: tuple[Pick, ...]
    reason: str


@dataclass(frozen=True)
class Order:
    """How well an order of trying does.

    Attributes:
        tries: settings measured until one is within 5 % of the group's best, on average.
        regret: how far the first one is behind the best, on average, as a share of the best.
        low, high: 95 % interval of `tries`, by resampling groups.
    """

    tries: float
    regret: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Saved:
    """Orders compared on groups that were left out.

    By name: `chosen` (what `choose` takes), `learnt`, `average`, `nearest group`, `random`.
    """

    groups: int
    orders: Mapping[str, Order]


def model_features(model: Model) -> dict[str, float]:
    """Numbers that tell models apart; none if the shape is unknown."""
    shape = model.shape
    if shape is None:
        return {}
    return {
        "log params": math.log2(shape.params_active),
        "log layers": math.log2(shape.layers),
        "log kv width": math.log2(shape.kv_heads * shape.head_dim),
        "weight bytes": float(shape.weight_bytes_per_param),
    }


def group_features(row: Row) -> dict[str, float]:
    """Numbers that tell groups apart: workload, model, machine."""
    host: dict[str, float] = {}
    for name in ("cores", "memory_bytes", "peak_flops", "memory_bandwidth"):
        if row.host.get(name):
            host[f"log {name}"] = math.log2(float(row.host[name]))
    return {**row.workload_features, **row.model_features, **host}


class Regression:
    """What settings are worth on which groups.

    Args:
        rows: by group; infeasible ones are left out.
        width: of the kernel over groups, in standard deviations of a feature.
        ridge: strength of the regularisation.
    """

    def __init__(self, rows: Sequence[Sequence[Row]], width: float, ridge: float) -> None:
        flat = [r for group in rows for r in group]
        self._group_names = sorted({n for group in rows for n in group_features(group[0])})
        raw = np.array([self._raw(group_features(r)) for r in flat])
        self._mean, self._scale = raw.mean(0), np.where(raw.std(0) > 1e-9, raw.std(0), 1.0)
        self._columns = sorted({(n, str(v)) for r in flat for n, v in r.settings.items()})
        numbers = {n: [float(r.settings[n]) for r in flat if _number(r.settings.get(n))] for n, _ in self._columns}
        self._numeric = {n: max(float(np.std(np.log2(np.add(v, 1.0)))), 1e-9) for n, v in numbers.items() if v}
        self._width = width * math.sqrt(max(1, len(self._group_names)))
        self._groups, self._configs = (
            (raw - self._mean) / self._scale,
            np.array([self._config(r.settings) for r in flat]),
        )
        self._target = np.concatenate([_centred(group) for group in rows])
        self._sizes = [len(group) for group in rows]
        kernel = self._kernel(self._groups, self._configs)
        self._inverse = np.linalg.inv(kernel + ridge * np.eye(len(flat)))
        self._weights = self._inverse @ self._target

    def predict(self, features: Mapping[str, float], settings: Sequence[Mapping[str, Value]]) -> Floats:
        """Logarithm of the objective, up to a constant of the group; shape (len(settings),)."""
        group = (self._raw(features) - self._mean) / self._scale
        configs = np.array([self._config(s) for s in settings])
        out: Floats = self._kernel(np.repeat(group[None], len(settings), 0), configs) @ self._weights
        return out

    def left_out(self) -> list[Floats]:
        """What is predicted for each group as if it had been left out (in closed form; the scales stay)."""
        out, start = [], 0
        for size in self._sizes:
            part = slice(start, start + size)
            missed = np.linalg.solve(self._inverse[part, part], self._weights[part])
            out.append(self._target[part] - missed)
            start += size
        return out

    def left_out_error(self) -> float:
        """Sum of the squared errors of `left_out`, up to a constant of each group."""
        told = np.split(self._target, np.cumsum(self._sizes)[:-1])
        gaps = [t - p for t, p in zip(told, self.left_out(), strict=True)]
        return sum(float(((gap - gap.mean()) ** 2).sum()) for gap in gaps)

    def distance(self, features: Mapping[str, float]) -> float:
        """To the nearest group that was learnt from, in standard deviations of all features."""
        group = (self._raw(features) - self._mean) / self._scale
        return float(np.sqrt(((self._groups - group) ** 2).sum(1)).min())

    def reach(self) -> float:
        """95th percentile of the groups' distances to their nearest neighbours."""
        distinct = np.unique(self._groups, axis=0)
        if len(distinct) < 2:
            return 0.0
        gaps = np.sqrt(((distinct[:, None] - distinct[None]) ** 2).sum(2))
        np.fill_diagonal(gaps, np.inf)
        return float(np.quantile(gaps.min(1), 0.95))

    def _raw(self, features: Mapping[str, float]) -> Floats:
        return np.array([features.get(n, 0.0) for n in self._group_names])

    def _config(self, settings: Mapping[str, Value]) -> list[float]:
        """One column a value, so that any two differ, and one a number, so that near ones differ less."""
        one_hot = [0.7 * (str(settings.get(n)) == v) for n, v in self._columns]
        scaled = [
            math.log2(float(settings[n]) + 1) / s if _number(settings.get(n)) else 0.0 for n, s in self._numeric.items()
        ]
        return [*one_hot, *scaled]

    def _kernel(self, group: Floats, config: Floats) -> Floats:
        like = np.exp(-_squared(config, self._configs) / 2)
        near = np.exp(-_squared(group, self._groups) / (2 * self._width**2))
        out: Floats = like * (0.3 + near)
        return out


def fit(rows: Sequence[Sequence[Row]]) -> Regression:
    """The regression whose width and ridge do best on groups left out."""
    options = [Regression(rows, width, ridge) for width in (0.3, 0.6, 1.2) for ridge in (0.02, 0.2, 1.0)]
    return min(options, key=Regression.left_out_error)


def choose(
    rows: Sequence[Row], model: str, workload: Workload, features: Mapping[str, float], host: Mapping[str, Any]
) -> Choice:
    """Configurations of a model's engine in the history, the most promising first.

    The order is the learnt one where that was better on groups left out than the order of the average. With fewer than
    20 rows, or if nothing like this workload, model and machine was measured, it is that of the average; with no rows
    of the engine there is none.

    Args:
        rows: the history.
        model: text form.
        workload: what is to be fast.
        features: see `model_features`.
        host: see `history.host`.
    """
    engine = model.partition(":")[0]
    known = usable([r for r in rows if r.engine.split(" ")[0] == engine])
    if not known:
        return Choice((), f"nothing was measured on {engine} yet: start with `ponder engine tune`")
    target = {**group_features(Row("", "", "", model, features, host, "", workload.features(), "", {}, {}, 1.0, 1.0))}
    configs = {repr(sorted(r.config.items())): r for group in known for r in group}
    candidates = list(configs.values())
    settings = [r.settings for r in candidates]
    total = sum(map(len, known))
    learnt = fit(known)
    far = learnt.distance(target) > max(learnt.reach(), 1e-9)
    why = f"{total} rows are too few to learn from" if total < FEW_ROWS else "nothing like this was measured"
    if total >= FEW_ROWS and not far and not _learning_pays(known, learnt):
        why = f"on the {len(known)} groups measured, each left out in turn, learning did no better"
        far = True
    if total < FEW_ROWS or far:
        reason, predicted = f"{why}: the order of the average", _average(known, settings)
    else:
        reason = f"learnt from {total} rows of {len(known)} groups"
        predicted = learnt.predict(target, settings)
    default = next((p for r, p in zip(candidates, predicted, strict=True) if not r.config), 0.0)
    ranked = sorted(zip(predicted, candidates, strict=True), key=lambda x: (-x[0], len(x[1].config)))
    return Choice(tuple(Pick(r.config, math.exp(p - default)) for p, r in ranked), reason)


def leave_one_out(rows: Sequence[Row]) -> Saved | None:
    """Each group in turn as if it were new; None with fewer than three groups of two settings or more.

    Up to 400 rows everything is learnt anew without the group; beyond that in closed form, where width and ridge of
    the regression (two numbers) are chosen on all groups.
    """
    known = usable(rows)
    if len(known) < 3:
        return None
    names = ("chosen", "learnt", "average", "nearest group", "random")
    tallies: dict[str, list[tuple[float, float]]] = {n: [] for n in names}
    small = sum(map(len, known)) <= _LEARN_ANEW
    whole = None if small else fit(known)
    closed = [] if whole is None else whole.left_out()
    pays = whole is not None and _learning_pays(known, whole)
    for i, group in enumerate(known):
        rest = [g for j, g in enumerate(known) if j != i]
        settings, values = [r.settings for r in group], np.array([r.value for r in group])
        features = group_features(group[0])
        if small:
            fitted = fit(rest)
            learnt, pays = fitted.predict(features, settings), _learning_pays(rest, fitted)
        else:
            learnt = closed[i]
        tallies["learnt"].append(_judge(learnt, values))
        tallies["average"].append(_judge(_average(rest, settings), values))
        tallies["chosen"].append(tallies["learnt" if pays else "average"][-1])
        tallies["nearest group"].append(_judge(_average([_nearest(rest, features)], settings), values))
        good = int((values >= values.max() * (1 - _NEAR)).sum())
        tallies["random"].append(((len(values) + 1) / (good + 1), float(1 - values.mean() / values.max())))
    return Saved(len(known), {name: _order(tally) for name, tally in tallies.items()})


def across(rows: Sequence[Row]) -> list[Row]:
    """The same rows with the engine as one more setting: groups are then a model's file, workload and machine."""
    out = []
    for row in rows:
        name, _, file = row.model.partition(":")
        own = {f"{name}.{n}": v for n, v in row.settings.items()}
        config = {f"{name}.{n}": v for n, v in row.config.items()}
        out.append(replace(row, engine="any", model=f"any:{file}", settings={"in": name, **own},
                           config={"in": name, **config}))  # fmt: skip
    return out


def shipped() -> list[Row]:
    """What was measured on one machine with two cores (docs/guide/engines.md), to start from."""
    with as_file(files("ponder.tuning") / "measured.jsonl") as path:
        return read(path)


def usable(rows: Sequence[Row]) -> list[list[Row]]:
    """By group, what was measured on the whole workload; groups of two settings or more."""
    whole = [r for r in rows if not r.failure and r.value > 0 and r.share >= 1]
    return [group for group in groups(whole) if len(group) > 1]


def _learning_pays(known: Sequence[Sequence[Row]], learnt: Regression) -> bool:
    """Whether the first setting of the learnt order is better than that of the average, over groups left out."""
    gain = 0.0
    for i, (group, predicted) in enumerate(zip(known, learnt.left_out(), strict=True)):
        rest = [g for j, g in enumerate(known) if j != i]
        values = np.array([r.value for r in group])
        gain += _judge(_average(rest, [r.settings for r in group]), values)[1] - _judge(predicted, values)[1]
    return gain > 0


def _order(tally: Sequence[tuple[float, float]]) -> Order:
    tries, regrets = np.array(tally).T
    picks = np.random.default_rng(0).integers(0, len(tries), (2000, len(tries)))
    low, high = np.quantile(tries[picks].mean(1), (0.025, 0.975))
    return Order(float(tries.mean()), float(regrets.mean()), float(low), float(high))


def _judge(predicted: Floats, values: Floats) -> tuple[float, float]:
    order = np.argsort(-predicted, kind="stable")
    good = values[order] >= values.max() * (1 - _NEAR)
    return float(np.argmax(good) + 1), float(1 - values[order[0]] / values.max())


def _average(rows: Sequence[Sequence[Row]], settings: Sequence[Mapping[str, Value]]) -> Floats:
    """Mean of each setting over groups, relative to the group's mean; 0 for one that none has."""
    seen: dict[str, list[float]] = {}
    for group in rows:
        for row, merit in zip(group, _centred(group), strict=True):
            seen.setdefault(_name(row.settings), []).append(float(merit))
    return np.array([float(np.mean(seen.get(_name(s), [0.0]))) for s in settings])


def _nearest(rows: Sequence[Sequence[Row]], features: Mapping[str, float]) -> Sequence[Row]:
    def gap(group: Sequence[Row]) -> float:
        other = group_features(group[0])
        return sum((features.get(n, 0.0) - other.get(n, 0.0)) ** 2 for n in {*features, *other})

    return min(rows, key=gap)


def _centred(group: Sequence[Row]) -> Floats:
    logs = np.log([r.value for r in group])
    out: Floats = logs - logs.mean()
    return out


def _name(settings: Mapping[str, Value]) -> str:
    return repr(sorted(settings.items()))


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _squared(a: Floats, b: Floats) -> Floats:
    out: Floats = ((a[:, None, :] - b[None, :, :]) ** 2).sum(2)
    return out
