"""A study's samples as a table: one record per draw, in JSON lines or Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from ponder.api import run_sync
from ponder.errors import MissingExtraError, ParameterError, StoreError
from ponder.studies.stored import stored_samples


async def records(folder: Path) -> list[dict[str, Any]]:
    """Every stored sample of a study's own draws, problem by problem, with its answer and grade.

    Raises:
        StoreError: no study there.
    """
    return [
        {
            "problem": pool.problem.id,
            "index": c.index,
            "output": c.output,
            "answer": None if c.answer is None else str(c.answer),
            "correct": correct,
            "logprob": c.logprob,
            "n_tokens": c.n_tokens,
            "finish": c.finish,
        }
        async for pool in stored_samples(folder)
        for c, correct in zip(pool.candidates, pool.correct, strict=True)
    ]


def export(folder: Path, target: Path) -> int:
    """Write the records to `target` (`.jsonl` or `.parquet`) and return how many there are.

    Raises:
        ParameterError: another ending.
        MissingExtraError: Parquet without pyarrow.
        StoreError: nothing to export, or the file cannot be written.
    """
    if target.suffix not in (".jsonl", ".parquet"):
        raise ParameterError("export", "target", str(target), allowed="a file ending in .jsonl or .parquet")
    rows = run_sync(lambda: records(folder))
    if not rows:
        raise StoreError(f"{folder} holds no stored samples")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix == ".jsonl":
            with target.open("wb") as out:
                out.writelines(orjson.dumps(row) + b"\n" for row in rows)
        else:
            _parquet(rows, target)
    except OSError as error:
        raise StoreError(f"{target} cannot be written: {error.strerror or error}") from error
    return len(rows)


def _parquet(rows: list[dict[str, Any]], target: Path) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError("Parquet export", "pyarrow", "parquet") from None
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), target)
