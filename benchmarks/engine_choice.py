"""Which engine settings to try first: a measured history, and what learning from it saves.

    python benchmarks/engine_choice.py collect --seconds 75 --out measured.jsonl     # again until it says: complete
    python benchmarks/engine_choice.py history measured.jsonl --out history.jsonl    # rows that `engine choose` reads
    python benchmarks/engine_choice.py evaluate [history.jsonl]                      # without a file: what ponder ships

Collecting goes on where it was stopped. All settings of a model, engine and workload run side by side, idle but for the
one that is measured, and are measured in turns (A B C, C A B, …) with texts of their own in each round.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ponder.errors import EngineError
from ponder.tuning.bench import ProcessBench
from ponder.tuning.measure import SLO, Measured, value_of
from ponder.tuning.space import Config, space_for
from ponder.tuning.workload import Workload

MODELS = {"llamacpp": ("smollm2-135m", "gemma3-270m"), "embedded": ("smollm2-135m",)}
"""Gemma's sliding windows are nothing that `embedded:` runs."""

WORKLOADS = (
    "single(requests=2, output=[24, 32])",
    "single(requests=1, prompt=[1000], output=[32])",
    "samples(requests=1, samples=16, output=[24, 32], clients=1)",
    "search(requests=8, clients=8, output=[8, 32])",
    "chat(requests=6, output=[16, 32])",
)

SETTINGS: dict[str, tuple[Config, ...]] = {
    "llamacpp": (
        {}, {"threads": 1}, {"threads": 4}, {"parallel": 1}, {"parallel": 4}, {"ubatch": 64}, {"GOMP_SPINCOUNT": 0},
        {"GOMP_SPINCOUNT": 1000000}, {"unified": False}, {"prompt_cache": False}, {"flash": "off"},
        {"parallel": 4, "unified": False},
    ),
    "embedded": (
        {}, {"engine": "llamacpp"}, {"engine": "torch"}, {"threads": 1}, {"engine": "llamacpp", "threads": 1},
        {"engine": "torch", "threads": 1}, {"engine": "llamacpp", "parallel": 4}, {"engine": "torch", "parallel": 4},
        {"parallel": 1}, {"GOMP_SPINCOUNT": 0}, {"GOMP_SPINCOUNT": 1000000}, {"engine": "torch", "GOMP_SPINCOUNT": 0},
    ),
}  # fmt: skip

SEED = 11
_LIMIT_S = 40.0


def cells() -> Iterator[tuple[str, str]]:
    """Each model's text form with each workload."""
    for workload in WORKLOADS:
        for engine, models in MODELS.items():
            for model in models:
                yield f"{engine}:{model}", workload


