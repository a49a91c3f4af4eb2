"""`ponder allocate`: learn which strategy suits which difficulty, from studies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ponder.core.difficulty import By, DifficultyTable


@click.group("allocate")
def command() -> None:
    """Fit and show the tables that `compute_optimal(table=FILE)` goes by."""


@command.command("fit")
@click.argument("folders", metavar="DIR…", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", "-o", type=click.Path(path_type=Path), required=True, help="The table (JSON).")
@click.option(
    "--by",
    type=click.Choice(["predicted", "vote", "oracle", "metadata"]),
    default="predicted",
    show_default=True,
    help="Difficulty: mean verifier score of a probe, its vote share, pass@1 in the study, or a number of the problem.",
)
@click.option("--probe", type=int, default=4, show_default=True, help="Samples of a probe.")
@click.option("--verifier", help="Scores the probe; the study's only one by default.")
@click.option("--bins", type=int, default=5, show_default=True, help="Quantiles of the difficulty.")
@click.option("--bands", is_flag=True, help="Absolute bands instead: below 0.1, below 0.5, above.")
@click.option("--key", default="", help="Metadata key, with --by metadata.")
@click.option("--pool", help="Whose draws give pass@1, with --by oracle.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the folds.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def fit(
    folders: tuple[Path, ...],
    out: Path,
    by: By,
    probe: int,
    verifier: str | None,
    bins: int,
    bands: bool,
    key: str,
    pool: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Learn a table from studies of one model on the same problems, and say what it is worth on held-out ones."""
    import warnings

    from ponder.studies.fit_allocation import fit_table

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are the table's notes, which are printed
        table = fit_table(
            folders,
            by=by,
            probe=probe,
            verifier=verifier,
            bins=bins,
            bands=bands,
            key=key,
            pool=pool,
            seed=seed,
        )
    table.save(out)
    _print(table, as_json)
    if not as_json:
        click.echo(f"use it: --strategy 'compute_optimal(table=\"{out}\")'")


@command.command("show")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(file: Path, as_json: bool) -> None:
    """Show a table."""
    from ponder.core.difficulty import DifficultyTable

    _print(DifficultyTable.load(file), as_json)


def _print(table: DifficultyTable, as_json: bool) -> None:
    from dataclasses import asdict

    from ponder.studies.fit_allocation import as_rows

    if as_json:
        click.echo(json.dumps(asdict(table), indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    console, rows = Console(highlight=False), as_rows(table)
    console.print(f"{table.model} on {table.task}", markup=False, soft_wrap=True)
    console.print(f"difficulty by {table.by}; verifier {table.verifier or 'none'}", markup=False, soft_wrap=True)
    lines = Table(
        "budget", "by difficulty", "best single", "difference (95 %)", "a single one reaches it at", "best single is"
    )
    for row in rows["levels"]:
        middle, low, high = row["difference"]
        reached = "no budget here" if row["reached_at"] is None else str(row["reached_at"])
        lines.add_row(
            str(row["budget"]), f"{row['accuracy']:.3f}", f"{row['fixed_accuracy']:.3f}",
            f"{middle:+.3f} ({low:+.3f} to {high:+.3f})", reached, row["fixed"],
        )  # fmt: skip
    console.print(lines)
    grid = Table("budget", "difficulty", "problems", "accuracy", "strategy")
    for cell in rows["cells"]:
        grid.add_row(
            str(cell["budget"]), cell["difficulty"], str(cell["n"]), f"{cell['accuracy']:.3f}", cell["strategy"]
        )
    console.print(grid)
    if table.probe_cost:
        cost = ", ".join(f"{v:g} {k}" for k, v in table.probe_cost.items())
        console.print(
            f"the probe of {table.probe} samples for each problem (on top of a search; for others its samples "
            f"are the first of their own): {cost}",
            markup=False,
            soft_wrap=True,
        )
    for note in table.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
