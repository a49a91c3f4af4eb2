"""`ponder engine`: which engines there are, what one can do, and which settings are fast here."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ponder.tuning.tune import Tuned


@click.group("engine")
def command() -> None:
    """Compare engines, probe one, and tune its settings for this machine and your workload."""


@command.command("list")
@click.option("--can", multiple=True, help="Only engines known to have this, such as prefix_caching; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_engines(can: tuple[str, ...], as_json: bool) -> None:
    """Show the catalogue of engines: what they are for and what they can do, as far as is known."""
    from dataclasses import asdict

    from ponder.tuning.catalogue import AS_OF, AXES, engines

    found = engines(can)
    if as_json:
        click.echo(json.dumps({"as_of": AS_OF, "engines": [asdict(e) for e in found]}, indent=2))
        return
    click.echo(f"{'engine':<20} {' '.join(f'{a[:10]:>10}' for a in AXES)}   in ponder")
    for e in found:
        axes = " ".join(f"{e.axes.get(a, '-')!s:>10}" for a in AXES)
        click.echo(f"{e.name:<20} {axes}   {e.ponder}")
        click.echo(f"{'':<20} {', '.join(e.can)}")
    click.echo(f"\nFrom 1 (weak) to 3 (strong), {AS_OF}. `ponder engine probe MODEL` measures one.")


@command.command("probe")
@click.argument("model")
@click.option("--max-tokens", type=int, default=20000, show_default=True,
              help="Tokens, prompts included, that the probes may cost; what does not fit is skipped.")  # fmt: skip
@click.option("--refresh", is_flag=True, help="Ask again, even if the answers are remembered.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def probe(model: str, max_tokens: int, refresh: bool, as_json: bool) -> None:
    """Capability card of a MODEL (openai:NAME@URL, llamacpp:NAME, …): what it really does.

    What `ponder check` asks, and: does a repeated prompt start sooner, do requests share batches, does cancelling stop
    the work.
    """
    from dataclasses import asdict

    from ponder.api import model as read_model
    from ponder.api import run_sync
    from ponder.studies.preflight import Finding, preflight
    from ponder.tuning.probes import probe_engine, which_run

    backend = read_model(model)

    async def ask() -> list[Finding]:
        try:
            asked = await preflight(backend, refresh=refresh)
            return [*asked.findings, *await probe_engine(backend, max_tokens=max_tokens)]
        finally:
            await backend.aclose()

    findings = run_sync(ask)
    runs, refused = which_run(backend)
    if as_json:
        card = {"model": model, "findings": [asdict(f) for f in findings], "runs": runs, "refused": refused}
        click.echo(json.dumps(card, indent=2))
        return
    for f in findings:
        click.echo(f"  {f.verdict:<7}  {f.name:<20} {f.detail}")
    click.echo(f"strategies that it can run: {len(runs)} of {len(runs) + len(refused)}")
    for name, why in refused.items():
        click.echo(f"  not {name}: {why}")


@command.command("tune")
@click.option("--model", "-m", required=True, help="llamacpp:smollm2-135m, embedded:…, openai:NAME@URL, …")
@click.option("--workload", "-w", default="chat", show_default=True,
              help="chat, single, samples, search, judge, arrivals; with settings: 'samples(samples=16)'; "
              "or a recorded trace: replay:FILE.")  # fmt: skip
@click.option("--objective", "-o", type=click.Choice(["throughput", "latency", "goodput"]), default="throughput",
              show_default=True, help="Tokens/s, p90 latency, or requests/s that meet the SLO.")  # fmt: skip
@click.option("--slo", default="", help="For the goodput: ttft=SECONDS,tpot=SECONDS; 1 and 0.1 if not given.")
@click.option("--trials", type=int, default=20, show_default=True, help="Configurations besides the default.")
@click.option("--seconds", type=float, default=600, show_default=True, help="Limit of the search, without validation.")
@click.option(
    "--slice",
    "slice_s",
    type=float,
    metavar="SECONDS",
    help="Stop after about so long (exit code 75); the same command goes on.",
)
@click.option("--repetitions", type=int, default=5, show_default=True, help="Of the validation.")
@click.option("--finalists", type=int, default=3, show_default=True, help="Configurations that are validated.")
@click.option("--knob", multiple=True, metavar="NAME=V,V", help="Try only this setting with these values; repeatable.")
@click.option("--lossy", is_flag=True, help="Try settings that change outputs too (quantised cache, precision).")
@click.option("--server", help="Start this server for each configuration of an openai: model: vllm, sglang, …")
@click.option("--seed", type=int, default=0, show_default=True, help="Of lengths, texts and proposals.")
@click.option("--allow-noise", is_flag=True, help="Decide although the machine is busy.")
@click.option("--out", type=click.Path(path_type=Path), help="History to append to and resume from (JSON lines).")
@click.option("--dry-run", is_flag=True, help="Show the settings and the command, and start nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def tune_command(
    model: str, workload: str, objective: str, slo: str, trials: int, seconds: float, slice_s: float | None,
    repetitions: int, finalists: int, knob: tuple[str, ...], lossy: bool, server: str | None, seed: int,
    allow_noise: bool, out: Path | None, dry_run: bool, as_json: bool,
) -> None:  # fmt: skip
    """Find an engine's fastest settings for a workload on this machine, and prove them on a fresh seed."""
    from ponder.errors import TuningPausedError
    from ponder.tuning.bench import ProcessBench
    from ponder.tuning.history import engine_version, history_path
    from ponder.tuning.history import host as this_host
    from ponder.tuning.measure import SLO
    from ponder.tuning.profiles import save_profile
    from ponder.tuning.servers import server_for
    from ponder.tuning.space import parse_knobs, space_for
    from ponder.tuning.tune import Plan, tune
    from ponder.tuning.workload import Workload

    load, limit = Workload.parse(workload), SLO.parse(slo)
    space = space_for(model, server=server)
    if knob:
        space = space.narrowed(parse_knobs(knob))
    if not lossy:
        space = space.lossless()
    launcher = None if server is None else server_for(server, model)
    plan = Plan(objective, trials, seconds, repetitions, finalists, seed, allow_noise, slice_s)
    if dry_run:
        for k in space.knobs:
            click.echo(f"{k.name:<24} {k.where:<7} {', '.join(map(str, k.values))} (default {k.default})")
        if launcher is not None:
            click.echo("command: " + " ".join(launcher.words()))
        return
    features = _features(model)
    try:
        found = tune(
            space, load, ProcessBench(space, load, limit, launcher), plan, engine=engine_version(space.engine),
            host=this_host(), model_features=features, history=out or history_path(),
            report=lambda line: click.echo(line, err=True),
        )  # fmt: skip
    except TuningPausedError as paused:
        click.echo(str(paused), err=True)
        sys.exit(75)
    save_profile(found, engine_version(space.engine))
    if as_json:
        click.echo(json.dumps(_as_dict(found), indent=2))
        return
    _show(found)


