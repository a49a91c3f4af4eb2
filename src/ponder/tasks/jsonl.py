"""Problems from a file with one JSON object a line.

`jsonl:PATH(grader=numeric)` with fields `id`, `prompt`, `reference` by default.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson

from ponder.core.registry import task
from ponder.errors import TaskError
from ponder.tasks._records import RecordTask


@task("jsonl")
@dataclass(frozen=True)
class JsonLines(RecordTask):
    """One problem a line; see the fields of `RecordTask`."""

    def __str__(self) -> str:
        return super().__str__()

    @property
    def identity(self) -> str:
        """Its text and what the file holds."""
        return f"{self}@{sha256(self._bytes()).hexdigest()[:16]}{self._grading}"

    def records(self) -> Iterator[tuple[int, str, Mapping[str, Any]]]:
        """Records with their line numbers.

        Raises:
            TaskError: no such file, or a line that is no JSON object.
        """
        lines = self._bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            place = f"{self.location}, line {number}"
            try:
                record = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise TaskError(f"{place}: not JSON ({error})") from None
            if not isinstance(record, dict):
                raise TaskError(f"{place}: a JSON object is expected, not {type(record).__name__}")
            yield number, place, record

    def _bytes(self) -> bytes:
        try:
            return Path(self.location).expanduser().read_bytes()
        except OSError as error:
            raise TaskError(f"jsonl: {self.location} cannot be read: {error.strerror}") from None
