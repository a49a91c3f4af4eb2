"""`ponder train-prm`: a small reward model on a model's own hidden states."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click


@click.command("train-prm")
@click.option("--model", "-m", required=True, help="A GGUF model in this process: embedded:smollm2-135m, …")
@click.option("--task", "-T", required=True, help="Gives the problems, and grades answers.")
@click.option("--out", "-o", required=True, type=click.Path(path_type=Path), help="Folder for draws, labels and head.")
@click.option(
    "--head", type=click.Choice(["value", "multifurcation"]), default="value", show_default=True,
    help="value: chance that a prefix ends correct. multifurcation: rewards of all next tokens, for saffron.",
)  # fmt: skip
@click.option(
    "--process", "-p", default="text_steps(step=line)", show_default=True, help="What a step is (value head only)."
)
@click.option("--limit", "-n", type=int, default=100, show_default=True, help="How many problems; a fifth is held out.")
@click.option("--traces", type=int, default=4, show_default=True, help="Answers drawn per problem.")
@click.option("--rollouts", "-k", type=int, default=8, show_default=True, help="Rollouts of each prefix (value head).")
@click.option(
    "--layers", default="-1", show_default=True, help="Whose states are read: -1 is the last; 14,-1 joins two."
)
@click.option("--units", type=int, default=0, show_default=True, help="Hidden units of a value head; 0: logistic.")
@click.option("--rank", type=int, default=16, show_default=True, help="Rank of a multifurcation head.")
@click.option("--teacher", help="Verifier that rates prefixes for a multifurcation head: 'banned_words(words=[…])'.")
@click.option("--against", multiple=True, help="Verifier measured on the same held-out prefixes; may be repeated.")
@click.option("--budget", "-b", help="Hard limit over all draws: tokens=200000,seconds=600")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--temperature", "-t", type=float, default=1.0, show_default=True)
@click.option("--max-new-tokens", type=int, help="Length of an answer; by default the task's.")
@click.option("--json", "as_json", is_flag=True, help="Print the head's card as JSON.")
def command(
    model: str, task: str, out: Path, head: str, process: str, limit: int, traces: int, rollouts: int, layers: str,
    units: int, rank: int, teacher: str | None, against: tuple[str, ...], budget: str | None, seed: int,
    temperature: float, max_new_tokens: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Train a reward model from nothing but a grader, and save it in a folder.

    A value head: answers are drawn step by step, each prefix is labelled with the share of its rollouts that end
    correct, and a logistic regression (or a small network) on the model's frozen hidden states learns these values.
    Use it as 'value_head("DIR")'. A multifurcation head learns a teacher's rating of every next token; use it as
    'multifurcation_reward("DIR")'.

    Finished calls are kept in the folder: the same command goes on where it was stopped.
    """
    from ponder.api import model as read_model
    from ponder.api import run_sync
    from ponder.api import task as read_task
    from ponder.api import verifier as read_verifier
    from ponder.ledger.budget import Budget

    if (head == "multifurcation") != (teacher is not None):
        raise click.UsageError("--teacher and --head multifurcation go together")
    backend, rules = read_model(model), read_task(task)
    options: dict[str, Any] = {
        "budget": Budget.parse(budget) if budget else None,
        "sampling": {"temperature": temperature, "max_new_tokens": max_new_tokens},
        "told": lambda line: click.echo(line, err=True),
    }

    async def train() -> Mapping[str, Any]:
        try:
            if teacher is not None:
                from ponder.recipes.multifurcation_reward_model import RewardPlan, train_multifurcation

                reward_plan = RewardPlan(traces, limit, seed, _layers(layers), rank)
                return await train_multifurcation(backend, rules, read_verifier(teacher), out, reward_plan, **options)
            from ponder.recipes.process_reward_model import PrmPlan, train_prm

            plan = PrmPlan(traces, rollouts, limit, seed, _layers(layers), units)
            others = [read_verifier(text) for text in against]
            return await train_prm(backend, rules, out, plan, process=process, against=others, **options)
        finally:
            await backend.aclose()

    card = run_sync(train)
    if as_json:
        import json

        click.echo(json.dumps(card, indent=2, ensure_ascii=False))
    else:
        _show(card)


def _layers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise click.UsageError(f"--layers {text!r}: numbers with commas between them, such as 14,-1") from None


def _show(card: Mapping[str, Any]) -> None:
    quality = card["quality"]
    if card["kind"] == "value_head":
        click.echo(
            f"held out: {quality['prefixes']} prefixes of {quality['problems']} problems, mean value "
            f"{quality['mean_value']:.3f} (pass rate of the model {quality['pass_rate']:.3f})"
        )
        click.echo(f"{'AUROC':<44}{'all':>22}{'same problem':>22}{'and same depth':>22}")
        for name, row in {"this head": quality, **quality["against"]}.items():
            cells = (_cell(row[key]) for key in ("auroc", "auroc_within", "auroc_siblings"))
            click.echo(f"{name:<44}" + "".join(f"{cell:>22}" for cell in cells))
        click.echo(
            f"Brier {_cell(quality['brier'])}; a constant has {quality['brier_of_constant']:.3f}. "
            f"Calibration error {_cell(quality['ece'])}; if calibrated {quality['ece_if_calibrated']:.3f}."
        )
    else:
        click.echo(
            f"held out: {quality['tokens']} tokens of {quality['problems']} problems; squared error "
            f"{quality['error']:.4f}, by a constant for each token {quality['error_of_token_means']:.4f}, by one "
            f"constant {quality['error_of_constant']:.4f}; {quality['tokens_seen']} different tokens seen"
        )
        click.echo(f"AUROC of bad tokens (reward below the middle): {_cell(quality['auroc'])}")
    if card["lost"]:
        click.echo(f"lost: {', '.join(f'{n} {kind}' for kind, n in card['lost'].items())}")


def _cell(interval: list[float] | None) -> str:
    return "–" if interval is None else "{:.3f} [{:.3f}, {:.3f}]".format(*interval)
