"""The report: one HTML file that opens offline, without a request, a font or a library from anywhere."""

from __future__ import annotations

import json
import re
import shlex
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import ponder
from ponder.errors import LawFitError, PonderError, StoreError
from ponder.laws.beta_binomial import BetaBinomialLaw
from ponder.laws.coverage_law import CoverageLaw
from ponder.laws.intervals import bootstrap_means, paired_difference, percentiles
from ponder.laws.pass_at_k import log_spaced_k, pass_at_k
from ponder.reports.charts import Curve, Mark, line_chart, short, swatch
from ponder.reports.shown_pictures import gallery
from ponder.studies.calibration import PROBABILITY, SHORTER
from ponder.studies.difficulty import by_difficulty
from ponder.studies.how_well import how_well
from ponder.studies.measured import Axis, Measured, Point
from ponder.studies.protocols import FILE as PROTOCOL
from ponder.studies.recommend import Recommendation, largest_pool, recommend

_SECRET = re.compile(r"(?i)((?:api[_-]?key|token|secret|password|authorization)\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|\S+)")
_USER_INFO = re.compile(r"(://)[^/@\s:]+(:[^/@\s]*)?@")
_BEARER = re.compile(r"\b(sk-|Bearer\s+|hf_)[A-Za-z0-9_\-.]{8,}")

TROUBLE = {
    "errors": "samples that could not be drawn, read, graded or scored",
    "lost": "samples that were never drawn",
    "failed": "problems where nothing was finished",
    "abstained": "problems without a usable answer",
    "cut": "samples that ended at the length limit",
    "unparsed": "samples in which no answer was found",
    "ties": "problems where the choice was between equals",
    "leaked": "hints that held the reference answer and were discarded",
}


FRONT = "Pareto front"

RANKING = {
    SHORTER: "fewer tokens, among outputs that ended by themselves: what first_finish relies on",
    PROBABILITY: "the model's own probability per token: what rpc and perplexity_consistency rely on",
}


def write_report(folder: Path | str, out: Path | str | None = None) -> Path:
    """Write the report of a study.

    Args:
        folder: the directory that `ponder bench` wrote.
        out: the file to write; `report.html` in the folder by default.

    Returns:
        The file.

    Raises:
        StudyError: no study there, or nothing in it.
        StoreError: the file cannot be written.
    """
    data = Measured.load(folder)
    path = Path(out) if out is not None else data.folder / "report.html"
    text = render(data)
    scratch = path.with_name(f".{path.name}.part")
    try:
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(path)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}; give another file with --out") from None
    return path


def render(data: Measured) -> str:
    """The report of a study as one HTML text.

    Raises:
        StudyError: the rows hold no compute to compare on.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("ponder.reports"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["breakable"] = _breakable
    axes = data.usable_axes()
    default = data.axis()
    advice, problem = _advice(data)
    styles = {name: i for i, name in enumerate(data.strategies)}
    coverage = coverage_fit(data)
    return environment.get_template("report.html.jinja").render(
        version=ponder.__version__,
        advice=advice,
        problem=problem,
        chosen=None if advice is None else advice.choice,
        models=[redact(m) for m in data.models],
        tasks=[redact(t) for t in data.tasks],
        problems=max(p.n_problems for p in data.points),
        strategies=[
            {
                "name": redact(name),
                "style": i,
                "oracle": any(p.oracle for p in data.points if p.strategy == name),
                "swatch": swatch(i, muted=any(p.oracle for p in data.points if p.strategy == name)),
            }
            for name, i in styles.items()
        ],
        axes=[
            {
                "name": axis.name,
                "label": axis.label,
                "unit": axis.unit,
                "default": axis is default,
                "svg": _quality_chart(data, axis, styles, advice if axis is default else None),
                "comparison": equal_compute(data, axis),
            }
            for axis in axes
        ],
        baseline=redact(data.baseline.label if data.baseline.strategy != "single" else "single"),
        coverage=coverage,
        coverage_svg=None if coverage is None else _coverage_chart(coverage),
        front=None if advice is None else advice.front,
        gallery=gallery(data),
        how_well=how_well(data, default),
        difficulty=by_difficulty(data),
        protocol=_protocol(data),
        default_unit=default.unit,
        costs=[_cost_row(p, advice) for p in data.points],
        dollars=any(p.row.get("cost_usd") for p in data.points),
        stages=_stages(data),
        calibration=_calibration(data),
        ranking=_ranking(data),
        ranking_meaning=RANKING,
        trouble=_trouble(data),
        trouble_meaning=TROUBLE,
        failures=[redact(f) for f in data.failures],
        search_notes=[redact(n) for n in data.notes],
        plan=redact(data.plan),
        command=redact(_command(data)),
        short=short,
        redact=redact,
    )


def redact(text: str) -> str:
    """Leave out what looks like a key or a password.

    >>> redact("openai:m@https://user:pw@host/v1 api_key = 'abc'")
    'openai:m@https://…@host/v1 api_key = …'
    """
    return _SECRET.sub(r"\1…", _USER_INFO.sub(r"\1…@", _BEARER.sub("…", text)))


def _breakable(text: str) -> Any:
    """Let a strategy's text break where a reader would break it, not within a word."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"([(,|=])", r"\1<wbr>", str(escape(text))))


