"""The suite that every strategy and selector must pass, and that third parties can run on theirs.

```python
import pytest
from ponder import testing

@pytest.mark.parametrize("check", testing.STRATEGY_CHECKS)
def test_mine(check):
    testing.run(check, "my_strategy(n=4)")
```

Each check is an async function of a strategy's (or selector's) text form; it raises AssertionError
with what it saw. Backends are simulated, with known truth, their own counters, and faults on demand.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from ponder.api import build_process, check_capabilities, default_sampling, parse
from ponder.core.answers import fingerprint
from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.model import Capabilities, Completion, Model, Request
from ponder.core.problem import Grade, Problem, Prompt, Task
from ponder.core.registry import SELECTORS, VERIFIERS
from ponder.core.runtime import Runtime
from ponder.core.seeds import derive_seed, generator
from ponder.core.selector import Selection, Selector
from ponder.core.strategy import Result, Strategy
from ponder.diffusion.model import Prediction
from ponder.diffusion.schedule import Floats
from ponder.errors import ModelError, PonderError
from ponder.ledger.budget import Budget
from ponder.ledger.spend import Spend
from ponder.models.gmm import Gmm
from ponder.models.simulated import Simulated
from ponder.processes.text_steps import TextSteps

Check = Callable[[str], Awaitable[None]]


class Sums(Task):
    """Problems whose answer is the last number of the output; the truth of `n` is `10 n`."""

    name = "sums"

    def __str__(self) -> str:
        return "sums"

    def problems(self, limit: int | None = None, *, seed: int = 0) -> Sequence[Problem]:
        """`limit` problems (8 if None)."""
        return [
            Problem(f"sum-{i}", ({"role": "user", "content": f"How much is {i} times ten?"},), str(10 * i))
            for i in range(limit or 8)
        ]

    def extract(self, output: Any) -> str | None:
        """The last word without its full stop, if it is a number."""
        words = str(output).split()
        last = words[-1].strip(".") if words else ""
        return last if last.lstrip("-").isdigit() else None

    def grade(self, problem: Problem, output: Any) -> Grade:
        """Equality with the reference."""
        return Grade.of(self.extract(output) == problem.reference)


@dataclass
class Counted(Model):
    """A simulated model that keeps its own account, jitters its timing, and fails on demand.

    Args:
        inner: the model that answers.
        fail: whether every call fails.
        jitter: whether calls finish in another order than they began (raced ones keep to their tokens).
    """

    inner: Simulated = field(default_factory=lambda: Simulated(profile="strong", alpha=4.0, beta=1.0))
    fail: bool = False
    jitter: bool = True
    requests: int = 0
    completions: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    running: int = 0

    name: ClassVar[str] = "counted"

    def __post_init__(self) -> None:
        self.capabilities: Capabilities = replace(self.inner.capabilities, max_top_logprobs=5)

    def __str__(self) -> str:
        return f"counted:{self.inner}"

    @property
    def identity(self) -> str:
        """That of the inner model."""
        return self.inner.identity

    def count_tokens(self, prompt: Prompt) -> int:
        """As the inner model counts."""
        return self.inner.count_tokens(prompt)

    async def sample(self, request: Request) -> AsyncIterator[tuple[int, Completion]]:
        """The inner model's completions, counted."""
        self.requests += 1
        if self.fail:
            self.completions += 0
            raise ModelError("this model always fails")
        self.running += 1
        told = request.lost

        def lost(position: int, completion: Completion) -> None:
            self._count(completion)
            if told is not None:
                told(position, completion)

        try:
            if self.jitter and not request.stream and request.watch is None:
                await asyncio.sleep(derive_seed(request.seeds, "jitter") % 5 / 2000)
            async with aclosing(self.inner.sample(replace(request, lost=lost))) as completions:  # type: ignore[type-var]
                async for position, completion in completions:
                    self._count(completion)
                    yield position, completion
        finally:
            self.running -= 1

    def _count(self, completion: Completion) -> None:
        self.completions += 1
        self.prompt_tokens += completion.prompt_tokens
        self.generated_tokens += completion.n_tokens


