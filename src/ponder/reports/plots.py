"""Plots as PNG or SVG files (extra `plots`)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ponder.errors import MissingExtraError, ParameterError, StoreError
from ponder.reports.charts import log_ticks, short
from ponder.reports.html import CoverageFit, coverage_fit, redact
from ponder.studies.measured import Axis, Measured
from ponder.studies.recommend import Recommendation

if TYPE_CHECKING:
    from ponder.studies.kinetics import Kinetics

_COLOURS = ("#0f62b0", "#c4500a", "#0b7f63", "#9a3f8c", "#8a6a00", "#4b5bd0", "#b02a4b", "#4d6470")
_MARKERS = ("o", "s", "^", "D", "x", "P", "v", "h")
_STYLE: dict[str, Any] = {
    "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3,
    "grid.linewidth": 0.6, "svg.fonttype": "none", "legend.frameon": False, "svg.hashsalt": "ponder",
}  # fmt: skip
_LINES = ("-", "--", ":", "-.")


def write_plots(
    folder: Path | str | Measured,
    *,
    formats: Sequence[str] = ("png",),
    out: Path | None = None,
    axis: str | None = None,
    advice: Recommendation | None = None,
) -> list[Path]:
    """Write quality against compute, and coverage with its law, as files.

    Args:
        folder: the directory that `ponder bench` wrote.
        formats: `png`, `svg` or `pdf`.
        out: directory for the files; the study's own by default.
        axis: what compute means; generated tokens by default.
        advice: marks its choice with a ring, if it is on the same axis.

    Returns:
        The files `quality.FORMAT` and, if some problem has two draws, `coverage.FORMAT`.

    Raises:
        MissingExtraError: matplotlib is not installed.
        ParameterError: an unknown format.
        StudyError: no study there.
        StoreError: a file cannot be written.
    """
    for name in formats:
        if name not in ("png", "svg", "pdf"):
            raise ParameterError("write_plots", "formats", name, allowed="png, svg or pdf")
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("plots", "matplotlib", "plots") from None
    data = folder if isinstance(folder, Measured) else Measured.load(folder)
    target = out if out is not None else data.folder
    written = []
    with matplotlib.rc_context(_STYLE):
        figures: dict[str, Any] = {"quality": Figure(figsize=(7.5, 4.6), layout="constrained")}
        _draw_quality(figures["quality"].add_subplot(), data, data.axis(axis), advice)
        fit = coverage_fit(data)
        if fit is not None:
            figures["coverage"] = Figure(figsize=(7.5, 4.2), layout="constrained")
            _draw_coverage(figures["coverage"].add_subplot(), fit)
        for name, figure in figures.items():
            for ending in formats:
                path = Path(target) / f"{name}.{ending}"
                try:
                    figure.savefig(path, dpi=200)
                except OSError as error:
                    raise StoreError(f"{path} cannot be written: {error.strerror}") from None
                written.append(path)
    return written


def write_frontier(found: Kinetics, path: Path) -> None:
    """Draw each model's frontier, the envelope over all of them, and its oracle curve.

    Raises:
        MissingExtraError: matplotlib is not installed.
        ParameterError: a file name that does not end in .png, .svg or .pdf.
        StoreError: the file cannot be written.
    """
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise ParameterError("write_frontier", "path", str(path), allowed="a name that ends in .png, .svg or .pdf")
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("plots", "matplotlib", "plots") from None
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7.5, 4.6), layout="constrained")
        axes = figure.add_subplot()
        for i, (name, frontier) in enumerate(found.each.items()):
            x, y = [s.cost for s in frontier.steps], [100 * s.quality for s in frontier.steps]
            colour = _COLOURS[i % len(_COLOURS)]
            axes.plot(
                x, y, color=colour, marker=_MARKERS[i % len(_MARKERS)], markersize=5, linewidth=1.4, label=redact(name)
            )
            axes.fill_between(
                x, [100 * s.low for s in frontier.steps], [100 * s.high for s in frontier.steps], color=colour,
                alpha=0.1, linewidth=0,
            )  # fmt: skip
        steps = found.frontier.steps
        axes.step(
            [s.cost for s in steps], [100 * s.quality for s in steps], where="post", color="black", linewidth=0.9,
            label="one configuration for all problems",
        )  # fmt: skip
        cost, quality = zip(*found.frontier.oracle, strict=True)
        axes.plot(cost, 100 * np.array(quality), ":", color="grey", label="the best for each problem (oracle)")
        for switch in found.frontier.switches:
            axes.axvline(switch.cost, color="grey", linewidth=0.8, linestyle="--")
        axes.set_xscale("log")
        axes.set_xlabel(f"{found.frontier.unit} per problem, on {found.hardware}")
        axes.set_ylabel("Coverage, % (95 % interval)")
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.16), ncols=2, fontsize=8.5)
        try:
            figure.savefig(path, dpi=200)
        except OSError as error:
            raise StoreError(f"{path} cannot be written: {error.strerror}") from None


def _draw_quality(axes: Any, data: Measured, axis: Axis, advice: Recommendation | None) -> None:
    for i, name in enumerate(data.strategies):
        points = [p for p in data.points if p.strategy == name and (p.cost(axis) or 0.0) > 0]
        points.sort(key=lambda p: p.cost(axis) or 0.0)
        if not points:
            continue
        x = [p.cost(axis) or 0.0 for p in points]
        colour, oracle = _COLOURS[i % len(_COLOURS)], points[0].oracle
        axes.plot(
            x, [100 * p.accuracy for p in points], color=colour, marker=_MARKERS[i % len(_MARKERS)], markersize=5,
            linestyle=_LINES[i % len(_LINES)], linewidth=1.1 if oracle else 1.8,
            label=redact(name) + (" (sees the reference)" if oracle else ""),
        )  # fmt: skip
        low, high = zip(*(p.interval for p in points), strict=True)
        if len(points) > 1:
            axes.fill_between(x, 100 * np.array(low), 100 * np.array(high), color=colour, alpha=0.1, linewidth=0)
        else:
            axes.vlines(x, 100 * low[0], 100 * high[0], color=colour, alpha=0.3, linewidth=4)
    if advice is not None and advice.choice is not None and advice.axis == axis.name:
        choice = advice.choice
        axes.plot(choice.cost, 100 * choice.accuracy, "o", markersize=15, markerfacecolor="none", color="black")
    axes.set_xscale("log")
    axes.set_xticks(log_ticks(*axes.get_xlim()), minor=False)
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(_plain_numbers)
    axes.set_xlabel(f"{axis.label} per problem")
    axes.set_ylabel("Accuracy, % (95 % interval)")
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.16), ncols=2, fontsize=8.5)


def _draw_coverage(axes: Any, fit: CoverageFit) -> None:
    k, last = np.array(fit.k), fit.k[-1]
    axes.fill_between(k, 100 * np.array(fit.low), 100 * np.array(fit.high), color=_COLOURS[0], alpha=0.15, linewidth=0)
    axes.plot(k, 100 * np.array(fit.measured), "o", color=_COLOURS[0], markersize=4, label="measured")
    beyond = np.geomspace(last, fit.far, 40)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for i, name, law in ((1, "power law", fit.law), (2, "beta-binomial law", fit.beta)):
            if law is None:
                continue
            colour, line = _COLOURS[i], _LINES[i]
            inside = np.geomspace(1, last, 60)
            axes.plot(inside, 100 * law.predict(inside), color=colour, linestyle=line, label=name)
            if fit.extends(law):
                low, high = law.predict_interval(beyond)
                axes.plot(beyond, 100 * law.predict(beyond), color=colour, linestyle=line, alpha=0.7)
                axes.fill_between(beyond, 100 * low, 100 * high, color=colour, alpha=0.12, linewidth=0)
    axes.axvline(last, color="grey", linewidth=0.8, linestyle=":")
    axes.annotate("extrapolation →", (last, 0), xycoords=("data", "axes fraction"), xytext=(5, 6),
                  textcoords="offset points", fontsize=8.5, color="grey")  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(_plain_numbers)
    axes.set_xlabel("Draws per problem, k")
    axes.set_ylabel("Coverage, %")
    axes.set_ylim(top=min(101, axes.get_ylim()[1]))
    axes.legend(loc="lower right", fontsize=8.5)


def _plain_numbers(value: float, _: object) -> str:
    return short(value)
