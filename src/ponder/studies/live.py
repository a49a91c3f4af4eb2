"""How a study under way stands: progress, accuracy so far with intervals, spend against budget, time left.

`LiveState` is fed by the runner that runs the study, or, from another process, by `Follower` from its store.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ponder.core.strategy import Strategy
from ponder.errors import StudyError
from ponder.laws.intervals import wilson_interval
from ponder.ledger.budget import Budget
from ponder.ledger.prices import Price
from ponder.ledger.spend import Spend, completion_spend
from ponder.studies.guard import StudyRuntime
from ponder.studies.offline import StoredStudy
from ponder.studies.outcome import Outcome
from ponder.studies.results import Series

_LIMITS = ("tokens", "generated_tokens", "calls", "cost_usd")


@dataclass
class RowState:
    """One strategy at one number of samples, so far."""

    strategy: str
    budget: int
    done: int = 0
    correct: int = 0
    tokens: float = 0.0
    errors: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain data, with the accuracy and its 95 % interval; None before the first problem."""
        share = wilson_interval(self.correct, self.done) if self.done else None
        return {
            "strategy": self.strategy, "budget": self.budget, "done": self.done, "errors": self.errors,
            "accuracy": share and share.estimate, "low": share and share.low, "high": share and share.high,
            "tokens": self.tokens / self.done if self.done else None,
        }  # fmt: skip


@dataclass
class LiveState:
    """A study under way, as its page shows it (a `ponder.studies.runner.Progress`).

    Args:
        limits: the study's budget.
        clock: seconds that only grow.
    """

    limits: Budget = field(default_factory=Budget)
    clock: Callable[[], float] = time.monotonic
    title: str = ""
    status: str = "starting"
    message: str = ""
    rows: dict[tuple[str, int], RowState] = field(default_factory=dict)
    problems: int = 0
    expected: int = 0
    earlier: Spend = field(default_factory=Spend)
    _fresh: int = 0
    _replayed: int = 0
    _started: float | None = None
    _ended: float | None = None
    _spent: Callable[[], Spend] = Spend

    def watch(self, runtime: StudyRuntime) -> None:
        """Look at what is spent, and at the limits that hold."""
        self.limits, self.earlier = runtime.limits, runtime.already
        self._spent = lambda: runtime.spent

    def count(self, spent: Callable[[], Spend]) -> None:
        """Take what is spent from elsewhere."""
        self._spent = spent

    def plan(self, rows: list[tuple[Strategy, int]], problems: int) -> None:
        """Show rows before anything of them is finished."""
        for strategy, budget in rows:
            self.rows.setdefault((str(strategy), budget), RowState(str(strategy), budget))
        self.problems = problems

    def begin(self, rows: int, problems: int, most: Spend) -> None:
        """It starts."""
        self.problems, self.expected, self.status = problems, rows * problems, "running"
        self._started = self.clock()

    def finished(self, series: Series, outcome: Outcome, replayed: bool) -> None:
        """One problem of one row is done."""
        key = (series.strategy, series.budget)
        row = self.rows.setdefault(key, RowState(*key))
        row.done += 1
        row.correct += outcome.correct
        row.errors += outcome.errors
        row.tokens += sum(float(stage.get("generated_tokens", 0)) for stage in outcome.spend.values())
        if replayed:
            self._replayed += 1
        else:
            self._fresh += 1

    def end(self, status: str, message: str = "") -> None:
        """It is over: `finished`, `stopped` or `failed`, and why."""
        self.status, self.message, self._ended = status, message, self.clock()

    @property
    def done(self) -> int:
        """Finished problems over all rows."""
        return sum(row.done for row in self.rows.values())

    def seconds_left(self) -> float | None:
        """At the pace of what this run finished itself; None before there is one."""
        if self._started is None or self._fresh == 0 or self.status != "running":
            return None
        return (self.expected - self.done) * (self.clock() - self._started) / self._fresh

    def snapshot(self) -> dict[str, Any]:
        """Everything that the page shows, as plain data."""
        until = self.clock() if self._ended is None else self._ended
        elapsed = 0.0 if self._started is None else until - self._started
        spent = self._spent()
        amounts = {
            "tokens": spent.tokens, "generated_tokens": spent.generated_tokens, "calls": spent.model_calls,
            "cost_usd": spent.cost_usd,
        }  # fmt: skip
        before = {
            "tokens": self.earlier.tokens, "generated_tokens": self.earlier.generated_tokens,
            "calls": self.earlier.model_calls, "cost_usd": self.earlier.cost_usd,
        }  # fmt: skip
        limits = [
            {"name": name, "limit": limit, "spent": before[name] + amounts[name]}
            for name in _LIMITS
            if (limit := getattr(self.limits, name)) is not None
        ]
        if self.limits.seconds is not None:
            limits.append({"name": "seconds", "limit": self.limits.seconds, "spent": elapsed})
        rows = sorted(self.rows.values(), key=lambda row: (row.strategy, row.budget))
        return {
            "title": self.title, "status": self.status, "message": self.message, "problems": self.problems,
            "done": self.done, "expected": self.expected, "replayed": self._replayed, "elapsed": elapsed,
            "left": self.seconds_left(), "spent": amounts, "limits": limits, "rows": [row.as_dict() for row in rows],
        }  # fmt: skip


class Follower:
    """Feeds a LiveState from the store of a study that another process runs.

    Args:
        folder: the study's directory.

    Raises:
        StoreError: there is no study in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stored = StoredStudy.open(folder)
        study = self._stored.study
        problems = len(list(self._stored.problems()))
        self.state = LiveState(Budget.parse(study.study_budget), title=f"{study.model} · {study.task}")
        self.state.plan(study.rows(), problems)
        self.state.begin(len(study.rows()), problems, Spend())
        self.state.count(lambda: self._spent)
        self._price: Price = study.prices.get(study.model, (0.0, 0.0, 0.0))
        self._known: set[tuple[str, int, str]] = set()
        self._last, self._spent = 0, Spend()
        self.look(first=True)

    def look(self, *, first: bool = False) -> None:
        """Read what is new; at the first look everything counts as done before."""
        for number, draw in self._stored.store.draws(self._last):
            self._last = number
            cost = completion_spend(draw, prompt_length=0, shape=None, price=self._price, verifying=False)
            self._spent = self._spent + cost
        for strategy, budget, problem, data in list(self._stored.store.outcomes(self._known)):
            self._known.add((strategy, budget, problem))
            if (strategy, budget) in self.state.rows:
                self.state.finished(Series(strategy, budget), Outcome.of(data), first)
        missing = self.state.expected - self.state.done
        if _has_ended(self.folder):
            self.state.end("finished", f"{missing} results had errors, which are not kept" if missing > 0 else "")
        elif not _is_running(self.folder):
            self.state.end("stopped", "no process is running it; the same ponder bench command goes on where it was")
        else:
            self.state.status = "running"

    def close(self) -> None:
        """Let go of the store."""
        self._stored.store.close()


def _has_ended(folder: Path) -> bool:
    """Whether results were written after the run began, which writes its plan first."""
    with contextlib.suppress(OSError):
        return (folder / "results.json").stat().st_mtime_ns >= (folder / "study.toml").stat().st_mtime_ns
    return False


def _is_running(folder: Path) -> bool:
    """Whether the process that last held the study's store is alive."""
    with contextlib.suppress(OSError, ValueError):
        os.kill(int((folder / "store.lock").read_text()), 0)
        return True
    return False


class LiveStopError(StudyError):
    """Somebody stopped the study from its page."""
