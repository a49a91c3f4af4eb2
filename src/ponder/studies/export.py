"""A study's samples as a table: one record per candidate, in JSON lines or Parquet."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import orjson

from ponder.api import run_sync
from ponder.core.problem import Task
from ponder.core.strategy import Pipeline, Strategy
from ponder.errors import MissingExtraError, ParameterError, StoreError
from ponder.studies.offline import StoredStudy

_Sink = Callable[[list[dict[str, Any]]], object]

_BLOCK = 5000
"""Records written at once: memory does not grow with their number."""


async def records(folder: Path, *, task: Task | None = None) -> AsyncIterator[dict[str, Any]]:
    """Every stored candidate, strategy by strategy and problem by problem, with its answer and grade.

    Strategies that draw the same samples (`repeated_sampling` with several selectors) come once, at their
    largest number. A sample that the grader failed on has `correct` None.

    Args:
        folder: a study's directory.
        task: instead of building the one that the study names.

    Raises:
        StoreError: no study there.
    """
    with StoredStudy.open(folder, task=task) as stored:
        sources: dict[str, tuple[Strategy, int]] = {}
        for strategy, budget in stored.study.rows():
            inner = strategy.strategy if isinstance(strategy, Pipeline) else strategy
            if str(inner) not in sources or budget > sources[str(inner)][1]:
                sources[str(inner)] = (inner.with_samples(budget), budget)
        for text, (source, budget) in sources.items():
            for problem in stored.problems():
                for c in (await stored.candidates(problem, source))[1]:
                    yield {
                        "strategy": text,
                        "budget": budget,
                        "problem": problem.id,
                        "index": c.index,
                        "output": c.output if isinstance(c.output, str) else repr(c.output),
                        "answer": None if c.answer is None else str(c.answer),
                        "correct": stored.right(problem, c.output),
                        "logprob": c.logprob,
                        "n_tokens": c.n_tokens,
                        "finish": c.finish,
                        "scores": dict(c.scores),
                    }


def export(folder: str | Path, target: str | Path, *, task: Task | None = None) -> int:
    """Write the `records` of a study to `target` (`.jsonl` or `.parquet`) and return how many there are.

    Args:
        folder: a study's directory.
        target: written whole or not at all.
        task: instead of building the one that the study names.

    Raises:
        ParameterError: another ending.
        MissingExtraError: Parquet without pyarrow.
        StoreError: nothing to export, or the file cannot be written.
    """
    target = Path(target)
    if target.suffix not in (".jsonl", ".parquet"):
        raise ParameterError("export", "target", str(target), allowed="a file ending in .jsonl or .parquet")
    return run_sync(lambda: _write(Path(folder), target, task))


async def _write(folder: Path, target: Path, task: Task | None) -> int:
    count, waiting = 0, list[dict[str, Any]]()
    scratch = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with (_jsonl if target.suffix == ".jsonl" else _parquet)(scratch) as sink:
            async for record in records(folder, task=task):
                waiting.append(record)
                count += 1
                if len(waiting) == _BLOCK:
                    sink(waiting)
                    waiting = []
            sink(waiting)
        if count:
            scratch.replace(target)
    except OSError as error:
        raise StoreError(f"{target} cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
    if not count:
        raise StoreError(f"{folder} holds no stored samples")
    return count


@contextlib.contextmanager
def _jsonl(path: Path) -> Iterator[_Sink]:
    with path.open("wb") as out:
        yield lambda rows: out.writelines(_line(row) for row in rows)


def _line(row: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(row) + b"\n"
    except TypeError:  # lone surrogates, which UTF-8 cannot hold
        return json.dumps(row).encode("ascii") + b"\n"


@contextlib.contextmanager
def _parquet(path: Path) -> Iterator[_Sink]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtraError("Parquet export", "pyarrow", "parquet") from None
    text, whole, real = pa.string(), pa.int64(), pa.float64()
    kinds = {"strategy": text, "budget": whole, "problem": text, "index": whole, "output": text, "answer": text}
    kinds |= {"correct": pa.bool_(), "logprob": real, "n_tokens": whole, "finish": text, "scores": pa.map_(text, real)}
    schema = pa.schema(list(kinds.items()))

    def clean(row: dict[str, Any]) -> dict[str, Any]:
        fixed = {k: v.encode("utf-8", "replace").decode() if isinstance(v, str) else v for k, v in row.items()}
        return {**fixed, "scores": list(row["scores"].items())}

    with pq.ParquetWriter(path, schema) as writer:
        yield lambda rows: writer.write_table(pa.Table.from_pylist([clean(r) for r in rows], schema=schema))
