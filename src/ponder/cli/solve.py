"""`ponder solve`: one prompt, the answer, the votes, the spend."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ponder.core.answers import fingerprint
from ponder.errors import MissingExtraError

if TYPE_CHECKING:
    from ponder.core.strategy import Result


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
    as_json: bool,
) -> None:
    """Answer PROMPT (`-` reads it from standard input)."""
    from ponder.api import solve
    from ponder.ledger.prices import parse_price

    if prompt == "-":
        prompt = sys.stdin.read()
    if not prompt.strip():
        raise click.UsageError("the prompt is empty; give a question, or - to read it from standard input")
    result = solve(
        prompt,
        model=model,
        strategy=strategy,
        task=task,
        process=process,
        budget=budget,
        seed=seed,
        prices=dict(parse_price(text) for text in prices),
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
    )
    pictures = save_pictures(result)
    if pictures is not None:
        click.echo(f"pictures: {pictures}", err=True)
    if as_json:
        import orjson

        click.echo(orjson.dumps(as_record(result), default=str, option=orjson.OPT_INDENT_2).decode())
    else:
        _show(result)
    sys.exit(0 if result.status == "ok" else 3)


def save_pictures(result: Result, folder: str = ".") -> Path | None:
    """Write the candidates that are pictures as one PNG, best first (at most 64); None if there are none.

    Args:
        result: of any strategy.
        folder: where the file goes.

    Raises:
        MissingExtraError: Pillow is not installed.
    """
    if type(result.output).__name__ != "ndarray":
        return None
    import numpy as np

    ranked = sorted(range(len(result.candidates)), key=lambda i: (i not in result.chosen, _lowest_last(result, i), i))
    shown = [result.candidates[i].output for i in ranked if isinstance(result.candidates[i].output, np.ndarray)][:64]
    shown = [picture for picture in shown if picture.ndim in (2, 3) and picture.shape == shown[0].shape]
    if not shown:
        return None
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError("writing pictures", "Pillow", "diffusion") from error
    height, width = shown[0].shape[:2]
    columns, zoom = math.ceil(math.sqrt(len(shown))), max(1, 64 // max(height, width))
    rows = math.ceil(len(shown) / columns)
    sheet = np.ones((rows * (height + 1) - 1, columns * (width + 1) - 1, *shown[0].shape[2:]))
    for i, picture in enumerate(shown):
        top, left = i // columns * (height + 1), i % columns * (width + 1)
        sheet[top : top + height, left : left + width] = np.clip(picture, 0.0, 1.0)
    grid = np.round(sheet * 255).astype(np.uint8).repeat(zoom, axis=0).repeat(zoom, axis=1)
    place = Path(folder) / f"ponder-{fingerprint(sheet).removeprefix('#')}.png"
    Image.fromarray(grid).save(place)
    return place


def _lowest_last(result: Result, i: int) -> float:
    return -max(result.candidates[i].scores.values(), default=-math.inf)


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
        console.print(f"[bold red]no answer[/bold red]: {escape(result.reason or result.status)}")
    if result.selection is not None and result.selection.table:
        table = Table("answer", "votes", "weight", title="votes", title_justify="left", box=None, pad_edge=False)
        for group in result.selection.table[:10]:
            table.add_row(escape(str(group.answer)[:60]), str(group.count), f"{group.weight:.4g}")
        console.print(table)
    elif any(c.scores for c in result.candidates):
        table = Table("answer", "score", title="scores", title_justify="left", box=None, pad_edge=False)
        ranked = sorted((c for c in result.candidates if c.scores), key=lambda c: -max(c.scores.values()))
        for candidate in ranked[:10]:
            table.add_row(escape(str(candidate.answer)[:60]), f"{max(candidate.scores.values()):.4g}")
        console.print(table)
    for failure in result.failures[:5]:
        console.print(f"[yellow]sample {failure.index}: {escape(failure.message)}[/yellow]", soft_wrap=True)
    if result.best is not None and result.reason:
        console.print(f"[yellow]{escape(result.reason)}[/yellow]", soft_wrap=True)
    console.print(spend_line(result), style="dim", soft_wrap=True)


def spend_line(result: Result) -> str:
    """The spend in one line."""
    total = result.total
    cost = f", ${total.cost_usd:.4g}" if total.cost_usd else ""
    evaluations = f"{total.function_evaluations} evaluations, " if total.function_evaluations else ""
    return (
        f"{total.calls} calls ({total.model_calls} draws, {total.verifier_calls} scores), "
        f"{evaluations}{total.prompt_tokens} prompt tokens ({total.cached_tokens} cached), "
        f"{total.generated_tokens} generated, "
        f"{total.seconds:.2f} s{cost}"
    )
