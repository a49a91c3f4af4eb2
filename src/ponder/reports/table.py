"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from ponder.laws.intervals import PairedDifference
    from ponder.studies.compare_models import ModelComparison
    from ponder.studies.kinetics import Kinetics
    from ponder.studies.planner import Plan
    from ponder.studies.recommend import Recommendation
    from ponder.studies.tune import Tuning


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
    tokens = any(row.get("generated_tokens") for row in rows) or not any(
        row.get("function_evaluations") for row in rows
    )
    names = ["n", "accuracy", "95 %", "coverage", "tokens" if tokens else "evaluations", "calls"]
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
            _count(row.get("generated_tokens" if tokens else "function_evaluations"), n),
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
    table.caption = f"{total} problems; {'tokens generated' if tokens else 'evaluations'} and calls are per problem"
    table.caption_justify = "left"
    return table


def effects_tables(lines: Sequence[Mapping[str, Any]]) -> list[Table]:
    """A table per task of a sweep: each strategy as it is, then each changed trick with its difference."""
    from rich.table import Table

    tables = []
    for task in dict.fromkeys(line["task"] for line in lines):
        table = Table(box=None, title=task, title_justify="left", header_style="bold", pad_edge=False)
        table.add_column("strategy", overflow="fold")
        table.add_column("changed", overflow="fold")
        for name in ("n", "accuracy", "95 %", "difference", "tokens"):
            table.add_column(name, justify="right", no_wrap=True)
        before = None
        for line in (x for x in lines if x["task"] == task):
            name = "" if line["strategy"] == before else line["strategy"]
            before = line["strategy"]
            gap = line["difference"]
            table.add_row(
                name,
                "" if line["changed"] is None else f"{line['changed']} = {line['value']}",
                str(line["budget"]),
                _fixed(line["accuracy"]),
                f"{line['ci_low']:.2f}–{line['ci_high']:.2f}",
                "" if gap is None else f"{gap:+.3f}",
                _fixed(line["generated_tokens"], 1),
            )
        tables.append(table)
    return tables


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


def plan_table(found: Plan) -> Table:
    """The Pareto front of a plan, the choice marked, and the rivals that the pilot cannot tell from it."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", title="Predicted Pareto front", title_justify="left")
    table.add_column("")
    table.add_column("strategy", overflow="fold")
    for name in ("accuracy", "95 %", found.axis, "seen"):
        table.add_column(name, justify="right", no_wrap=True)
    marks = dict.fromkeys(found.rivals, "?")
    if found.choice is not None:
        marks[found.choice] = "→"
    shown = sorted({*found.front, *marks}, key=lambda o: (o.cost, o.accuracy))
    for option in shown:
        table.add_row(
            marks.get(option, ""), escape(option.strategy), _fixed(option.accuracy),
            f"{option.low:.2f}–{option.high:.2f}", f"{option.cost:,.4g}", "yes" if option.measured else "no",
        )  # fmt: skip
    table.caption = "→ the choice; ? cannot be told from it; seen: the pilot ran it at this number of samples"
    table.caption_justify = "left"
    return table


def tuning_table(found: Tuning) -> Table:
    """The front of a tuning: what each point promised, and what it kept on held-out problems."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", title="Pareto front", title_justify="left")
    table.add_column("strategy", overflow="fold")
    for name in (found.axis, "tuned", "held out", "95 %", "still"):
        table.add_column(name, justify="right", no_wrap=True)
    for point in found.front:
        held = point.held_out
        table.add_row(
            escape(point.strategy), f"{held.cost:,.4g}", _fixed(point.tuned.accuracy), _fixed(held.accuracy),
            f"{held.low:.2f}–{held.high:.2f}", "yes" if point.still else "no",
        )  # fmt: skip
    table.caption, table.caption_justify = "cost on held-out problems; still: on their front too", "left"
    return table


