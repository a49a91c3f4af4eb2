"""Seconds of a decoding step on the real engine beside what the cost model predicts for this machine.

    python benchmarks/decode_time.py [llamacpp] [torch] [--contexts 64,512] [--batches 1,4,16,64] [--out decode.jsonl]
    python benchmarks/decode_time.py --show decode.jsonl

Every text has a context of its own (nothing is shared), so a step reads the weights once and each text's cache;
`shared` lines have one context that all continue. The prediction is `costs.generation` of one token with the weights
counted (`batch`), on the profile of `ponder hardware`: at the peak, reading and computing one after the other; and on a
profile fitted to the engine's other steps (`costs.fit_profile`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ponder import costs
from ponder.engine.backend import Backend, Row
from ponder.engine.engine import BACKENDS, Settings
from ponder.models.catalog import model_file

MODEL = "smollm2-135m"
STEPS = 9


class Texts:
    """Sequences on a backend."""

    def __init__(self, backend: Backend, seed: int = 0) -> None:
        self.backend, self.rng = backend, np.random.default_rng(seed)
        self.lengths: list[int] = []

    def read(self, n: int, context: int) -> None:
        """`n` more, each with a context of its own."""
        for _ in range(n):
            self.backend.evaluate([Row(len(self.lengths), 0, self._tokens(context), 1)])
            self.lengths.append(context)

    def share(self, n: int, context: int) -> None:
        """`n` more that continue the first one's context."""
        for _ in range(n):
            self.backend.fork(0, len(self.lengths), context)
            self.lengths.append(context)

    def step(self) -> float:
        """Seconds of one."""
        rows = [Row(i, length, self._tokens(1), 1) for i, length in enumerate(self.lengths)]
        begin = time.perf_counter()
        self.backend.evaluate(rows)
        self.lengths = [length + 1 for length in self.lengths]
        return time.perf_counter() - begin

    def _tokens(self, n: int) -> list[int]:
        return [int(t) for t in self.rng.integers(100, 40000, n)]


def measure(kind: str, contexts: list[int], batches: list[int]) -> Iterator[dict[str, Any]]:
    """Median step of each batch and context."""
    path = model_file(MODEL, "embedded")
    for context in contexts:
        for shared in (False, True):
            room = max(batches) * (context + STEPS * len(batches) + 64)
            backend = BACKENDS[kind](Settings(path.resolve(), room, max(batches), None, "auto"))
            texts = Texts(backend)
            for batch in batches:
                if shared and batch == 1:
                    texts.read(1, context)
                    continue
                new = batch - len(texts.lengths)
                (texts.share if shared else texts.read)(new, context)
                at = statistics.mean(texts.lengths)
                seconds = sorted(texts.step() for _ in range(STEPS))
                yield {"engine": kind, "context": context, "batch": batch, "shared": shared, "at": at,
                       "seconds": seconds[STEPS // 2], "low": seconds[1], "high": seconds[-2]}  # fmt: skip
            backend.close()


def shape_for(kind: str) -> costs.ModelShape:
    """As the engine holds it: quantised as in the file, or two bytes a weight."""
    found = costs.ModelShape.read(str(model_file(MODEL, "costs")))
    return found if kind == "llamacpp" else replace(found, weight_bytes_per_param=2)


def step_cost(kind: str, row: dict[str, Any], *, all_cells: bool = False) -> costs.Cost:
    """Of one step; with `all_cells` each text goes over the whole cache, whosever it is, which is read once."""
    shape, batch = shape_for(kind), row["batch"]
    context = round(row["at"])
    if all_cells:
        cells = row["context"] + batch * (context - row["context"]) if row["shared"] else batch * context
        return costs.generation(shape, cells, 1, trials=batch, batch=1)
    if row["shared"]:
        return costs.generation(shape, context, 1, trials=batch, batch=1)
    return costs.generation(shape, context, 1, batch=batch).times(batch)


def show(rows: list[dict[str, Any]]) -> None:
    """Each step beside the prediction at the peak, and beside that of a profile fitted to the engine's other steps."""
    here = costs.hardware("here")
    print(f"{here.peak_flops:.3g} FLOP/s, {here.memory_bandwidth:.3g} bytes/s, I = {here.intensity:.1f}")
    for kind, all_cells in (("llamacpp", False), ("llamacpp", True), ("torch", False)):
        mine = [r for r in rows if r["engine"] == kind]
        if not mine:
            continue
        points = [(step_cost(kind, r, all_cells=all_cells), r["seconds"]) for r in mine]
        whole = costs.fit_profile(points, here)
        which = f"{kind}, attending to all cells" if all_cells else kind
        print(f"{which}: fitted {whole.peak_flops:.3g} FLOP/s, caches at "
              f"{whole.kv_bandwidth:.3g} bytes/s, {1000 * whole.step_s:.1f} ms a step")  # fmt: skip
        print("| context | texts | shared | tokens/s | at the peak | measured / peak time | measured / fitted time |")
        for i, (r, (cost, seconds)) in enumerate(zip(mine, points, strict=True)):
            fitted = costs.fit_profile([p for j, p in enumerate(points) if j != i], here)
            n, plain = r["batch"], cost.seconds(here)
            print(f"| {r['context']} | {n} | {'yes' if r['shared'] else 'no'} | {n / seconds:.0f} | {n / plain:.0f} | "
                  f"{seconds / plain:.2f} | {seconds / cost.seconds(fitted):.2f} |")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engines", nargs="*", default=["llamacpp", "torch"])
    parser.add_argument("--contexts", default="64,512")
    parser.add_argument("--batches", default="1,4,16,64")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--show", type=Path)
    given = parser.parse_args()
    if given.show:
        show([json.loads(line) for line in given.show.read_text().splitlines()])
        return
    rows = []
    for kind in given.engines:
        for row in measure(
            kind, [int(c) for c in given.contexts.split(",")], [int(b) for b in given.batches.split(",")]
        ):
            rows.append(row)
            if given.out:
                with given.out.open("a") as f:
                    f.write(json.dumps(row) + "\n")
    show(rows)


if __name__ == "__main__":
    main()
