"""`ponder protocol`: what a study says about the bounds of what its model could do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command("protocol")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--by", help="Group by this metadata key of the problems: level, entry.metadata.difficulty, …")
@click.option("--strategy", "-s", help="Whose candidates are the independent runs, as in the study.")
@click.option("--common", is_flag=True, help="Use the first runs that all problems have.")
@click.option("--against", type=click.Path(path_type=Path), help="A study of a stronger model: the gap closed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    folder: Path, by: str | None, strategy: str | None, common: bool, against: Path | None, as_json: bool
) -> None:
    """Bounds from the study in DIR: average, worst, majority and best of N runs; attempts with feedback.

    Run one with `ponder bench --protocol parallel --protocol sequential … --out DIR`. Nothing is sent to a model. The
    result is also written to DIR/protocol.json, where the report finds it.
    """
    from ponder.studies.protocols import Bounds, gap_closed, protocol

    found = protocol(folder, by=by, strategy=strategy, common=common)
    if against is not None:
        other = protocol(against, common=common)
        if not (found["parallel"] and other["parallel"]):
            raise click.UsageError(
                "--against needs independent runs in both studies (ponder bench --protocol parallel)"
            )
        found["gap_closed"] = gap_closed(Bounds(**found["parallel"]["all"]), Bounds(**other["parallel"]["all"]))
    if as_json:
        import json

        click.echo(json.dumps(found, indent=2))
        return
    show(found)


def show(found: dict[str, Any]) -> None:
    """Print a protocol's tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if found["parallel"]:
        parallel = found["parallel"]
        title = f"{parallel['all']['n_runs']} independent runs: {parallel['strategy']}"
        heads = ["problems", "average", "worst", "majority", "best", "tokens a run", "± within", "all runs"]
        table = Table(found["by"], *heads, title=title, title_justify="left", box=None, pad_edge=False)
        for level, b in (("all", parallel["all"]), *parallel["levels"].items()):
            std = "" if b["average_std"] is None else f" ± {b['average_std']:.3f}"
            spread = "–" if b["tokens_std"] is None else f"{b['tokens_std']:.1f}"
            table.add_row(
                level, str(b["n_problems"]), f"{b['average']:.3f}{std}", f"{b['worst']:.3f}", f"{b['majority']:.3f}",
                f"{b['best']:.3f}", f"{b['tokens']:.1f}", spread, f"{b['tokens_all']:.1f}",
            )  # fmt: skip
        console.print(table)
        passed = ", ".join(f"{k}: {v:.3f}" for k, v in parallel["all"]["pass_at_k"].items())
        console.print(f"pass@k  {passed}", soft_wrap=True)
        for line in parallel["warnings"]:
            console.print(f"[yellow]{line}[/yellow]", soft_wrap=True)
    for row in found["sequential"] or ():
        heads = ["solved at or before", "generated tokens", "of which teacher", "all tokens", "hints discarded"]
        table = Table("attempt", *heads, title=row["strategy"], title_justify="left", box=None, pad_edge=False)
        for a in row["attempts"]:
            amounts = (f"{a[name] or 0:.1f}" for name in ("generated_tokens", "teacher_tokens", "tokens"))
            table.add_row(str(a["attempts"]), f"{a['solved']:.3f}", *amounts, str(a["leaked"]))
        console.print(table)
    if "gap_closed" in found:
        closed = found["gap_closed"]
        told = "not measured: the other model's average is not higher" if closed is None else f"{closed:.0%}"
        console.print(f"gap to the other model closed by best-of-N: {told}")
