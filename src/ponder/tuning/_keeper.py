"""Trials and proofs of a tuning to rows of a history, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ponder.core.seeds import derive_seed
from ponder.tuning.history import Row, append, read
from ponder.tuning.measure import Measured, value_of
from ponder.tuning.search import Trial, config_key
from ponder.tuning.space import Config, Space
from ponder.tuning.workload import Workload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ponder.tuning.tune import Plan, Proof


@dataclass
class Keeper:
    """Keeps one tuning's rows.

    Args:
        path: of the history; None keeps nothing.

    Attributes:
        run: equal for tunings that do the same.
    """

    space: Space
    workload: Workload
    plan: Plan
    engine: str
    host: Mapping[str, Any]
    features: Mapping[str, float]
    path: Path | None
    run: str = field(init=False)

    def __post_init__(self) -> None:
        told_all = (self.space, str(self.workload), self.plan.objective, self.plan.seed, self.engine,
                    self.host.get("processor"), self.host.get("cores"))  # fmt: skip
        self.run = f"{derive_seed(*map(repr, told_all)):08x}"

    def known(self) -> dict[str, Trial]:
        """Trials of an earlier run of the same tuning, by configuration."""
        rows = [] if self.path is None else read(self.path)
        mine = [r for r in rows if r.run == self.run and r.stage == "search"]
        return {config_key(r.config): _trial(r) for r in mine}

    def keep(self, trial: Trial) -> None:
        """A trial of the search."""
        share = max(trial.values, default=0.0)
        values = {str(s): v for s, v in trial.values.items()}
        value = 0.0 if trial.failure else trial.values[share]
        row = self._row("search", trial.config, value, trial.ratio, values, trial.measured)
        self._append(replace(row, share=share, seconds=trial.seconds, failure=trial.failure, spent_s=trial.spent_s))

    def repetitions(self) -> dict[tuple[str, int], Measured]:
        """Runs of a validation that was not finished, by configuration and repetition."""
        found: dict[tuple[str, int], Measured] = {}
        for row in [] if self.path is None else read(self.path):
            if row.run == self.run and row.stage == "validation":
                found.clear()  # it was finished: the next one measures afresh
            elif row.run == self.run and row.stage == "repetition" and row.measured is not None:
                found |= {(config_key(row.config), int(i)): Measured(**row.measured) for i in row.values}
        return found

    def repeat(self, config: Config, repetition: int, measured: Measured) -> None:
        """One run of the validation."""
        value = value_of(measured, self.plan.objective)
        self._append(self._row("repetition", config, value, 0.0, {str(repetition): value}, measured))

    def prove(self, proofs: Sequence[Proof]) -> None:
        """What the validation saw."""
        for proof in proofs:
            if not proof.failure:
                values = {str(i): v for i, v in enumerate(proof.values)}
                middle = sorted(proof.values)[len(proof.values) // 2]
                self._append(
                    self._row("validation", proof.config, middle, proof.ratio.value, values, proof.measured[0])
                )

    def _row(
        self, stage: str, config: Config, value: float, ratio: float, values: Mapping[str, float],
        measured: Measured | None,
    ) -> Row:  # fmt: skip
        return Row(
            self.run, stage, self.engine, self.space.base, self.features, self.host, str(self.workload),
            self.workload.features(), self.plan.objective, self.space.full(config), config, value, ratio,
            values=values, measured=None if measured is None else asdict(measured), lossy=self.space.is_lossy(config),
        )  # fmt: skip

    def _append(self, row: Row) -> None:
        if self.path is not None:
            append(self.path, row)


def _trial(row: Row) -> Trial:
    measured = None if row.measured is None else Measured(**row.measured)
    values = {float(s): v for s, v in row.values.items()}
    return Trial(row.config, values, row.ratio, row.seconds, row.failure, measured, row.spent_s)
