"""Selectors on a study's stored samples: no model, the same draws for all, paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ponder.api import run_sync
from ponder.core.registry import SELECTORS, VERIFIERS
from ponder.core.selector import Selector
from ponder.core.verifier import Verifier
from ponder.errors import StoreError
from ponder.laws.intervals import paired_difference, wilson_interval
from ponder.studies.stored import Stored, stored_samples


@dataclass(frozen=True)
class Reselection:
    """One selector's outcome on stored samples.

    Attributes:
        selector: canonical text.
        k: answers submitted per problem; right if any of them is.
        right: per problem, in the order of `problems`.
        abstained: problems without an answer.
        ties: problems whose choice was between equals.
        fallbacks: problems in which another rule than the asked one decided.
    """

    selector: str
    k: int
    right: tuple[bool, ...]
    abstained: int
    ties: int
    fallbacks: int


async def areselect(
    folder: Path,
    selectors: Sequence[str | Selector],
    *,
    ks: Sequence[int] = (1,),
    n: int | None = None,
    verifiers: Sequence[str | Verifier] = (),
) -> list[dict[str, Any]]:
    """Rows of a table: one per selector and k, with the difference to the first selector.

    Args:
        folder: a study's directory.
        selectors: text forms or objects.
        ks: numbers of answers to submit.
        n: how many of the stored samples to use; None takes the study's largest number.
        verifiers: score the samples anew before selecting (those that call a model ask it for real).

    Raises:
        StoreError: no study there, or its samples are not stored.
        SpecError: an unknown selector.
    """
    chosen = [SELECTORS.build(s) if isinstance(s, str) else s for s in selectors]
    judges = [VERIFIERS.build(v) if isinstance(v, str) else v for v in verifiers]
    pools = [pool async for pool in stored_samples(folder, n, judges)]
    if not pools:
        raise StoreError(f"{folder} holds no stored samples to select from")
    found = [await _select(s, k, pools) for k in ks for s in chosen]
    covered = float(np.mean([any(pool.correct) for pool in pools]))
    samples = max(len(pool.candidates) for pool in pools)
    return [_row(f, next(o for o in found if o.k == f.k), covered, samples) for f in found]


def reselect(folder: Path, selectors: Sequence[str | Selector], **options: Any) -> list[dict[str, Any]]:
    """`areselect` for scripts."""
    return run_sync(lambda: areselect(folder, selectors, **options))


async def _select(selector: Selector, k: int, pools: Sequence[Stored]) -> Reselection:
    right, abstained, ties, fallbacks = [], 0, 0, 0
    for pool in pools:
        selection = await selector.choose(pool.problem, pool.candidates, pool.context, k)
        right.append(any(pool.correct[i] for i in selection.indices))
        abstained += not selection.indices
        ties += selection.tie
        fallbacks += selection.fallback is not None
    return Reselection(str(selector), k, tuple(right), abstained, ties, fallbacks)


def _row(found: Reselection, base: Reselection, covered: float, n: int) -> dict[str, Any]:
    accuracy = wilson_interval(sum(found.right), len(found.right))
    difference = paired_difference(np.asarray(found.right, dtype=float), np.asarray(base.right, dtype=float))
    return {
        "selector": found.selector,
        "k": found.k,
        "samples": n,
        "n_problems": len(found.right),
        "accuracy": round(accuracy.estimate, 6),
        "ci_low": round(accuracy.low, 6),
        "ci_high": round(accuracy.high, 6),
        "coverage": round(covered, 6),
        "difference": round(difference.estimate, 6),
        "difference_low": round(difference.low, 6),
        "difference_high": round(difference.high, 6),
        "abstained": found.abstained,
        "ties": found.ties,
        "fallbacks": found.fallbacks,
    }
