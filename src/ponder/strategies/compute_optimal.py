"""Compute-optimal: estimate how hard the problem is, and use what a table says suits that difficulty at this budget.

Paper    Snell et al. 2024, "Scaling LLM Test-Time Compute Optimally can be More Effective than Scaling Model
         Parameters"; Liu et al. 2025, "Can 1B LLM Surpass 405B LLM?" (bands, the verifier in the key).
Equal    Difficulty by the mean verifier score of a probe, or known; a strategy for each bin and budget, learnt with
         two-fold cross-validation inside each bin.
Differs  The probe is in the ledger, as a stage of its own, and its samples are the first that a strategy of whole
         outputs draws: only a search by steps pays for its own beside them. Vote shares and numbers that problems carry
         are difficulties too. Where the table brings nothing over the best single strategy, it is that strategy.
Needs    A table (`ponder allocate fit`); a verifier if the table says so.
Cost     The chosen strategy, and what the probe drew beyond it.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from ponder.core.context import Context
from ponder.core.difficulty import DifficultyTable, Probe, carried, probe_difficulty, verifier_key, with_verifier
from ponder.core.problem import Problem
from ponder.core.registry import SELECTORS, VERIFIERS, strategy
from ponder.core.strategy import Result, Strategy, parse_strategy
from ponder.core.verifier import Verifier
from ponder.errors import ParameterError, StudyError

_PLAIN = "repeated_sampling | majority"


@strategy("compute_optimal", what="parallel, hybrid", how="search, verification", where="any")
@dataclass(frozen=True)
class ComputeOptimal(Strategy):
    """Use what suits the problem's difficulty.

    Args:
        table: file that `ponder allocate fit` wrote; without one every problem gets a plain vote.
        n: samples of the chosen strategy, the table's budget; None takes the study's number of samples. Between two
            budgets the lower one is used, with a warning.
        verifier: the one that is there; it must be the one that the table was fitted with. None is that one.
        other_verifier: what happens if it is another: `refuse`, or `replace` it in the strategies, with a warning.
    """

    table: str = ""
    n: int | None = None
    verifier: Verifier | None = None
    other_verifier: Literal["refuse", "replace"] = "refuse"

    def __post_init__(self) -> None:
        if self.n is not None and self.n < 1:
            raise ParameterError(self, "n", self.n, allowed="an integer ≥ 1")
        if not self.table:
            return
        table = self._table
        if self.n is not None:
            try:
                nearest = table.nearest(self.n)
            except StudyError as error:
                raise ParameterError(
                    self, "n", self.n, allowed=f"from {table.budgets[0]} on", hint=str(error)
                ) from None
            if nearest != self.n:
                warnings.warn(
                    f"{self.table} has no budget {self.n}; the next lower one, {nearest}, is used", stacklevel=2
                )
        if self.verifier is not None and table.verifier and str(self.verifier) != table.verifier:
            if self.other_verifier == "refuse":
                raise ParameterError(
                    self, "verifier", str(self.verifier), allowed=f"the table's, {table.verifier}",
                    hint="which strategy is best depends on the verifier: fit a table with this one, "
                    "or say other_verifier=replace",
                )  # fmt: skip
            warnings.warn(
                f"{self.table} was fitted with {table.verifier}, not with {self.verifier}: its choices may be wrong",
                stacklevel=2,
            )

    @property
    def _table(self) -> DifficultyTable:
        path = Path(self.table)
        return _load(path, path.stat().st_mtime_ns if path.exists() else 0)

    def _choices(self) -> list[Strategy]:
        """Everything that may be run."""
        if not self.table:
            return [parse_strategy(_PLAIN)]
        table = self._table
        texts = [c.strategy for c in table.cells] + [level.fixed for level in table.levels]
        return [self._parsed(text) for text in dict.fromkeys(texts)]

    def _parsed(self, text: str) -> Strategy:
        chosen = parse_strategy(text)
        return chosen if self.verifier is None else with_verifier(chosen, self.verifier)

    @property
    def requires(self) -> frozenset[str]:
        """What any of its strategies, and the probe, need."""
        probe = self._probe_verifier()
        needs = probe.needs if probe is not None else frozenset[str]()
        return super().requires.union(needs, *(choice.requires for choice in self._choices()))

    @property
    def stepwise(self) -> bool:  # type: ignore[override]
        """Whether any of its strategies works on steps."""
        return any(choice.stepwise for choice in self._choices())

    def _probe_verifier(self) -> Verifier | None:
        if not self.table or self._table.by != "predicted":
            return None
        built: Verifier = self.verifier or VERIFIERS.build(self._table.probe_verifier)
        return built

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Probe, look up, run."""
        n = self.n or 1
        if not self.table:
            return await parse_strategy(_PLAIN).with_samples(n).run(problem, ctx.child(problem))
        table = self._table
        _check_model(table, ctx)
        budget = table.nearest(n)
        probe = Probe()
        if not table.level(budget).degenerate:  # else the answer would change nothing
            probe = await self._probe(table, problem, ctx)
        difficulty, probed = probe.difficulty, probe.candidates
        text = table.strategy(difficulty, budget)
        known = not math.isnan(difficulty)
        details: dict[str, Any] = {
            "difficulty": difficulty if known else None,
            "bin": table.bin_of(difficulty) if known else None,
            "assigned": text,
            "probe": len(probed),
        }
        inner = ctx.child(problem)
        inner.reuse(probed, self._probe_verifier(), probe.scores)
        result = await self._parsed(text).run(problem, inner)
        if not any(c.error is None for c in result.candidates) and any(c.error is None for c in probed):
            result = await ctx.select(ctx.result(probed), SELECTORS.build("majority"))
        return replace(result, spend=ctx.ledger.stages, details={**result.details, **details})

    async def _probe(self, table: DifficultyTable, problem: Problem, ctx: Context) -> Probe:
        """Without a difficulty the best single strategy is used."""
        if table.by == "metadata":
            return Probe(carried(problem, table.key))
        if table.by == "oracle":
            return Probe(table.difficulties.get(problem.id, math.nan))
        inner = ctx.child(problem)
        inner.ledger = type(ctx.ledger)()
        try:
            return await probe_difficulty(problem, inner, table.probe, self._probe_verifier())
        finally:
            ctx.ledger.charge("probe", inner.ledger.total)


@lru_cache(maxsize=32)
def _load(path: Path, changed: int) -> DifficultyTable:
    """A table, read again when the file has changed."""
    table = DifficultyTable.load(path)
    if table.verifier != (found := verifier_key([parse_strategy(c.strategy) for c in table.cells])) and found:
        used = set(found.split(", ")) - set(table.verifier.split(", "))
        if used:
            raise StudyError(f"{path}: its strategies use {', '.join(sorted(used))}, its key says {table.verifier}")
    return table


def _check_model(table: DifficultyTable, ctx: Context) -> None:
    model = getattr(ctx.process, "model", None)
    if model is not None and str(model) != table.model:
        warnings.warn(
            f"the table was fitted with {table.model}, not with {model}: what is hard differs between models",
            stacklevel=2,
        )