@dataclass(frozen=True)
class CoverageFit:
    """Measured coverage of the largest pool of draws, and the laws fitted to it.

    Attributes:
        strategy: whose draws.
        problems: how many problems have draws.
        k: draws, from 1 to the fewest of a problem.
        measured: unbiased coverage at each k.
        low: lower end of its bootstrap interval.
        high: upper end.
        law: the exponentiated power law; None if it could not be fitted.
        beta: the beta-binomial law; None if it could not be fitted.
        reasons: why a law is missing.
    """

    strategy: str
    problems: int
    k: Sequence[float]
    measured: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    law: CoverageLaw | None
    beta: BetaBinomialLaw | None
    reasons: tuple[str, ...]

    @property
    def far(self) -> float:
        """How far the laws are drawn: ten times the draws measured."""
        return 10.0 * self.k[-1]

    @staticmethod
    def extends(law: CoverageLaw | BetaBinomialLaw) -> bool:
        """Whether a law may be drawn beyond the data."""
        return not isinstance(law, CoverageLaw) or (law.decaying and law.bootstrap is not None)

    def saturation(self, epsilon: float) -> list[tuple[str, float]]:
        """Draws from which on one more gains at most epsilon of coverage, by each law that grows."""
        named = (("power law", self.law), ("beta-binomial law", self.beta))
        found = [(name, law.saturation(epsilon)) for name, law in named if law is not None and self.extends(law)]
        return [(name, k) for name, k in found if np.isfinite(k)]

    def forecast(self) -> list[dict[str, Any]]:
        """Coverage at the last measured k and beyond, by each law."""
        out = []
        for k in (self.k[-1], 2 * self.k[-1], self.far):
            row: dict[str, Any] = {"k": int(k), "measured": self.measured[-1] if k == self.k[-1] else None}
            for name, law in (("law", self.law), ("beta", self.beta)):
                row[name] = None if law is None or not self.extends(law) else (law.predict(k), *law.predict_interval(k))
            out.append(row)
        return out


def coverage_fit(data: Measured, *, resamples: int = 500) -> CoverageFit | None:
    """Coverage curve and laws of a study's largest pool of draws; None if no problem has two draws."""
    pool = largest_pool(data)
    if pool is None:
        return None
    name, n, c = pool
    k = log_spaced_k(int(n.min()))
    if k.size < 2:
        return None
    table = np.asarray(pass_at_k(n[:, None], c[:, None], k[None, :]))
    means = bootstrap_means(table, resamples=resamples)
    ends = [percentiles(column) for column in means.T]
    reasons: list[str] = []
    law: CoverageLaw | None = None
    beta: BetaBinomialLaw | None = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            law = CoverageLaw.fit_counts(n, c, resamples=resamples)
        except LawFitError as error:
            reasons.append(str(error))
        try:
            beta = BetaBinomialLaw.fit(n, c)
        except LawFitError as error:
            reasons.append(str(error))
    return CoverageFit(
        name, int(n.size), [float(x) for x in k], table.mean(axis=0).tolist(),
        [e[0] for e in ends], [e[1] for e in ends], law, beta, tuple(reasons),
    )  # fmt: skip


def equal_compute(data: Measured, axis: Axis) -> dict[str, Any]:
    """Every strategy at the same compute, as a difference to the baseline with a paired bootstrap interval.

    The columns are levels of compute: those of the strategy with the most budgets. In each, a strategy is
    represented by its largest budget that costs no more (2 % over counts as equal).

    Returns:
        `levels`, `baseline`, and `rows` with one cell (or None) per level.
    """
    base = data.baseline
    by_strategy = {name: [p for p in data.points if p.strategy == name] for name in data.strategies}
    ladder = max(by_strategy.values(), key=lambda ps: (len(ps), not ps[0].oracle, -(ps[-1].cost(axis) or 0.0)))
    levels = sorted({p.cost(axis) or 0.0 for p in ladder})
    rows = []
    for name, points in by_strategy.items():
        if name == base.strategy and len(points) == 1:
            continue
        cells: list[dict[str, Any] | None] = []
        for level in levels:
            inside = [p for p in points if (p.cost(axis) or 0.0) <= level * 1.02 + 1e-12]
            if not inside:
                cells.append(None)
                continue
            point = max(inside, key=lambda p: (p.cost(axis) or 0.0, p.budget))
            cells.append(_difference_cell(data, point, base) | {"share": (point.cost(axis) or 0.0) / level})
        rows.append({"strategy": redact(name), "oracle": points[0].oracle, "cells": cells})
    return {"levels": levels, "baseline": base, "rows": rows}


