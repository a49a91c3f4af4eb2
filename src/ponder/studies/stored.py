"""A study's stored samples, rebuilt as candidates without a model."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ponder.api import default_sampling
from ponder.core.candidate import Candidate
from ponder.core.context import Context, Runtime
from ponder.core.problem import Problem, Task, merged_sampling
from ponder.core.registry import TASKS
from ponder.core.verifier import Verifier
from ponder.processes.text_steps import TextSteps
from ponder.studies.offline import Offline
from ponder.studies.plan import Study
from ponder.studies.store import Store, read_identity


@dataclass(frozen=True)
class Stored:
    """One problem's stored samples.

    Attributes:
        problem: what they answer.
        candidates: in draw order.
        correct: the grade of each; None where the grader raised.
        context: one whose draws come from the store.
    """

    problem: Problem
    candidates: Sequence[Candidate]
    correct: Sequence[bool | None]
    context: Context


async def stored_samples(
    folder: Path, n: int | None = None, verifiers: Sequence[Verifier] = ()
) -> AsyncGenerator[Stored, None]:
    """Each problem's stored samples; problems without any are left out.

    Args:
        folder: a study's directory.
        n: how many samples to use; None takes the study's largest number.
        verifiers: score the samples anew.

    Raises:
        StoreError: no study there.
    """
    identity = read_identity(folder)
    study = Study.from_toml(folder / "study.toml")
    task: Task = TASKS.build(study.task)
    model = Offline(study.model, identity["model"])
    base = merged_sampling(default_sampling(study.parsed[0], model), task.sampling, study.sampling)
    settings = [replace(base, logprobs=logprobs) for logprobs in (0, None)]
    sampling = next((s for s in settings if s.key() == identity.get("sampling")), base)
    with Store(folder, {"task": task.identity}) as store:
        for problem in task.problems(study.limit, seed=study.seed):
            ctx = Context(
                problem, TextSteps(model), task=task, sampling=sampling, seed=study.seed, runtime=Runtime(cache=store)
            )
            drawn = await ctx.draw(problem, n or max(k for _, k in study.rows()))
            candidates = [c for c in drawn if c.error is None]
            for verifier in verifiers:
                scores = await ctx.score(problem, candidates, verifier)
                candidates = [
                    c if np.isnan(s) else replace(c, scores={**c.scores, verifier.name: float(s)})
                    for c, s in zip(candidates, scores, strict=True)
                ]
            if candidates:
                yield Stored(problem, candidates, [_correct(task, problem, c) for c in candidates], ctx)


def _correct(task: Task, problem: Problem, candidate: Candidate) -> bool | None:
    try:
        return task.grade(problem, candidate.output).correct
    except Exception:  # recorded when the study ran; unknown is not wrong
        return None
