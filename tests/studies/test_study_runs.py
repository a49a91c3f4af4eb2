"""How a study runs: what it draws, what it re-uses, what it records, and when it stops."""

import asyncio
import json
import math
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ponder.core.model import Completion, Model, Request
from ponder.core.problem import Grade, Problem
from ponder.errors import (
    AuthenticationError,
    BudgetError,
    CapabilityError,
    ContextLengthError,
    ModelError,
    StoreMismatchError,
    StudyError,
    TaskError,
    UnknownNameError,
)
from ponder.models.simulated import Simulated
from ponder.studies.plan import Study
from ponder.studies.results import StudyResults
from ponder.studies.runner import abench, bench, prepare
from ponder.testing import Sums

TASK = Sums()


@dataclass
class Backend(Model):
    """A simulated model that counts what it is asked and goes wrong as told."""

    inner: Simulated = field(default_factory=Simulated)
    fail_seeds: int = 0
    fail_all: Exception | None = None
    fail_after: int = 10**9
    too_long: str = "no such prompt"
    spoil: bool = False
    drawn: list[int] = field(default_factory=list)

    name: ClassVar[str] = "sim"

    def __post_init__(self) -> None:
        self.capabilities = self.inner.capabilities

    def __str__(self) -> str:
        return "backend"

    @property
    def identity(self) -> str:
        return "backend"

    def count_tokens(self, prompt: Any) -> int:
        return self.inner.count_tokens(prompt)

    async def sample(self, request: Request) -> AsyncIterator[tuple[int, Completion]]:
        if self.fail_all is not None and len(self.drawn) >= self.fail_after:
            raise self.fail_all
        if self.too_long in str(request.prompt):
            raise ContextLengthError("the prompt has 9000 tokens, the context 8192")
        self.drawn += request.seeds
        async with aclosing(self.inner.sample(request)) as completions:  # type: ignore[type-var]
            async for position, completion in completions:
                if self.fail_seeds and request.seeds[position] % self.fail_seeds == 0:
                    yield position, Completion("", 0, "error", error="ModelError: this one is unlucky")
                elif self.spoil:
                    yield position, replace(completion, logprob=math.nan)
                else:
                    yield position, completion


def run(out: Path | None = None, model: Model | None = None, **settings: Any) -> StudyResults:
    given = {"strategies": ["repeated_sampling | majority"], "samples": [1, 2, 4, 8], "limit": 6, "task": TASK}
    return bench(model=model or Backend(), out=out, check=False, **{**given, **settings})


def test_samples_are_drawn_once_up_to_the_largest_point(tmp_path: Path) -> None:
    model = Backend()
    results = run(tmp_path, model, strategies=["repeated_sampling | majority", "best_of_n", "single"])
    assert len(model.drawn) == len(set(model.drawn)) == 6 * 8
    assert [(r["strategy"], r["budget"]) for r in results.rows] == [
        *[("repeated_sampling | majority", k) for k in (1, 2, 4, 8)],
        *[("best_of_n", k) for k in (1, 2, 4, 8)],
        ("single", 1),
    ]
    assert [r["model_calls"] for r in results.rows] == [6, 12, 24, 48, 6, 12, 24, 48, 6]


def test_a_row_is_what_its_strategy_gives_when_run_alone() -> None:
    together = run(strategies=["single", "best_of_n", "repeated_sampling | majority"])
    alone = run(strategies=["repeated_sampling | majority"], samples=[4], concurrency=1)
    for row in alone.rows:
        assert row == {**together.row(row["strategy"], 4), "pass_at_k": row["pass_at_k"]}


def test_coverage_rises_and_pass_at_k_agrees_at_the_largest_point() -> None:
    rows = run(limit=40).rows
    coverage = [row["coverage"] for row in rows]
    assert coverage == sorted(coverage) and coverage[0] < coverage[-1]
    assert rows[-1]["pass_at_k"] == rows[-1]["coverage"]
    assert all(row["ci_low"] <= row["accuracy"] <= row["ci_high"] for row in rows)


def test_more_strategies_samples_and_problems_draw_only_what_is_missing(tmp_path: Path) -> None:
    run(tmp_path, Backend(), samples=[1, 2])
    for change, fresh in (
        ({"samples": [1, 2], "strategies": ["repeated_sampling | majority", "best_of_n", "single"]}, 0),
        ({"samples": [1, 2, 4]}, 6 * 2),
        ({"samples": [1, 2, 4], "limit": 9}, 3 * 4),
        ({"samples": [1], "limit": 2}, 0),
    ):
        model = Backend()
        run(tmp_path, model, **change)
        assert len(model.drawn) == fresh, change


