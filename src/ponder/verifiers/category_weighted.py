"""Several rewards as one sum, weighted by how well each agrees with human judgement in the prompt's category.

Paper    Kasaei et al. 2025, "CARINOX: Inference-time Scaling with Category-Aware Reward-based Initial Noise
         Optimization and Exploration", §3.
Equal    Σ base · weight(category) · reward, with the weights of a category about 1 on average; a prompt of several
         categories takes the mean of their weights by confidence.
Differs  Weights come from `ponder calibrate-verifiers` (shares of the positive Spearman correlations). The category is
         the problem's `category` in its metadata, or what the file's keywords find in the prompt; else `overall`.
Needs    What the rewards need.    Cost: a call to each reward whose weight is not 0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import orjson

from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.core.registry import VERIFIERS, verifier
from ponder.core.verifier import Scorable, Verifier
from ponder.errors import ParameterError, PonderError

OVERALL = "overall"


@verifier("category_weighted", how="verification:outcome:reward_model")
@dataclass(frozen=True)
class CategoryWeighted(Verifier):
    """A weighted sum of rewards.

    Args:
        rewards: what is added up.
        weights: file written by `ponder calibrate-verifiers --out`; none weighs all alike, by 1. A reward that the file
            has dropped counts nothing.
        base: a factor for each reward, for their different scales; empty is 1 for all.
        category: of every problem; none takes each problem's own.
    """

    rewards: tuple[Verifier, ...]
    weights: str | None = None
    base: tuple[float, ...] = ()
    category: str | None = None

    range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)

    def __post_init__(self) -> None:
        if not self.rewards:
            raise ParameterError(self, "rewards", self.rewards, allowed="at least one verifier")
        if self.base and (len(self.base) != len(self.rewards) or min(self.base) < 0):
            raise ParameterError(
                self, "base", self.base, allowed=f"{len(self.rewards)} numbers ≥ 0, one for each reward"
            )
        object.__setattr__(self, "needs", frozenset[str]().union(*(v.needs for v in self.rewards)))
        object.__setattr__(self, "_table", {} if self.weights is None else self._read(Path(self.weights)))

    _table: ClassVar[Mapping[str, Any]]

    def unweighted(self) -> CategoryWeighted:
        """The plain sum of the same rewards."""
        return replace(self, weights=None, base=())

    def terms(self, problem: Problem) -> list[tuple[float, Verifier]]:
        """Each reward with its factor for this problem; those of factor 0 are left out."""
        base = self.base or (1.0,) * len(self.rewards)
        shares = self._categories(problem)
        found = [
            (b * sum(share * self._weight(c, v) for c, share in shares.items()), v)
            for b, v in zip(base, self.rewards, strict=True)
        ]
        return [(factor, v) for factor, v in found if factor != 0.0]

    async def score(self, problem: Problem, items: Sequence[Scorable], ctx: Context) -> Sequence[float]:
        """One sum per item; NaN where a reward that counts gives none."""
        total = np.zeros(len(items))
        for factor, reward in self.terms(problem):
            total += factor * np.asarray(await reward.score(problem, items, ctx), dtype=float)
        values: list[float] = total.tolist()
        return values

    # ------------------------------------------------------------------ the table

    def _read(self, path: Path) -> Mapping[str, Any]:
        try:
            found: Mapping[str, Any] = orjson.loads(path.read_bytes())
            rows = {c: {_canonical(name): w for name, w in row.items()} for c, row in found["weights"].items()}
            known = {name for row in rows.values() for name in row} | set(map(_canonical, found.get("dropped", ())))
            if OVERALL not in rows:
                raise KeyError(OVERALL)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            allowed = "a JSON file with weights by category and reward, 'overall' among the categories"
            hint = f"{type(error).__name__}: {error}. ponder calibrate-verifiers TABLE.csv --out FILE writes one"
            raise ParameterError(self, "weights", str(path), allowed=allowed, hint=hint) from error
        for reward in self.rewards:
            if str(reward) not in known and reward.name not in known:
                allowed = f"a file that knows {reward}; it knows {', '.join(sorted(known))}"
                raise ParameterError(self, "weights", str(path), allowed=allowed)
        return {"weights": rows, "keywords": found.get("keywords", {})}

    def _weight(self, category: str, reward: Verifier) -> float:
        if not self._table:
            return 1.0
        row = self._table["weights"].get(category, self._table["weights"][OVERALL])
        return float(row.get(str(reward), row.get(reward.name, 0.0)))

    def _categories(self, problem: Problem) -> dict[str, float]:
        """Shares of the categories, which sum to 1."""
        given: Any = self.category or problem.metadata.get("category")
        if isinstance(given, Mapping) and sum(given.values()) > 0:
            return {str(c): float(v) / sum(given.values()) for c, v in given.items()}
        if given and not isinstance(given, Mapping):
            return {str(given): 1.0}
        words = set(re.findall(r"\w+", str(problem.prompt).casefold()))
        named = [c for c, own in self._table.get("keywords", {}).items() if words & {w.casefold() for w in own}]
        return {c: 1.0 / len(named) for c in named} if named else {OVERALL: 1.0}


def _canonical(name: str) -> str:
    """A column's name as a verifier writes itself, whatever defaults it spells out; itself if it is none."""
    try:
        return str(VERIFIERS.build(name))
    except PonderError:
        return name
