"""`ponder tune`: search strategy parameters for the best quality at every cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ponder.studies.tune import Tuning


@click.command("tune")
@click.argument("space", nargs=-1, required=True)
@click.option("--model", "-m", required=True, help="llamacpp:smollm2-135m, openai:NAME@URL, sim:default, …")
@click.option("--task", "-T", required=True, help="With references.")
@click.option("--out", "-o", required=True, type=click.Path(path_type=Path), help="Directory; the same one goes on.")
@click.option("--trials", type=int, default=30, show_default=True, help="In all, those of earlier runs included.")
@click.option("--held-out", type=float, default=0.5, show_default=True, help="Share of problems kept for checking.")
@click.option("--limit", "-n", type=int, help="How many problems.")
@click.option("--axis", "-x", help="What compute means: generated_tokens, tokens, calls, eflops, cost_usd, seconds.")
@click.option("--process", "-p", help="How outputs are built: 'text_steps(step=line)', sim_tree, …")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--temperature", type=float)
@click.option("--max-new-tokens", type=int)
@click.option("--concurrency", "-c", type=int, help="Problems under way at once.")
@click.option("--price", "prices", multiple=True, help="MODEL=PROMPT,CACHED,GENERATED dollars per million tokens.")
@click.option("--hardware", help="What eFLOPs are counted on: b200, h100, here, …")
@click.option("--no-check", is_flag=True, help="Do not probe the model first.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    space: tuple[str, ...], model: str, task: str, out: Path, trials: int, held_out: float, limit: int | None,
    axis: str | None, no_check: bool, as_json: bool, prices: tuple[str, ...], temperature: float | None,
    max_new_tokens: int | None, **settings: Any,
) -> None:  # fmt: skip
    """Search SPACE, such as 'beam_search(n=4..32, branch=2|4|8)', for the Pareto front of accuracy and cost.

    Values may be ranges (4..32) and choices (2|4|8). Several spaces are searched together. The front is checked on
    problems that it was not chosen by.
    """
    from ponder.ledger.prices import parse_price
    from ponder.studies.tune import tune

    given = {"temperature": temperature, "max_new_tokens": max_new_tokens}
    settings["prices"] = dict(parse_price(p) for p in prices) or None
    settings["sampling"] = {k: v for k, v in given.items() if v is not None} or None
    found = tune(
        model, task, space, out, trials=trials, held_out=held_out, limit=limit, axis=axis, check=not no_check,
        **{k: v for k, v in settings.items() if v is not None},
    )  # fmt: skip
    if as_json:
        import json

        click.echo(json.dumps(found.as_dict(), indent=2))
        return
    _show(found)


def _show(found: Tuning) -> None:
    from rich.console import Console

    from ponder.reports.table import tuning_table

    console = Console(highlight=False)
    console.print(tuning_table(found))
    for note in found.notes:
        console.print(note, markup=False, soft_wrap=True)
