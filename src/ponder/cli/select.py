"""`ponder select`: all selectors on the same stored samples, without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command("select")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--selector", "-s", "selectors", multiple=True, help="May be given several times; the first is the baseline."
)
@click.option("--k", "ks", default="1", show_default=True, help="How many answers to submit: 1,2,4")
@click.option("--strategy", help="Whose candidates; the one with the most samples if not given.")
@click.option("--samples", "n", type=int, help="Use only the first samples of each problem.")
@click.option("--verifier", "verifiers", multiple=True, help="Score the samples anew first.")
@click.option(
    "--export", "target", type=click.Path(path_type=Path), help="Also write the samples: FILE.jsonl or .parquet"
)
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def command(
    folder: Path,
    selectors: tuple[str, ...],
    ks: str,
    strategy: str | None,
    n: int | None,
    verifiers: tuple[str, ...],
    target: Path | None,
    as_json: bool,
) -> None:
    """Re-select the stored samples of a study in FOLDER."""
    from ponder.studies.export import export
    from ponder.studies.reselect import reselect

    if not selectors and target is None:
        raise click.UsageError("give at least one --selector, or --export FILE")
    try:
        numbers = [int(k) for k in ks.split(",")]
    except ValueError:
        raise click.UsageError(f"--k {ks!r}: whole numbers separated by commas are expected: 1,2,4") from None
    if target is not None:
        count = export(folder, target)
        if not as_json:
            click.echo(f"{count} samples written to {target}")
    rows = reselect(folder, selectors, ks=numbers, n=n, verifiers=verifiers, strategy=strategy) if selectors else []
    if as_json:
        import json

        click.echo(json.dumps(rows, indent=2))
    elif rows:
        _show(rows)


def _show(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    counted = [name for name in ("ties", "abstained", "fallbacks") if any(row[name] for row in rows)]
    sure = any(row["calibration"] for row in rows)
    table = Table(box=None, pad_edge=False)
    table.add_column("selector", min_width=16, overflow="fold")
    for name in ("k", "accuracy", "95 %", "difference (95 %)", *["ECE"] * sure, *counted):
        table.add_column(name, no_wrap=True)
    for row in rows:
        table.add_row(
            row["selector"],
            str(row["k"]),
            f"{row['accuracy']:.3f}",
            f"{row['ci_low']:.2f}-{row['ci_high']:.2f}",
            f"{row['difference']:+.3f} ({row['difference_low']:+.2f}, {row['difference_high']:+.2f})",
            *[f"{row['calibration']['ece'][0]:.2f}" if row["calibration"] else ""] * sure,
            *(str(row[name]) for name in counted),
        )
    console = Console(highlight=False)
    console.print(table)
    first = rows[0]
    console.print(
        f"{first['n_problems']} problems × {first['samples']} stored samples; coverage {first['coverage']:.3f}",
        style="dim",
    )
    ranks = ", ".join(
        f"{n} {r['auroc']:.2f} ({r['low']:.2f}-{r['high']:.2f})" for n, r in first["measures"].items() if r["pairs"]
    )
    if ranks:
        console.print(f"chance to put a right sample above a wrong one of its problem: {ranks}", style="dim")
    if sure:
        console.print("ECE: expected calibration error of the selector's confidence (--json has more)", style="dim")