def _difference_cell(data: Measured, point: Point, base: Point) -> dict[str, Any]:
    cell: dict[str, Any] = {"budget": point.budget, "accuracy": point.accuracy, "difference": None, "verdict": "open"}
    table = data.shared([point, base])
    if table is not None:
        gap = paired_difference(table[:, 0], table[:, 1])
        same = not np.any(table[:, 0] != table[:, 1])
        verdict = "same" if same else "better" if gap.low > 0 else "worse" if gap.high < 0 else "open"
        cell |= {"difference": gap.estimate, "low": gap.low, "high": gap.high, "verdict": verdict}
    return cell


def _protocol(data: Measured) -> dict[str, Any] | None:
    """What `ponder protocol` found, if it was asked; None too if its file is damaged."""
    try:
        found = json.loads((data.folder / PROTOCOL).read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and {"by", "parallel", "sequential"} <= set(found) else None


def _advice(data: Measured) -> tuple[Recommendation | None, str]:
    try:
        return recommend(data), ""
    except PonderError as error:
        return None, str(error)


def _quality_chart(data: Measured, axis: Axis, styles: Mapping[str, int], advice: Recommendation | None) -> str:
    curves = []
    for name, style in styles.items():
        points = sorted((p for p in data.points if p.strategy == name), key=lambda p: p.cost(axis) or 0.0)
        points = [p for p in points if (p.cost(axis) or 0.0) > 0]
        if not points:
            continue
        costs = [p.cost(axis) or 0.0 for p in points]
        curves.append(
            Curve(
                redact(name),
                costs,
                [p.accuracy for p in points],
                [p.interval[0] for p in points],
                [p.interval[1] for p in points],
                [_tip(p, cost, axis) for p, cost in zip(points, costs, strict=True)],
                style,
                muted=points[0].oracle,
            )
        )
    ring = None
    if advice is not None and advice.choice is not None:
        ring = (advice.choice.cost, advice.choice.accuracy)
    if advice is not None and len(advice.front) > 1:
        costs = [option.cost for option in advice.front]
        values = [option.accuracy for option in advice.front]
        curves.insert(0, Curve(FRONT, costs, values, style=7, muted=True, dashed=True))
    if not curves:
        return ""
    best = max((p for p in data.points), key=lambda p: p.accuracy)
    return line_chart(
        curves,
        title=f"Accuracy against {axis.label.lower()} per problem",
        description=f"{len(styles)} strategies; the highest accuracy is {best.accuracy:.0%}, by {redact(best.label)}.",
        x_label=f"{axis.label} per problem (logarithmic)",
        y_label="Accuracy, with 95 % interval",
        ring=ring,
        chart_id=f"quality-{axis.name}",
    )


def _tip(point: Point, cost: float, axis: Axis) -> str:
    low, high = point.interval
    return (
        f"{redact(point.label)}: accuracy {point.accuracy:.1%} ({low:.0%} to {high:.0%}), "
        f"{short(cost)} {axis.unit} a problem"
    )


def _coverage_chart(fit: CoverageFit) -> str:
    curves = [
        Curve(
            "measured",
            fit.k,
            fit.measured,
            fit.low,
            fit.high,
            [
                f"{int(k)} draw{'s' if k > 1 else ''}: coverage {y:.1%} ({a:.0%} to {b:.0%})"
                for k, y, a, b in zip(fit.k, fit.measured, fit.low, fit.high, strict=True)
            ],
        )
    ]
    last = fit.k[-1]
    inside = np.geomspace(1, last, 60)
    beyond = np.geomspace(last, fit.far, 40)
    for style, name, law in ((1, "power law", fit.law), (2, "beta-binomial law", fit.beta)):
        if law is None:
            continue
        curves.append(Curve(name, inside.tolist(), law.predict(inside).tolist(), style=style))
        if fit.extends(law):
            low, high = law.predict_interval(beyond)
            curves.append(
                Curve(
                    name,
                    beyond.tolist(),
                    law.predict(beyond).tolist(),
                    low.tolist(),
                    high.tolist(),
                    style=style,
                    dashed=True,
                )
            )
    return line_chart(
        curves,
        title="Coverage against draws",
        description=(
            f"Coverage rises from {fit.measured[0]:.0%} at 1 draw to {fit.measured[-1]:.0%} at {int(last)} draws; "
            "beyond that the fitted laws extrapolate."
        ),
        x_label="Draws per problem, k (logarithmic)",
        y_label="Coverage: share of problems with a right draw",
        marks=(Mark(last, "data end · extrapolation →" if last < fit.far * 0.6 else "data end"),),
        chart_id="coverage",
    )


def _cost_row(point: Point, advice: Recommendation | None) -> dict[str, Any]:
    n = point.n_problems
    names = (
        "prompt_tokens", "cached_tokens", "generated_tokens", "model_calls", "verifier_calls", "flops", "eflops",
        "seconds", "cost_usd",
    )  # fmt: skip
    per = {name: None if point.row.get(name) is None else float(point.row[name]) / n for name in names}
    choice = None if advice is None else advice.choice
    low, high = point.interval
    return {
        "strategy": redact(point.strategy),
        "budget": point.budget,
        "oracle": point.oracle,
        "chosen": choice is not None and (choice.strategy, choice.budget) == (point.strategy, point.budget),
        "accuracy": point.accuracy,
        "low": low,
        "high": high,
        "coverage": point.row.get("coverage"),
        **per,
    }


def _calibration(data: Measured) -> list[dict[str, Any]]:
    """How calibrated each strategy's confidence is, at its largest budget."""
    out = []
    for name in data.strategies:
        point = max((p for p in data.points if p.strategy == name), key=lambda p: p.budget)
        found = point.row.get("calibration")
        if found:
            out.append({"strategy": redact(name), "budget": point.budget} | dict(found))
    return out


def _ranking(data: Measured) -> list[dict[str, Any]]:
    """How well each measure tells right draws from wrong ones, on the most pairs that a point has of it."""
    best: dict[str, dict[str, Any]] = {}
    for point in data.points:
        for name, found in (point.row.get("measures") or {}).items():
            if name not in best or found["pairs"] > best[name]["pairs"]:
                low, high = found["low"], found["high"]
                verdict = "open" if low is None or low <= 0.5 <= high else "better" if low > 0.5 else "worse"
                best[name] = {"measure": name, "strategy": redact(point.label), "verdict": verdict} | dict(found)
    return list(best.values())


def _stages(data: Measured) -> list[dict[str, Any]]:
    """What each stage cost at every strategy's largest budget, per problem."""
    out = []
    for name in data.strategies:
        largest = max((p for p in data.points if p.strategy == name), key=lambda p: p.budget)
        total = sum(s.get("generated_tokens", 0.0) for s in largest.stages.values())
        for stage, spend in largest.stages.items():
            out.append(
                {
                    "strategy": redact(name),
                    "budget": largest.budget,
                    "stage": stage,
                    "prompt_tokens": spend.get("prompt_tokens", 0.0) / largest.n_problems,
                    "generated_tokens": spend.get("generated_tokens", 0.0) / largest.n_problems,
                    "calls": (spend.get("model_calls", 0.0) + spend.get("verifier_calls", 0.0)) / largest.n_problems,
                    "share": spend.get("generated_tokens", 0.0) / total if total else 0.0,
                }
            )
    return out


def _trouble(data: Measured) -> list[dict[str, Any]]:
    """Rows with their counts of what went wrong; rows without any are left out."""
    out = []
    for point in data.points:
        counts = {name: int(point.row.get(name) or 0) for name in TROUBLE}
        if any(counts.values()):
            drawn = int(point.row.get("candidates") or point.budget * point.n_problems)
            out.append({"strategy": redact(point.strategy), "budget": point.budget, "drawn": drawn, **counts})
    return out


def _command(data: Measured) -> str:
    """The command line that measures this again."""
    settings = data.settings
    words: list[str] = ["ponder", "bench"]
    for flag, value in (
        ("--model", settings.get("model", data.models[0])),
        ("--task", settings.get("task", data.tasks[0])),
        *(("--strategy", s) for s in settings.get("strategies", data.strategies)),
        ("--samples", ",".join(str(k) for k in settings.get("samples", sorted({p.budget for p in data.points})))),
        ("--limit", settings.get("limit")),
        ("--seed", settings.get("seed")),
        ("--budget", settings.get("budget") or None),
        ("--out", "DIR"),
    ):
        if value is not None:
            words += [flag, shlex.quote(str(value))]
    # The study file holds what has no flag.
    lines, line = [], "ponder bench"
    for flag, value in zip(words[2::2], words[3::2], strict=True):
        if len(line) + len(flag) + len(value) > 96:
            lines.append(line)
            line = "   "
        line += f" {flag} {value}"
    return " \\\n".join([*lines, line])
