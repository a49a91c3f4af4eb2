"""`ponder laws`: which scaling laws there are, a law fitted to data, Step Law as a calculator."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.group("laws", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """List the laws that can be fitted; see also `laws fit` and `laws step`."""
    if ctx.invoked_subcommand is not None:
        return
    from ponder.studies.fit_law import LAWS

    if as_json:
        click.echo(json.dumps({name: {"formula": f, "data": data} for name, (f, data) in LAWS.items()}, indent=2))
        return
    for name, (formula, data) in LAWS.items():
        click.echo(f"{name}\n    {formula}\n    fit to: {data}")
    click.echo(
        "step_law\n    η = 1.79 · N^-0.713 · D^0.307, B = 0.58 · D^0.571\n    ponder laws step --params N --tokens D"
    )


@command.command("fit")
@click.argument("source", metavar="DIR|FILE.csv", type=click.Path(path_type=Path))
@click.option("--law", "-l", default="beta_binomial", show_default=True, help="A name that `ponder laws` lists.")
@click.option("--strategy", help="Whose draws, for a study; that with the most if not given.")
@click.option("--epsilon", type=float, default=0.01, show_default=True, help="Least gain that a unit is worth.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the bootstrap and the held-out draws.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def fit(source: Path, law: str, strategy: str | None, epsilon: float, seed: int, as_json: bool) -> None:
    """Fit a law to a study's results or a table."""
    from ponder.studies.fit_law import fit_law

    found = fit_law(source, law, strategy=strategy, epsilon=epsilon, seed=seed)
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=2))
        return
    click.echo(f"{found.law}: {found.formula}")
    for name, (value, low, high) in found.parameters.items():
        sure = "no interval: fitted to a curve" if low is None else f"95 %: {low:.4g} to {high:.4g}"
        click.echo(f"  {name} = {value:.4g} ({sure})")
    if found.r2 is not None:
        click.echo(f"  R² = {found.r2:.4f}")
    if found.saturation is not None:
        click.echo(f"  saturation: from {found.saturation:g} on, a further unit gains at most {found.epsilon:g}")
    if found.held_out is not None and found.held_out_range is not None:
        fitted, tested = found.held_out_range
        click.echo(f"  held-out error: at most {found.held_out:.4f} up to {tested:g}, fitted up to {fitted:g}")
    else:
        click.echo("  held-out error: not measured")
    for note in found.notes:
        click.echo(f"  note: {note}")


@command.command("step")
@click.option("--params", required=True, help="Parameters without embeddings, such as 135M.")
@click.option("--tokens", required=True, help="Training tokens, such as 2B.")
@click.option("--seq-len", type=int, default=2048, show_default=True, help="Tokens of a sequence.")
@click.option("--fine-tuning", is_flag=True, help="A trained model is trained further.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def step(params: str, tokens: str, seq_len: int, fine_tuning: bool, as_json: bool) -> None:
    """Learning rate and batch for pre-training, by Step Law."""
    from dataclasses import asdict

    from ponder.laws.step_law import PLATEAU, parse_amount, step_law

    law = step_law(parse_amount(params), parse_amount(tokens), seq_len=seq_len, fine_tuning=fine_tuning)
    if as_json:
        click.echo(json.dumps(asdict(law) | {"plateau_factor": PLATEAU}, indent=2))
        return
    rate, batch = law.learning_rate, law.batch_tokens
    click.echo(f"peak learning rate {rate:.3e} (plateau {rate / PLATEAU:.2e} to {rate * PLATEAU:.2e})")
    click.echo(
        f"batch {batch:.3e} tokens (plateau {batch / PLATEAU:.2e} to {batch * PLATEAU:.2e}), "
        f"{law.batch_sequences:.1f} sequences of {seq_len}"
    )
    click.echo(f"steps {law.steps}")
    for note in law.notes:
        click.echo(f"note: {note}")
