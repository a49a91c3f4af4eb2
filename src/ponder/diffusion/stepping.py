"""Timesteps of many states at once, as arrays: what a model predicts, what a solver makes of it, and weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ponder.core.pool import Ints
from ponder.diffusion import solvers
from ponder.diffusion.model import DiffusionModel, Prediction
from ponder.diffusion.schedule import Floats, Schedule


class Predictions:
    """The newest prediction for each of n states that are under way together."""

    def __init__(self, known: Sequence[Prediction | None]) -> None:
        self._n, self._parts = len(known), list[Floats]()
        if seen := [i for i, prediction in enumerate(known) if prediction is not None]:
            self.put(np.asarray(seen), Prediction.joined([p for p in known if p is not None]))

    def put(self, rows: Ints, found: Prediction) -> None:
        """Predictions for some of them."""
        parts = (found.x0, found.eps, found.spread)
        self._parts = self._parts or [np.zeros((self._n, *part.shape[1:]), part.dtype) for part in parts]
        for kept, part in zip(self._parts, parts, strict=True):
            kept[rows] = part

    def rows(self, rows: Ints | slice) -> Prediction:
        """Those of some of them; a slice shares their memory."""
        return Prediction(*(part[rows] for part in self._parts))


@dataclass
class Walk:
    """Where n states have come to.

    Attributes:
        x: (n, …) their latents.
        index: (n,) where these are in the schedule.
        predictions: for those that are not data yet.
        gained: (n,) what the steps add to their log-weights, in nats.
        finite: (n,) whether all their numbers are; a state stops at the first that is not.
    """

    x: Floats
    index: Ints
    predictions: Predictions
    gained: Floats
    finite: Any


@dataclass(frozen=True)
class Stepper:
    """A solver on a model's schedule.

    Args:
        denoiser: predicts.
        schedule: its tables.
        method: the solver, as in `ponder.processes.denoising`; `auto` is none.
        eta: noise of `ddim`.
        nu: noise of `corrected`.
        batch: most states in one call of the model.
        condition: what the model takes for the prompt.
    """

    denoiser: DiffusionModel
    schedule: Schedule
    method: str
    eta: float
    nu: float
    batch: int
    condition: Any

    def walk(
        self,
        x: Floats,
        index: Ints,
        ends: Ints,
        known: Sequence[Prediction | None],
        noises: Sequence[Floats | None],
    ) -> Walk:
        """Take all states to their ends, one timestep of all of them at a time.

        Args:
            x: (n, …) latents; changed in place.
            index: (n,) where they are; changed in place.
            ends: (n,) where they go.
            known: predictions at `index` that were made before.
            noises: (timesteps, …) standard normal for each; None for deterministic steps.
        """
        n, steps, begun = len(x), self.schedule.steps, index.copy()
        at = Walk(x, index, Predictions(known), np.zeros(n), _finite(x))
        new = np.flatnonzero([p is None for p in known] & (index < steps))
        while True:
            if len(new):
                found = self._predict(x[new], index[new])
                at.predictions.put(new, found)
                at.finite[new] &= _finite(found.x0)
            going = np.flatnonzero((index < ends) & at.finite)
            if not len(going):
                return at
            noise = _at([noises[i] for i in going.tolist()], (index - begun)[going])
            x[going], gained = self._step(x[going], index[going], at.predictions.rows(going), noise)
            at.gained[going] += gained
            index[going] += 1
            at.finite[going] = _finite(x[going])
            new = going[(index[going] < steps) & at.finite[going]]

    def _step(self, x: Floats, index: Ints, prediction: Prediction, noise: Any) -> tuple[Floats, Floats]:
        """One timestep of each: the new latents, and what it adds to log-weights."""
        tables, flat = self.schedule, (-1,) + (1,) * (x.ndim - 1)
        levels = (tables.a[index], tables.s[index], tables.a[index + 1], tables.s[index + 1])
        a, s, a2, s2 = (v.reshape(flat) for v in levels)
        weights, x0, eps = np.zeros(len(x)), prediction.x0, prediction.eps
        if self.method == "exact":
            return self.denoiser.kernel(x, levels, noise), weights
        if self.method == "corrected":
            moved, weights = solvers.corrected(x, eps, prediction.spread, (a, s), (a2, s2), self.nu, noise)
            return moved, weights
        if self.method == "flow_sde":
            moved = solvers.flow_sde(x, x0, eps, s, s2, noise, float(tables.s[1]))
            return np.where(s2 > 0, moved, x0), weights
        if self.method == "heun":
            moved, keep = solvers.ddim(x0, eps, (a, s), (a2, s2)), np.flatnonzero(index + 1 < tables.steps)

            def again(y: Floats) -> tuple[Floats, Floats]:
                found = self._predict(y, index[keep] + 1)
                return found.x0, found.eps

            if len(keep):
                now, then = (a[keep], s[keep]), (a2[keep], s2[keep])
                moved[keep] = solvers.heun(x[keep], x0[keep], eps[keep], now, then, again, tables.is_flow)
            return moved, weights
        eta = self.eta if self.method == "ddim" else 0.0
        return solvers.ddim(x0, eps, (a, s), (a2, s2), eta, noise), weights

    def _predict(self, x: Floats, index: Ints) -> Prediction:
        """What the model expects of each, `batch` of them in one call."""
        parts, tables = [], self.schedule
        for first in range(0, len(x), self.batch):
            rows = slice(first, first + self.batch)
            at = index[rows]
            parts.append(self.denoiser.predict(x[rows], tables.a[at], tables.s[at], tables.t[at], self.condition))
        return Prediction.joined(parts)


def _at(noises: Sequence[Floats | None], places: Ints) -> Any:
    """(n, …) one timestep's noise of each; None for deterministic steps."""
    own = [noise[i : i + 1] for noise, i in zip(noises, places.tolist(), strict=True) if noise is not None]
    return np.concatenate(own) if own else None


def _finite(x: Floats) -> Any:
    """(n,) which rows hold finite numbers only."""
    return np.isfinite(x).reshape(len(x), -1).all(axis=1)