@dataclass(frozen=True)
class CountedNoise(Gmm):
    """A Gaussian mixture in place of a text model; what it predicts is counted by that one as completions."""

    source: str = "a"
    counted: Counted | None = None

    name: ClassVar[str] = "counted_noise"

    def predict(self, x: Floats, a: Floats, s: Floats, t: Floats, condition: Any) -> Prediction:
        """The mixture's prediction, or numbers that are none if the counted model fails."""
        assert self.counted is not None
        found = super().predict(x, a, s, t, condition)
        self.counted.completions += 0 if self.counted.fail else len(x)
        return replace(found, x0=found.x0 * np.nan) if self.counted.fail else found

    def kernel(self, x: Floats, levels: tuple[Floats, ...], noise: Floats) -> Floats:
        """The mixture's step, or numbers that are none if the counted model fails."""
        assert self.counted is not None
        return super().kernel(x, levels, noise) * (np.nan if self.counted.fail else 1.0)


@dataclass
class CountdownSolver(Model):
    """A simulated solver of countdown problems, one line per step, that knows how well it plays.

    A line joins two of the numbers that are left, such as `3 * 7 = 21 (left: 5 21)`; the last one gives the answer as
    one expression. Tokens are words.

    Args:
        skill: chance that a step is drawn from those after which the target can still be reached (if there are any);
            else it is drawn from all steps.
    """

    skill: float = 0.3

    name: ClassVar[str] = "countdown_solver"

    def __post_init__(self) -> None:
        self.capabilities = Capabilities(max_n=4096, prefix=True, seeds=True)

    def __str__(self) -> str:
        return f"countdown_solver(skill={self.skill})"

    @property
    def identity(self) -> str:
        """Its name and skill."""
        return str(self)

    def count_tokens(self, prompt: Prompt) -> int:
        """Words."""
        texts = [prompt] if isinstance(prompt, str) else [str(m.get("content", "")) for m in prompt]
        return sum(len(text.split()) for text in texts)

    async def sample(self, request: Request) -> AsyncIterator[tuple[int, Completion]]:
        """Lines up to the first stop text, else to the end of the answer."""
        for position, seed in enumerate(request.seeds):
            lines, stop = request.prefix.splitlines(), "\n" in request.sampling.stop
            rng, finished = generator("countdown_solver", seed, request.prefix), False
            written: list[str] = []
            while not finished and (not written or not stop):
                line, finished = self._line(request.problem, lines + written, rng)
                written.append(line)
            text = "\n".join(written)
            share = self.count_tokens(request.prompt) + len(request.prefix.split()) if position == 0 else 0
            n_tokens, reason = len(text.split()), "" if finished else "\n"
            yield position, Completion(text, n_tokens, "stop", reason, prompt_tokens=share, requests=int(position == 0))

    def _line(self, problem: Problem | None, lines: Sequence[str], rng: Any) -> tuple[str, bool]:
        from ponder.verifiers._arithmetic import reachable

        puzzle: Any = problem.metadata["entry"]["metadata"] if problem else {"numbers": (0,), "target": 0}
        pool = [(number, str(number)) for number in puzzle["numbers"]]
        for line in lines:
            left, operator, right = line.split()[:3]
            first = next(i for i, (value, _) in enumerate(pool) if value == int(left))
            second = next(i for i, (value, _) in enumerate(pool) if value == int(right) and i != first)
            pool = _joined(pool, first, second, operator)
        if len(pool) == 1:
            return f"The answer is {pool[0][1]}.", True
        pairs = [(i, j) for i in range(len(pool)) for j in range(len(pool)) if i != j and pool[i][0] >= pool[j][0]]
        steps = [
            (i, j, o) for i, j in pairs for o in "+-*/" if o != "/" or (pool[j][0] and not pool[i][0] % pool[j][0])
        ]
        if rng.random() < self.skill:
            hopeful = [
                step for step in steps if reachable(tuple(sorted(v for v, _ in _joined(pool, *step))), puzzle["target"])
            ]
            steps = hopeful or steps
        i, j, o = steps[int(rng.integers(len(steps)))]
        after = _joined(pool, i, j, o)
        return f"{pool[i][0]} {o} {pool[j][0]} = {after[-1][0]} (left: {' '.join(str(v) for v, _ in after)})", False


def _joined(pool: Sequence[tuple[int, str]], i: int, j: int, operator: str) -> list[tuple[int, str]]:
    """The numbers, with the expressions they stand for, after a step."""
    (a, left), (b, right) = pool[i], pool[j]
    value = {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b else 0}[operator]
    return [pair for k, pair in enumerate(pool) if k not in (i, j)] + [(value, f"({left} {operator} {right})")]


