"""`ponder check`: what a model, a task and a verifier really do."""

from __future__ import annotations

import click


@click.command("check")
@click.option("--model", "-m", required=True, help="llamacpp:smollm2-135m, openai:NAME@URL, …")
@click.option("--task", "-T", help="Gives the verifier known cases, and shows one prompt.")
@click.option("--verifier", help="Tried on known right and wrong answers; needs --task.")
@click.option("--refresh", is_flag=True, help="Ask again, even if the answers are remembered.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(model: str, task: str | None, verifier: str | None, refresh: bool, as_json: bool) -> None:
    """Probe a MODEL with a few tiny calls; the outcome is remembered per endpoint and model."""
    from ponder.api import model as read_model
    from ponder.api import run_sync
    from ponder.api import task as read_task
    from ponder.api import verifier as read_verifier
    from ponder.studies.preflight import Preflight, preflight

    if verifier and not task:
        raise click.UsageError("--verifier needs --task, whose references make the known cases")
    backend = read_model(model)
    rules = read_task(task) if task else None
    judge = read_verifier(verifier) if verifier else None

    async def ask() -> Preflight:
        try:
            return await preflight(backend, task=rules, verifier=judge, refresh=refresh)
        finally:
            await backend.aclose()

    found = run_sync(ask)
    lines = found.warnings(frozenset({"logprobs"}) if judge and "logprobs" in judge.needs else frozenset())
    if as_json:
        import json
        from dataclasses import asdict

        click.echo(json.dumps({**asdict(found), "warnings": lines}, indent=2))
        return
    marks = {"yes": click.style("yes", fg="green"), "no": click.style("no ", fg="red"), "unknown": "?  "}
    click.echo(f"{found.model}" + (f", context {found.context_tokens} tokens" if found.context_tokens else ""))
    for finding in found.findings:
        click.echo(f"  {marks[finding.verdict]}  {finding.name:<13} {finding.detail}")
    for note in backend.notes():
        click.echo(f"       {note}")
    for line in lines:
        click.echo(click.style(f"warning: {line}", fg="yellow"))
