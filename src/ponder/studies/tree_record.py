"""A search as plain data: what `ponder view` shows of one problem."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ponder.core.judging import prompt_text
from ponder.core.problem import Task
from ponder.core.strategy import Result


def tree_record(result: Result, task: Task | None = None) -> dict[str, Any]:
    """The tree of a result with its candidates, which of them were chosen, and how they were graded.

    Args:
        result: of a strategy that searched (`result.tree` is there).
        task: grades candidates; None, or one that raises, leaves them ungraded.
    """
    assert result.tree is not None
    placed = [c for c in result.candidates if c.state is not None and c.state.finish != "unfinished"]
    tree = result.tree.as_dict([c.state for c in placed if c.state is not None])
    chosen = {id(result.candidates[i]) for i in result.chosen}
    leaves = [
        {
            "node": node,
            "answer": None if c.answer is None else str(c.answer),
            "scores": {k: _finite(v) for k, v in c.scores.items()},
            "chosen": id(c) in chosen,
            "right": _grade(task, result, c.output),
        }
        for node, c in zip(tree.pop("leaves"), placed, strict=True)
    ]
    return {
        "problem": result.problem.id,
        "prompt": prompt_text(result.problem),
        "reference": None if result.problem.reference is None else str(result.problem.reference),
        "status": result.status,
        "reason": result.reason,
        "answer": None if result.answer is None else str(result.answer),
        "details": _plain(result.details),
        "leaves": leaves,
        **tree,
    }


def _grade(task: Task | None, result: Result, output: Any) -> bool | None:
    if task is None:
        return None
    try:
        return task.grade(result.problem, output).correct
    except Exception:  # the viewer shows an ungraded leaf; the failure is recorded where outcomes are
        return None


def _finite(value: float) -> float | None:
    return value if value == value and abs(value) != float("inf") else None


def _plain(value: Any) -> Any:
    """As JSON holds it: mappings, lists, numbers and texts."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return _finite(float(value)) if isinstance(value, float) else str(value)
