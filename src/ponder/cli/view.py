"""`ponder view`: the search trees of a study, or of one solve, in a browser."""

from __future__ import annotations

import contextlib
import webbrowser
from pathlib import Path

import click


@click.command("view")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--port", type=int, default=0, help="Of the local page; 0 takes a free one.")
@click.option("--no-browser", is_flag=True, help="Only print the address.")
@click.option("--live", is_flag=True, help="Show how a study that is being run elsewhere goes on.")
@click.option("--export", "out", type=click.Path(path_type=Path), help="Write one search as a page and stop.")
@click.option("--problem", help="With --export: the problem, by its id or a part of it.")
@click.option("--strategy", "-s", help="With --export: the strategy, as in the study.")
def command(
    folder: Path, port: int, no_browser: bool, live: bool, out: Path | None, problem: str | None, strategy: str | None
) -> None:
    """Show the search trees of the study in DIR: steps, scores, weights, pictures; --live: its progress.

    DIR may also be what `ponder solve` wrote: its directory, or the page in it.
    """
    page = folder if folder.suffix == ".html" else folder / "search.html"
    if page.is_file() and not (folder / "store.sqlite").exists():
        click.echo(page)
        if not no_browser:
            webbrowser.open(page.resolve().as_uri())
        return
    import asyncio

    from ponder.reports.viewer import export, serve

    if out is not None:
        shown = export(folder, out, strategy=strategy, problem=problem)
        click.echo(f"{out}: {shown['problem']} by {shown['strategy']} (n={shown['budget']})")
        return

    def started(url: str) -> None:
        click.echo(f"{url}  (stop with Ctrl-C)")
        if not no_browser:
            webbrowser.open(url)

    with contextlib.suppress(KeyboardInterrupt):
        if live:
            from ponder.reports.live import follow

            asyncio.run(follow(folder, port, started))
        else:
            asyncio.run(serve(folder, port, started))