async def solve_all(
    strategy: Strategy, model: Model, *, concurrency: int = 64, budget: Budget | None = None, problems: int = 8
) -> list[Result]:
    """Run a strategy on the suite's problems, at most `concurrency` at a time."""
    task, runtime, gate = Sums(), Runtime(), asyncio.Semaphore(concurrency)
    if strategy.process == "denoising":  # it has no use for text: noise to search over, and something to score it by
        model = CountedNoise(counted=model) if isinstance(model, Counted) else model
        strategy = replace(strategy, verifier=VERIFIERS.build("gmm_reward"))  # type: ignore[type-var]
    check_capabilities(strategy, model)

    async def one(problem: Problem) -> Result:
        sampling = replace(default_sampling(strategy, model), temperature=0.8)
        async with gate:
            process = build_process(None, (strategy,), model)
            ctx = Context(problem, process, task=task, sampling=sampling, budget=budget, runtime=runtime, seed=7)
            return await strategy.run(problem, ctx)

    return list(await asyncio.gather(*(one(p) for p in task.problems(problems))))


async def text_form_round_trips(text: str) -> None:
    """`str(parse(text))` is canonical: parsing it again gives an equal object and the same text."""
    strategy = parse(text)
    assert parse(str(strategy)) == strategy, f"{text} → {strategy} → another object"
    assert str(parse(str(strategy))) == str(strategy)


async def same_seed_same_result_at_any_concurrency(text: str) -> None:
    """One problem at a time and 64 at a time give the same candidates, choices and spend."""
    strategy = parse(text).with_samples(6)
    alone = await solve_all(strategy, Counted(), concurrency=1)
    together = await solve_all(strategy, Counted(), concurrency=64)
    for first, second in zip(alone, together, strict=True):
        assert _essence(first) == _essence(second), f"{first.problem.id}: {_essence(first)} != {_essence(second)}"


async def ledger_equals_the_backends_own_count(text: str) -> None:
    """Requests, prompt tokens and generated tokens agree, judges and cancelled draws included."""
    model = Counted()
    results = await solve_all(parse(text).with_samples(6), model)
    total = sum((r.total for r in results), Spend())
    assert total.generated_tokens == model.generated_tokens, (
        f"the ledger says {total.generated_tokens} generated tokens, the backend {model.generated_tokens}"
    )
    booked, counted = (total.requests, total.prompt_tokens), (model.requests, model.prompt_tokens)
    assert booked == counted, f"the ledger says {booked} requests and prompt tokens, the backend {counted}"
    assert total.model_calls <= model.completions


async def budget_is_never_exceeded(text: str) -> None:
    """No limit is passed, however small it is; zero buys nothing and is said to."""
    strategy = parse(text).with_samples(6)
    for limit in (0, 1, 3, 17, 60, 150, 400, 1000):
        noisy = strategy.process == "denoising"
        for name in (
            ("function_evaluations", "transitions", "calls") if noisy else ("tokens", "generated_tokens", "calls")
        ):
            model = Counted()
            for result in await solve_all(strategy, model, budget=Budget(**{name: limit}), problems=3):
                used = getattr(result.total, name)
                assert used <= limit, f"{name}={used} passes {limit}"
                if not result.candidates:
                    assert result.status == "failed" and result.reason
            if limit == 0:
                assert model.completions == 0, "something was drawn on a budget of zero"


async def cancellation_leaves_nothing_running(text: str) -> None:
    """Cancelled in the middle, no call and no task is left behind."""
    before = len(asyncio.all_tasks())
    for turns in (1, 5, 20, 60):
        model = Counted(inner=Simulated(profile="strong", alpha=4.0, beta=1.0, latency_s=0.002))
        running = asyncio.create_task(solve_all(parse(text).with_samples(6), model, problems=3))
        for _ in range(turns):
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        for _ in range(3):
            await asyncio.sleep(0)
        assert model.running == 0, f"{model.running} calls still running"
        assert len(asyncio.all_tasks()) == before, "tasks left behind"


