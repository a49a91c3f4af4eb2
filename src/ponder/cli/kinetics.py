"""`ponder kinetics`: model size against trials against length, from studies of several models."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("kinetics")
@click.argument("folders", metavar="DIR…", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--shape", "shapes", multiple=True, help="Of each directory's model, in their order: qwen3-8b, a config.json, …"
)
@click.option("--unit", "-x", default="eflops", show_default=True, help="eflops, flops, seconds, dollars or bytes.")
@click.option(
    "--hardware", "on", default="b200", show_default=True, help="b200, h100, here, …; see ponder hardware --list."
)
@click.option("--caps", help="Also cut the samples at these lengths: 32,64,128")
@click.option("--prefill", is_flag=True, help="Count the prompts' own passes.")
@click.option("--batch", type=float, help="Count reading the weights, each pass shared by so many problems.")
@click.option("--budget", "-b", type=float, help="Cost a problem may take: the best within it is named.")
@click.option("--plot", type=click.Path(path_type=Path), help="Write the frontiers as a .png, .svg or .pdf file.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the bootstrap over problems.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    folders: tuple[Path, ...],
    shapes: tuple[str, ...],
    unit: str,
    on: str,
    caps: str | None,
    prefill: bool,
    batch: float | None,
    budget: float | None,
    plot: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Say which model, how many trials and what length reach most for a cost, from studies of one task."""
    from ponder.studies.kinetics import kinetics

    try:
        lengths = [int(part) for part in caps.split(",")] if caps else []
    except ValueError:
        raise click.UsageError(f"--caps {caps!r}: whole numbers separated by commas are expected: 32,64") from None
    found = kinetics(
        folders, shapes=shapes, unit=unit, on=on, caps=lengths, prefill=prefill, batch=batch, seed=seed
    )  # fmt: skip
    best = None if budget is None else found.frontier.at(budget)
    if plot is not None:
        from ponder.reports.plots import write_frontier

        write_frontier(found, plot)
    if as_json:
        import json
        from dataclasses import asdict

        within = {} if budget is None else {"within_budget": None if best is None else asdict(best)}
        click.echo(json.dumps(found.as_dict() | within, indent=2))
        return
    from rich.console import Console

    from ponder.reports.table import kinetics_tables

    console = Console(highlight=False)
    for switch in found.frontier.switches:
        line = (
            f"From {switch.cost:.3g} {unit} a problem on, {switch.after} is the better buy than {switch.before} "
            f"({switch.low:.3g} to {switch.high:.3g}, in {switch.share:.0%} of resamples)."
        )
        console.print(line, style="bold", markup=False, soft_wrap=True)
    if budget is not None:
        named = "nothing that was measured fits" if best is None else f"{best.configuration}: {best.quality:.1%}"
        console.print(f"Within {budget:.3g} {unit} a problem: {named}", style="bold", markup=False, soft_wrap=True)
    for table in kinetics_tables(found):
        console.print(table)
        console.print()
    for note in found.notes:
        console.print(note, markup=False, soft_wrap=True)
    if plot is not None:
        console.print(f"written: {plot}", markup=False, soft_wrap=True)
