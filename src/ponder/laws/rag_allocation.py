"""How to split a context between documents, demonstrations and iterations: the computation allocation model.

Paper    "Inference Scaling for Long-Context Retrieval Augmented Generation", 2024, §5.
Equal    link(P) = (a + b ⊙ i)ᵀ ln(θ + ε) + c with θ = (k documents, m demonstrations, n iterations), i the task's
         gain from its first document and its first demonstration, b₃ = 0: 6 coefficients by least squares.
Differs  The link is the logit, with P clipped to [0.5 / N, 1 - 0.5 / N]; the paper's fitted sigmoid has four numbers
         more, of which two repeat a and c. `linear` is there to compare. ε = 0.01. Intervals are Student's t with
         standard errors that allow each cell its own noise (HC3, MacKinnon & White 1985): a cell's accuracy is counted
         on finitely many questions, so its logit is least sure near 0 and 1.
Needs    Accuracies of several θ on one task or more.    Cost: none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ponder.core.law import Forecast
from ponder.errors import LawFitError, ParameterError
from ponder.laws.intervals import student_quantile

Floats = NDArray[np.float64]
Link = Literal["logit", "linear"]
Form = Literal["full", "no_task", "quadratic"]

EPSILON = 0.01
_NAMES = {
    "full": ("a_documents", "a_demonstrations", "a_iterations", "b_documents", "b_demonstrations", "c"),
    "no_task": ("a_documents", "a_demonstrations", "a_iterations", "c"),
    "quadratic": (
        "a_documents", "a_demonstrations", "a_iterations", "b_documents", "b_demonstrations",
        "q_documents", "q_demonstrations", "q_iterations", "c",
    ),
}  # fmt: skip


class RagConfig(NamedTuple):
    """θ: what the context is spent on."""

    documents: int
    demonstrations: int
    iterations: int = 1


class RagTask(NamedTuple):
    """i: what the first document gains on a task, P(1, 0) - P(0, 0), and the first demonstration, P(0, 1) - P(0, 0)."""

    documents: float
    demonstrations: float


@dataclass(frozen=True)
class RagAllocation:
    """A fitted model.

    Attributes:
        coefficients: by name.
        link: `logit` or `linear`.
        form: `full`, `no_task` (b = 0) or `quadratic` (with squares of ln θ).
        r2: share of the variance explained, on the link's scale.
        n_points: cells of the fit.
        covariance: of the coefficients.
        low: smallest θ of the fit.
        high: largest θ.
    """

    coefficients: dict[str, float]
    link: Link
    form: Form
    r2: float
    n_points: int
    covariance: Floats = field(repr=False, compare=False)
    low: RagConfig = RagConfig(0, 0, 1)
    high: RagConfig = RagConfig(0, 0, 1)

    @classmethod
    def fit(
        cls, configs: Sequence[RagConfig], tasks: Sequence[RagTask], quality: ArrayLike, *,
        n_questions: int = 1000, link: Link = "logit", form: Form = "full",
    ) -> RagAllocation:  # fmt: skip
        """Fit by least squares.

        Args:
            configs: θ of each cell.
            tasks: i of each cell's task.
            quality: of each cell, in [0, 1].
            n_questions: N behind a cell; 0 and 1 become 0.5 / N and 1 - 0.5 / N.
            link: of the quality.
            form: which terms.

        Raises:
            ParameterError: lengths differ, quality outside [0, 1], an unknown link or form.
            LawFitError: fewer cells than coefficients + 1, constant quality, or terms that the design does not
                tell apart, which are named.
        """
        if link not in ("logit", "linear") or form not in _NAMES:
            raise ParameterError("RagAllocation", "link/form", (link, form), allowed="logit or linear; full, no_task …")
        y = np.asarray(quality, dtype=np.float64)
        if y.ndim != 1 or not len(configs) == len(tasks) == y.size or not np.all((y >= 0) & (y <= 1)):
            raise ParameterError("RagAllocation", "quality", y.shape, allowed="one number in [0, 1] for each cell")
        names = _NAMES[form]
        if y.size < len(names) + 1:
            raise LawFitError(f"RagAllocation needs {len(names) + 1} cells or more; there are {y.size}")
        if np.ptp(y) < 1e-12:
            raise LawFitError("quality is the same in every cell: nothing to allocate")
        design = _design(configs, tasks, form)
        _refuse_collinear(design, names)
        z = _linked(y, link, n_questions)
        theta = np.linalg.lstsq(design, z, rcond=None)[0]
        residual = z - design @ theta
        inverse = np.linalg.inv(design.T @ design)
        leverage = np.einsum("ij,jk,ik->i", design, inverse, design)
        spread = inverse @ (design.T * (residual / np.maximum(1 - leverage, 1e-9)))
        table = np.array(configs)
        return cls(
            dict(zip(names, (float(x) for x in theta), strict=True)), link, form,
            1 - float(residual @ residual) / float(((z - z.mean()) ** 2).sum()), y.size,
            np.asarray(spread @ spread.T, dtype=np.float64),
            RagConfig(*table.min(axis=0).tolist()), RagConfig(*table.max(axis=0).tolist()),
        )  # fmt: skip

    def predict(self, config: RagConfig, task: RagTask) -> float:
        """Quality of a configuration on a task, in [0, 1]."""
        return self._back(float(_design([config], [task], self.form)[0] @ np.array(list(self.coefficients.values()))))

    def forecast(self, config: RagConfig, task: RagTask, level: float = 0.95) -> Forecast:
        """Quality, the interval of its mean, and whether a part of θ lies outside the fit."""
        row = _design([config], [task], self.form)[0]
        centre = float(row @ np.array(list(self.coefficients.values())))
        reach = student_quantile(0.5 + level / 2, self._freedom) * math.sqrt(row @ self.covariance @ row)
        outside = any(not a <= x <= b for a, x, b in zip(self.low, config, self.high, strict=True))
        return Forecast(self._back(centre), self._back(centre - reach), self._back(centre + reach), outside)

    def parameter_interval(self, name: str, level: float = 0.95) -> tuple[float, float]:
        """Interval of a coefficient."""
        names = list(self.coefficients)
        if name not in names:
            raise ParameterError("RagAllocation", "name", name, allowed=f"one of {', '.join(names)}")
        at = names.index(name)
        reach = student_quantile(0.5 + level / 2, self._freedom) * math.sqrt(self.covariance[at, at])
        return self.coefficients[name] - reach, self.coefficients[name] + reach

    def best(
        self, configs: Iterable[RagConfig], length: Callable[[RagConfig], float], limit: float, task: RagTask
    ) -> RagConfig:
        """The configuration of highest predicted quality whose effective length is within a limit; ties: shorter.

        Args:
            configs: to choose from.
            length: input tokens over all calls, the most of any question.
            limit: the most allowed.
            task: the target's gains.

        Raises:
            ParameterError: none is short enough.
        """
        inside = [c for c in configs if length(c) <= limit]
        if not inside:
            raise ParameterError("RagAllocation", "limit", limit, allowed="as long as the shortest configuration")
        return max(inside, key=lambda c: (round(self.predict(c, task), 12), -length(c)))

    @property
    def _freedom(self) -> int:
        return self.n_points - len(self.coefficients)

    def _back(self, z: float) -> float:
        if self.link == "logit":
            return 1 / (1 + math.exp(-min(max(z, -700.0), 700.0)))
        return min(1.0, max(0.0, z))


def _design(configs: Sequence[RagConfig], tasks: Sequence[RagTask], form: Form) -> Floats:
    theta = np.array(configs, dtype=np.float64)
    if np.any(theta < 0):
        raise ParameterError("RagAllocation", "config", configs, allowed="counts ≥ 0")
    logs, gains = np.log(theta + EPSILON), np.array(tasks, dtype=np.float64)
    columns = [logs]
    if form != "no_task":
        columns.append(gains * logs[:, :2])
    if form == "quadratic":
        columns.append(logs**2)
    return np.column_stack([*columns, np.ones(len(theta))])


def _refuse_collinear(design: Floats, names: Sequence[str]) -> None:
    scaled = design / np.maximum(np.linalg.norm(design, axis=0), 1e-300)
    _, sizes, rows = np.linalg.svd(scaled, full_matrices=False)
    if sizes[-1] < 1e-9 * sizes[0]:
        tied = [n for n, weight in zip(names, np.abs(rows[-1]), strict=True) if weight > 1e-3]
        raise LawFitError(
            f"the cells do not tell {', '.join(tied)} apart: vary documents, demonstrations, iterations and the task "
            "each on its own, or take another form"
        )


def _linked(y: Floats, link: Link, n_questions: int) -> Floats:
    if link == "linear":
        return y
    inner = np.clip(y, 0.5 / n_questions, 1 - 0.5 / n_questions)
    return np.asarray(np.log(inner / (1 - inner)))
