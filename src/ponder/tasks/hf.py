"""Problems from a Hugging Face dataset, on the hub or in a local folder.

`hf:openai/gsm8k(config=main, split=test, prompt=question, reference=answer)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ponder.core.registry import task
from ponder.errors import MissingExtraError, TaskError
from ponder.tasks._records import RecordTask


@task("hf")
@dataclass(frozen=True)
class HuggingFace(RecordTask):
    """One problem a row; see the fields of `RecordTask`.

    Args:
        config: the dataset's configuration.
        split: which split.
        revision: a commit or tag of the dataset's repository.
    """

    config: str | None = None
    split: str = "test"
    revision: str | None = None

    def __str__(self) -> str:
        return super().__str__()

    @property
    def identity(self) -> str:
        """Its text and the fingerprint of the rows."""
        return f"{self}@{self._rows()._fingerprint}{self._grading}"

    def records(self) -> Iterator[tuple[int, str, Mapping[str, Any]]]:
        """Rows with their numbers."""
        for number, row in enumerate(self._rows()):
            yield number, f"{self.location}, split {self.split}, row {number}", row

    def _rows(self) -> Any:
        """The split.

        Raises:
            TaskError: it cannot be reached, or has no such split.
        """
        try:
            import datasets
        except ImportError:
            raise MissingExtraError("the task hf", "datasets", "hf") from None
        folder = Path(self.location).expanduser()
        try:
            if (folder / "dataset_info.json").exists() or (folder / "dataset_dict.json").exists():
                saved = datasets.load_from_disk(str(folder))
                return saved[self.split] if isinstance(saved, datasets.DatasetDict) else saved
            return datasets.load_dataset(self.location, self.config, split=self.split, revision=self.revision)
        except KeyError:
            raise TaskError(f"hf:{self.location} has no split {self.split!r}; it has {', '.join(saved)}") from None
        except Exception as error:
            raise TaskError(
                f"hf:{self.location} (config={self.config}, split={self.split}) cannot be loaded: {error}. "
                "A local folder (save_to_disk, or parquet and JSON files) works without the hub."
            ) from error
