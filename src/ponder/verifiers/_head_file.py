"""Trained heads on disk: tensors in a safetensors file, and a JSON card beside it that says what they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ponder.errors import MissingExtraError, ParameterError

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class HeadFile:
    """A head as it was saved.

    Attributes:
        path: the safetensors file.
        card: `kind`, `model` (its text), `identity` (its digest), `layers`, settings, measured quality.
        arrays: the tensors by name.
    """

    path: Path
    card: Mapping[str, Any]
    arrays: Arrays


def save_head(folder: Path, card: Mapping[str, Any], arrays: Arrays) -> Path:
    """Write `KIND.safetensors` and `KIND.json` into a folder; the path of the former."""
    path = folder / f"{card['kind']}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    _package().save_file({name: np.array(array, order="C") for name, array in arrays.items()}, path)
    path.with_suffix(".json").write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def load_head(kind: str, given: str) -> HeadFile:
    """The head of a kind in a file, or in the folder that `ponder train-prm` wrote.

    Raises:
        ParameterError: there is none, it is of another kind, or it cannot be read.
    """
    path = Path(given)
    path = path / f"{kind}.safetensors" if path.is_dir() else path
    fix = "Train one with: ponder train-prm --out DIR, and give DIR"
    wanted = f"a file or folder with a trained {kind}"
    card_path = path.with_suffix(".json")
    missing = next((p for p in (path, card_path) if not p.is_file()), None)
    if missing is not None:
        raise ParameterError(kind, "head", given, allowed=wanted, hint=f"{missing} is not there. {fix}")
    try:
        card = json.loads(card_path.read_text(encoding="utf-8"))
        arrays = _package().load_file(path)
    except MissingExtraError:
        raise
    except Exception as error:  # whatever a damaged file makes the readers raise
        raise ParameterError(kind, "head", given, allowed=wanted, hint=f"It cannot be read: {error}. {fix}") from error
    found = card.get("kind") if isinstance(card, dict) else None
    if found != kind:
        raise ParameterError(kind, "head", given, allowed=wanted, hint=f"This one is a {found}")
    return HeadFile(path, card, arrays)


def _package() -> Any:
    try:
        import safetensors.numpy as package
    except ImportError:
        raise MissingExtraError("a trained head", "safetensors", "torch") from None
    return package
