"""A finished study, looked at without its model: stored completions answer, and nothing is ever sent.

The same strategies, contexts and selectors run on a study's store as ran on the model, so offline
re-selection and export are no second implementation of anything.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import numpy as np

from ponder.api import build_process
from ponder.core.answers import fingerprint
from ponder.core.arrays import unpack_output
from ponder.core.cache import whole_draw_key
from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.model import Capabilities, Completion, Model, Request, Sampling
from ponder.core.problem import Problem, Prompt, Task
from ponder.core.process import Process
from ponder.core.registry import TASKS
from ponder.core.runtime import Runtime
from ponder.core.state import State
from ponder.core.strategy import Pipeline, Strategy, parse_strategy
from ponder.errors import ModelError, ParameterError, StoreError
from ponder.ledger.budget import Budget
from ponder.ledger.spend import Spend
from ponder.processes.frames import Frames
from ponder.studies.plan import Study
from ponder.studies.runner import study_sampling
from ponder.studies.store import StoreReader


@dataclass
class Offline(Model):
    """Stands for the model of a stored study.

    Args:
        told: the model's text form, for tables.
        known: its identity, which the stored keys contain.
        capabilities: what it could do.
    """

    told: str
    known: str
    capabilities: Capabilities = field(default_factory=lambda: Capabilities(logprobs=True, prefix=None))

    name: ClassVar[str] = "offline"

    def __str__(self) -> str:
        return self.told

    @property
    def identity(self) -> str:
        """The stored model's."""
        return self.known

    def count_tokens(self, prompt: Prompt) -> int:
        """Nothing is sent, so no prompt needs room."""
        return 0

    async def sample(self, request: Request) -> AsyncIterator[tuple[int, Completion]]:
        """Refuse: what is asked for is not in the store.

        Raises:
            ModelError: always.
        """
        if request.n:
            raise ModelError(f"the store holds no such draw of {self.told}; a smaller number of samples may be there")
        yield 0, Completion("", 0)


@dataclass(frozen=True)
class StoredOutputs(Process):
    """Stands for the process of a stored study whose outputs are no text: whole draws, or frame after frame.

    Args:
        known: its identity, which the stored keys contain.
        model: stands for its model.
        steps: whether an output is the sequence of what its steps have added (`frames`).
        length: how many steps; 1 for whole draws.
    """

    known: str
    model: Model
    steps: bool = False
    length: int = 1

    name: ClassVar[str] = "stored_outputs"
    draws_whole: ClassVar[bool] = True

    @classmethod
    def of(cls, identity: str, model: Model) -> StoredOutputs | None:
        """For a stored process by its identity; None for one whose outputs are text."""
        name = identity.partition("(")[0].partition(" ")[0]
        if name == "frames":
            told = re.search(r"\bframes=(\d+)", identity)
            return cls(identity, model, True, int(told[1]) if told else Frames.frames)
        return cls(identity, model) if name == "denoising" else None

    @property
    def identity(self) -> str:
        """The stored process's."""
        return self.known

    async def extend(
        self, states: Sequence[State], slots: Sequence[Sequence[int]], ctx: Context
    ) -> AsyncIterator[State]:
        """Stored children; those that are not there are marked as failed."""
        wanted = [(state, slot) for state, own in zip(states, slots, strict=True) for slot in own]
        here = self.steps or ctx.to_end  # a step of a search towards a whole draw is not stored
        keys = [whole_draw_key(self.known, s.problem, ctx.seeds_for(s, [k])[0]) if here else None for s, k in wanted]
        found: list[Any] = await ctx.evaluate_once(
            keys,
            lambda absent: [None] * len(absent),
            costs=[Spend()] * len(keys),
            pack=lambda _: None,
            unpack=lambda _, data: unpack_output(data),
        )
        for (state, slot), kept in zip(wanted, found, strict=True):
            if kept is None:
                yield state.child(slot, None, finish="error", error=f"the store holds no such output of {self.model}")
                continue
            finish = "stop" if state.depth + 1 == self.length else None
            yield state.child(slot, fingerprint(kept[0]), payload=kept[1], log_weight=kept[2], finish=finish)

    def output(self, state: State) -> Any:
        """The stored output."""
        path = [node.payload for node in state.ancestry() if node.parent is not None][::-1]
        return np.stack(path) if self.steps else path[-1] if path else None


