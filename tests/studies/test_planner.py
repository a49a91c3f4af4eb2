from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import ponder
from ponder.cli.recommend import command
from ponder.errors import BudgetError, ParameterError, StudyError, TaskError
from ponder.models.simulated import Simulated
from ponder.studies.plan import Study
from ponder.studies.planner import Plan, default_candidates, plan, usable_candidates
from ponder.studies.runner import Silent
from ponder.testing import Counted, Sums

EASY_TRAP = "survival=[0.93],sharpness=[1.2],noise=[0.5],trap=[0.5],trap_depth=4"
MEDIUM = "survival=[0.8],sharpness=[0.5],noise=[1.5]"


def in_the_tree(world: str, calls: int, out: Path, **options: Any) -> Plan:
    return plan(
        "sim:default", f"sim_tree(depth=10,{world})", f"calls={calls}", out, process="sim_tree", limit=120,
        check=False, **options,
    )  # fmt: skip


def with_sums(out: Path, model: Any = None, budget: str = "tokens=60000", **options: Any) -> Plan:
    return plan(model or Counted(), Sums(), budget, out, limit=40, check=False, **options)


CHEAP = ["repeated_sampling | majority", "adaptive_consistency", "best_of_n"]


@pytest.mark.parametrize(("world", "side"), [(EASY_TRAP, "narrow"), (MEDIUM, "wide")])
def test_a_beam_that_falls_with_its_width_is_kept_narrow_and_one_that_rises_is_made_wide(
    world: str, side: str, tmp_path: Path
) -> None:
    # Spec: on easy problems with an over-confident verifier .63, .25, .04 at 4, 16, 64; on medium .35, .85, .998.
    found = in_the_tree(
        world, 300_000, tmp_path, candidates=["beam_search(branch=4, verifier=sim_tree_score)"], problems=200
    )
    assert found.choice is not None and found.paid <= 30_000
    assert found.choice.samples == 4 if side == "narrow" else found.choice.samples >= 16
    assert max(o.cost for o in found.options) >= 600, "wider beams would have fitted the budget"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_search_is_chosen_where_it_wins_and_sampling_where_search_is_fooled(seed: int, tmp_path: Path) -> None:
    options: dict[str, Any] = {"verifiers": ["sim_tree_score"], "problems": 400, "seed": seed}
    easy = in_the_tree(EASY_TRAP, 300_000, tmp_path / "easy", **options)
    medium = in_the_tree(MEDIUM, 300_000, tmp_path / "medium", **options)
    assert easy.choice is not None and medium.choice is not None
    assert "beam_search" not in easy.choice.strategy
    assert any(name in medium.choice.strategy for name in ("beam_search", "rebase", "particle_filter"))


def test_the_pilot_takes_no_more_than_its_share_by_the_models_own_account(tmp_path: Path) -> None:
    model = Counted()
    found = with_sums(tmp_path, model, candidates=CHEAP)
    assert 0 < model.prompt_tokens + model.generated_tokens <= found.paid <= 6000


def test_a_plan_that_is_made_again_pays_nothing_and_says_the_same(tmp_path: Path) -> None:
    first = with_sums(tmp_path, candidates=CHEAP)
    again = Counted()
    assert with_sums(tmp_path, again, candidates=CHEAP) == first
    assert again.completions == 0


class Killed(Exception):
    pass


class KillAfter(Silent):
    def __init__(self, outcomes: int) -> None:
        self.left = outcomes

    def finished(self, *_: Any) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed


@pytest.mark.parametrize("outcomes", [1, 30, 90])
def test_a_killed_pilot_goes_on_and_pays_nothing_twice(outcomes: int, tmp_path: Path) -> None:
    whole = Counted()
    undisturbed = with_sums(tmp_path / "whole", whole, candidates=CHEAP)
    first, second = Counted(), Counted()
    with pytest.raises(StudyError, match="Killed"):
        with_sums(tmp_path / "killed", first, candidates=CHEAP, progress=KillAfter(outcomes), concurrency=1)
    found = with_sums(tmp_path / "killed", second, candidates=CHEAP, concurrency=1)
    assert first.completions + second.completions == whole.completions
    assert found.choice == undisturbed.choice


def test_the_plans_study_file_goes_on_in_the_pilots_directory(tmp_path: Path) -> None:
    found = with_sums(tmp_path, candidates=["repeated_sampling | majority"])
    assert found.study is not None and found.choice is not None
    study = Study.from_toml(Path(found.study))
    assert study.strategies == (found.choice.strategy,) and study.limit == 40
    model = Counted()
    results = ponder.bench(study, tmp_path, model=model, task=Sums(), check=False)
    assert results.complete and results.rows[0]["n_problems"] == 40
    # The pilot's problems are answered already, as far as the pilot drew.
    assert model.completions < 40 * found.choice.samples


def test_the_rest_of_the_budget_is_shared_by_the_problems_that_are_left(tmp_path: Path) -> None:
    found = with_sums(tmp_path, candidates=CHEAP, problems=100)
    assert found.per_problem == pytest.approx((found.budget - found.paid) / 100)
    assert all(o.cost <= found.per_problem * 1.001 for o in found.options)


def test_a_target_is_reached_as_cheaply_as_possible(tmp_path: Path) -> None:
    best = with_sums(tmp_path, candidates=CHEAP)
    found = with_sums(tmp_path, candidates=CHEAP, target=0.6)
    assert best.choice is not None and found.choice is not None and found.reaches is not None
    assert found.choice.cost <= best.choice.cost and found.reaches >= 0.5
    out_of_reach = with_sums(tmp_path / "weak", Counted(Simulated("weak", 0.3, 3.0)), target=1.0, candidates=CHEAP[:1])
    assert not out_of_reach.decided


