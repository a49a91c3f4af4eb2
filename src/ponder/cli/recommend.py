"""`ponder recommend`: which strategy and budget to use, from a study, or from a pilot that it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ponder.studies.planner import Plan


@click.command("recommend")
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path), required=False)
@click.option("--target", "-t", type=float, help="Accuracy to reach, such as 0.8: the cheapest way is named.")
@click.option(
    "--budget",
    "-b",
    help="With DIR: compute a problem may take, a number. With --model: for the whole job, such as tokens=2e6.",
)
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
@click.option("--seed", type=int, default=0, show_default=True, help="Of the bootstrap, and of a pilot's draws.")
@click.option("--model", "-m", help="Run a pilot with this model: llamacpp:smollm2-135m, openai:NAME@URL, …")
@click.option("--task", "-T", help="The pilot's task, with references.")
@click.option("--pilot", type=float, default=0.1, show_default=True, help="The pilot's share of the budget at most.")
@click.option("--candidates", "-s", multiple=True, help="Strategy to try, or a file with one a line; several times.")
@click.option("--verifier", "-v", "verifiers", multiple=True, help="For the default candidates; several times.")
@click.option("--problems", type=int, help="Problems that the rest of the budget is for; default: the task's others.")
@click.option("--limit", "-n", type=int, help="How many problems the task has; the pilot sees at most half of them.")
@click.option("--process", "-p", help="How outputs are built: 'text_steps(step=line)', sim_tree, …")
@click.option("--temperature", type=float)
@click.option("--max-new-tokens", type=int)
@click.option("--price", "prices", multiple=True, help="MODEL=PROMPT,CACHED,GENERATED dollars per million tokens.")
@click.option("--out", "-o", type=click.Path(path_type=Path), help="The pilot's directory; the same one goes on.")
@click.option("--no-check", is_flag=True, help="Do not probe the model first.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(folder: Path | None, model: str | None, as_json: bool, **options: Any) -> None:
    """Name the cheapest strategy and budget for a target, or the best for a budget.

    From the finished study in DIR; or, with --model, --task and --budget, from a pilot that is run within a share of
    the budget.
    """
    if (folder is None) == (model is None):
        raise click.UsageError("give DIR (a finished study), or --model, --task and --budget to run a pilot")
    if model is None:
        _from_study(Path(str(folder)), as_json=as_json, **options)
    else:
        _from_pilot(model, as_json=as_json, **options)


def _from_study(
    folder: Path, target: float | None, budget: str | None, axis: str | None, against: Path | None,
    hardware: str | None, seed: int, as_json: bool, **_: Any,
) -> None:  # fmt: skip
    from ponder.studies.measured import Measured
    from ponder.studies.recommend import recommend

    most = _number(budget)
    data = Measured.load(folder, hardware=hardware)
    advice = recommend(data, target, most, axis, seed=seed)
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


def _from_pilot(
    model: str, task: str | None, budget: str | None, candidates: tuple[str, ...], out: Path | None, no_check: bool,
    prices: tuple[str, ...], temperature: float | None, max_new_tokens: int | None, as_json: bool, seed: int,
    hardware: str | None, process: str | None, **options: Any,
) -> None:  # fmt: skip
    from ponder.ledger.prices import parse_price
    from ponder.studies.planner import plan

    if task is None or budget is None:
        raise click.UsageError("a pilot needs --task and --budget, such as --budget tokens=2e6")
    if options.pop("axis") or options.pop("against"):
        raise click.UsageError("--axis and --against read a finished study; a pilot's axis is that of its --budget")
    given = {"temperature": temperature, "max_new_tokens": max_new_tokens}
    settings: dict[str, Any] = {
        "seed": seed,
        "process": process,
        "hardware": hardware,
        "prices": dict(parse_price(p) for p in prices) or None,
        "sampling": {k: v for k, v in given.items() if v is not None} or None,
    }
    found = plan(
        model,
        task,
        budget,
        out or _folder(model, task, seed),
        candidates=_texts(candidates) or None,
        check=not no_check,
        **options,
        **{k: v for k, v in settings.items() if v is not None},
    )
    if as_json:
        import json

        click.echo(json.dumps(found.as_dict(), indent=2))
        return
    _show(found)


def _show(found: Plan) -> None:
    from rich.console import Console

    from ponder.reports.table import plan_table

    console = Console(highlight=False)
    console.print(found.headline, style="bold", markup=False, soft_wrap=True)
    for note in found.notes:
        console.print(note, markup=False, soft_wrap=True)
    if found.front:
        console.print()
        console.print(plan_table(found))


def _number(budget: str | None) -> float | None:
    try:
        return None if budget is None else float(budget)
    except ValueError:
        raise click.UsageError(
            f"--budget {budget!r}: with DIR a number is expected, the compute a problem may take; --axis says of what"
        ) from None


def _texts(candidates: tuple[str, ...]) -> list[str]:
    """Each argument is a strategy, or a file with one a line; empty lines and lines that begin with # do not count."""
    out = []
    for text in candidates:
        try:
            lines = Path(text).read_text(encoding="utf-8").splitlines() if Path(text).is_file() else [text]
        except (OSError, UnicodeDecodeError) as error:
            raise click.UsageError(f"--candidates {text}: {error}") from None
        out += [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    return out


def _folder(model: str, task: str, seed: int) -> Path:
    """Where a pilot goes that was given no directory: the same for the same model, task and seed."""
    from hashlib import blake2b

    return Path("runs") / f"pilot-{blake2b(f'{model}|{task}|{seed}'.encode(), digest_size=4).hexdigest()}"
