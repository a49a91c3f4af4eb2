"""`ponder VERB …`: each verb is a file beside this one, imported only when it is called."""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

import click

VERBS = {
    "solve": "Answer one prompt, spending compute as a strategy says.",
    "bench": "Measure strategies on a task: quality against compute.",
    "sweep": "Change one trick after the other, on several tasks.",
    "recommend": "Say which strategy and budget to use, from a study or a pilot.",
    "allocate": "Learn which strategy suits which difficulty, from studies.",
    "tune": "Search a strategy's parameters for the best quality at every cost.",
    "kinetics": "Weigh model size against trials and length, from studies of several models.",
    "protocol": "Bound what a model could do: average, worst and best of N runs, attempts with feedback.",
    "report": "Write a study's report and plots.",
    "view": "Look at the search trees of a study in a browser.",
    "train-prm": "Train a small reward model on a model's own hidden states.",
    "select": "Re-select a study's stored samples, without a model.",
    "check": "Find out what a model, a task and a verifier can do.",
    "calibrate-verifiers": "Weigh rewards by how well they agree with human judgement.",
    "export-pairs": "Write prompts that a search improved, for training a rewriter.",
    "laws": "List scaling laws, fit one, evaluate one.",
    "list": "Show every technique.",
    "models": "Fetch and list models.",
    "engine": "List engines, probe one, tune its settings for this machine.",
    "hardware": "Measure this machine, and list others, for costs.",
}


class _Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"ponder.cli.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(args[0], VERBS, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            ctx.fail(f"No verb {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ponder")
def cli() -> None:
    """Spend compute at inference time; get better output, and know what it is worth."""


def main() -> None:
    """Run a verb; an expected error is one message and exit code 1, without a traceback."""
    from ponder.errors import PonderError

    try:
        cli(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(141)
    except PonderError as error:
        if "--json" in sys.argv:
            click.echo(json.dumps({"error": type(error).__name__, "message": str(error)}))
        else:
            click.echo(f"{type(error).__name__}: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
