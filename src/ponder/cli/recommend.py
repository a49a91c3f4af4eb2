"""`ponder recommend`: which strategy and budget to use, from a study."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("recommend")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--target", "-t", type=float, help="Accuracy to reach, such as 0.8: the cheapest way is named.")
@click.option("--budget", "-b", type=float, help="Compute a problem may take: the best within it is named.")
@click.option(
    "--axis",
    "-x",
    help="What compute means: samples, generated_tokens, tokens, calls, flops, eflops, cost_usd, seconds.",
)
@click.option(
    "--against",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="A study of the same task with another model: many samples of the cheap one against few of the dear one.",
)
@click.option("--hardware", help="What eFLOPs are counted on: b200, h100, here, …; the study's own by default.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the bootstrap over problems.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    folder: Path,
    target: float | None,
    budget: float | None,
    axis: str | None,
    against: Path | None,
    hardware: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Name the cheapest strategy and budget for a target, or the best for a budget, from the study in DIR."""
    from ponder.studies.measured import Measured
    from ponder.studies.recommend import recommend

    data = Measured.load(folder, hardware=hardware)
    advice = recommend(data, target, budget, axis, seed=seed)
    comparison = None
    if against is not None:
        from ponder.studies.compare_models import compare_models

        comparison = compare_models(data, Measured.load(against, hardware=hardware), axis, seed=seed)
    if as_json:
        import json

        compared = {} if comparison is None else {"against": comparison.as_dict()}
        click.echo(json.dumps(advice.as_dict() | compared, indent=2))
        return
    from rich.console import Console

    from ponder.reports.table import front_table

    console = Console(highlight=False)
    console.print(advice.headline, style="bold", markup=False, soft_wrap=True)
    for note in advice.notes:
        console.print(note, markup=False, soft_wrap=True)
    console.print()
    console.print(front_table(advice))
    if comparison is not None:
        from ponder.reports.table import model_tables

        console.print()
        console.print(comparison.headline, style="bold", markup=False, soft_wrap=True)
        for table in model_tables(comparison):
            console.print()
            console.print(table)
