"""A process reward model from nothing but a grader: values by Monte-Carlo rollouts, and a head on frozen states.

Paper    Wang et al. 2024, "Math-Shepherd: Verify and Reinforce LLMs Step-by-step without Human Annotations"; Snell et
         al. 2024, "Scaling LLM Test-Time Compute Optimally", app. D.
Equal    A prefix's label is the share of k rollouts from it that end correct (soft estimation); binary cross-entropy to
         it. Finished answers are prefixes, too, labelled by the grader.
Differs  The model is frozen and only a head on its hidden states is trained, minutes on a processor instead of days on
         GPUs. Equal texts of a problem are one prefix, rolled out once. The empty prefix is labelled, too.
Needs    A task with a grader, a GGUF model in this process (extra `torch`), a process with more than one step.
Cost     About traces · steps · rollouts completions a problem, less what equal prefixes save; all through the cache, so
         that a killed run pays for nothing twice.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ponder.api import build_process
from ponder.core.context import Context
from ponder.core.model import Model, Sampling
from ponder.core.problem import Problem, Task, merged_sampling
from ponder.core.process import Process
from ponder.core.registry import recipe
from ponder.core.runtime import Runtime
from ponder.core.state import State
from ponder.core.verifier import Verifier
from ponder.errors import ParameterError, TaskError
from ponder.laws.calibration import brier_score, measure_calibration
from ponder.ledger.budget import Budget, Meter
from ponder.ledger.spend import Ledger, Spend
from ponder.recipes._value_head_fit import fit_value_head, ranking, split_problems
from ponder.studies.store import Store
from ponder.verifiers._head_file import save_head
from ponder.verifiers._hidden_states import Floats, HiddenStates, hidden_states
from ponder.verifiers.value_head import values_of

FEWEST_PROBLEMS = 10

Told = Callable[[str], None]


@dataclass(frozen=True)
class LabelledPrefix:
    """A partial answer and how often it ends well.

    Attributes:
        state: the prefix.
        text: what it says.
        finished: whether nothing follows; then its value is its grade.
        value: share of rollouts that ended correct, in [0, 1].
        rollouts: how many that is a share of.
    """

    state: State
    text: str
    finished: bool
    value: float
    rollouts: int

    def as_dict(self) -> dict[str, Any]:
        """Plain data, one line of `labels.jsonl`."""
        mine = {k: v for k, v in vars(self).items() if k != "state"}
        return {"problem": self.state.problem.id, "depth": self.state.depth, **mine}


@dataclass
class Labels:
    """Labelled prefixes of many problems, and what they cost.

    Attributes:
        contexts: one a problem.
        prefixes: in the order of the problems.
        failures: what was lost, by kind.
    """

    contexts: dict[str, Context]
    prefixes: list[LabelledPrefix]
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def spend(self) -> Spend:
        """Of all problems together."""
        return sum((ctx.ledger.total for ctx in self.contexts.values()), Spend())


async def label_prefixes(ctx: Context, *, traces: int, rollouts: int) -> list[LabelledPrefix]:
    """Draw answers step by step, then roll out every distinct prefix of them.

    Args:
        ctx: of one problem; its task grades.
        traces: answers drawn.
        rollouts: continuations of each prefix that is not finished.

    Returns:
        Prefixes with at least one graded rollout, the empty one first. A rollout that failed, was not affordable or
        could not be graded does not count; what the grader raised is in `ctx.failures`.
    """
    process, level, counts = ctx.process, [ctx.root()], [traces]
    found: dict[Any, State] = {_key(ctx, level[0]): level[0]}
    while level:
        children = [child for group in await ctx.extend(level, counts) for child in group]
        for child in children:
            found.setdefault(_key(ctx, child), child)
        level = [child for child in children if not process.done(child)]
        counts = [1] * len(level)
    open_states = [state for state in found.values() if not process.done(state)]
    ends = dict(zip(open_states, await _roll_out(ctx, open_states, rollouts), strict=True))
    verdicts: dict[Any, float | None] = {}
    out = []
    for state in found.values():
        leaves = ends.get(state, [state])
        graded = [v for leaf in leaves if (v := _verdict(ctx, leaf, verdicts)) is not None]
        if graded:
            text = str(process.output(state) or "")
            out.append(LabelledPrefix(state, text, state not in ends, float(np.mean(graded)), len(graded)))
    return out


async def _roll_out(ctx: Context, states: Sequence[State], rollouts: int) -> list[list[State]]:
    """Finished continuations of each state; a process that cannot finish in one stretch goes on step by step."""
    groups = await ctx.extend(states, [rollouts] * len(states), to_end=True)
    origin = {child: i for i, group in enumerate(groups) for child in group}
    ended: list[list[State]] = [[] for _ in states]
    while origin:
        for state, i in origin.items():
            if ctx.process.done(state):
                ended[i].append(state)
        going = [state for state in origin if not ctx.process.done(state)]
        longer = await ctx.extend(going, [1] * len(going), to_end=True)
        origin = {child: origin[s] for s, group in zip(going, longer, strict=True) for child in group}
    return ended


def _key(ctx: Context, state: State) -> Any:
    """What makes two prefixes one: the same text; for processes without text, nothing."""
    output = ctx.process.output(state)
    return (output, ctx.process.done(state)) if isinstance(output, str) else state


def _verdict(ctx: Context, leaf: State, known: dict[Any, float | None]) -> float | None:
    """1 or 0; None if the grader raised."""
    key = _key(ctx, leaf)
    if key not in known:
        assert ctx.task is not None
        try:
            known[key] = float(ctx.task.grade(ctx.problem, ctx.process.output(leaf)).correct)
        except Exception as error:  # concerns this answer only, and is shown in the summary
            ctx.note_failure("grade", error)
            known[key] = None
    return known[key]


async def rollout_labels(
    task: Task, process: Process, problems: Sequence[Problem], *, traces: int, rollouts: int, seed: int = 0,
    sampling: Sampling | None = None, runtime: Runtime | None = None,
) -> Labels:  # fmt: skip
    """`label_prefixes` of many problems at once.

    Raises:
        ParameterError: fewer than one trace or rollout.
        TaskError: answers have one step only; or no rollout, or every one, ended correct: there is nothing to learn.
    """
    for name, value in (("traces", traces), ("rollouts", rollouts)):
        if value < 1:
            raise ParameterError("train-prm", name, value, allowed="an integer ≥ 1")
    shared = runtime or Runtime()
    contexts = {
        p.id: Context(p, process, task=task, sampling=sampling, seed=seed, runtime=shared, ledger=Ledger())
        for p in problems
    }
    labelled = await asyncio.gather(
        *(label_prefixes(ctx, traces=traces, rollouts=rollouts) for ctx in contexts.values())
    )
    labels = Labels(contexts, [prefix for some in labelled for prefix in some])
    for ctx in contexts.values():
        labels.failures.update(f"{f.stage}: {f.kind}" for f in ctx.failures)
        labels.failures.update("budget" for _ in ctx.shortfalls)
    _check_labels(labels, task, process)
    return labels


def _check_labels(labels: Labels, task: Task, process: Process) -> None:
    n = sum(p.rollouts for p in labels.prefixes)
    lost = f" Lost: {dict(labels.failures)}." if labels.failures else ""
    last = next((f.message for ctx in labels.contexts.values() for f in ctx.failures), None)
    lost += f" For example: {last}" if last else ""
    if not n:
        raise TaskError(f"{task}: no rollout was finished and graded, so there is nothing to learn from.{lost}")
    if not any(p.state.depth and not p.finished for p in labels.prefixes):
        raise TaskError(
            f"{task}: every answer is one step under {process.identity}, so there are no steps to value. Cut "
            f"answers finer, for example --process 'text_steps(step=tokens, step_tokens=4)' or text_steps(step=line)."
            f"{lost}"
        )
    right = sum(p.value * p.rollouts for p in labels.prefixes)
    if right == 0:
        raise TaskError(
            f"{task}: none of {n} rollouts of {len(labels.contexts)} problems ended correct, so all values would be 0. "
            f"Make the task easier (smaller numbers, more shots), or use a stronger model.{lost}"
        )
    if right >= n - 1e-9:
        raise TaskError(
            f"{task}: all {n} rollouts ended correct, so all values would be 1. Make the task harder.{lost}"
        )


@dataclass(frozen=True)
class PrmPlan:
    """How a head is trained.

    Args:
        traces: answers drawn per problem.
        rollouts: continuations of each of their prefixes.
        limit: problems; three fifths are fitted on, one fifth says when to stop, one is only reported on.
        seed: of problems, draws and split.
        layers: whose states are read; -1 is the last, normed.
        units: of a hidden layer; 0 trains a logistic regression.
    """

    traces: int = 4
    rollouts: int = 8
    limit: int = 100
    seed: int = 0
    layers: tuple[int, ...] = (-1,)
    units: int = 0

    def __post_init__(self) -> None:
        if self.limit < FEWEST_PROBLEMS:
            raise ParameterError(
                "train-prm", "limit", self.limit, allowed=f"an integer ≥ {FEWEST_PROBLEMS}",
                hint="a fifth of the problems is held out",
            )  # fmt: skip
        if self.units < 0:
            raise ParameterError("train-prm", "units", self.units, allowed="an integer ≥ 0; 0 is a logistic regression")


@recipe(
    "process_reward_model", aliases=("train_prm",),
    how="sft:soft_labels, verification:process:reward_model", where="reasoning",
)  # fmt: skip
async def train_prm(
    model: Model,
    task: Task,
    out: Path,
    plan: PrmPlan = PrmPlan(),
    *,
    process: str = "text_steps(step=line)",
    against: Sequence[Verifier] = (),
    budget: Budget | None = None,
    sampling: dict[str, Any] | None = None,
    told: Told = lambda line: None,
) -> dict[str, Any]:
    """Label, fit, measure and save `value_head.safetensors` and its card into a folder; returns the card.

    Args:
        model: writes, and shows its states.
        task: gives and grades problems.
        out: its `store.sqlite` holds finished calls, so that the same command goes on where it was stopped.
        plan: how much of what.
        process: what a step is.
        against: verifiers measured on the same held-out prefixes.
        budget: over all rollouts.
        sampling: settings over the task's.
        told: hears what is being done.

    Raises:
        CapabilityError, MissingExtraError: the model's states cannot be seen.
        TaskError: nothing can be learnt (see `rollout_labels`).
        StoreError: the folder belongs to other settings, or cannot be written.
    """
    states = hidden_states(model, plan.layers, "train-prm")
    builder = build_process(process, (), model)
    settings = merged_sampling(Sampling(temperature=1.0, logprobs=0), task.sampling, sampling or {})
    problems = task.problems(plan.limit, seed=plan.seed)
    identity = {
        "recipe": "train-prm", "model": model.identity, "task": task.identity, "process": builder.identity,
        "sampling": settings.key(), "seed": str(plan.seed),
    }  # fmt: skip
    with Store(out, identity) as store:
        runtime = Runtime(cache=store, meter=Meter(budget) if budget is not None else None)
        told(f"{len(problems)} problems, {plan.traces} answers each, {plan.rollouts} rollouts of each prefix")
        labels = await rollout_labels(
            task, builder, problems, traces=plan.traces, rollouts=plan.rollouts, seed=plan.seed, sampling=settings,
            runtime=runtime,
        )  # fmt: skip
        lines = [json.dumps(p.as_dict(), ensure_ascii=False) for p in labels.prefixes]
        (out / "labels.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        told(f"{len(labels.prefixes)} prefixes; reading their hidden states")
        features = await read_states(states, labels)
        told("fitting the head")
        arrays, chosen, quality = await _fit_and_measure(labels, features, plan, against)
    card = {
        "kind": "value_head", "model": str(model), "identity": model.identity, "layers": list(plan.layers),
        "task": str(task), "process": process, "settings": {**asdict(plan), "temperature": settings.temperature},
        "fit": chosen, "quality": quality, "lost": dict(labels.failures),
        "spend": {k: v for k, v in labels.spend.as_dict().items() if v},
    }  # fmt: skip
    path = save_head(out, card, arrays)
    told(f"saved {path} ({path.stat().st_size / 1024:.1f} kB)")
    return card


async def read_states(states: HiddenStates, labels: Labels) -> Floats:
    """Features of all prefixes, shape (n, width); charged to their problems."""
    out: list[Floats] = []
    for ctx in labels.contexts.values():
        mine = [p.state for p in labels.prefixes if p.state.problem.id == ctx.problem.id]
        out.append(await states.read(mine, [states.tokens(ctx.problem, s, ctx) for s in mine], ctx))
    return np.concatenate(out)


async def _fit_and_measure(
    labels: Labels, features: Floats, plan: PrmPlan, against: Sequence[Verifier]
) -> tuple[Any, dict[str, float], dict[str, Any]]:
    prefixes = labels.prefixes
    names = [str(p.state.problem.prompt) for p in prefixes]  # two problems that ask the same are one
    values = np.array([p.value for p in prefixes])
    readable = ~np.isnan(features).any(axis=1)
    split = split_problems(names, plan.seed)
    stop, test = (np.array([n in part for n in names]) & readable for part in (split.stop, split.test))
    seen = ~test & readable
    if not stop.any() or not test.any() or not (seen & ~stop).any():
        raise TaskError("train-prm: too few problems have labelled prefixes to hold a fifth of them out; raise --limit")
    arrays, chosen = fit_value_head(features[seen], values[seen], stop[seen], units=plan.units, seed=plan.seed)
    scores = values_of(arrays, features)
    held = [p for p, is_test in zip(prefixes, test, strict=True) if is_test]
    truth, depths = values[test], [p.state.depth for p in held]
    of = [name for name, is_test in zip(names, test, strict=True) if is_test]
    found = measure_calibration(scores[test], truth, problem=of)
    quality: dict[str, Any] = {
        "problems": len(set(of)), "prefixes": len(held), "prefixes_fitted": int((seen & ~stop).sum()),
        "pass_rate": float(np.mean([p.value for p in prefixes if p.state.depth == 0] or [np.nan])),
        "mean_value": float(truth.mean()), **ranking(scores[test], truth, of, depths),
        "brier": [round(float(x), 4) for x in found.brier],
        "brier_of_constant": float(brier_score(np.full(len(held), values[seen].mean()), truth).score),
        "ece": [round(float(x), 4) for x in found.ece], "ece_if_calibrated": round(found.ece_if_calibrated, 4),
        "against": {},
    }  # fmt: skip
    for verifier in against:
        theirs: dict[State, float] = {}
        for problem in dict.fromkeys(p.state.problem.id for p in held):
            ctx = labels.contexts[problem]
            mine = [p.state for p in held if p.state.problem.id == problem]
            theirs.update(zip(mine, await ctx.score(ctx.problem, mine, verifier), strict=True))
        quality["against"][str(verifier)] = ranking([theirs[p.state] for p in held], truth, of, depths)
    return arrays, chosen, quality