@command.command("measure")
@click.option("--model", "-m", "models", multiple=True, required=True, help="As for `tune`; repeat it to compare.")
@click.option("--workload", "-w", default="chat", show_default=True, help="As for `tune`; replay:FILE replays a trace.")
@click.option("--objective", "-o", type=click.Choice(["throughput", "latency", "goodput"]), default="throughput",
              show_default=True, help="What models are compared by.")  # fmt: skip
@click.option("--slo", default="", help="For the goodput: ttft=SECONDS,tpot=SECONDS; 1 and 0.1 if not given.")
@click.option("--repetitions", type=int, default=3, show_default=True, help="In turns, with texts of their own.")
@click.option("--usd-per-hour", type=float, help="Price of this machine, for dollars per tokens and correct answers.")
@click.option("--price", help="PROMPT,CACHED,GENERATED dollars per million tokens of a hosted endpoint instead.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of lengths and texts.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def measure_command(
    models: tuple[str, ...], workload: str, objective: str, slo: str, repetitions: int, usd_per_hour: float | None,
    price: str | None, seed: int, as_json: bool,
) -> None:  # fmt: skip
    """Measure models on a workload as they are, beside each other, and say what it costs."""
    from dataclasses import asdict

    from ponder.ledger.prices import parse_price
    from ponder.tuning.bench import ProcessBench
    from ponder.tuning.measure import SLO
    from ponder.tuning.scorecard import scorecard
    from ponder.tuning.space import space_for
    from ponder.tuning.workload import Workload

    load, limit = Workload.parse(workload), SLO.parse(slo)
    tokens = None if price is None else parse_price(f"all={price}")[1]
    cards = scorecard(
        models, load, lambda model: ProcessBench(space_for(model), load, limit), objective=objective,
        repetitions=repetitions, seed=seed, usd_per_hour=usd_per_hour, price=tokens,
    )  # fmt: skip
    if as_json:
        click.echo(json.dumps([asdict(card) for card in cards], indent=2))
        return
    click.echo(f"{load}, {_UNITS[objective]} (each repetition; ratio to the first)")
    for card in cards:
        each = " ".join(f"{v:.4g}" for v in card.values)
        click.echo(f"  {card.model}: {each}" + (f"; {card.ratio}" if card is not cards[0] else ""))
        _details(card.measured)
        if card.prices:
            middle = sorted(card.prices, key=lambda p: p.run)[len(card.prices) // 2]
            click.echo(f"      {middle}")


@command.command("record")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The trace, as JSON lines.")
@click.option("--rate", type=float, help="Requests a second, arriving at random; without it they have no times.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the arrivals.")
def record(folder: Path, out: Path, rate: float | None, seed: int) -> None:
    """Write the requests of a study as a trace for `--workload replay:FILE`.

    Prompts, lengths that were drawn, and which of them were right.
    """
    from ponder.tuning.replay import study_trace, write_trace

    trace = study_trace(folder, rate=rate, seed=seed)
    write_trace(out, trace)
    click.echo(f"{out}: {len(trace)} requests, {sum(len(r['output_tokens']) for r in trace)} completions; "
               f"use it with --workload replay:{out}")  # fmt: skip


@command.command("choose")
@click.option("--model", "-m", help="For which model to choose; without one only the history is judged.")
@click.option("--workload", "-w", default="chat", show_default=True, help="As for `tune`.")
@click.option("--objective", "-o", type=click.Choice(["throughput", "latency", "goodput"]), default="throughput",
              show_default=True)  # fmt: skip
@click.option("--history", "path", type=click.Path(path_type=Path),
              help="JSON lines; this user's, and what ponder ships, if not given.")  # fmt: skip
@click.option("--across", "over_engines", is_flag=True, help="Choose the engine too, for the model's file.")
@click.option("--top", type=int, default=5, show_default=True, help="How many to show.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def choose_command(
    model: str | None, workload: str, objective: str, path: Path | None, over_engines: bool, top: int, as_json: bool
) -> None:
    """Say which settings to try first, from what was measured on other workloads, models and machines."""
    from dataclasses import asdict

    from ponder.tuning.choose import across, choose, leave_one_out, shipped
    from ponder.tuning.history import history_path, read
    from ponder.tuning.history import host as this_host
    from ponder.tuning.profiles import profile
    from ponder.tuning.space import told
    from ponder.tuning.workload import Workload

    found = read(path) if path else [*shipped(), *read(history_path())]
    rows = [r for r in found if r.objective == objective]
    rows = across(rows) if over_engines else rows
    saved = leave_one_out(rows)
    chosen, known = None, None
    if model is not None:
        here = this_host()
        load = Workload.parse(workload)
        asked = f"any:{model.partition(':')[2]}" if over_engines else model
        chosen = choose(rows, asked, load, _features(model), here)
        known = profile(model, str(load), objective, here)
    if as_json:
        told_all = {
            "chosen": asdict(chosen) if chosen else None,
            "tuned": known,
            "left_out": asdict(saved) if saved else None,
        }
        click.echo(json.dumps(told_all, indent=2))
        return
    if known is not None:
        click.echo(f"tuned here already: {known['spec']}")
    if chosen is not None:
        click.echo(chosen.reason)
        for pick in chosen.picks[:top]:
            against = "average" if over_engines else "default"
            click.echo(f"  {told(pick.config)}: {pick.ratio:.2f} of the {against} expected")
    if saved is None:
        click.echo("the history is too small to say what choosing saves: it takes three groups of two settings or more")
        return
    click.echo(f"left out in turn, {saved.groups} groups: settings tried until one is within 5 % of the group's best, "
               "and how far the first one is behind it")  # fmt: skip
    for name, order in saved.orders.items():
        tries = f"{order.tries:5.2f} tries ({order.low:.2f} to {order.high:.2f})"
        click.echo(f"  {name:<20} {tries}   first one {order.regret:6.1%} behind")


_UNITS = {"throughput": "tokens/s", "latency": "1 / p90 s", "goodput": "requests/s in the SLO"}


def _features(model: str) -> dict[str, float]:
    from ponder.api import model as read_model
    from ponder.tuning.choose import model_features

    return model_features(read_model(model))


def _as_dict(found: Tuned) -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(found), "kept_default": found.kept_default}


