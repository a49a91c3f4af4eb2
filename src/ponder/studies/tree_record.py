"""A search as plain data: what `ponder view` shows of one problem."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ponder.core.candidate import Candidate
from ponder.core.judging import prompt_text
from ponder.core.pictures import is_picture, thumbnail
from ponder.core.problem import Task
from ponder.core.search_tree import SearchTree
from ponder.core.state import State
from ponder.core.strategy import Result

MOST_PICTURES, MOST_BYTES = 256, 4_000_000
"""Small pictures in one record, and what they may take together."""


def worth_showing(result: Result) -> bool:
    """Whether there is more to see than a text: a search, or pictures."""
    return result.tree is not None or any(is_picture(c.output) for c in result.candidates)


def tree_record(
    result: Result, task: Task | None = None, preview: Callable[[State], Any] | None = None
) -> dict[str, Any]:
    """The tree of a result with its candidates, which of them were chosen, and how they were graded.

    Pictures stand beside their nodes, small: those of candidates first, then those of what led to them.

    Args:
        result: of any strategy; without a search its tree is that of its candidates alone.
        task: grades candidates; None, or one that raises, leaves them ungraded.
        preview: what an unfinished state is expected to become, for its picture; None leaves those without.
    """
    placed = [c for c in result.candidates if c.state is not None and c.state.finish != "unfinished"]
    ends = [c.state for c in placed if c.state is not None]
    if result.tree is not None:
        nodes = result.tree
    else:
        nodes = SearchTree()
        nodes.add(ends, [next(iter(c.scores.values()), math.nan) for c in placed])
    tree = nodes.as_dict(ends)
    chosen = {id(result.candidates[i]) for i in result.chosen}
    first = sorted(placed, key=lambda c: id(c) not in chosen)
    for row, picture in _pictures(first, nodes.numbered(ends), preview).items():
        tree["nodes"][row]["picture"] = picture
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


def _pictures(
    candidates: Sequence[Candidate], rows: Mapping[State, int], preview: Callable[[State], Any] | None
) -> dict[int, str]:
    """Small pictures by row."""
    if not any(is_picture(c.output) for c in candidates):
        return {}
    found: dict[int, str] = {}
    known = {c.state: c.output for c in candidates if c.state is not None}
    left = MOST_BYTES
    for state in dict.fromkeys((*known, *(s for c in known for s in c.ancestry()), *rows)):
        if len(found) >= MOST_PICTURES or left <= 0:
            break
        output = known[state] if state in known else _previewed(state, preview)
        if (picture := thumbnail(output)) is not None:
            found[rows[state]] = picture
            left -= len(picture)
    return found


def _previewed(state: State, preview: Callable[[State], Any] | None) -> Any:
    try:
        return preview(state) if preview is not None and state.error is None else None
    except Exception:  # a picture that cannot be made must not take the record away
        return None


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
