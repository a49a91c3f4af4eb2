"""Fitting a value head to soft labels, and measuring scores against them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ponder.core.seeds import generator
from ponder.engine.weights import need_torch
from ponder.laws.calibration import auroc, auroc_within, measure_calibration
from ponder.laws.intervals import Interval
from ponder.verifiers._head_file import Arrays

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]

WEIGHT_DECAYS = (0.003, 0.03, 0.3, 3.0)
"""Penalties tried; the one with the least loss on the stopping problems is taken."""
_STEPS = 600
_PATIENCE = 60


@dataclass(frozen=True)
class Split:
    """Problems by what they are used for; shares 3 : 1 : 1.

    Attributes:
        train: fitted on.
        stop: decide when fitting stops, and the penalty.
        test: seen only by what is reported.
    """

    train: frozenset[str]
    stop: frozenset[str]
    test: frozenset[str]


def split_problems(problems: Sequence[str], seed: int) -> Split:
    """Each problem into one part, by lot."""
    names = list(dict.fromkeys(problems))
    order = [names[i] for i in generator(seed, "split").permutation(len(names))]
    fifth = max(1, len(order) // 5)
    return Split(frozenset(order[2 * fifth :]), frozenset(order[:fifth]), frozenset(order[fifth : 2 * fifth]))


def fit_value_head(
    x: npt.ArrayLike, y: npt.ArrayLike, stop: npt.NDArray[np.bool_], *, units: int = 0, seed: int = 0
) -> tuple[Arrays, dict[str, float]]:
    """A head that minimises the binary cross-entropy to soft labels, with early stopping.

    Args:
        x: features, shape (n, width).
        y: labels in [0, 1], shape (n,).
        stop: shape (n,), which rows decide when to stop; the others are fitted.
        units: of a hidden layer; 0 is a logistic regression.
        seed: of the hidden layer's first weights.

    Returns:
        The head's arrays, and what was chosen: `weight_decay`, `steps`, `loss` (on the stopping rows, in nats).
    """
    torch = need_torch()
    features, labels = np.asarray(x, dtype=np.float32), np.asarray(y, dtype=np.float32)
    mean, scale = features[~stop].mean(0), features[~stop].std(0) + 1e-4
    inputs, targets = torch.from_numpy((features - mean) / scale), torch.from_numpy(labels)
    fitted, held = torch.from_numpy(~stop), torch.from_numpy(stop)
    rate = float(np.clip(labels[~stop].mean(), 1e-3, 1 - 1e-3))
    first = float(np.log(rate / (1 - rate)))
    loss_of = torch.nn.functional.binary_cross_entropy_with_logits
    best: tuple[float, float, int, dict[str, Any]] | None = None
    for decay in WEIGHT_DECAYS:
        head = _first_head(features.shape[1], units, first, seed)
        optimiser = torch.optim.AdamW(list(head.values()), lr=3e-3, weight_decay=decay)
        since = 0
        lowest = np.inf
        for step in range(_STEPS):
            with torch.no_grad():
                loss = float(loss_of(_logits(head, inputs[held]), targets[held]))
            if loss < lowest - 1e-5:
                lowest, since = loss, 0
                if best is None or loss < best[0]:
                    best = (loss, decay, step, {k: v.detach().numpy().copy() for k, v in head.items()})
            since += 1
            if since > _PATIENCE:
                break
            optimiser.zero_grad()
            loss_of(_logits(head, inputs[fitted]), targets[fitted]).backward()
            optimiser.step()
    assert best is not None
    arrays = {"mean": mean, "scale": scale, **best[3]}
    return arrays, {"loss": best[0], "weight_decay": best[1], "steps": best[2]}


def _first_head(width: int, units: int, bias: float, seed: int) -> dict[str, Any]:
    torch = need_torch()
    rng = torch.Generator().manual_seed(seed)
    head = {"weight": torch.zeros(units or width), "bias": torch.tensor(bias)}
    if units:
        head["hidden"] = torch.randn(width, units, generator=rng) * width**-0.5
        head["hidden_bias"] = torch.zeros(units)
        head["weight"] = torch.randn(units, generator=rng) * 0.01
    return {name: tensor.requires_grad_() for name, tensor in head.items()}


def _logits(head: dict[str, Any], x: Any) -> Any:
    if "hidden" in head:
        x = (x @ head["hidden"] + head["hidden_bias"]).relu()
    return x @ head["weight"] + head["bias"]


def ranking(
    scores: npt.ArrayLike, values: npt.ArrayLike, problems: Sequence[str], depths: Sequence[int]
) -> dict[str, Any]:
    """How well scores put rollouts that end correct above those that do not, as [estimate, low, high].

    Args:
        scores: shape (n,); those with NaN are left out.
        values: shape (n,), shares of rollouts that ended correct; each counts as so much of a right one.
        problems: of each prefix.
        depths: of each prefix.

    Returns:
        `auroc` over all prefixes; `auroc_within` over pairs of one problem; `auroc_siblings` over pairs of one problem
        and depth, which is what a search chooses among. None without such a pair. Intervals are by bootstrap over
        problems.
    """
    s, v = np.asarray(scores, dtype=np.float64), np.asarray(values, dtype=np.float64)
    known = ~np.isnan(s)
    s, v = s[known], v[known]
    problem = np.unique(np.asarray(problems)[known], return_inverse=True)[1].ravel() if known.any() else np.array([])
    depth = np.asarray(depths)[known]
    everything = measure_calibration(_ranks(s), v, problem=problem).auroc if s.size else None
    return {
        "n": int(s.size),
        "auroc": _plain(everything),
        "auroc_within": _plain(_within(s, v, problem, np.zeros_like(depth))),
        "auroc_siblings": _plain(_within(s, v, problem, depth)),
    }


def _ranks(s: Floats) -> Floats:
    """The same order in [0, 1]."""
    return np.asarray(np.unique(s, return_inverse=True)[1].ravel() / max(s.size - 1, 1), dtype=np.float64)


def _within(s: Floats, v: Floats, problem: npt.NDArray[Any], group: npt.NDArray[Any]) -> Interval | None:
    ordered, pairs = [], []
    for p in np.unique(problem):
        won = of = 0.0
        for g in np.unique(group[problem == p]):
            rows = (problem == p) & (group == g)
            more_won, more = pairs_in_order(s[rows], v[rows])
            won, of = won + more_won, of + more
        ordered.append(won)
        pairs.append(of)
    return auroc_within(ordered, pairs)


def pairs_in_order(scores: npt.ArrayLike, values: npt.ArrayLike) -> tuple[float, float]:
    """Mass of pairs of a right and a wrong rollout of *different* prefixes in order, and of all such pairs.

    >>> pairs_in_order([0.9, 0.1], [0.5, 0.0])
    (0.5, 0.5)
    """
    s, v = np.asarray(scores, dtype=np.float64), np.asarray(values, dtype=np.float64)
    own = float((v * (1 - v)).sum())
    mass = float(v.sum() * (1 - v).sum())
    if mass - own <= 1e-12:
        return 0.0, 0.0
    return float(auroc(s, v)) * mass - 0.5 * own, mass - own


def _plain(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [round(float(x), 4) for x in interval]