def model_tables(comparison: ModelComparison) -> list[Table]:
    """Coverage of two models at equal cost, and the accuracies of the strategies that both ran."""
    from rich.markup import escape
    from rich.table import Table

    def table(title: str, first: Sequence[str]) -> Table:
        out = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left")
        for name in (*first, "dear n", "cheap n", "dear", "cheap", "cheap - dear (95 %)"):
            out.add_column(name, justify="left" if name == "strategy" else "right", no_wrap=name != "strategy")
        return out

    covered = table("Coverage at equal cost", [comparison.axis])
    for row in comparison.coverage:
        covered.add_row(
            f"{row.cost:,.4g}", str(row.dear_k), f"{row.cheap_k}{'+' if row.capped else ''}",
            _fixed(row.dear_coverage), _fixed(row.cheap_coverage), _gap(row.difference),
        )  # fmt: skip
    if any(row.capped for row in comparison.coverage):
        covered.caption, covered.caption_justify = "+: the cost buys more draws than were measured", "left"
    if not comparison.strategies:
        return [covered]
    chosen = table("Accuracy at equal cost", ["strategy"])
    for pair in comparison.strategies:
        chosen.add_row(
            escape(pair.strategy), str(pair.dear_budget), str(pair.cheap_budget), _fixed(pair.dear_accuracy),
            _fixed(pair.cheap_accuracy), _gap(pair.difference),
        )  # fmt: skip
    return [covered, chosen]


def kinetics_tables(found: Kinetics) -> list[Table]:
    """The deployable frontier over models, trials and lengths, and the exchange of training for inference."""
    from rich.markup import escape
    from rich.table import Table

    def table(title: str, columns: Sequence[str]) -> Table:
        out = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left")
        for name in columns:
            out.add_column(name, justify="left" if name == "model" else "right", no_wrap=name != "model")
        return out

    capped = any(s.configuration.cap is not None for s in found.frontier.steps)
    front = table("Frontier", ["model", "trials", *["cap"] * capped, found.frontier.unit, "coverage", "95 %", "oracle"])
    for step in found.frontier.steps:
        what = step.configuration
        knowing = max((q for c, q in found.frontier.oracle if c <= step.cost * (1 + 1e-9)), default=None)
        front.add_row(
            escape(what.model), str(what.trials), *["-" if what.cap is None else str(what.cap)] * capped,
            f"{step.cost:.4g}", _fixed(step.quality), f"{step.low:.2f}–{step.high:.2f}", _fixed(knowing),
        )  # fmt: skip
    front.caption = (
        f"{found.problems} problems, on {found.hardware} (I = {found.intensity:.4g} FLOP/byte); oracle: the best "
        "configuration within the cost, problem by problem"
    )
    front.caption_justify = "left"
    if not found.exchange:
        return [front]
    exchange = table(
        "Training exchanged for inference", ["tokens out / trained", "m", "small n", "small", "large", "difference"]
    )
    for line in found.exchange:
        exchange.add_row(
            f"{line.inference_ratio:g}", f"{line.multiplier:.3g}", f"{line.trials}{'+' if line.capped else ''}",
            _fixed(line.small), _fixed(line.large), _gap(line.difference),
        )  # fmt: skip
    exchange.caption, exchange.caption_justify = "+: more draws would be allowed than were measured", "left"
    return [front, exchange]


def _gap(difference: PairedDifference) -> str:
    return f"{difference.estimate:+.3f} ({difference.low:+.2f}, {difference.high:+.2f})"


def _trouble(row: Mapping[str, Any]) -> str:
    """What went wrong, in words; empty if nothing did."""
    names = ("errors", "lost", "failed", "abstained", "cut", "unparsed")
    return ", ".join(f"{row[name]} {name}" for name in names if row.get(name))


def _fixed(value: Any, digits: int = 3) -> str:
    return "" if value is None else f"{float(value):.{digits}f}"


def _count(value: Any, n: int) -> str:
    return "" if value is None else f"{float(value) / n:,.1f}"