@dataclass
class StoredStudy:
    """A study's directory, open for looking at; use it as a context manager.

    Attributes:
        folder: the directory.
        study: its plan.
        task: its task, with the problems' references and the grader.
        store: its stored calls.
        process: the study's process over a model that only remembers.
        sampling: the settings that the stored draws were made with.
    """

    folder: Path
    study: Study
    task: Task
    store: StoreReader
    process: Process
    sampling: Sampling

    @classmethod
    def open(cls, folder: Path, *, task: Task | None = None) -> StoredStudy:
        """Open a directory that `ponder bench` wrote; a run that is under way there is not disturbed.

        Args:
            folder: the directory.
            task: instead of building the one that the study names.

        Raises:
            StoreError: there is no study, it cannot be read, or its task is not what it was.
        """
        store = StoreReader(folder)
        try:
            facts = store.facts
            study = Study.from_toml(folder / "study.toml")
            rules = task or TASKS.build(study.task)
            if rules.identity != facts.get("task", rules.identity):
                raise StoreError(
                    f"{folder} was drawn for the task {facts['task']!r}, which is now {rules.identity!r}; "
                    "restore its data, or run the study anew in another directory"
                )
            model = Offline(study.model, facts.get("model", study.model))
            sampling = study_sampling(study, model, rules, facts.get("logprobs"))
            stored = StoredOutputs.of(facts.get("process", ""), model)
            process = stored or build_process(study.process, study.everything, model)
            return cls(folder, study, rules, store, process, sampling)
        except BaseException:
            store.close()
            raise

    def __enter__(self) -> StoredStudy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.store.close()

    def problems(self) -> Iterator[Problem]:
        """The study's problems, in order."""
        return iter(self.task.problems(self.study.limit, seed=self.study.seed))

    def source(self, text: str | None = None, n: int | None = None) -> Strategy:
        """The strategy whose candidates are looked at, without its selectors, at `n` samples.

        Args:
            text: one of the study's strategies; None takes the one with the most samples.
            n: how many; None takes the most that the study drew.

        Raises:
            ParameterError: the study drew fewer.
        """
        rows = self.study.rows()
        if text is not None:
            wanted = parse_strategy(text)
            rows = [(s, k) for s, k in rows if s in (wanted, wanted.with_samples(k))]
            if not rows:
                have = ", ".join(dict.fromkeys(str(s) for s, _ in self.study.rows()))
                raise ParameterError("select", "strategy", text, allowed=f"one that the study ran ({have})")
        strategy, most = max(rows, key=lambda row: row[1])
        if n is not None and not 1 <= n <= most:
            raise ParameterError("select", "samples", n, allowed=f"from 1 to {most}, which is what the study drew")
        inner = strategy.strategy if isinstance(strategy, Pipeline) else strategy
        return inner.with_samples(n or most)

    def context(self, problem: Problem, budget: Budget | None = None) -> Context:
        """A context in which stored draws come back and no new ones are made; a budget limits those that do."""
        return Context(
            problem,
            self.process,
            task=self.task,
            sampling=self.sampling,
            budget=budget,
            seed=self.study.seed,
            runtime=Runtime(cache=self.store),
        )

    async def candidates(
        self, problem: Problem, source: Strategy, n: int | None = None
    ) -> tuple[Context, list[Candidate]]:
        """What a strategy made of a problem, from stored draws: its finished candidates, at most the first `n`."""
        ctx = self.context(problem)
        result = await source.run(problem, ctx)
        return ctx, [c for c in result.candidates if c.error is None and (n is None or c.index < n)]

    def right(self, problem: Problem, output: object) -> bool | None:
        """Whether an output is right; None if the grader raises."""
        with contextlib.suppress(Exception):  # whatever a grader raises: unknown is not wrong
            return self.task.grade(problem, output).correct
        return None
