"""Fit a law by name to a study's directory or a CSV table, with its error on held-out compute."""

from __future__ import annotations

import csv
import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ponder.core.law import Law
from ponder.errors import LawFitError, ParameterError, StudyError
from ponder.laws.beta_binomial import BetaBinomialLaw
from ponder.laws.coverage_law import CoverageLaw
from ponder.laws.geometric_saturation import GeometricMixture, GeometricSaturation
from ponder.laws.intervals import RESAMPLES
from ponder.laws.pass_at_k import coverage_curve, log_spaced_k
from ponder.laws.power_law import fit_power_law
from ponder.laws.rag_allocation import RagAllocation, RagConfig, RagTask
from ponder.laws.rethinking_chain import RethinkingChain

Floats = NDArray[np.float64]
Table = Mapping[str, Floats]

LAWS: Mapping[str, tuple[str, str]] = {
    "coverage_law": (CoverageLaw.formula, "DIR; columns n, c or k, quality"),
    "beta_binomial": (BetaBinomialLaw.formula, "DIR; columns n, c"),
    "geometric_saturation": (GeometricMixture.formula, "DIR; columns n, c"),
    "geometric_saturation_single": (GeometricSaturation.formula, "DIR; columns n, c or k, quality"),
    "rethinking_chain": (RethinkingChain.formula, "columns r0, r1, …: 1 or 0 after each round"),
    "power_law": ("ln value = c + Σ e · ln scale", "columns value, loss (may be missing) and one a scale"),
    "rag_allocation": (
        "logit P = (a + b ⊙ i)ᵀ ln(θ + ε) + c",
        "columns documents, demonstrations, iterations, gain_documents, gain_demonstrations, quality",
    ),
}
"""By name: the formula, and what it is fitted to."""

_LIKELIHOODS: Mapping[str, Any] = {"beta_binomial": BetaBinomialLaw.fit, "geometric_saturation": GeometricMixture.fit}
_BOOTSTRAPPED: Mapping[str, Any] = {
    "coverage_law": CoverageLaw.fit_counts,
    "geometric_saturation_single": GeometricSaturation.fit_counts,
}
_CURVES: Mapping[str, Any] = {"coverage_law": CoverageLaw.fit, "geometric_saturation_single": GeometricSaturation.fit}


@dataclass(frozen=True)
class FitReport:
    """What a fit found.

    Attributes:
        law: its name.
        formula: for people.
        parameters: by name: value, and 95 % interval (None, None if the data do not say).
        saturation: compute from which on a further unit gains at most epsilon; None if the law has no such point.
        epsilon: that gain.
        r2: share of the variance explained.
        held_out: largest error beyond the compute that was fitted; None if the data are too few to hold some out.
        held_out_range: that compute: fitted up to, and tested up to.
        notes: what a reader has to know.
    """

    law: str
    formula: str
    parameters: Mapping[str, tuple[float, float | None, float | None]]
    saturation: float | None
    epsilon: float
    r2: float | None
    held_out: float | None = None
    held_out_range: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON; infinite and undefined numbers as None."""
        plain = asdict(self)
        for name in ("saturation", "r2"):
            plain[name] = _finite(plain[name])
        plain["parameters"] = {name: [_finite(x) for x in row] for name, row in self.parameters.items()}
        return plain


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def fit_law(
    source: Path | str, law: str = "beta_binomial", *, strategy: str | None = None, epsilon: float = 0.01,
    seed: int = 0, resamples: int = RESAMPLES,
) -> FitReport:  # fmt: skip
    """Fit a law to a study's directory or a CSV file.

    Args:
        source: a directory that `ponder bench` wrote, or a CSV file with a header.
        law: a key of `LAWS`.
        strategy: whose draws, for a directory; that with the most if None.
        epsilon: of the saturation point.
        seed: of the bootstrap and of the held-out draws.
        resamples: bootstrap samples.

    Raises:
        ParameterError: no such law, or a column is missing.
        StudyError: nothing to read.
        LawFitError: the data do not identify the law.
    """
    if law not in LAWS:
        raise ParameterError("fit_law", "law", law, allowed=f"one of {', '.join(LAWS)}")
    path = Path(source)
    table = _counts_of(path, strategy) if path.is_dir() else read_table(path)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always", UserWarning)
        report = _fit(law, table, epsilon, seed, resamples)
    return replace(report, notes=(*report.notes, *dict.fromkeys(str(w.message) for w in heard)))


def read_table(path: Path) -> dict[str, Floats]:
    """Columns of numbers from a CSV file with a header.

    Raises:
        StudyError: no such file, no rows, or a cell that is no number.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{path} cannot be read: {error}; give a directory of ponder bench or a CSV file") from None
    if not rows:
        raise StudyError(f"{path} holds no rows below its header")
    table: dict[str, Floats] = {}
    for name in rows[0]:
        cells = [row.get(name) for row in rows]
        try:
            table[str(name).strip()] = np.array([float(str(cell)) for cell in cells])
        except ValueError:
            at = next(i for i, cell in enumerate(cells) if not _is_number(cell))
            raise StudyError(f"{path}: column {name}, row {at + 1}: {cells[at]!r} is not a number") from None
    return table


def _is_number(cell: Any) -> bool:
    try:
        float(str(cell))
    except ValueError:
        return False
    return True


