"""Peak memory of a study with a million stored samples: drawn, killed half-way, resumed, read again and reported.

Each step is a `ponder` command in a process of its own, whose peak resident memory the system tells when it ends.
`again` adds a strategy, so that every stored draw is read back; `replay` finds everything finished.

    python benchmarks/memory.py [--problems 1000] [--samples 1000] [--limit-mib 1024]

It ends with status 1 if a step needed more than the limit. The draws come from `sim:` and take two to three minutes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

TASK = "reasoning_gym:chain_sum(min_terms=2,max_terms=2)"
VOTE, BEST = "repeated_sampling | majority", "repeated_sampling | weighted_majority(weight=probability)"


def stored(folder: Path) -> int:
    """How many draws a store holds by now."""
    try:
        with closing(sqlite3.connect(f"{(folder / 'store.sqlite').as_uri()}?mode=ro", uri=True)) as db:
            return db.execute("SELECT MAX(rowid) FROM draws").fetchone()[0] or 0
    except sqlite3.OperationalError:  # it is still being made
        return 0


def run(command: list[str], folder: Path, kill_at: int | None = None) -> tuple[float, float, int]:
    """Peak MiB, seconds and exit status of a command; killed once so many draws are stored."""
    started = time.perf_counter()
    with (folder.parent / "output.txt").open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    if kill_at is not None:
        while stored(folder) < kill_at and process.returncode is None:
            time.sleep(1)
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                raise SystemExit(f"the study ended before it could be killed (status {status}); give it more samples")
        process.send_signal(signal.SIGKILL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_maxrss / 1024, time.perf_counter() - started, process.returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--limit-mib", type=float, default=1024)
    options = parser.parse_args()
    total = options.problems * options.samples
    scratch = Path(tempfile.mkdtemp(prefix="ponder-memory-"))
    folder = scratch / "study"
    ponder = [str(Path(sys.executable).with_name("ponder"))]
    bench = [*ponder, "bench", "--model", "sim:default", "--task", TASK, "--limit", str(options.problems)]
    bench += ["--samples", str(options.samples), "--out", str(folder), "--strategy", VOTE]
    steps = [
        ("draw, killed half-way", bench, total // 2, -signal.SIGKILL),
        ("resume", bench, None, 0),
        ("replay", bench, None, 0),
        ("again, all draws read", [*bench, "--strategy", BEST], None, 0),
        ("report", [*ponder, "report", str(folder)], None, 0),
    ]
    print(f"{options.problems:,} problems x {options.samples:,} samples")
    print(f"{'':24}{'peak MiB':>10}{'seconds':>10}{'stored':>12}")
    worst = 0.0
    try:
        for name, command, kill_at, expected in steps:
            peak, seconds, status = run(command, folder, kill_at)
            if status != expected:
                raise SystemExit(f"{name} ended with status {status}:\n{(scratch / 'output.txt').read_text()[-2000:]}")
            worst = max(worst, peak)
            print(f"{name:24}{peak:>10.0f}{seconds:>10.1f}{stored(folder):>12,}", flush=True)
        size = sum(f.stat().st_size for f in folder.iterdir()) / 2**20
        print(f"{'files':24}{size:>10.0f} MiB")
    finally:
        shutil.rmtree(scratch)
    if worst > options.limit_mib:
        raise SystemExit(f"the peak of {worst:.0f} MiB is over the limit of {options.limit_mib:g} MiB")


if __name__ == "__main__":
    main()