async def failed_draws_are_an_answer_with_a_reason(text: str) -> None:
    """If every call fails, the result says so; nothing crashes and nothing is chosen."""
    for result in await solve_all(parse(text).with_samples(4), Counted(fail=True), problems=2):
        assert result.status != "ok" and not result.chosen and result.answer is None
        assert result.reason and result.failures, "the reason is missing"


STRATEGY_CHECKS: tuple[Check, ...] = (
    text_form_round_trips,
    same_seed_same_result_at_any_concurrency,
    ledger_equals_the_backends_own_count,
    budget_is_never_exceeded,
    cancellation_leaves_nothing_running,
    failed_draws_are_an_answer_with_a_reason,
)


async def selection_survives_hand_built_candidates(text: str) -> None:
    """Chosen answers are among the valid ones, one draw is returned as it is, invalid draws never win."""
    for answers in (["7"], ["1", "2", "2", None, "1", "2"], ["1", "2"], ["", "5", None]):
        chosen = await _select(text, _candidates(answers))
        assert chosen.status == "ok" and len(chosen.answers) == 1, f"{answers}: {chosen}"
        assert chosen.answers[0] in [a for a in answers if a], f"{chosen.answers} from {answers}"
        assert str(answers[chosen.indices[0]]) == str(chosen.answers[0])


async def all_invalid_abstains(text: str) -> None:
    """Without any valid answer the selector abstains instead of picking something."""
    chosen = await _select(text, _candidates([None, "", None]))
    assert chosen.status == "abstain" and not list(chosen.answers) and not list(chosen.indices)


async def no_candidates_is_an_error(text: str) -> None:
    """An empty list is a mistake of the caller and says so."""
    try:
        await _select(text, [])
    except PonderError as error:
        message = str(error)
    else:
        message = "an empty list was accepted"
    assert "candidate" in message, message


async def k_answers_are_distinct_and_ordered(text: str) -> None:
    """`k` answers are at most k, distinct, and begin with the single choice."""
    candidates = _candidates(["1", "2", "2", "3", "2", "3", "4"])
    one, three = await _select(text, candidates, 1), await _select(text, candidates, 3)
    assert len(three.answers) <= 3 and len(set(three.answers)) == len(three.answers)
    assert list(three.answers)[:1] == list(one.answers)


async def selector_text_form_round_trips(text: str) -> None:
    """Parsing the canonical text gives an equal selector."""
    selector = SELECTORS.build(text)
    assert SELECTORS.build(str(selector)) == selector


SELECTOR_CHECKS: tuple[Check, ...] = (
    selector_text_form_round_trips,
    selection_survives_hand_built_candidates,
    all_invalid_abstains,
    no_candidates_is_an_error,
    k_answers_are_distinct_and_ordered,
)


def run(check: Check, text: str) -> None:
    """Run one check to its end."""
    asyncio.run(_awaited(check(text)))


async def _awaited(outcome: Awaitable[None]) -> None:
    await outcome


async def _select(text: str, candidates: Sequence[Candidate], k: int = 1) -> Selection:
    selector: Selector = SELECTORS.build(text)
    model = Counted()
    problem = Sums().problems(1)[0]
    ctx = Context(problem, TextSteps(model), task=Sums(), runtime=Runtime(), seed=7)
    outcome = selector.choose(problem, candidates, ctx, k)
    return await outcome if inspect.isawaitable(outcome) else outcome


def _candidates(answers: Sequence[str | None]) -> list[Candidate]:
    return [
        Candidate(
            f"I get {answer}" if answer else "no idea",
            answer,
            logprob=-2.0 - 0.25 * i,
            n_tokens=4,
            scores={"score": 0.9 - 0.05 * i},
            index=i,
        )
        for i, answer in enumerate(answers)
    ]


def _essence(result: Result) -> Any:
    """What must not depend on timing: everything but seconds."""
    total = result.total.as_dict()
    total.pop("seconds")
    return (
        result.status,
        result.chosen,
        result.answer,
        [(c.index, _told(c.output), c.answer, _rounded(c.logprob), c.n_tokens, c.finish) for c in result.candidates],
        [{k: _rounded(v) for k, v in c.scores.items()} for c in result.candidates],
        {k: _rounded(v) for k, v in total.items()},
    )


def _told(output: Any) -> Any:
    return fingerprint(output) if isinstance(output, np.ndarray) else output


def _rounded(value: float | None) -> float | None:
    return value if value is None or math.isnan(value) else round(value, 9)
