"""Charts as inline SVG: nothing to load, readable without a script, coloured by the page's own style sheet.

A series has a colour, a marker shape and a dash pattern, so that none of them carries meaning alone. Points carry
`data-tip` for the page's tooltip and a `<title>` for everything else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 760, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 20, 20, 62

SHAPES = ("circle", "square", "triangle", "diamond", "cross", "plus", "down", "ring")
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2", "12 4", "1 2", "6 2 1 2")


@dataclass(frozen=True)
class Curve:
    """A line with points.

    Attributes:
        name: in the legend.
        x: rising, above 0.
        y: in [0, 1].
        low: lower edge of the band; None for no band.
        high: upper edge.
        tips: a text per point; none for a line without markers.
        style: number of the series' colour, marker and dash.
        muted: drawn thinner, for what nobody can use in earnest.
        dashed: drawn dashed whatever the style says.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    tips: Sequence[str] = ()
    style: int = 0
    muted: bool = False
    dashed: bool = False


@dataclass(frozen=True)
class Mark:
    """A vertical line with a word, such as where the data end."""

    x: float
    text: str


def line_chart(
    curves: Sequence[Curve],
    *,
    title: str,
    description: str,
    x_label: str,
    y_label: str,
    marks: Sequence[Mark] = (),
    ring: tuple[float, float] | None = None,
    chart_id: str = "chart",
) -> str:
    """Draw curves over a logarithmic x axis.

    Args:
        curves: at least one, with at least one point each.
        title: for screen readers.
        description: one sentence on what is to be seen, for screen readers.
        x_label: under the axis.
        y_label: over the axis.
        marks: vertical lines.
        ring: a point to point out, such as the recommended one.
        chart_id: unique on the page.

    Returns:
        An `<svg>` element.
    """
    xs = [x for c in curves for x in c.x] + [m.x for m in marks]
    tops = [v for c in curves for v in (*(c.high or ()), *c.y)]
    bottoms = [v for c in curves for v in (*(c.low or ()), *c.y)]
    to_x, x_ticks = _log_scale(min(xs), max(xs))
    to_y, y_ticks = _linear_scale(min(bottoms), max(tops))
    out = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="group" aria-labelledby="{chart_id}-t {chart_id}-d" '
        f'class="chart" id="{chart_id}">',
        f'<title id="{chart_id}-t">{escape(title)}</title><desc id="{chart_id}-d">{escape(description)}</desc>',
        '<g aria-hidden="true">',
    ]
    for value in y_ticks:
        at = to_y(value)
        out.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        out.append(f'<text class="tick" x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{value:.0%}</text>')
    floor = HEIGHT - _BOTTOM
    for value in x_ticks:
        at = to_x(value)
        out.append(f'<line class="tickline" x1="{at:.1f}" x2="{at:.1f}" y1="{floor}" y2="{floor + 5}"/>')
        out.append(f'<text class="tick" x="{at:.1f}" y="{floor + 21}" text-anchor="middle">{short(value)}</text>')
    out.append(f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{floor}" y2="{floor}"/>')
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    out.append(f'<text class="label" x="{middle:.0f}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>')
    out.append(f'<text class="label" x="{_LEFT}" y="{_TOP - 2}">{escape(y_label)}</text>')
    for mark in marks:
        at = to_x(mark.x)
        side, shift = ("end", -6) if at > WIDTH * 0.6 else ("start", 6)
        out.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP + 8}" y2="{floor}"/>')
        out.append(
            f'<text class="tick" x="{at + shift:.1f}" y="{floor - 8}" text-anchor="{side}">{escape(mark.text)}</text>'
        )
    out.append("</g>")
    out += [_band(c, to_x, to_y) for c in curves]
    out += [_line(c, to_x, to_y) for c in curves]
    if ring is not None:
        out.append(f'<circle class="chosen" cx="{to_x(ring[0]):.1f}" cy="{to_y(ring[1]):.1f}" r="11"/>')
    out += [_points(c, to_x, to_y) for c in curves]
    out.append("</svg>")
    return "\n".join(part for part in out if part)


def swatch(style: int, *, line: bool = True, muted: bool = False) -> str:
    """A small sample of a series' line and marker, for a legend."""
    dash = f' stroke-dasharray="{DASHES[style % len(DASHES)]}"' if DASHES[style % len(DASHES)] else ""
    stroke = f'<line x1="1" x2="31" y1="8" y2="8"{dash}/>' if line else ""
    return (
        f'<svg class="swatch c{style % 8}{" muted" if muted else ""}" viewBox="0 0 32 16" aria-hidden="true">'
        f"{stroke}{marker(16, 8, style)}</svg>"
    )


