"""`ponder hardware`: measure this machine once, and list others."""

from __future__ import annotations

import click


@click.command("hardware")
@click.argument("name", required=False)
@click.option("--refresh", is_flag=True, help="Measure again, even if it is remembered.")
@click.option("--list", "listing", is_flag=True, help="Show the table of known hardware and measure nothing.")
@click.option("--model", "-m", "model", default="smollm2-135m", show_default=True,
              help="A shape, for which the crossover is shown: a name, a config.json, a .gguf file.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(name: str | None, refresh: bool, listing: bool, model: str, as_json: bool) -> None:
    """Show what NAME (h100, b200, …; by default this machine) can do: peak, bandwidth, intensity.

    This machine is measured once, with a matrix product and a large copy, and remembered in the cache directory.
    """
    from dataclasses import asdict

    from ponder.costs.hardware_probe import remembered
    from ponder.costs.profiles import HARDWARE, HERE, hardware
    from ponder.costs.shape import ModelShape

    if listing:
        rows = [{**asdict(p), "intensity": round(p.intensity, 1)} for p in HARDWARE.values()]
        if as_json:
            import json

            click.echo(json.dumps(rows, indent=2))
            return
        for p in HARDWARE.values():
            click.echo(f"{p.name:<11} {_speed(p)}\n            {p.source}")
        return
    shape = ModelShape.read(model)
    spread, fresh = None, False
    if name in (None, HERE):
        profile, spread, fresh = remembered(again=refresh)
    else:
        profile = hardware(name or HERE)
    operations, everything = shape.crossover_tokens(), shape.crossover_tokens(profile.intensity)
    if as_json:
        import json

        crossover = {"model": model, "flops_tokens": operations, "eflops_tokens": everything}
        told = {**asdict(profile), "intensity": profile.intensity, "spread": spread, "measured_now": fresh}
        click.echo(json.dumps({**told, "crossover": crossover}, indent=2))
        return
    click.echo(
        f"{profile.name}: {_speed(profile)}\n  {profile.source}" + ("" if fresh or spread is None else " (remembered)")
    )
    click.echo(
        f"  {model}: attending costs a token as much as its parameters do from {operations:,.0f} tokens of context on "
        f"in FLOPs, from {everything:,.0f} in eFLOPs on this hardware"
    )
    if spread is not None and spread > 0.2:
        click.echo(click.style(f"warning: the repetitions differ by {spread:.0%}; the machine was busy. Measure again "
                               "with --refresh", fg="yellow"))  # fmt: skip


def _speed(profile: object) -> str:
    from ponder.costs.profiles import HardwareProfile

    assert isinstance(profile, HardwareProfile)
    memory = f", {profile.memory_bytes / 1e9:.0f} GB" if profile.memory_bytes else ""
    return (
        f"{profile.peak_flops / 1e12:.4g} TFLOP/s, {profile.memory_bandwidth / 1e9:.4g} GB/s{memory}, "
        f"I = {profile.intensity:.4g} FLOP/byte"
    )