def read(path: Path) -> list[dict[str, Any]]:
    """Single measurements."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def collect(out: Path, seconds: float, rounds: int) -> bool:
    """Measure for so long; True when nothing is left."""
    end = time.monotonic() + seconds
    for model, workload in cells():
        done = {
            (json.dumps(m["config"]), m["round"]) for m in read(out) if (m["model"], m["workload"]) == (model, workload)
        }
        settings = SETTINGS[model.partition(":")[0]]
        left = [c for c in settings if any((json.dumps(c), r) not in done for r in range(rounds))]
        if not left:
            continue
        if end - time.monotonic() < 20:
            return False
        _cell(out, model, workload, left, done, rounds, end)
    return all(len(_values(out, m, w)) == len(SETTINGS[m.partition(":")[0]]) * rounds for m, w in cells())


def _values(out: Path, model: str, workload: str) -> list[dict[str, Any]]:
    return [m for m in read(out) if (m["model"], m["workload"]) == (model, workload)]


def _cell(
    out: Path, model: str, workload: str, settings: list[Config], done: set[tuple[str, int]], rounds: int, end: float
) -> None:
    load = Workload.parse(workload)
    bench = ProcessBench(space_for(model), load, SLO())

    def keep(config: Config, turn: int, measured: Measured | None, failure: str) -> None:
        told = {"model": model, "workload": workload, "config": config, "round": turn, "failure": failure,
                "measured": None if measured is None else asdict(measured)}  # fmt: skip
        with out.open("a") as f:
            f.write(json.dumps(told) + "\n")

    with ThreadPoolExecutor(2) as pool:
        sessions = list(pool.map(lambda config: bench.open(config, 120.0), settings))
    print(f"{model} {workload}: {len(sessions)} loaded, {end - time.monotonic():.0f} s left", flush=True)
    try:
        for turn in range(rounds):
            for i in range(len(settings)):
                config, session = settings[(i - turn) % len(settings)], sessions[(i - turn) % len(settings)]
                left = end - time.monotonic()
                if (json.dumps(config), turn) in done or left < 3:
                    continue
                try:
                    got = session.measure(seed=SEED, repetition=turn, fraction=1.0, timeout_s=min(_LIMIT_S, left))
                except EngineError as error:
                    if left < _LIMIT_S and "no answer within" in str(error):
                        return  # stopped by us
                    keep(config, turn, None, str(error))
                    continue
                keep(config, turn, got, "")
                print(f"  {turn} {config}: {value_of(got, 'throughput'):.1f} in {got.seconds:.1f} s", flush=True)
    finally:
        for session in sessions:
            session.close()


def history(measured: Path, out: Path) -> None:
    """Single measurements to rows of a history: the median over rounds."""
    import orjson

    from ponder.api import model as read_model
    from ponder.tuning.choose import model_features
    from ponder.tuning.history import Row, engine_version
    from ponder.tuning.history import host as this_host

    where = {k: v for k, v in this_host().items() if k != "load"}
    lines = []
    for model, workload in cells():
        space, load = space_for(model), Workload.parse(workload)
        features = model_features(read_model(model))
        default = 0.0
        seen = _values(measured, model, workload)
        if len({json.dumps(m["config"]) for m in seen}) < len(SETTINGS[space.engine]):
            print(f"left out: {model} {workload}, of which only a part is measured")
            continue
        for config in SETTINGS[space.engine]:
            mine = [m for m in seen if m["config"] == config]
            values = [value_of(Measured(**m["measured"]), "throughput") for m in mine if m["measured"]]
            failure = next((m["failure"] for m in mine if m["failure"]), "")
            value = 0.0 if failure or not values else float(f"{statistics.median(values):.4g}")
            default = default or value
            row = asdict(Row(
                "grid", "search", engine_version(space.engine), model, features, where, str(load), load.features(),
                "throughput", space.full(config), config, value, round(value / default, 4), failure=failure,
                values={str(i): float(f"{v:.4g}") for i, v in enumerate(values)}, lossy=space.is_lossy(config),
            ))  # fmt: skip
            for name in ("measured", "seconds", "share"):
                del row[name]
            lines.append(orjson.dumps(row))
    out.write_bytes(b"\n".join(lines) + b"\n")
    print(f"{len(lines)} rows, {out.stat().st_size / 1000:.0f} kB")


def evaluate(path: Path | None) -> None:
    """How many settings must be measured until one is within 5 % of the best, by the order they are tried in."""
    from ponder.tuning.choose import across, leave_one_out, shipped, usable
    from ponder.tuning.history import read as read_rows

    rows = read_rows(path) if path else shipped()
    for title, some in (("settings of an engine", rows), ("engine and settings", across(rows))):
        found, saved = usable(some), leave_one_out(some)
        if saved is None:
            print(f"{title}: too few groups")
            continue
        sizes = [len(g) for g in found]
        print(f"{title}: {saved.groups} groups of {min(sizes)} to {max(sizes)}, each left out in turn")
        for name, order in saved.orders.items():
            print(f"  {name:<20} {order.tries:5.2f} tries ({order.low:.2f} to {order.high:.2f})   "
                  f"first one {order.regret:6.1%} behind")  # fmt: skip
        noise = [_by_an_earlier_round(g) for g in found if all(len(r.values) > 1 for r in g)]
        print(f"  {'an earlier round':<20} {statistics.mean(noise):5.2f} tries (what noise alone costs)")
        gains = [max(r.value for r in g) / next(r.value for r in g if not set(r.config) - {"in"}) for g in found]
        print(f"  best over default: median {statistics.median(gains):.2f}, from {min(gains):.2f} to {max(gains):.2f}")
        worst = [min(r.value for r in g) / max(r.value for r in g) for g in found]
        print(f"  worst over best: median {statistics.median(worst):.2f}")
    between = [abs(math.log(r.values["0"] / r.values["1"])) for r in rows if len(r.values) > 1]
    print(f"two rounds of the same setting differ by {statistics.median(between):.1%} (median), "
          f"{statistics.quantiles(between, n=20)[-1]:.1%} (95th percentile)")  # fmt: skip


def _by_an_earlier_round(group: list[Any]) -> float:
    """Tries if the settings are ordered by one round and judged by the other; the mean of both ways."""
    tries = []
    for first, second in (("0", "1"), ("1", "0")):
        order = sorted(group, key=lambda r: -r.values[first])
        best = max(r.values[second] for r in group)
        tries.append(1 + next(i for i, r in enumerate(order) if r.values[second] >= 0.95 * best))
    return statistics.mean(tries)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = parser.add_subparsers(dest="do", required=True)
    c = sub.add_parser("collect")
    c.add_argument("--out", type=Path, default=Path("measured.jsonl"))
    c.add_argument("--seconds", type=float, default=75)
    c.add_argument("--rounds", type=int, default=2)
    h = sub.add_parser("history")
    h.add_argument("measured", type=Path)
    h.add_argument("--out", type=Path, required=True)
    e = sub.add_parser("evaluate")
    e.add_argument("history", type=Path, nargs="?")
    given = parser.parse_args()
    if given.do == "evaluate":
        evaluate(given.history)
    elif given.do == "collect":
        print("complete" if collect(given.out, given.seconds, given.rounds) else "to be continued")
    else:
        history(given.measured, given.out)


if __name__ == "__main__":
    main()