def _counts_of(folder: Path, strategy: str | None) -> dict[str, Floats]:
    from ponder.studies.measured import Measured
    from ponder.studies.recommend import largest_pool

    data = Measured.load(folder)
    if strategy is not None:
        if strategy not in data.draws:
            raise ParameterError("fit_law", "strategy", strategy, allowed=f"one of {', '.join(data.draws) or 'none'}")
        data = replace(data, draws={strategy: data.draws[strategy]})
    pool = largest_pool(data)
    if pool is None:
        raise StudyError(f"{folder}: no strategy drew two or more samples on two or more problems")
    return {"n": pool[1].astype(np.float64), "c": pool[2].astype(np.float64)}


def _fit(law: str, table: Table, epsilon: float, seed: int, resamples: int) -> FitReport:
    if law in (*_LIKELIHOODS, *_BOOTSTRAPPED) and {"n", "c"} <= set(table):
        fitted = _fit_counts(law, table["n"], table["c"], resamples, seed)
        return _report(law, fitted, epsilon, _thinned(law, table, seed))
    if law in _CURVES and {"k", "quality"} <= set(table):
        return _report(law, _CURVES[law](table["k"], table["quality"]), epsilon, _shortened(law, table))
    if law == "rethinking_chain" and "r0" in table and "r1" in table:
        columns = sorted((n for n in table if n[:1] == "r" and n[1:].isdigit()), key=lambda n: int(n[1:]))
        rounds = np.stack([table[n] for n in columns], axis=1)
        return _report(law, RethinkingChain.fit(rounds), epsilon, _fewer_rounds(rounds))
    if law == "power_law" and "value" in table:
        power = fit_power_law(
            {n: x for n, x in table.items() if n not in ("value", "loss")}, table["value"], table.get("loss")
        )
        return _plain(law, power, epsilon, power.parameters)
    if law == "rag_allocation" and set(LAWS[law][1].removeprefix("columns ").split(", ")) <= set(table):
        cells = zip(*(table[n] for n in ("documents", "demonstrations", "iterations")), strict=True)
        gains = zip(table["gain_documents"], table["gain_demonstrations"], strict=True)
        rag = RagAllocation.fit(
            [RagConfig(*(int(x) for x in cell)) for cell in cells], [RagTask(*g) for g in gains], table["quality"]
        )
        return _plain(law, rag, epsilon, rag.coefficients)
    raise ParameterError("fit_law", "columns", ", ".join(table) or "none", allowed=f"those of {law}: {LAWS[law][1]}")


def _fit_counts(law: str, n: ArrayLike, c: ArrayLike, resamples: int, seed: int) -> Law:
    if law in _LIKELIHOODS:
        fitted: Law = _LIKELIHOODS[law](n, c)
    else:
        fitted = _BOOTSTRAPPED[law](n, c, resamples=resamples, seed=seed)
    return fitted


def _report(law: str, fitted: Law, epsilon: float, test: tuple[float, float, float] | None) -> FitReport:
    def interval(name: str) -> tuple[float | None, float | None]:
        try:
            return fitted.parameter_interval(name)
        except LawFitError:
            return None, None

    try:
        at: float | None = fitted.saturation(epsilon)
        notes: tuple[str, ...] = ()
    except LawFitError as error:
        at, notes = None, (str(error),)
    reason = getattr(fitted, "reason", "")
    seen = fitted.diagnostics
    return FitReport(
        law, fitted.formula, {name: (value, *interval(name)) for name, value in fitted.parameters.items()}, at, epsilon,
        None if seen is None else seen.r2, None if test is None else test[2], None if test is None else test[:2],
        (*notes, *([reason] if reason else [])),
    )  # fmt: skip


def _plain(law: str, fitted: Any, epsilon: float, parameters: Mapping[str, float]) -> FitReport:
    intervals = {name: (value, *fitted.parameter_interval(name)) for name, value in parameters.items()}
    return FitReport(law, LAWS[law][0], intervals, None, epsilon, fitted.r2)


def _thinned(law: str, table: Table, seed: int) -> tuple[float, float, float] | None:
    """Fit to a quarter of each problem's draws, chosen by lot; compare with the coverage of all."""
    n, c = table["n"].astype(int), table["c"].astype(int)
    few, most = np.maximum(1, n // 4), int(n.min())
    if most < 8:
        return None
    part = np.random.default_rng(seed).hypergeometric(c, n - c, few)
    k = log_spaced_k(most)
    k = k[k > few.min()]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            predicted = _fit_counts(law, few, part, 0, 0).predict(k)
    except LawFitError:
        return None
    return float(few.min()), float(most), float(np.abs(predicted - coverage_curve(n, c, k)).max())


def _shortened(law: str, table: Table) -> tuple[float, float, float] | None:
    """Fit to the points up to a quarter of the largest k; compare with the others."""
    k, y = table["k"], table["quality"]
    early = k <= k.max() / 4
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            predicted = _CURVES[law](k[early], y[early]).predict(k[~early])
    except LawFitError:
        return None
    return float(k[early].max()), float(k.max()), float(np.abs(predicted - y[~early]).max())


def _fewer_rounds(rounds: Floats) -> tuple[float, float, float] | None:
    """Fit to the first half of the rounds; compare with the others."""
    half = (rounds.shape[1] - 1) // 2
    try:
        law = RethinkingChain.fit(rounds[:, : half + 1]) if half else None
    except LawFitError:
        law = None
    if law is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        later = np.arange(half + 1, rounds.shape[1])
        error = np.abs(law.predict(later) - rounds[:, half + 1 :].mean(axis=0)).max()
    return float(half), float(rounds.shape[1] - 1), float(error)
