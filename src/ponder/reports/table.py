"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from ponder.studies.recommend import Recommendation


def results_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A study's rows: quality, coverage, what it cost a problem, and what went wrong.

    Args:
        rows: as in `results.json`; missing numbers are left blank.
    """
    from rich.markup import escape
    from rich.table import Table

    lost = any(_trouble(row) for row in rows)
    dollars = any(row.get("cost_usd") for row in rows)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("strategy", overflow="fold", min_width=18)
    names = ["n", "accuracy", "95 %", "coverage", "tokens", "calls"]
    for name in [*names, *["$"] * dollars]:
        table.add_column(name, justify="right", no_wrap=True)
    if lost:
        table.add_column("trouble", min_width=12, overflow="fold")
    last = None
    for row in rows:
        n = max(int(row.get("n_problems") or 0), 1)
        cells = [
            escape(str(row["strategy"])) if row["strategy"] != last else "",
            str(row["budget"]),
            _fixed(row.get("accuracy")),
            f"{_fixed(row.get('ci_low'), 2)}–{_fixed(row.get('ci_high'), 2)}",
            _fixed(row.get("coverage")),
            _count(row.get("generated_tokens"), n),
            _count((row.get("model_calls") or 0) + (row.get("verifier_calls") or 0), n),
        ]
        if dollars:
            cells.append(f"{(row.get('cost_usd') or 0) / n:.3g}")
        if lost:
            cells.append(_trouble(row))
        if row["strategy"] != last and last is not None:
            table.add_section()
        table.add_row(*cells)
        last = row["strategy"]
    total = max((int(row.get("n_problems") or 0) for row in rows), default=0)
    table.caption = f"{total} problems; tokens generated and calls are per problem"
    table.caption_justify = "left"
    return table


def front_table(advice: Recommendation) -> Table:
    """The Pareto front of a recommendation, the choice marked, and what a perfect verifier would reach."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", title="Pareto front", title_justify="left")
    table.add_column("")
    table.add_column("strategy", overflow="fold")
    for name in ("n", "accuracy", "95 %", advice.axis):
        table.add_column(name, justify="right", no_wrap=True)
    rows = [(("→" if option == advice.choice else ""), option, "") for option in advice.front]
    if advice.choice is not None and advice.choice not in advice.front:
        rows.append(("→", advice.choice, ""))
    # Of what sees the reference, the most accurate point says enough.
    rows += [("", option, "dim") for option in sorted(advice.oracles, key=lambda o: -o.accuracy)[:1]]
    for mark, option, style in rows:
        name = escape(option.strategy) + (" (sees the reference)" if style else "")
        table.add_row(
            mark, name, str(option.budget), _fixed(option.accuracy), f"{option.low:.2f}–{option.high:.2f}",
            f"{option.cost:,.4g}", style=style,
        )  # fmt: skip
    return table


def _trouble(row: Mapping[str, Any]) -> str:
    """What went wrong, in words; empty if nothing did."""
    names = ("errors", "lost", "failed", "abstained", "cut", "unparsed")
    return ", ".join(f"{row[name]} {name}" for name in names if row.get(name))


def _fixed(value: Any, digits: int = 3) -> str:
    return "" if value is None else f"{float(value):.{digits}f}"


def _count(value: Any, n: int) -> str:
    return "" if value is None else f"{float(value) / n:,.1f}"
