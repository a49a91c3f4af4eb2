"""The store of a study: every finished model call, picture and row, in one SQLite file.

Writes of all problems are gathered by one thread and committed together; `put` returns once its
items would survive the process being killed. Reading is by content key.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import math
import os
import sqlite3
import struct
import threading
import zlib
from array import array
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import orjson

from ponder.core.cache import price_of
from ponder.core.model import Completion
from ponder.errors import StoreBusyError, StoreError, StoreMismatchError
from ponder.ledger.spend import Spend

SCHEMA = 1
"""Version of the file's layout; another one is refused."""

_TABLES = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS draws (key BLOB PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS outputs (key BLOB PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS trees (
    strategy TEXT, budget INTEGER, problem TEXT, summary BLOB NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (strategy, budget, problem)
);
CREATE TABLE IF NOT EXISTS outcomes (
    strategy TEXT, budget INTEGER, problem TEXT, data BLOB NOT NULL, PRIMARY KEY (strategy, budget, problem)
) WITHOUT ROWID;
"""

_KEYS_AT_ONCE = 256
"""Content keys in one statement; SQLite allows at least 999."""

_HEAD = struct.Struct("<BddI")
_LOGPROB, _SINGLE, _DOUBLE = 1, 2, 4

_Job = tuple[str, Sequence[tuple[Any, ...]], asyncio.AbstractEventLoop, "asyncio.Future[None]"]


class Store:
    """A study's store; use it as a context manager.

    Args:
        folder: the study's directory, made if it is missing.
        identity: what must be the same for the store to be used again (model, task, seed, …).

    Raises:
        StoreBusyError: another run holds it.
        StoreMismatchError: it belongs to another study, or another version wrote it.
        StoreError: it cannot be read or written.
    """

    def __init__(self, folder: Path, identity: Mapping[str, str]) -> None:
        self.folder, self.path = folder, folder / "store.sqlite"
        self._lock_file: Any = None
        self._jobs: list[_Job] = []
        self._wake = threading.Condition()
        self._closing = False
        self.broken: StoreError | None = None
        self._writer: threading.Thread | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock()
            self._write_db = self._connect()
            self._prepare(identity)
            self._read_db = self._connect()
        except (OSError, sqlite3.Error) as error:
            self._unlock()
            raise _store_error(self.path, error) from error
        except StoreError:
            self._unlock()
            raise
        self._writer = threading.Thread(target=self._write_loop, name="ponder-store", daemon=True)
        self._writer.start()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what is left and let go of the file. Safe to call twice."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._writer is not None:
            self._writer.join()
            self._writer = None
            self._read_db.close()
            self._write_db.close()
        self._unlock()

    # ------------------------------------------------------------------ draws

    def get_many(self, keys: Sequence[bytes]) -> list[Completion | None]:
        """The stored completion of each content key, or None."""
        return _completions(_look_up(self._read_db, self.path, "draws", keys))

    def get_outputs(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The stored output of each content key, or None."""
        return _look_up(self._read_db, self.path, "outputs", keys)

    async def put_outputs(self, items: Sequence[tuple[bytes, bytes]]) -> None:
        """Store outputs that are no text, as bytes; returns after the commit."""
        await self._submit("INSERT OR IGNORE INTO outputs VALUES (?, ?)", items)

    def output_costs(self) -> Iterator[Spend]:
        """What each stored output took."""
        for (head,) in self._read_db.execute("SELECT substr(data, 1, 64) FROM outputs"):
            yield price_of(head)

    async def put(self, items: Sequence[tuple[bytes, Completion]]) -> None:
        """Store completions; returns after the commit.

        Raises:
            StoreError: the disk is full or the file is gone; what was stored before is kept.
        """
        rows = [(key, encode(completion)) for key, completion in items]
        await self._submit("INSERT OR IGNORE INTO draws VALUES (?, ?)", rows)

    def count(self) -> int:
        """How many completions are stored."""
        return int(self._read_db.execute("SELECT COUNT(*) FROM draws").fetchone()[0])

    def completions(self) -> Iterator[Completion]:
        """Every stored completion, in no particular order."""
        for (data,) in self._read_db.execute("SELECT data FROM draws"):
            yield decode(data)

    def fact(self, name: str) -> str | None:
        """Something that was noted about the study, or None."""
        row = self._read_db.execute("SELECT value FROM meta WHERE key = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    async def note(self, name: str, value: str) -> None:
        """Note something about the study."""
        await self._submit("INSERT OR REPLACE INTO meta VALUES (?, ?)", [(name, value)])

    # ------------------------------------------------------------------ outcomes

    async def put_outcome(self, strategy: str, budget: int, problem: str, outcome: Mapping[str, Any]) -> None:
        """Store what became of one problem in one row of the results."""
        row = (strategy, budget, problem, orjson.dumps(outcome))
        await self._submit("INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?, ?)", [row])

    async def put_tree(self, strategy: str, budget: int, problem: str, tree: Mapping[str, Any]) -> None:
        """Store what a search has built, for viewing, and a summary of it for lists."""
        summary = {k: tree[k] for k in ("prompt", "status", "answer", "reference")}
        summary |= {"nodes": len(tree["nodes"]), "right": any(x["chosen"] and x["right"] for x in tree["leaves"])}
        summary["pictures"] = any("picture" in node for node in tree["nodes"])
        row = (strategy, budget, problem, _dumps(summary), zlib.compress(_dumps(tree), 1))
        await self._submit("INSERT OR REPLACE INTO trees VALUES (?, ?, ?, ?, ?)", [row])

    async def forget_outcomes(self) -> None:
        """Drop all outcomes; the draws they were made of stay."""
        await self._submit("DELETE FROM outcomes WHERE strategy IS NOT ?", [(None,)])

    def outcomes(self, strategy: str, budget: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """Problem ids with their stored outcomes."""
        query = "SELECT problem, data FROM outcomes WHERE strategy = ? AND budget = ?"
        for problem, data in self._read_db.execute(query, (strategy, budget)):
            yield problem, orjson.loads(data)

    # ------------------------------------------------------------------ writing

    async def _submit(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
        if self.broken is not None:
            raise self.broken
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        with self._wake:
            if self._closing:
                raise StoreError(f"{self.path} is closed")
            self._jobs.append((statement, rows, loop, done))
            self._wake.notify()
        await done

    def _write_loop(self) -> None:
        while True:
            with self._wake:
                while not self._jobs and not self._closing:
                    self._wake.wait()
                jobs, self._jobs = self._jobs, []
                if not jobs:
                    return
            failure = self.broken
            try:
                if failure is None:
                    with self._write_db:
                        for statement, rows, _, _ in jobs:
                            self._write_db.executemany(statement, rows)
            except Exception as error:  # whoever waits must hear of it, whatever it was
                failure = self.broken = _store_error(self.path, error)
            for _, _, loop, done in jobs:
                with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits any more
                    loop.call_soon_threadsafe(_settle, done, failure)

    # ------------------------------------------------------------------ opening

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=10, check_same_thread=False)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        return db

    def _prepare(self, identity: Mapping[str, str]) -> None:
        version = self._write_db.execute("PRAGMA user_version").fetchone()[0]
        _check_layout(self.path, version)
        with self._write_db:
            self._write_db.executescript(_TABLES)
            self._write_db.execute(f"PRAGMA user_version = {SCHEMA}")
            known = dict(self._write_db.execute("SELECT key, value FROM meta"))
            differing = [k for k in identity if k in known and known[k] != identity[k]]
            if differing:
                told = "; ".join(f"{k} is {known[k]!r} there and {identity[k]!r} here" for k in differing)
                raise StoreMismatchError(f"{self.folder} holds another study: {told}. Use another --out.")
            self._write_db.executemany("INSERT OR IGNORE INTO meta VALUES (?, ?)", identity.items())

    def _lock(self) -> None:
        self._lock_file = (self.folder / "store.lock").open("a+")
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock_file.seek(0)
            holder = self._lock_file.read().strip() or "unknown"
            self._lock_file.close()
            self._lock_file = None
            raise StoreBusyError(
                f"{self.folder} is in use by another run (process {holder}); wait for it, or use another --out"
            ) from None
        self._lock_file.truncate(0)
        self._lock_file.write(str(os.getpid()))
        self._lock_file.flush()

    def _unlock(self) -> None:
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None


class StoreReader:
    """A study's store, only looked at; a run may be writing to it meanwhile (a `ponder.core.cache.Cache`).

    Args:
        folder: the study's directory; it need not be writable.

    Raises:
        StoreError: there is no store, or it cannot be read.
        StoreMismatchError: it has another layout.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "store.sqlite"
        if not self.path.exists():
            raise StoreError(f"{folder} holds no study (no store.sqlite); give a directory that ponder bench wrote")
        uri = self.path.absolute().as_uri()
        for mode in ("mode=ro", "mode=ro&immutable=1"):  # the second for directories that cannot be written
            self._db = sqlite3.connect(f"{uri}?{mode}", uri=True, check_same_thread=False)
            try:
                version = self._db.execute("PRAGMA user_version").fetchone()[0]
                _check_layout(self.path, version)
                self.facts = dict(self._db.execute("SELECT key, value FROM meta"))
                return
            except StoreError:
                self._db.close()
                raise
            except sqlite3.Error as error:
                self._db.close()
                failure = _store_error(self.path, error)
        raise failure

    def get_many(self, keys: Sequence[bytes]) -> list[Completion | None]:
        """The stored completion of each content key, or None."""
        return _completions(_look_up(self._db, self.path, "draws", keys))

    def get_outputs(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The stored output of each content key, or None."""
        if not self._has("outputs"):  # a store of an earlier version
            return [None] * len(keys)
        return _look_up(self._db, self.path, "outputs", keys)

    async def put_outputs(self, items: Sequence[tuple[bytes, bytes]]) -> None:
        """Keep nothing."""
        return None

    def _has(self, table: str) -> bool:
        query = "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name = ?"
        return bool(self._db.execute(query, (table,)).fetchone()[0])

    def trees(self) -> list[dict[str, Any]]:
        """Strategy, budget, problem and summary of each stored search."""
        with contextlib.suppress(sqlite3.OperationalError):  # a store of an earlier version has none
            rows = self._db.execute("SELECT strategy, budget, problem, summary FROM trees").fetchall()
            return [{"strategy": s, "budget": b, "problem": p, **_loads(data)} for s, b, p, data in rows]
        return []

    def tree(self, strategy: str, budget: int, problem: str) -> dict[str, Any] | None:
        """One stored search as plain data, or None."""
        query = "SELECT data FROM trees WHERE strategy = ? AND budget = ? AND problem = ?"
        row = self._db.execute(query, (strategy, budget, problem)).fetchone()
        return None if row is None else dict(_loads(zlib.decompress(row[0])))

    def outcomes(self, known: Container[tuple[str, int, str]] = ()) -> Iterator[tuple[str, int, str, dict[str, Any]]]:
        """Strategy, budget, problem and outcome of every stored outcome that is not known yet."""
        for key in self._db.execute("SELECT strategy, budget, problem FROM outcomes").fetchall():
            if key not in known:
                query = "SELECT data FROM outcomes WHERE strategy = ? AND budget = ? AND problem = ?"
                row = self._db.execute(query, key).fetchone()
                if row is not None:
                    yield *key, orjson.loads(row[0])

    def draws(self, after: int = 0) -> Iterator[tuple[int, Completion]]:
        """Stored completions with their numbers, in the order in which they came, from the one after `after`."""
        for number, data in self._db.execute("SELECT rowid, data FROM draws WHERE rowid > ? ORDER BY rowid", (after,)):
            yield number, decode(data)

    async def put(self, items: Sequence[tuple[bytes, Completion]]) -> None:
        """Keep nothing: a verifier that is asked anew is asked anew the next time, too."""
        return None

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()


def _look_up(
    db: sqlite3.Connection, path: Path, table: Literal["draws", "outputs"], keys: Sequence[bytes]
) -> list[bytes | None]:
    """Of each key what a table holds, in statements of many keys: one of its own for each costs more than the row."""
    found: dict[bytes, bytes] = {}
    try:
        for start in range(0, len(keys), _KEYS_AT_ONCE):
            some = keys[start : start + _KEYS_AT_ONCE]
            places = ",".join("?" * len(some))
            found.update(db.execute(f"SELECT key, data FROM {table} WHERE key IN ({places})", some))
    except sqlite3.Error as error:
        raise _store_error(path, error) from error
    return [found.get(key) for key in keys]


def _completions(found: Sequence[bytes | None]) -> list[Completion | None]:
    return [None if data is None else decode(data) for data in found]


def _check_layout(path: Path, version: int) -> None:
    if version not in (0, SCHEMA):
        raise StoreMismatchError(
            f"{path} has layout {version}, this ponder reads layout {SCHEMA}; "
            "use the version that wrote it, or another --out"
        )


def encode(completion: Completion) -> bytes:
    """A completion as bytes: two numbers, a JSON part, then the token log-probabilities.

    The latter take four bytes each where that loses nothing, else eight. NaN and infinity survive.
    """
    c = completion
    flags, tail = 0 if c.logprob is None else _LOGPROB, b""
    if c.token_logprobs is not None:
        double = array("d", c.token_logprobs)
        single = array("f", c.token_logprobs)
        exact = all(a == b or a != a for a, b in zip(single, double, strict=True))
        flags |= _SINGLE if exact else _DOUBLE
        tail = (single if exact else double).tobytes()
    tops = None if c.top_logprobs is None else [[[t, _text(v)] for t, v in top.items()] for top in c.top_logprobs]
    body = _dumps(
        [c.text, c.n_tokens, c.finish, c.stop_reason, c.prompt_tokens, c.cached_tokens, c.requests, c.tokens, tops]
    )
    return _HEAD.pack(flags, 0.0 if c.logprob is None else c.logprob, c.seconds, len(body)) + body + tail


def decode(data: bytes) -> Completion:
    """The completion that `encode` wrote, equal in every field."""
    flags, logprob, seconds, length = _HEAD.unpack_from(data)
    end = _HEAD.size + length
    text, n, finish, reason, prompt, cached, requests, tokens, tops = _loads(data[_HEAD.size : end])
    floats = None
    if flags & (_SINGLE | _DOUBLE):
        floats = array("f" if flags & _SINGLE else "d")
        floats.frombytes(data[end:])
    return Completion(
        text, n, finish, reason, logprob if flags & _LOGPROB else None, prompt, cached, requests, seconds,
        None if tokens is None else tuple(tokens), None if floats is None else tuple(floats),
        None if tops is None else tuple({t: float(v) for t, v in top} for top in tops),
    )  # fmt: skip


def _text(value: float) -> float | str:
    """JSON has no NaN and no infinity; they are kept as text."""
    return value if math.isfinite(value) else repr(value)


def _dumps(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # lone surrogates, which UTF-8 cannot hold
        return json.dumps(value).encode("ascii")


def _loads(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return json.loads(body)


def _settle(done: asyncio.Future[None], failure: StoreError | None) -> None:
    if done.done():
        return
    if failure is None:
        done.set_result(None)
    else:
        done.set_exception(failure)


def _store_error(path: Path, error: Exception) -> StoreError:
    said = str(getattr(error, "strerror", None) or error)
    if "full" in said.lower() or "no space" in said.lower():
        hint = "free some space and run the same command again: what is finished is kept"
    elif any(word in said.lower() for word in ("malformed", "not a database", "no such table")):
        hint = "the file is damaged; use another --out, or delete it to start over"
    else:
        hint = "check that the directory can be written; what is finished is kept"
    return StoreError(f"{path}: {said}; {hint}")
