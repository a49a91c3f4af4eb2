"""`ponder bench`: measure strategies on a task."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ponder.ledger.spend import Spend
    from ponder.studies.outcome import Outcome
    from ponder.studies.results import Series, StudyResults


@click.command("bench")
@click.option("--model", "-m", help="llamacpp:smollm2-135m, openai:NAME@URL, sim:default, …")
@click.option("--task", "-T", help="reasoning_gym:NAME(…), jsonl:PATH(grader=…), hf:NAME(…)")
@click.option("--strategy", "-s", "strategies", multiple=True, help="May be given several times.")
@click.option(
    "--allocator", "-a", "allocators", multiple=True, help="Splits compute over the problems; ponder list allocators."
)
@click.option(
    "--protocol", "protocols", multiple=True, type=click.Choice(["parallel", "sequential"]),
    help="Strategies and samples of an evaluation protocol, beside your own; --samples says how many runs or attempts.",
)  # fmt: skip
@click.option("--process", "-p", help="How outputs are built: 'text_steps(step=line)', sim_tree, …")
@click.option("--samples", help="Points of the curve: 1,2,4,8,16")
@click.option("--limit", "-n", type=int, help="How many problems.")
@click.option("--seed", type=int)
@click.option("--out", "-o", type=click.Path(path_type=Path), help="Directory for store, results and report.")
@click.option("--study", type=click.Path(path_type=Path), help="A study file (TOML); flags win over it.")
@click.option("--temperature", "-t", type=float)
@click.option("--top-p", type=float)
@click.option("--max-new-tokens", type=int)
@click.option("--concurrency", "-c", type=int, help="Problems under way at once.")
@click.option("--budget", "-b", help="Hard limit for each problem: tokens=2000,calls=8,seconds=30,usd=0.05")
@click.option("--study-budget", help="Hard limit over the whole study.")
@click.option("--price", "prices", multiple=True, help="MODEL=PROMPT,CACHED,GENERATED dollars per million tokens.")
@click.option("--compute", help="What compute means in the report and recommendation: eflops, flops, tokens, …")
@click.option("--hardware", help="What eFLOPs are counted on: b200, h100, here, … (ponder hardware lists them).")
@click.option("--live", is_flag=True, help="Serve a page on this machine that shows how it goes on, and can stop it.")
@click.option("--live-port", type=int, default=0, help="Of that page; 0 takes a free one.")
@click.option("--baselines/--no-baselines", default=None, help="Best-of-N and a vote beside searches (default: yes).")
@click.option("--no-check", is_flag=True, help="Do not probe the model first.")
@click.option("--quiet", "-q", is_flag=True, help="No progress bars.")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def command(
    samples: str | None,
    out: Path | None,
    study: Path | None,
    strategies: tuple[str, ...],
    allocators: tuple[str, ...],
    protocols: tuple[str, ...],
    prices: tuple[str, ...],
    temperature: float | None,
    top_p: float | None,
    max_new_tokens: int | None,
    live: bool,
    live_port: int,
    no_check: bool,
    quiet: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Draw samples once, run every strategy on them, and write results, report and store to DIR."""
    from ponder.ledger.prices import parse_price
    from ponder.studies.runner import Silent, bench

    if study is None and not (settings["model"] and settings["task"]):
        raise click.UsageError("give --model and --task, or --study FILE")
    points = _numbers(samples) if samples else None
    if protocols:
        from ponder.studies.protocols import preset

        if out is None:
            raise click.UsageError("--protocol reads the stored runs; give --out DIR")
        theirs, points = preset(protocols, max(points) if points else None)
        strategies = (*theirs, *strategies)
    sampling = {"temperature": temperature, "top_p": top_p, "max_new_tokens": max_new_tokens}
    chosen = {k: v for k, v in sampling.items() if v is not None}
    if study is not None and chosen:
        from ponder.studies.plan import Study

        chosen = {**Study.from_toml(study).sampling, **chosen}
    progress: Any = Silent() if as_json or quiet else Bars() if sys.stderr.isatty() else Announced()
    try:
        with progress if isinstance(progress, Bars) else _nothing():
            options = {
                "progress": progress, "check": not no_check, "strategies": list(strategies) or None,
                "allocators": list(allocators) or None, "samples": points,
                "sampling": chosen or None, "prices": dict(parse_price(p) for p in prices) or None, **settings,
            }  # fmt: skip
            results = _watched(study, out, live_port, options) if live else bench(study, out, **options)
    except KeyboardInterrupt:
        click.echo("stopped; what is finished is kept: run the same command again to go on", err=True)
        sys.exit(130)
    bounds = _protocol(out) if protocols and out is not None else None
    report = _write_report(out) if out is not None else None
    if as_json:
        import json

        click.echo(json.dumps(results.rows, indent=2))
        return
    _show(results, report)
    if bounds is not None:
        from ponder.cli.protocol import show

        show(bounds)


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise click.UsageError(f"--samples {text!r}: whole numbers separated by commas are expected: 1,2,4,8") from None