def test_another_seed_model_or_sampling_is_refused_and_named(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(StoreMismatchError, match="seed"):
        run(tmp_path, seed=1)
    with pytest.raises(StoreMismatchError, match="sampling"):
        run(tmp_path, sampling={"temperature": 0.1})
    with pytest.raises(StoreMismatchError, match="model"):
        run(tmp_path, Simulated())


def test_a_strategy_that_needs_log_probabilities_may_be_added_to_a_study_without(tmp_path: Path) -> None:
    def unsure() -> Backend:
        model = Backend()
        model.capabilities = replace(model.capabilities, logprobs=None)
        return model

    run(tmp_path, unsure())
    model = unsure()
    results = run(tmp_path, model, strategies=["best_of_n", "repeated_sampling | majority"])
    assert len(model.drawn) == 6 * 8 and not any(row["errors"] for row in results.rows)
    again = unsure()
    run(tmp_path, again, strategies=["single", "repeated_sampling"], samples=[8])
    assert again.drawn == []


def test_a_failed_draw_is_an_error_of_its_sample_and_stays_failed_until_the_next_run(tmp_path: Path) -> None:
    unlucky = Backend(fail_seeds=5)
    results = run(tmp_path, unlucky, strategies=["repeated_sampling | majority", "single"])
    bad = sum(seed % 5 == 0 for seed in unlucky.drawn)
    assert bad and len(unlucky.drawn) == len(set(unlucky.drawn)) == 6 * 8
    assert results.row("repeated_sampling | majority", 8)["errors"] == bad
    assert results.row("repeated_sampling | majority", 8)["lost"] == bad
    healed = Backend()
    whole = run(tmp_path, healed, strategies=["repeated_sampling | majority", "single"])
    assert sorted(healed.drawn) == sorted(s for s in unlucky.drawn if s % 5 == 0)
    assert not any(row["errors"] for row in whole.rows)
    reference = run(strategies=["repeated_sampling | majority", "single"])
    for row, wanted in zip(whole.rows, reference.rows, strict=True):
        for key in ("accuracy", "coverage", "generated_tokens", "model_calls"):
            assert row[key] == wanted[key]


class Moody(Sums):
    def grade(self, problem: Problem, output: Any) -> Grade:
        if problem.id == "sum-3":
            raise RuntimeError("the grader has a hole")
        return super().grade(problem, output)


def test_a_grader_that_raises_costs_its_samples_and_nothing_else(tmp_path: Path) -> None:
    results = run(tmp_path, task=Moody())
    row = results.row("repeated_sampling | majority", 8)
    assert row["n_problems"] == 6 and row["errors"] >= 1
    outcomes = json.loads((tmp_path / "outcomes.json").read_text())
    assert outcomes["series"][-1]["correct"][3] == 0 and outcomes["series"][-1]["covered"][3] == 0
    assert any("the grader has a hole" in line for line in outcomes["failures"])


def test_nan_log_probabilities_are_recorded_and_survive_the_store(tmp_path: Path) -> None:
    first = run(tmp_path, Backend(spoil=True), strategies=["best_of_n"], samples=[4])
    again = run(tmp_path, Backend(spoil=True), strategies=["best_of_n"], samples=[4])
    assert first.rows == again.rows
    assert first.rows[0]["errors"] == 6 * 4 and first.rows[0]["abstained"] == 6


def test_a_prompt_that_is_too_long_is_an_error_of_its_problem() -> None:
    results = run(model=Backend(too_long="How much is 2 times"), samples=[1, 2, 4, 8, 16, 32])
    row = results.row("repeated_sampling | majority", 32)
    assert row["n_problems"] == 6 and row["failed"] == 1 and row["errors"] == 32


def test_an_error_that_every_call_would_meet_ends_the_study_and_it_goes_on_later(tmp_path: Path) -> None:
    locked = Backend(fail_all=AuthenticationError("401: wrong key"), fail_after=20)
    with pytest.raises(StudyError, match=r"(?s)401: wrong key.*of 6 problems are finished and kept.*run the same"):
        run(tmp_path, locked, concurrency=1)
    model = Backend()
    resumed = run(tmp_path, model)
    assert not set(model.drawn) & set(locked.drawn)
    assert resumed.rows == run().rows


def test_an_endpoint_that_is_gone_ends_the_study_after_twenty_lost_draws(tmp_path: Path) -> None:
    gone = Backend(fail_all=ModelError("connection refused"), fail_after=16)
    with pytest.raises(StudyError, match=r"(?s)draws in a row failed.*connection refused.*run the same command"):
        run(tmp_path, gone, concurrency=1, limit=30)
    model = Backend()
    assert run(tmp_path, model, limit=30).rows == run(limit=30).rows
    assert len(model.drawn) == 30 * 8 - 16


def test_a_crashing_strategy_is_recorded_on_its_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    from ponder.strategies.repeated_sampling import RepeatedSampling

    whole = RepeatedSampling.run

    async def crash(self: RepeatedSampling, problem: Problem, ctx: Any) -> Any:
        if problem.id == "sum-2":
            raise ZeroDivisionError("oops")
        return await whole(self, problem, ctx)

    monkeypatch.setattr(RepeatedSampling, "run", crash)
    row = run(samples=[4]).rows[0]
    assert (row["n_problems"], row["failed"], row["errors"]) == (6, 1, 1)


def test_a_study_budget_is_never_passed_and_what_it_buys_is_a_result(tmp_path: Path) -> None:
    free = run(model=Backend(), limit=20, sampling={"max_new_tokens": 60})
    whole = free.row("repeated_sampling | majority", 8)
    tokens = whole["prompt_tokens"] + whole["generated_tokens"]
    model = Backend()
    strategies = ["repeated_sampling | majority", "best_of_n", "single"]
    settings: dict[str, Any] = {"limit": 20, "sampling": {"max_new_tokens": 60}, "strategies": strategies}
    some = run(tmp_path, model, study_budget=f"tokens={tokens // 2}", **settings)
    assert not some.complete and 0 < some.rows[0]["n_problems"] < 20
    spent = some.row("repeated_sampling | majority", 8)
    assert spent["prompt_tokens"] + spent["generated_tokens"] <= tokens // 2
    assert "larger study budget" in some.warnings[-1]
    rest = Backend()
    done = run(tmp_path, rest, study_budget=f"tokens={2 * tokens}", **settings)
    assert done.complete and not set(rest.drawn) & set(model.drawn)
    assert done.row("repeated_sampling | majority", 8) == whole


def test_a_study_budget_counts_what_earlier_runs_spent(tmp_path: Path) -> None:
    run(tmp_path, limit=3)
    with pytest.raises(BudgetError, match="no problem could be finished"):
        run(tmp_path, limit=3, samples=[16], study_budget="tokens=400")


@pytest.mark.parametrize("budget", ["tokens=0", "calls=0", "usd=0", "seconds=0"])
def test_a_budget_of_zero_is_refused_before_anything_is_sent(budget: str) -> None:
    model = Backend()
    for name in ("budget", "study_budget"):
        with pytest.raises(BudgetError, match="buys nothing"):
            run(model=model, **{name: budget})
    assert model.drawn == []


def test_a_dollar_limit_without_a_price_is_warned_about() -> None:
    assert any("no price" in line for line in run(budget="usd=1").warnings)
    assert not any("no price" in line for line in run(budget="usd=1", prices={"backend": (1.0, 1.0, 1.0)}).warnings)


class Empty(Sums):
    def problems(self, limit: int | None = None, *, seed: int = 0) -> list[Problem]:
        return []


class Twice(Sums):
    def problems(self, limit: int | None = None, *, seed: int = 0) -> list[Problem]:
        return [Problem("a", "1?"), Problem("a", "2?")]


def test_a_task_without_problems_or_with_equal_ids_is_refused() -> None:
    with pytest.raises(TaskError, match="no problems"):
        run(task=Empty())
    with pytest.raises(TaskError, match="'a'"):
        run(task=Twice())


def test_what_a_model_cannot_do_is_refused_before_anything_is_sent() -> None:
    model = Backend()
    model.capabilities = replace(model.capabilities, logprobs=False)
    with pytest.raises(CapabilityError, match="logprobs"):
        run(model=model, strategies=["single", "best_of_n"])
    assert model.drawn == []


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="best_of_n"):
        run(strategies=["best_of_m"])
    with pytest.raises(StudyError, match="did you mean samples"):
        run(sampels=[1])


