"""`ponder export-pairs`: prompts that search found to work better, as chats for fine-tuning a rewriter."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("export-pairs")
@click.argument("sources", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--out", "-o", required=True, type=click.Path(dir_okay=False, path_type=Path), help="JSONL file of chats."
)
@click.option("--margin", "-m", type=float, default=0.0, show_default=True, help="Least gain of the verifier's score.")
def command(sources: tuple[Path, ...], out: Path, margin: float) -> None:
    """Collect what `prompt_refinement` found in studies and runs: (what was asked, the best prompt).

    SOURCES are directories that ponder bench wrote, and files that ponder solve --json wrote. Of each prompt the pair
    that gained most is taken, if it gained more than the margin.
    """
    from ponder.recipes.prompt_pairs import chosen_pairs, stored_pairs, write_prompt_pairs

    found = [pair for source in sources for pair in stored_pairs(source)]
    count = write_prompt_pairs(chosen_pairs(found, margin), out)
    click.echo(f"{count} pairs written to {out}, of {len(found)} refinements")
