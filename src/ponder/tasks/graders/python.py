"""The user's own function."""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from ponder.core.problem import Problem
from ponder.errors import GraderError, TaskError
from ponder.tasks.graders.base import Grader, grader


@grader("python")
@dataclass(frozen=True)
class Python(Grader):
    """Calls `function(output, answer, reference, metadata)`, which returns True, False or a credit in [0, 1].

    The function is yours and runs in this process; model-written code must not be run by it.

    Args:
        path: `file.py:function` or `package.module:function`.
    """

    path: str = ""

    def __post_init__(self) -> None:
        _function(self.path)

    @property
    def identity(self) -> str:
        """Its text and what the file holds."""
        where = Path(self.path.rpartition(":")[0])
        return f"{self}@{sha256(where.read_bytes()).hexdigest()[:16]}" if where.suffix == ".py" else str(self)

    @property
    def needs_reference(self) -> bool:
        """The function decides; None reaches it where there is no reference."""
        return False

    def extract(self, output: str) -> str | None:
        """The final answer, or the whole output, so that the function sees outputs such as programs too."""
        return super().extract(output) or output.strip() or None

    def score(self, problem: Problem, output: str, answer: str) -> float:
        """What the function returns.

        Raises:
            GraderError: the function raised, or returned something that is no credit.
        """
        try:
            returned = _function(self.path)(output, answer, problem.reference, problem.metadata)
        except Exception as error:
            raise GraderError(f"{self.path} raised {type(error).__name__} on {problem.id}: {error}") from error
        try:
            credit = float(returned)
        except (TypeError, ValueError):
            credit = math.nan
        if not 0 <= credit <= 1:
            raise GraderError(
                f"{self.path} returned {returned!r} on {problem.id}; True, False or a credit that lies in [0, 1] is due"
            )
        return credit


@lru_cache(maxsize=32)
def _function(path: str) -> Callable[..., Any]:
    where, sign, name = path.rpartition(":")
    if not sign:
        raise TaskError(f"grader python: path={path!r} must be file.py:function or package.module:function")
    try:
        if where.endswith(".py"):
            spec = importlib.util.spec_from_file_location(
                f"ponder_grader_{Path(where).stem}_{sha256(where.encode()).hexdigest()[:8]}", where
            )
            if spec is None or spec.loader is None:
                raise ImportError(f"{where} cannot be loaded")
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module  # dataclasses and pickle look modules up there
            try:
                spec.loader.exec_module(module)
            except BaseException:
                del sys.modules[spec.name]
                raise
        else:
            module = importlib.import_module(where)
        found: Callable[..., Any] = getattr(module, name)
    except Exception as error:
        raise TaskError(f"grader python: {path} cannot be loaded: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise TaskError(f"grader python: {path} is {type(found).__name__}, not a function")
    return found