def test_the_most_a_study_can_cost_is_no_less_than_what_it_costs() -> None:
    settings: dict[str, Any] = {"strategies": ["repeated_sampling | majority", "single"], "samples": [1, 8], "limit": 6}
    study = Study.of({"model": "backend", "task": "sums", **settings, "prices": {"backend": [1.0, 1.0, 2.0]}})
    most = prepare(study, model=Backend(), task=TASK).most()
    row = run(**settings, prices={"backend": (1.0, 1.0, 2.0)}).row("repeated_sampling | majority", 8)
    assert row["generated_tokens"] <= most.generated_tokens
    assert row["prompt_tokens"] <= most.prompt_tokens
    assert row["model_calls"] <= most.model_calls
    assert 0 < row["cost_usd"] <= most.cost_usd


async def test_a_study_runs_inside_an_event_loop_too(tmp_path: Path) -> None:
    assert run(tmp_path).rows == run().rows
    inside = await abench(
        model=Backend(), task=TASK, strategies=["repeated_sampling | majority"], limit=6, samples=[1, 2, 4, 8],
        check=False,
    )  # fmt: skip
    assert inside.rows == run().rows


def test_other_prices_are_counted_anew_from_the_stored_draws(tmp_path: Path) -> None:
    free = run(tmp_path)
    model = Backend()
    priced = run(tmp_path, model, prices={"backend": (1.0, 1.0, 2.0)})
    assert model.drawn == [] and free.rows[-1]["cost_usd"] == 0
    row = priced.rows[-1]
    assert row["cost_usd"] == pytest.approx((row["prompt_tokens"] + 2 * row["generated_tokens"]) / 1e6)


