"""`ponder list`: every technique, what it needs, and what it is called in papers."""

from __future__ import annotations

from typing import Any

import click


@click.command("list")
@click.argument("kind", required=False)
@click.option("--where", "filters", multiple=True, metavar="TAG=VALUE", help="Only techniques with this tag.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def command(kind: str | None, filters: tuple[str, ...], as_json: bool) -> None:
    """Show techniques; KIND is strategy, selector, verifier, model, task, law, …."""
    from ponder.core.registry import REGISTRIES
    from ponder.errors import SpecError, UnknownNameError

    wanted = dict(REGISTRIES)
    if kind is not None:
        singular = kind.rstrip("s") if kind not in REGISTRIES else kind
        singular = {"strategie": "strategy", "proces": "process", "processe": "process"}.get(singular, singular)
        if singular not in REGISTRIES:
            raise UnknownNameError("kind", kind, REGISTRIES)
        wanted = {singular: REGISTRIES[singular]}
    rows = [_row(entry) for registry in wanted.values() for entry in registry.entries()]
    for condition in filters:
        tag, sign, value = condition.partition("=")
        if not sign:
            raise SpecError(condition, 0, "a filter is TAG=VALUE, for example how=verifier")
        rows = [row for row in rows if value in str(row["tags"].get(tag, "")).split(",")]
    if as_json:
        import json

        click.echo(json.dumps(rows, indent=2))
        return
    _show(rows)


def _row(entry: Any) -> dict[str, Any]:
    return {
        "kind": entry.kind,
        "name": entry.name,
        "aliases": list(entry.aliases),
        "summary": entry.summary,
        "needs": sorted(getattr(entry.cls, "needs", ())),
        "tags": dict(entry.tags),
    }


def _show(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    for kind in dict.fromkeys(row["kind"] for row in rows):
        table = Table("name", "what it does", "needs", title=kind, title_justify="left", box=None, pad_edge=False)
        for row in rows:
            if row["kind"] == kind:
                also = f" ({', '.join(row['aliases'])})" if row["aliases"] else ""
                table.add_row(f"[bold]{row['name']}[/bold]{also}", escape(row["summary"]), ", ".join(row["needs"]))
        console.print(table)
        console.print()
