"""`ponder sweep`: change one trick after the other."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("sweep")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--out", "-o", type=click.Path(path_type=Path), required=True, help="Directory; a study per task in it.")
@click.option("--model", "-m", help="Over the file's.")
@click.option("--limit", "-n", type=int, help="How many problems, over the file's.")
@click.option("--seed", type=int)
@click.option("--mode", type=click.Choice(["one_at_a_time", "grid"]))
@click.option("--no-check", is_flag=True, help="Do not probe the model first.")
@click.option("--json", "as_json", is_flag=True, help="Print the lines as JSON.")
def command(
    file: Path,
    out: Path,
    model: str | None,
    limit: int | None,
    seed: int | None,
    mode: str | None,
    no_check: bool,
    as_json: bool,
) -> None:
    """Run the sweep in FILE, or go on with it: methods x tricks x tasks, each draw made once."""
    from ponder.studies.sweep import Sweep

    sweep = Sweep.from_toml(file, model=model, limit=limit, seed=seed, mode=mode)
    lines = sweep.effects(sweep.run(out, check=not no_check))
    if as_json:
        import json

        click.echo(json.dumps(lines, indent=2))
        return
    from rich.console import Console

    from ponder.reports.table import effects_tables

    console = Console(highlight=False)
    for table in effects_tables(lines):
        console.print(table)