def test_concurrency_changes_nothing() -> None:
    strategies = ["best_of_n", "repeated_sampling | majority", "best_of_n(n=4, verifier=llm_judge)"]
    assert run(strategies=strategies, concurrency=1).rows == run(strategies=strategies, concurrency=64).rows


def test_problems_of_very_many_samples_are_fewer_at_once_with_the_same_results(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass
    class Crowd(Backend):
        asking: int = 0
        most: int = 0

        async def sample(self, request: Request) -> AsyncIterator[tuple[int, Completion]]:
            self.asking += 1
            self.most = max(self.most, self.asking)
            await asyncio.sleep(0.001)
            async for item in super().sample(request):
                yield item
            self.asking -= 1

    free, held = Crowd(), Crowd()
    expected = run(model=free, concurrency=6).rows
    monkeypatch.setattr("ponder.studies.runner._MOST_SAMPLES", 16)
    assert run(model=held, concurrency=6).rows == expected
    assert (free.most, held.most) == (6, 2)


def test_the_written_plan_repeats_the_study(tmp_path: Path) -> None:
    first = run(
        tmp_path, strategies=["single(temperature=0)", 'repeated_sampling | majority'],
        sampling={"temperature": 0.5, "stop": ["\n", 'a "quoted" \\ stop']}, budget="tokens=5000",
        prices={"backend": (1.0, 0.5, 2.0)},
    )  # fmt: skip
    again = bench(tmp_path / "study.toml", model=Backend(), task=TASK, check=False)
    assert again.rows == first.rows


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model = 'sim:default'\ntask = ", "not TOML"),
        ("model = 'sim:default'\ntask = 'x'\nstrategies = ['single']\nlimits = 3", "did you mean limit"),
        ("model = 'sim:default'\nstrategies = ['single']", "task is missing"),
        ("model = 'sim:default'\ntask = 'x'\nstrategies = ['single']\nlimit = 'many'", "limit"),
        ("model = 'sim:default'\ntask = 'x'\nstrategies = ['single']\nsamples = ['a']", "samples"),
        ("model = 'sim:default'\ntask = 'x'\nstrategies = ['single']\n[sampling]\ntemprature = 1", "temperature"),
        ("model = 'sim:default'\ntask = 'x'\nstrategies = ['single']\n[prices]\nm = ['a']", "prices"),
        ("model = 'sim:default'\ntask = 'x'\nstrategies = ['single']\nbudget = 'tokens=many'", "many"),
        ("model = 3\ntask = 'x'\nstrategies = ['single']", "model"),
    ],
)
def test_a_faulty_study_file_names_the_fault(tmp_path: Path, text: str, said: str) -> None:
    from ponder.errors import PonderError

    path = tmp_path / "study.toml"
    path.write_text(text)
    with pytest.raises(PonderError, match=said):
        Study.from_toml(path)