def _watched(study: Path | None, out: Path | None, port: int, options: dict[str, Any]) -> StudyResults:
    """The study, with a page to watch it on; stopping it there is like Ctrl-C."""
    from ponder.api import run_sync
    from ponder.reports.live import bench_live
    from ponder.studies.live import LiveStopError

    def started(url: str) -> None:
        click.echo(f"live: {url}", err=True)

    try:
        return run_sync(lambda: bench_live(study, out, started=started, port=port, **options))
    except LiveStopError:
        raise KeyboardInterrupt from None


def _protocol(folder: Path) -> dict[str, Any] | None:
    """The protocol's numbers; lost runs must not take the results away."""
    from ponder.errors import StudyError
    from ponder.studies.protocols import protocol

    try:
        return protocol(folder)
    except StudyError as error:
        click.echo(f"no protocol: {error}", err=True)
        return None


def _write_report(folder: Path) -> Path | None:
    """The report; its failure must not look like the study's."""
    try:
        from ponder.reports.html import write_report

        return write_report(folder)
    except Exception as error:  # results are safe on disk; say what went wrong and go on
        click.echo(
            f"the report could not be written ({type(error).__name__}: {error}); the results are complete", err=True
        )
        return None


def _show(results: StudyResults, report: Path | None) -> None:
    from rich.console import Console

    from ponder.reports.table import results_table

    console = Console(highlight=False)
    console.print(results_table(results.rows))
    for line in results.warnings:
        console.print(f"[yellow]{line}[/yellow]", soft_wrap=True)
    if report is not None:
        console.print(f"report: {report}", soft_wrap=True)


def _nothing() -> Any:
    from contextlib import nullcontext

    return nullcontext()


def _most(rows: int, problems: int, most: Spend) -> str:
    cost = f", ${most.cost_usd:.4g}" if most.cost_usd else ""
    tokens = f", {most.tokens:,} tokens" if most.tokens else ""
    return (
        f"{rows} rows × {problems} problems: at most {most.model_calls:,} draws{tokens}{cost} "
        "(stored draws cost nothing; judges are not counted)"
    )


class Announced:
    """Where nobody watches: only the most that it can cost, on standard error."""

    def begin(self, rows: int, problems: int, most: Spend) -> None:
        """Say what it can cost at most."""
        click.echo(_most(rows, problems, most), err=True)

    def finished(self, series: Series, outcome: Outcome, replayed: bool) -> None:
        """Nothing."""


class Bars:
    """A bar per row, with accuracy so far and tokens spent."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("accuracy {task.fields[accuracy]}"),
            TextColumn("{task.fields[tokens]} tokens"),
            TimeRemainingColumn(),
            transient=True,
        )
        self._bars: dict[tuple[str, int], Any] = {}
        self._so_far: dict[tuple[str, int], list[float]] = {}
        self._problems = 0

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, rows: int, problems: int, most: Spend) -> None:
        """Say what it can cost at most."""
        self._problems = problems
        self._progress.console.print(_most(rows, problems, most), style="dim", soft_wrap=True)

    def finished(self, series: Series, outcome: Outcome, replayed: bool) -> None:
        """Move a row's bar."""
        key = (series.strategy, series.budget)
        if key not in self._bars:
            name = f"{series.strategy} @{series.budget}"
            self._bars[key] = self._progress.add_task(name, total=self._problems, accuracy="", tokens=0)
        so_far = self._so_far.setdefault(key, [0, 0, 0])
        for i, amount in enumerate((1, outcome.correct, sum(s["generated_tokens"] for s in outcome.spend.values()))):
            so_far[i] += amount
        done, right, tokens = so_far
        self._progress.update(self._bars[key], completed=done, accuracy=f"{right / done:.2f}", tokens=int(tokens))