def test_a_small_pilot_says_what_it_cannot_tell(tmp_path: Path) -> None:
    found = with_sums(tmp_path, Counted(Simulated()), budget="tokens=20000", candidates=CHEAP)
    assert not found.decided and found.rivals
    assert "cannot tell" in str(found) and "pilot problems would" in str(found)


def test_nothing_fits_a_job_of_too_many_problems(tmp_path: Path) -> None:
    found = with_sums(tmp_path, problems=100_000, candidates=CHEAP)
    assert found.choice is None and found.study is None and "Nothing fits" in found.headline


def test_the_front_rises_and_is_within_the_options(tmp_path: Path) -> None:
    found = with_sums(tmp_path, candidates=CHEAP)
    assert [o.cost for o in found.front] == sorted(o.cost for o in found.front)
    assert [o.accuracy for o in found.front] == sorted(o.accuracy for o in found.front)
    assert sum(o.best for o in found.options) == pytest.approx(1)


def test_candidates_that_the_model_cannot_run_are_left_out_and_named() -> None:
    class Blind(Counted):
        def __post_init__(self) -> None:
            from dataclasses import replace

            self.capabilities = replace(self.inner.capabilities, logprobs=False, prefix=False)

    usable, left_out = usable_candidates(["repeated_sampling | majority", "deep_conf"], Blind())
    assert [str(s) for s in usable] == ["repeated_sampling | majority"] and "deep_conf" in left_out
    assert default_candidates(Blind()) == ["repeated_sampling | majority", "adaptive_consistency"]
    assert not any("beam" in c for c in default_candidates(Blind(), ["random_score"]))


def test_default_candidates_use_each_verifier_where_it_can_be_used() -> None:
    tree = default_candidates(Simulated(), ["sim_tree_score"], "sim_tree")
    assert "particle_filter(verifier=sim_tree_score)" in tree and "dvts(verifier=sim_tree_score)" in tree
    text = default_candidates(Simulated())
    assert "beam_search(verifier=log_probability)" in text and not any("particle" in c for c in text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": "tokens"}, "one limit above 0"),
        ({"budget": "samples=5"}, "one limit above 0"),
        ({"budget": "tokens=-1"}, "one limit above 0"),
        ({"pilot": 1.0}, "a share of the budget"),
        ({"target": 80}, "an accuracy above 0"),
        ({"problems": 0}, "an integer ≥ 1"),
        ({"candidates": ["best_of_n(verifier=exact)"]}, "do not look at the reference"),
    ],
)
def test_what_cannot_be_planned_is_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=message):
        with_sums(tmp_path, **options)


def test_a_budget_that_buys_no_pilot_says_what_a_draw_costs(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=r"two problems; one draw costs"):
        with_sums(tmp_path, budget="tokens=1500", candidates=CHEAP)


def test_a_budget_on_what_is_not_counted_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="cost_usd cannot be a budget here"):
        with_sums(tmp_path, budget="usd=3", candidates=CHEAP)


def test_a_task_of_three_problems_has_none_to_spare(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="a pilot needs 4 or more"):
        plan(Counted(), Sums(), "tokens=1e5", tmp_path, limit=3, check=False)


def test_dollars_and_eflops_are_budgets_too(tmp_path: Path) -> None:
    dollars = with_sums(
        tmp_path / "a", Simulated(), "usd=1", candidates=CHEAP, prices={"sim:default": (5.0, 5.0, 50.0)}
    )
    assert dollars.axis == "cost_usd" and 0 < dollars.paid <= 0.1
    work = with_sums(tmp_path / "b", Simulated(), "eflops=1e14", candidates=CHEAP)
    assert work.axis == "eflops" and 0 < work.paid <= 1e13


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{i} + {i}?", "reference": str(2 * i)}) + "\n" for i in range(40)))
    return path


def test_the_command_plans_from_a_file_of_candidates(questions: Path, tmp_path: Path) -> None:
    listed = tmp_path / "candidates.txt"
    listed.write_text("# two\nrepeated_sampling | majority\n\nadaptive_consistency\n")
    out = tmp_path / "pilot"
    arguments = [
        "--model", "sim:strong", "--task", f"jsonl:{questions}(grader=numeric)", "--budget", "tokens=60000",
        "--candidates", str(listed), "--candidates", "best_of_n", "--out", str(out), "--no-check",
    ]  # fmt: skip
    shown = CliRunner().invoke(command, arguments)
    assert shown.exit_code == 0, shown.output
    assert "Predicted Pareto front" in shown.output and "ponder bench --study" in shown.output
    data = json.loads(CliRunner().invoke(command, [*arguments, "--json"]).stdout)
    assert data == json.loads((out / "plan.json").read_text())
    assert data["paid"] <= 6000 and {o["strategy"].split("(")[0] for o in data["options"]} == {
        "repeated_sampling", "adaptive_consistency", "best_of_n",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give DIR"),
        (["--model", "sim:default"], "needs --task and --budget"),
        (["somewhere", "--model", "sim:default"], "give DIR"),
        (["somewhere", "--budget", "tokens=3"], "a number is expected"),
        (
            ["--model", "sim:default", "--task", "x", "--budget", "tokens=1", "--axis", "tokens"],
            "read a finished study",
        ),
    ],
)
def test_the_command_says_what_is_missing(arguments: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "somewhere").mkdir()
    ran = CliRunner().invoke(command, [a.replace("somewhere", str(tmp_path / "somewhere")) for a in arguments])
    assert ran.exit_code != 0
    assert message in ran.output or message in str(ran.exception)