def _show(found: Tuned) -> None:
    from ponder.tuning.compare import median_interval
    from ponder.tuning.profiles import BY_THEMSELVES, kind_of
    from ponder.tuning.space import told

    click.echo(
        f"{found.model}, {found.workload}, {_UNITS[found.objective]} "
        "(median, 95 % interval; each repetition; ratio to the default)"
    )
    for proof in found.proofs:
        if proof.failure:
            click.echo(f"  {told(proof.config)}: {proof.failure}")
            continue
        middle, low, high = median_interval(proof.values)
        each = " ".join(f"{v:.4g}" for v in proof.values)
        against = "" if not proof.config else f"; {proof.ratio}, search saw {proof.searched:.2f}"
        click.echo(f"  {told(proof.config)}: {middle:.4g} ({low:.4g} to {high:.4g}); {each}{against}")
        _details(proof.measured)
    for name, by in found.effects.items():
        click.echo(f"  {name}: " + ", ".join(f"{v} {ratio:.2f}" for v, ratio in by.items()))
    failed = [t for t in found.trials if t.failure]
    if failed:
        click.echo(f"  infeasible: {len(failed)} of {len(found.trials)}, such as {told(failed[0].config)}: "
                   f"{failed[0].failure.splitlines()[-1][:200]}")  # fmt: skip
    for note in found.notes:
        click.echo(f"note: {note}")
    if found.kept_default:
        click.echo("keep the default: nothing is better with confidence")
        return
    same = found.sameness
    if same is not None:
        first = "" if same.first_difference is None else f", first difference after {same.first_difference} characters"
        click.echo(
            f"greedy outputs equal to the default's: {same.equal:.0%}{first}" + (" (lossy)" if found.lossy else "")
        )
    kind = kind_of(found.workload)
    if kind in BY_THEMSELVES:
        click.echo(f"{found.model} takes it by itself now; profile=none leaves it")
    else:
        click.echo(f"remembered: the setting profile={kind} takes it")
    before = " ".join(f"{n}={v}" for n, v in found.environment.items())
    click.echo(
        f"use: {before + ' ' if before else ''}{found.spec}"
        + (f"   server: {' '.join(found.flags)}" if found.flags else "")
    )


def _details(measured: Any) -> None:
    from statistics import median

    def middle(get: Any) -> str:
        known = [get(m) for m in measured if get(m) is not None]
        return f"{median(known):.3g}" if known else "-"

    click.echo(
        "      p50/p90/p99 s: "
        + ", ".join(
            f"{name} " + "/".join(middle(lambda m, n=name, q=q: getattr(m, n).get(q)) for q in ("p50", "p90", "p99"))
            for name in ("ttft", "tpot", "latency")
        )
        + f"; {middle(lambda m: m.requests_per_s)} requests/s, goodput {middle(lambda m: m.goodput)}; prompt tokens "
        f"evaluated {middle(lambda m: m.evaluated_tokens)}, reused {middle(lambda m: m.cached_tokens)}; peak "
        f"{middle(lambda m: m.peak_rss_bytes / 1e6)} MB"
    )
