"""Rows whose compute is split over the problems: budgets, order, resuming, and what each allocator decides."""

import numpy as np
import pytest

import ponder
from ponder.core.allocator import Standing
from ponder.core.candidate import Candidate
from ponder.core.registry import ALLOCATORS
from ponder.core.strategy import Result, parse_strategy
from ponder.errors import ParameterError, StudyError
from ponder.studies.plan import Study
from ponder.studies.runner import bench
from ponder.testing import Counted, Sums

VOTE = 'marginal_gain(strategy="repeated_sampling | majority")'
ARMS = 'arms=["repeated_sampling | majority", best_of_n(verifier=exact)]'
ALL = (VOTE, "marginal_gain(verifier=exact, abandon=0.1)", f"bandit({ARMS})", f"bandit({ARMS}, rule=ucb)", "fixed")


def study(*allocators, **options):
    settings = {"model": "sim:default", "task": Sums(), "limit": 20, "samples": [6], "check": False} | options
    return bench(strategies=options.get("strategies", ["single"]), allocators=list(allocators), **{
        k: v for k, v in settings.items() if k != "strategies"
    })  # fmt: skip


def essence(results):
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in results.rows]


def standing(answers, scores=(), turns=1):
    strategy = parse_strategy("repeated_sampling").with_samples(max(1, len(answers) // turns))
    pool = tuple(Candidate(a, a, index=i, scores={"exact": scores[i]} if scores else {}) for i, a in enumerate(answers))
    problem = ponder.Problem("".join(answers), "q")
    return Standing(problem, (strategy,) * turns, Result(problem, pool, (0,) if pool else ()))


def test_the_same_seed_gives_the_same_rows_at_any_concurrency():
    one, many = study(*ALL, concurrency=1), study(*ALL, concurrency=8, model=Counted())
    again = study(*ALL, concurrency=3, model=Counted())
    assert essence(many) == essence(again)
    assert essence(one) == essence(study(*ALL, concurrency=20))


@pytest.mark.parametrize("text", ALL)
def test_the_total_of_samples_is_never_passed_and_the_ledger_knows_each_call(text):
    model = Counted()
    row = study(text, model=model, strategies=[], samples=[5]).rows[0]
    assert row["model_calls"] <= 5 * 20
    assert row["model_calls"] == model.completions
    assert row["generated_tokens"] == model.generated_tokens


@pytest.mark.parametrize("limit", ["calls=3", "tokens=150", "generated_tokens=90"])
@pytest.mark.parametrize("text", ALL)
def test_a_problems_budget_times_the_problems_is_the_rows_hard_limit(text, limit):
    row = study(text, strategies=[], samples=[8], budget=limit).rows[0]
    name, most = limit.split("=")
    used = {
        "calls": row["model_calls"] + row["verifier_calls"],
        "tokens": row["prompt_tokens"] + row["generated_tokens"],
        "generated_tokens": row["generated_tokens"],
    }[name]
    assert 0 < used <= int(most) * 20


def test_the_first_turn_alone_is_the_fixed_row_and_n_1_is_one_draw():
    rows = study(f"{VOTE[:-1]}, start=6)", 'fixed(strategy="repeated_sampling | majority")', strategies=[]).rows
    assert [r["accuracy"] for r in rows] == [rows[0]["accuracy"]] * 2
    assert rows[0]["generated_tokens"] == rows[1]["generated_tokens"]
    assert study(VOTE, samples=[1]).rows[1]["model_calls"] == 20


def test_solved_problems_get_nothing_more_and_unsolved_ones_what_is_left():
    greedy, plain = (
        study(t, limit=120, strategies=[], samples=[8]).rows[0]
        for t in ("marginal_gain(verifier=exact)", 'fixed(strategy="best_of_n(verifier=exact)")')
    )
    assert greedy["model_calls"] <= plain["model_calls"]
    spread = (plain["accuracy"] * (1 - plain["accuracy"]) / 120) ** 0.5
    assert greedy["accuracy"] > plain["accuracy"] + 2 * spread


def test_votes_that_are_open_come_first_and_gains_are_per_cost():
    gain = ALLOCATORS.build("marginal_gain(n=8, share=0.34, batch=3)")
    open_, decided, half = standing("aabb"), standing("aaaa"), standing("aaab")
    given = gain.assign([decided, open_, half], 0)
    assert [None if a is None else a.strategy.n for a in given] == [None, 3, None]
    assert gain.gains([decided, open_, half], 9)[1] == max(gain.gains([decided, open_, half], 9))


def test_hopeless_problems_are_abandoned():
    gain = ALLOCATORS.build("marginal_gain(n=8, verifier=exact, abandon=0.99)")
    solved, unsolved = standing("aaaa", (1, 1, 1, 1)), standing("bbbb", (0, 0, 0, 0))
    assert gain.assign([solved, unsolved], 0) == [None, None]
    assert ALLOCATORS.build("marginal_gain(n=8, verifier=exact)").assign([solved, unsolved], 0)[1] is not None


@pytest.mark.parametrize("rule", ["thompson", "ucb"])
def test_a_bandit_finds_the_better_arm_and_beats_uniform_choice(rule):
    texts = [f"bandit({ARMS}, verifier=exact, rule={r}, exploration=0.3)" for r in (rule, "uniform")]
    learned, uniform = study(*texts, limit=120, strategies=[]).rows
    assert learned["accuracy"] > uniform["accuracy"] + 0.05


def test_a_bandit_gives_one_arm_a_problem_in_rounds_of_fixed_size():
    bandit = ALLOCATORS.build(f"bandit({ARMS}, n=4, round=3)")
    fresh = [Standing(ponder.Problem(str(i), "q")) for i in range(5)]
    given = bandit.assign(fresh, 0)
    assert [a is not None for a in given] == [True] * 3 + [False] * 2
    assert bandit.assign(fresh, 0) == given != bandit.assign([fresh[4], *fresh[:4]], 0)


def test_a_price_turns_the_bandit_to_the_cheap_arm():
    arms = "arms=[best_of_n(n=2, verifier=exact), best_of_n(n=12, verifier=exact)]"
    free, dear = (
        study(f"bandit({arms}, verifier=exact, price={p})", limit=150, strategies=[]).rows[0] for p in (0.0, 0.05)
    )
    assert dear["model_calls"] < free["model_calls"]


def test_a_killed_study_goes_on_without_paying_twice(tmp_path):
    first = Counted()
    whole = study(VOTE, model=first, out=tmp_path / "a", strategies=[])
    second = Counted()
    again = study(VOTE, model=second, out=tmp_path / "a", strategies=[])
    assert second.completions == 0 and essence(again) == essence(whole)
    from ponder.studies.store import Store

    with Store(tmp_path / "a", {}) as store:  # one outcome is lost: the row is worked out again, from stored draws
        store._write_db.execute("DELETE FROM outcomes WHERE problem = 'sum-3'")
        store._write_db.commit()
    third = Counted()
    assert essence(study(VOTE, model=third, out=tmp_path / "a", strategies=[])) == essence(whole)
    assert third.completions == 0


def test_a_studys_own_budget_leaves_the_rows_that_were_finished():
    budget = "calls=14"
    results = study(VOTE, limit=6, samples=[8], study_budget=budget, strategies=["repeated_sampling(n=1)"])
    assert not results.complete and [r["strategy"] for r in results.rows] == ["repeated_sampling(n=1)"]
    assert any("no row for marginal_gain" in w for w in results.warnings)


def test_a_failing_backend_is_a_reason_and_not_an_answer():
    row = study(VOTE, model=Counted(fail=True), strategies=[], limit=2).rows[0]
    assert row["failed"] == 2 and row["accuracy"] == 0 and row["errors"] > 0


def test_the_study_file_and_the_text_form_keep_allocators(tmp_path):
    plan = Study.of({"model": "sim:default", "task": "jsonl:x", "allocators": [VOTE], "samples": [2]})
    path = tmp_path / "study.toml"
    path.write_text(plan.to_toml())
    assert Study.from_toml(path) == plan and plan.allocator_rows()[0][1] == 2
    with pytest.raises(StudyError, match="strategies is missing"):
        Study.of({"model": "sim:default", "task": "jsonl:x"})
    for text in ALL:
        assert ALLOCATORS.build(str(ALLOCATORS.build(text))) == ALLOCATORS.build(text)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("marginal_gain(n=0)", "≥ 1"), ("marginal_gain(share=0)", r"\(0, 1\]"),
        ("marginal_gain(abandon=0.5)", "verifier"),
        ("marginal_gain(strategy=best_of_n(n=4))", "leave its n out"), ("bandit(arms=[single])", "two"),
        (f"bandit({ARMS}, low=1, high=0)", "below"), (f"bandit({ARMS}, price=-1)", "≥ 0"),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(bad, says):
    with pytest.raises(ParameterError, match=says):
        ALLOCATORS.build(bad)


def test_rewards_are_what_was_asked_for():
    agree = ALLOCATORS.build(f"bandit({ARMS})")
    assert agree.reward(standing("aaab")) == 0.75
    assert agree.reward(Standing(ponder.Problem("x", "q"))) == 0
    judged = ALLOCATORS.build(f"bandit({ARMS}, verifier=exact, price=0.05)")
    assert np.isclose(judged.reward(standing("aa", (1.0, 0.0))), 0.9)
