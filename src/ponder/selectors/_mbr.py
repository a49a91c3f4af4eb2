"""Expected utility of each candidate over the evidence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ponder.core.pool import Bools, Floats, Ints
from ponder.errors import CapabilityError
from ponder.selectors._utilities import LEXICAL, cosine, pairwise

Embed = Callable[[Sequence[str]], Any]
Utility = Callable[[Any, Any], float]


def expected_utility(
    utility: Floats,
    item: Ints,
    weights: Floats,
    *,
    selectable: Bools | None = None,
    include_self: bool = False,
) -> Floats:
    """Mean utility of each sample over the others, shape (N,); NaN where it may not be selected.

    Args:
        utility: (T, T) over distinct texts, u(candidate, evidence).
        item: which text each sample is, shape (N,).
        weights: of each sample as evidence, ≥ 0, shape (N,); all 0 counts as all 1.
        selectable: which samples may be selected; None for all. All samples are evidence.
        include_self: count a sample's utility with itself too.
    """
    if not weights.any():
        weights = np.ones(len(item))
    mass = np.bincount(item, weights=weights, minlength=len(utility))
    gained = (utility * mass).sum(axis=1)[item]
    total = np.full(len(item), float(weights.sum()))
    if not include_self:
        gained = gained - weights * utility[item, item]
        total = total - weights
    value = np.where(total > 0, gained / np.where(total > 0, total, 1.0), 0.0)
    return value if selectable is None else np.where(selectable, value, np.nan)


def distinct_items(things: Sequence[Any]) -> tuple[Ints, list[Any]]:
    """Which distinct thing each one is, and the distinct ones by first appearance."""
    seen: dict[str, int] = {}
    items: list[Any] = []
    numbers = []
    for thing in things:
        number = seen.setdefault(f"{type(thing).__name__}:{thing!r}", len(seen))
        numbers.append(number)
        if number == len(items):
            items.append(thing)
    return np.asarray(numbers, dtype=np.intp), items


def pure_matrix(
    owner: str, utility: str, items: Sequence[Any], function: Utility | None, embed: Embed | None
) -> Floats:
    """The (T, T) utilities that no model has to be asked for.

    Raises:
        CapabilityError: the utility needs a model, and there is more than one item to compare.
    """
    if function is not None:
        return pairwise(function, items)
    if utility in LEXICAL:
        return LEXICAL[utility]([str(i) for i in items])
    if utility == "embedding" and embed is not None:
        return cosine(embed([str(i) for i in items]))
    if len(items) == 1:
        return np.ones((1, 1))
    if utility == "embedding":
        raise CapabilityError(
            f"{owner} with utility=embedding needs embeddings. Give embed=… (a function from texts to vectors), or run "
            f"it with a model that has an `embed` method, or use another utility."
        )
    raise CapabilityError(
        f"{owner} with utility=judge asks a model, which select() cannot. Run it in a strategy, as in "
        f"'repeated_sampling(n=8) | {owner}(utility=judge)', or call await selector.choose(problem, candidates, ctx)."
    )
