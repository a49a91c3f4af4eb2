"""`ponder models`: fetch and list models."""

from __future__ import annotations

import click

_OTHERS = {
    "llamacpp:PATH.gguf": "any GGUF file, in this process",
    "openai:NAME@URL": "an OpenAI-compatible endpoint (vLLM, SGLang, Ollama, llama-server, hosted)",
    "diffusers:digits": "a diffusion model of 8 x 8 digits, trained here once (ponder models train digits)",
    "gmm:ring": "a Gaussian mixture as a diffusion model of which everything is known",
    "sim:default": "a simulated model with known truth (also sim:weak, sim:strong)",
}


@click.group("models")
def command() -> None:
    """Fetch and list models."""


@command.command("pull")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def pull_command(name: str, as_json: bool) -> None:
    """Fetch NAME from the package index into the cache (nothing happens if it is there)."""
    from ponder.models.catalog import listed, pull

    name = name.removeprefix("llamacpp:")
    entry = listed(name)
    there = entry.present
    if not there:
        click.echo(f"{entry.name}: {entry.size_mb} MB, licence: {entry.licence}", err=True)
        if entry.terms:
            click.echo(entry.terms, err=True)
    path = pull(name, say=lambda what: click.echo(what, err=True))
    if as_json:
        import json

        shown = {"name": f"llamacpp:{name}", "path": str(path), "fetched": not there, "sha256": entry.digest}
        click.echo(json.dumps(shown))
    else:
        click.echo(f"{path} {'was there' if there else 'is ready'}; use it as llamacpp:{name}")


@command.command("train")
@click.argument("name", type=click.Choice(["digits"]))
def train_command(name: str) -> None:
    """Train NAME on this machine (again, if it is there) and show what was measured."""
    import json

    from ponder.diffusion.digits import stored, train

    place = stored().weights
    card = train(place, lambda what: click.echo(what, err=True))
    click.echo(json.dumps(card, indent=2))
    click.echo(f"{place} is ready; use it as diffusers:{name}", err=True)


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def list_command(as_json: bool) -> None:
    """Show which models can be fetched, and how others are named."""
    from ponder.models.catalog import CATALOG

    rows = [
        {
            "name": f"llamacpp:{m.name}",
            "present": m.present,
            "path": str(m.path) if m.present else None,
            "size_mb": m.size_mb,
            "licence": m.licence,
            "about": m.about,
            "from": [f"PyPI {wheel}" for wheel in m.wheels],
        }
        for m in CATALOG.values()
    ]
    if as_json:
        import json

        click.echo(json.dumps({"models": rows, "others": _OTHERS}, indent=2))
        return
    for m, row in zip(CATALOG.values(), rows, strict=True):
        state = "here" if m.present else f"{m.size_mb} MB; fetch it with: ponder models pull {m.name}"
        more = f" and {len(m.wheels) - 1} more" if len(m.wheels) > 1 else ""
        click.echo(f"{row['name']}  {m.about}\n    {m.licence}, PyPI {m.wheels[0]}{more}, {state}")
    click.echo("\nothers:")
    for name, about in _OTHERS.items():
        click.echo(f"  {name:<20} {about}")
