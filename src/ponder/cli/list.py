"""`ponder list`: every technique, what it needs, and what it is called in papers."""

from __future__ import annotations

from typing import Any

import click


@click.command("list")
@click.argument("kind", required=False)
@click.option("--what", help="parallel, sequential, hybrid, internal")
@click.option("--how", help="search, verification, aggregation, stimulation, sft, rl; details as in search:mcts")
@click.option("--where", help="math, code, agents, …; reasoning and general stand for all of their values.")
@click.option("--how-well", help="performance, efficiency, controllability, scalability")
@click.option("--needs", help="What it needs from a model: logprobs, prefix, steps; text for those that need nothing.")
@click.option("--tags", "show_tags", is_flag=True, help="Show the tags instead of the summary.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def command(
    kind: str | None, needs: str | None, show_tags: bool, as_json: bool, **dimensions: str | None
) -> None:  # fmt: skip
    """Show techniques; KIND is strategy, selector, verifier, model, task, law, ….

    Filters can be combined. In one filter a comma means and, | means or: --how 'search:beam|search:mcts,verification'.
    What makes no assumption about the task (any) fits every --where.
    """
    from ponder.core.registry import REGISTRIES
    from ponder.core.taxonomy import TagFilter
    from ponder.errors import TagError, UnknownNameError

    wanted = dict(REGISTRIES)
    if kind is not None:
        singular = kind.rstrip("s") if kind not in REGISTRIES else kind
        singular = {"strategie": "strategy", "proces": "process", "processe": "process"}.get(singular, singular)
        if singular not in REGISTRIES:
            raise UnknownNameError("kind", kind, REGISTRIES)
        wanted = {singular: REGISTRIES[singular]}
    chosen = TagFilter(tuple((name, text) for name, text in dimensions.items() if text is not None))
    asked = {part.strip() for part in (needs or "").split(",") if part.strip()}
    every = [entry for registry in wanted.values() for entry in registry.entries()]
    known = {"text", *(need for entry in every for need in entry.needs)}
    for need in sorted(asked - known):
        raise TagError("needs", need, sorted(known))
    entries = [e for e in every if chosen.fits(e.tags) and asked <= set(e.needs or ["text"])]
    if asked:  # models and tasks have no needs of their own
        entries = [e for e in entries if e.tags]
    rows = [_row(entry) for entry in entries]
    if as_json:
        import json

        click.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        click.echo("nothing has all of these tags", err=True)
    _show(rows, show_tags)


def _row(entry: Any) -> dict[str, Any]:
    return {
        "kind": entry.kind,
        "name": entry.name,
        "aliases": list(entry.aliases),
        "summary": entry.summary,
        "needs": entry.needs,
        "tags": {dimension: list(values) for dimension, values in entry.tags.items()},
    }


def _show(rows: list[dict[str, Any]], show_tags: bool) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    for kind in dict.fromkeys(row["kind"] for row in rows):
        second = "tags" if show_tags else "what it does"
        table = Table("name", second, "needs", title=kind, title_justify="left", box=None, pad_edge=False)
        for row in rows:
            if row["kind"] == kind:
                also = f" ({', '.join(row['aliases'])})" if row["aliases"] else ""
                told = _tags(row["tags"]) if show_tags else row["summary"]
                table.add_row(f"[bold]{row['name']}[/bold]{also}", escape(told), ", ".join(row["needs"]))
        console.print(table)
        console.print()


def _tags(tags: dict[str, list[str]]) -> str:
    return "; ".join(f"{name.replace('_', ' ')}: {', '.join(values)}" for name, values in tags.items() if values)
