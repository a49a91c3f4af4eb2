"""`ponder solve`: one prompt, the answer, the votes, the spend."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from ponder.core.process import Process
    from ponder.core.strategy import Result

_MOST_ROWS = 10
"""Of the table of votes or scores."""


@click.command("solve")
@click.argument("prompt")
@click.option("--model", "-m", required=True, help="llamacpp:smollm2-135m, openai:NAME@URL, sim:default, …")
@click.option(
    "--strategy", "-s", default="best_of_n", show_default=True, help="For example 'best_of_n(n=8) | majority'."
)
@click.option("--task", help="Extracts answers by a task's rules.")
@click.option("--process", "-p", help="How outputs are built, such as 'text_steps(step=line)'.")
@click.option("--budget", "-b", help="Hard limit: tokens=2000,calls=8,seconds=30,usd=0.05")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--temperature", "-t", type=float)
@click.option("--top-p", type=float)
@click.option("--max-new-tokens", type=int)
@click.option("--price", "prices", multiple=True, help="MODEL=PROMPT,CACHED,GENERATED dollars per million tokens.")
@click.option(
    "--out", "-o", type=click.Path(path_type=Path, file_okay=False),
    help="Directory for the search tree and the pictures; pictures go to one of their own without it.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    prompt: str,
    model: str,
    strategy: str,
    task: str | None,
    process: str | None,
    budget: str | None,
    seed: int,
    temperature: float | None,
    top_p: float | None,
    max_new_tokens: int | None,
    prices: tuple[str, ...],
    out: Path | None,
    as_json: bool,
) -> None:
    """Answer PROMPT (`-` reads it from standard input)."""
    from ponder.api import build_process, parse, solve
    from ponder.api import model as build_model
    from ponder.ledger.prices import parse_price

    if prompt == "-":
        prompt = sys.stdin.read()
    if not prompt.strip():
        raise click.UsageError("the prompt is empty; give a question, or - to read it from standard input")
    backend, plan = build_model(model), parse(strategy)
    builder = build_process(process, (plan,), backend)
    result = solve(
        prompt,
        model=backend,
        strategy=plan,
        task=task,
        process=builder,
        budget=budget,
        seed=seed,
        prices=dict(parse_price(text) for text in prices),
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
    )
    files = _write(result, out, builder, str(plan))
    if as_json:
        import orjson

        record = as_record(result) | ({"files": files} if files else {})
        click.echo(orjson.dumps(record, default=_told, option=orjson.OPT_INDENT_2).decode())
    else:
        _show(result)
        for name, place in files.items():
            hint = f"  (ponder view {shlex.quote(place)})" if name == "search" else ""
            click.echo(f"{name}: {place}{hint}")
    sys.exit(0 if result.status == "ok" else 3)


def _write(result: Result, out: Path | None, process: Process, strategy: str) -> dict[str, str]:
    """Write the result's files, if it has pictures or a directory was given; what they are, and where."""
    if out is None and type(result.output).__name__ != "ndarray":  # text: nothing to load, nothing to write
        return {}
    from ponder.reports.pictures import default_folder, has_pictures, write_result

    if out is None and not has_pictures(result):
        return {}
    folder = out or default_folder(result)
    written = write_result(result, folder, process, strategy)
    if written.left_out:
        click.echo(f"{written.left_out} further pictures are on no sheet", err=True)
    places = {"pictures": written.sheet, "chosen": written.chosen, "search": written.search}
    return {name: str(place) for name, place in places.items() if place is not None}


def as_record(result: Result) -> dict[str, Any]:
    """A result as plain data."""
    selection = result.selection
    return {
        "status": result.status,
        "reason": result.reason,
        "answer": result.answer,
        "output": result.output,
        "votes": None
        if selection is None
        else [{"answer": g.answer, "count": g.count, "weight": g.weight} for g in selection.table],
        "confidence": selection.confidence if selection else None,
        "candidates": [
            {
                "index": c.index,
                "output": c.output,
                "answer": c.answer,
                "logprob": c.logprob,
                "n_tokens": c.n_tokens,
                "scores": dict(c.scores),
                "finish": c.finish,
                "error": c.error,
            }
            for c in result.candidates
        ],
        "failures": [
            {"stage": f.stage, "index": f.index, "kind": f.kind, "message": f.message} for f in result.failures
        ],
        "spend": {stage: spend.as_dict() for stage, spend in result.spend.items()},
        "total": result.total.as_dict(),
        "details": dict(result.details),
    }


def _told(value: Any) -> str:
    """What JSON cannot hold, as text; an array by its shape and fingerprint, since its files are named beside it."""
    if type(value).__name__ != "ndarray":
        return str(value)
    from ponder.core.answers import fingerprint

    return f"array {value.shape} {fingerprint(value)}"


def _show(result: Result) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    if result.best is not None:
        console.print(f"[bold]{escape(str(result.answer))}[/bold]", soft_wrap=True)
        if isinstance(result.output, str) and str(result.output).strip() != str(result.answer).strip():
            console.print(escape(str(result.output).strip()), style="dim", soft_wrap=True)
    else:
        console.print(f"[bold red]no answer[/bold red]: {escape(result.reason or result.status)}", soft_wrap=True)
    if result.selection is not None and result.selection.table:
        table = Table("answer", "votes", "weight", title="votes", title_justify="left", box=None, pad_edge=False)
        for group in result.selection.table[:_MOST_ROWS]:
            table.add_row(escape(str(group.answer)[:60]), str(group.count), f"{group.weight:.4g}")
        console.print(table)
        _say_left_out(console, len(result.selection.table))
    elif any(c.scores for c in result.candidates):
        table = Table("answer", "score", title="scores", title_justify="left", box=None, pad_edge=False)
        ranked = sorted((c for c in result.candidates if c.scores), key=lambda c: -max(c.scores.values()))
        for candidate in ranked[:_MOST_ROWS]:
            table.add_row(escape(str(candidate.answer)[:60]), f"{max(candidate.scores.values()):.4g}")
        console.print(table)
        _say_left_out(console, len(ranked))
    for failure in result.failures[:5]:
        console.print(f"[yellow]sample {failure.index}: {escape(failure.message)}[/yellow]", soft_wrap=True)
    if result.best is not None and result.reason:
        console.print(f"[yellow]{escape(result.reason)}[/yellow]", soft_wrap=True)
    console.print(spend_line(result), style="dim", soft_wrap=True)


def _say_left_out(console: Console, rows: int) -> None:
    if rows > _MOST_ROWS:
        console.print(f"and {rows - _MOST_ROWS} more", style="dim")


def spend_line(result: Result) -> str:
    """The spend in one line."""
    total = result.total
    if total.function_evaluations and not total.tokens:
        return (
            f"{total.function_evaluations:,} function evaluations ({total.model_calls:,} network calls), "
            f"{total.verifier_calls:,} scores, {total.seconds:.2f} s"
        )
    cost = f", ${total.cost_usd:.4g}" if total.cost_usd else ""
    evaluations = f"{total.function_evaluations} evaluations, " if total.function_evaluations else ""
    return (
        f"{total.calls} calls ({total.model_calls} draws, {total.verifier_calls} scores), "
        f"{evaluations}{total.prompt_tokens} prompt tokens ({total.cached_tokens} cached), "
        f"{total.generated_tokens} generated, "
        f"{total.seconds:.2f} s{cost}"
    )
