"""`ponder calibrate-verifiers`: which rewards agree with human judgement, and how to weigh them."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import click


@click.command("calibrate-verifiers")
@click.argument("table", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--judgement", "-j", default="human", show_default=True, help="Column to agree with; larger is better.")
@click.option("--category", "-c", help="Column with the category of each row; none: all rows are one.")
@click.option("--reward", "-r", multiple=True, help="Column of a reward, may be repeated; default: all number columns.")
@click.option("--keyword", "-k", multiple=True, help="CATEGORY=word,word: how a prompt's category is found later.")
@click.option("--out", "-o", type=click.Path(dir_okay=False, path_type=Path), help="Weights for category_weighted.")
@click.option("--resamples", type=click.IntRange(1), default=1000, show_default=True, help="Of the bootstrap.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the weights and agreements as JSON.")
def command(
    table: Path, judgement: str, category: str | None, reward: tuple[str, ...], keyword: tuple[str, ...],
    out: Path | None, resamples: int, seed: int, as_json: bool,
) -> None:  # fmt: skip
    """Weigh rewards by a TABLE (CSV with a header) of their scores beside a judgement that is to be trusted.

    Name a reward's column as the verifier will be written, such as class_confidence(log=true), or by its bare name.
    Use the result as 'category_weighted(rewards=[…], weights="OUT")'.
    """
    from ponder.errors import ParameterError
    from ponder.studies.reward_selection import select_rewards

    with table.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        rows, header = list(reader), [name for name in reader.fieldnames or [] if name]
    for name in (judgement, *([category] if category else []), *reward):
        if name not in header:
            raise ParameterError(str(table), "column", name, allowed=f"one of {', '.join(header) or '(no header)'}")
    others = [name for name in header if name not in (judgement, category)]
    names = list(reward) or [name for name in others if any(not math.isnan(_number(row[name])) for row in rows)]
    words = dict(_keyword(text) for text in keyword)
    found = select_rewards(
        [_number(row[judgement]) for row in rows],
        {name: [_number(row[name]) for row in rows] for name in names},
        [row[category] or "overall" for row in rows] if category else None,
        resamples=resamples,
        seed=seed,
    )
    plain = found.as_dict(words)
    text = json.dumps(plain, indent=2, ensure_ascii=False)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
    if as_json:
        click.echo(text)
        return
    for name, count in found.rows.items():
        own = found.agreements.get(name)
        click.echo(f"{name} ({count} rows)" + ("" if own else ": too few rows, weighted as overall"))
        for label, a in (own or {}).items():
            verdict = f"weight {a.weight:.3f}" if a.dropped is None else f"dropped: {a.dropped}"
            low, high = a.interval
            click.echo(f"  {label:<40} {a.correlation:+.3f} [{low:+.3f}, {high:+.3f}]  {verdict}")
    if found.unread:
        click.echo(f"{found.unread} rows were left out: a number was missing", err=True)


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def _keyword(text: str) -> tuple[str, list[str]]:
    name, mark, words = text.partition("=")
    if not mark or not name or not words:
        raise click.UsageError(f"--keyword {text!r}: CATEGORY=word,word")
    return name, [word.strip() for word in words.split(",")]
