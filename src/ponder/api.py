"""The short way in: text to object for each noun, and `solve`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, TypeVar

from ponder.core import registry
from ponder.core.context import Context
from ponder.core.model import Model, Sampling
from ponder.core.problem import Message, Problem, Task, merged_sampling
from ponder.core.process import Process
from ponder.core.runtime import Runtime
from ponder.core.selector import Selector
from ponder.core.strategy import Result, Strategy, parse_strategy
from ponder.core.verifier import Verifier
from ponder.ledger.budget import Budget
from ponder.ledger.prices import Price, Prices

T = TypeVar("T")

DEFAULT_SAMPLES = 8
"""How many samples a strategy without its own number draws in `solve`."""

register = SimpleNamespace(
    strategy=registry.strategy,
    selector=registry.selector,
    verifier=registry.verifier,
    model=registry.model,
    task=registry.task,
    allocator=registry.allocator,
    process=registry.process,
    law=registry.law,
    recipe=registry.recipe,
)
"""Class decorators for your own techniques: `@ponder.register.strategy("mine")`."""


def parse(text: str) -> Strategy:
    """The strategy, with its selectors, that a text describes; `str` of it is the canonical text.

    Raises:
        SpecError: malformed text (the position is marked), or an unknown name (the nearest are given).
        ParameterError: a parameter has a value that it cannot have.
    """
    return parse_strategy(text)


strategy = parse


def selector(text: str) -> Selector:
    """The selector that a text describes, such as `weighted_majority(transform=softmax)`."""
    built: Selector = registry.SELECTORS.build(text)
    return built


def verifier(text: str) -> Verifier:
    """The verifier that a text describes, such as `llm_judge(votes=3)`."""
    built: Verifier = registry.VERIFIERS.build(text)
    return built


def model(text: str) -> Model:
    """The model that a text describes: `llamacpp:smollm2-135m`, `openai:NAME@URL`, `sim:default`."""
    built: Model = registry.MODELS.build(text)
    return built


def task(text: str) -> Task:
    """The task that a text describes: `reasoning_gym:NAME(…)`, `jsonl:PATH(…)`, `hf:NAME(…)`."""
    built: Task = registry.TASKS.build(text)
    return built


async def asolve(
    prompt: str | list[Message] | tuple[Message, ...] | Problem,
    *,
    model: str | Model,
    strategy: str | Strategy = "best_of_n",
    task: str | Task | None = None,
    budget: str | Budget | None = None,
    process: str | Process | None = None,
    seed: int = 0,
    prices: Mapping[str, Price] | None = None,
    runtime: Runtime | None = None,
    **sampling: Any,
) -> Result:
    """Spend compute on one problem.

    Args:
        prompt: a question (asked as a chat message where the model can chat), messages, or a Problem.
        model: what answers.
        strategy: how to spend compute; a text form or an object. Without a number of samples: 8.
        task: extracts (and grades) answers; None reads the final answer of free text.
        budget: hard limit, such as `"tokens=2000,seconds=30"`.
        process: how outputs are built, such as `text_steps(step=line)`; None: whole answers, or paragraph by
            paragraph for a strategy that works on steps.
        seed: fixes everything that ponder draws.
        prices: dollars per million prompt, cached and generated tokens, by model text.
        runtime: shared cache and schedulers; None uses fresh ones and closes the model afterwards.
        sampling: `temperature`, `top_p`, `max_new_tokens`, `stop`, … (see `ponder.Sampling`).

    Returns:
        The result: `.answer`, `.output`, `.selection` (votes), `.total` (spend), `.failures`.

    Raises:
        SpecError, ParameterError: the request makes no sense.
        CapabilityError: the model cannot do what the strategy needs.
        ModelError: the model cannot be reached at all.
    """
    from ponder.tasks.freeform import Freeform

    backend = registry.MODELS.build(model) if isinstance(model, str) else model
    plan = parse_strategy(strategy) if isinstance(strategy, str) else strategy
    plan = plan.with_samples(DEFAULT_SAMPLES)
    rules = registry.TASKS.build(task) if isinstance(task, str) else task or Freeform()
    limit = Budget.parse(budget) if isinstance(budget, str) else budget
    check_capabilities(plan, backend)
    shared = runtime or Runtime(prices=Prices(prices or {}))
    settings = merged_sampling(default_sampling(plan, backend), rules.sampling, sampling)
    builder = process if isinstance(process, Process) else build_process(process, (plan,), backend)
    ctx = Context(
        as_problem(prompt, backend), builder, task=rules, sampling=settings, budget=limit, seed=seed,
        runtime=shared,
    )  # fmt: skip
    try:
        return await plan.run(ctx.problem, ctx)
    finally:
        if runtime is None:
            await shared.aclose()


def solve(prompt: str | list[Message] | tuple[Message, ...] | Problem, **options: Any) -> Result:
    """`asolve` for scripts and notebooks; works inside a running event loop too.

    >>> import ponder
    >>> ponder.solve("What is 17+25?", model="sim:strong", strategy="repeated_sampling(n=5) | majority").status
    'ok'
    """
    return run_sync(lambda: asolve(prompt, **options))


def run_sync(call: Callable[[], Awaitable[T]]) -> T:
    """Run a coroutine to its end, in a thread of its own if an event loop is already running here."""
    outcome: list[T] = []
    failure: list[BaseException] = []

    async def run() -> None:
        outcome.append(await call())  # not the task's result: asyncio.run would write that out as text, twice

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(run())
        return outcome[0]

    def work() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:  # handed to the caller's thread
            failure.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def as_problem(prompt: str | list[Message] | tuple[Message, ...] | Problem, model: Model) -> Problem:
    """A bare prompt as a problem; a question becomes a chat message where the model can chat."""
    if isinstance(prompt, Problem):
        return prompt
    if isinstance(prompt, str):
        question = prompt
        asked: Any = ({"role": "user", "content": prompt},) if model.capabilities.chat else prompt
    else:
        question = "\n".join(str(m.get("content", "")) for m in prompt if m.get("role") == "user")
        asked = tuple(prompt)
    return Problem("prompt", asked, metadata={"question": question})


def build_process(text: str | None, strategies: Sequence[Strategy], model: Model) -> Process:
    """The process that a text names; without one the model's own, or else text: by paragraphs for work on steps."""
    stepwise = any(strategy.stepwise for strategy in strategies)
    named = text or model.process or ("text_steps(step=paragraph)" if stepwise else "text_steps")
    built: Process = registry.PROCESSES.build(named, model=model)
    return built


def default_sampling(strategy: Strategy, model: Model) -> Sampling:
    """Sampling that asks for log-probabilities if the strategy needs them or the model is known to give them."""
    wanted = "logprobs" in strategy.requires or model.capabilities.logprobs is True
    return Sampling(temperature=0.8, logprobs=0 if wanted else None)


def check_capabilities(strategy: Strategy, model: Model) -> None:
    """Raise a CapabilityError if the model is known to lack something that the strategy needs."""
    inner = getattr(strategy, "strategy", strategy)  # of a pipeline
    verifier = getattr(inner, "verifier", None)
    for need in sorted(strategy.requires):
        asked = need in getattr(verifier, "needs", ()) and need not in inner.needs
        instead = f"Its verifier {verifier} does; give another, verifier=… (`ponder list verifiers`)." if asked else ""
        model.require(need, str(strategy), instead)