def marker(x: float, y: float, style: int, size: float = 5.0) -> str:
    """The marker of a series at a place."""
    s = size
    shape = SHAPES[style % len(SHAPES)]
    if shape == "circle":
        return f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{s * 0.9:.1f}"/>'
    if shape == "ring":
        return f'<circle class="dot hollow" cx="{x:.1f}" cy="{y:.1f}" r="{s * 0.9:.1f}"/>'
    corners: dict[str, list[tuple[float, float]]] = {
        "square": [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
        "triangle": [(0, -1.1), (1, 0.8), (-1, 0.8)],
        "down": [(0, 1.1), (1, -0.8), (-1, -0.8)],
        "diamond": [(0, -1.2), (1.1, 0), (0, 1.2), (-1.1, 0)],
    }
    if shape in corners:
        points = " ".join(f"{x + a * s:.1f},{y + b * s:.1f}" for a, b in corners[shape])
        return f'<polygon class="dot" points="{points}"/>'
    path = f"M{x - s:.1f} {y:.1f}H{x + s:.1f}M{x:.1f} {y - s:.1f}V{y + s:.1f}"
    if shape == "cross":
        a = s * 0.8
        path = f"M{x - a:.1f} {y - a:.1f}L{x + a:.1f} {y + a:.1f}M{x - a:.1f} {y + a:.1f}L{x + a:.1f} {y - a:.1f}"
    return f'<path class="dot stroke" d="{path}"/>'


def short(value: float) -> str:
    """A number for an axis: 1500 is 1.5k, 3e12 is 3T, 1e-5 stays as it is."""
    for limit, unit in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit * 0.9999:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


Scale = Callable[[float], float]


def _log_scale(low: float, high: float) -> tuple[Scale, list[float]]:
    """Pixels of a logarithmic axis, and round numbers on it."""
    if high <= low * 1.0001:
        low, high = low / 2, high * 2
    pad = (math.log(high) - math.log(low)) * 0.04
    a, b = math.log(low) - pad, math.log(high) + pad

    def to_x(value: float) -> float:
        return _LEFT + (math.log(value) - a) / (b - a) * (WIDTH - _LEFT - _RIGHT)

    return to_x, log_ticks(math.exp(a), math.exp(b)) or [low, high]


def log_ticks(first: float, last: float) -> list[float]:
    """Round numbers on a logarithmic axis: doublings for small numbers, decades (with 2 and 5) for large ones.

    >>> log_ticks(0.9, 17), log_ticks(30, 700)
    ([1.0, 2.0, 4.0, 8.0, 16.0], [50.0, 100.0, 200.0, 500.0])
    """
    ratio = last / first
    if ratio < 150 and 0.5 < first <= 20:
        return [2.0**p for p in range(60) if first <= 2.0**p <= last]
    return _decades(first, last, (1, 2, 5) if ratio < 2000 else (1,))


def _decades(first: float, last: float, steps: Sequence[int]) -> list[float]:
    powers = range(math.floor(math.log10(first)), math.ceil(math.log10(last)) + 1)
    return [s * 10.0**p for p in powers for s in steps if first <= s * 10.0**p <= last]


def _linear_scale(low: float, high: float) -> tuple[Scale, list[float]]:
    """Pixels of a share's axis, and its ticks."""
    span = max(high - low, 0.05)
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.25) if span / s <= 7 or s == 0.25)
    bottom = max(0.0, math.floor((low - 0.02 * span) / step + 1e-9) * step)
    top = min(1.0, math.ceil((high + 0.02 * span) / step - 1e-9) * step)
    if top <= bottom:
        bottom, top = max(0.0, bottom - step), min(1.0, top + step)

    def to_y(value: float) -> float:
        inside = min(max(value, bottom), top)
        return HEIGHT - _BOTTOM - (inside - bottom) / (top - bottom) * (HEIGHT - _TOP - 14 - _BOTTOM)

    return to_y, [bottom + i * step for i in range(round((top - bottom) / step) + 1)]


def _group(curve: Curve, content: str, kind: str) -> str:
    muted = " muted" if curve.muted else ""
    return f'<g class="{kind} c{curve.style % 8}{muted}" data-series="{escape(curve.name, quote=True)}">{content}</g>'


def _band(curve: Curve, to_x: Scale, to_y: Scale) -> str:
    if curve.low is None or curve.high is None:
        return ""
    upper = [f"{to_x(x):.1f},{to_y(v):.1f}" for x, v in zip(curve.x, curve.high, strict=True)]
    lower = [f"{to_x(x):.1f},{to_y(v):.1f}" for x, v in zip(curve.x, curve.low, strict=True)]
    if len(curve.x) == 1:
        x = to_x(curve.x[0])
        return _group(
            curve,
            f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{to_y(curve.low[0]):.1f}" '
            f'y2="{to_y(curve.high[0]):.1f}"/>',
            "band",
        )
    return _group(curve, f'<polygon class="area" points="{" ".join(upper + lower[::-1])}"/>', "band")


def _line(curve: Curve, to_x: Scale, to_y: Scale) -> str:
    if len(curve.x) < 2:
        return ""
    dash = "6 5" if curve.dashed else DASHES[curve.style % len(DASHES)]
    attribute = f' stroke-dasharray="{dash}"' if dash else ""
    points = " ".join(f"{to_x(x):.1f},{to_y(y):.1f}" for x, y in zip(curve.x, curve.y, strict=True))
    return _group(curve, f'<polyline class="line" points="{points}"{attribute}/>', "curve")


def _points(curve: Curve, to_x: Scale, to_y: Scale) -> str:
    if not curve.tips:
        return ""
    parts = []
    for x, y, tip in zip(curve.x, curve.y, curve.tips, strict=True):
        text = escape(tip, quote=True)
        px, py = to_x(x), to_y(y)
        parts.append(
            f'<g class="point" tabindex="0" role="img" aria-label="{text}" data-tip="{text}">'
            f'<circle class="hit" cx="{px:.1f}" cy="{py:.1f}" r="13"/>{marker(px, py, curve.style)}'
            f"<title>{escape(tip)}</title></g>"
        )
    return _group(curve, "".join(parts), "points")
