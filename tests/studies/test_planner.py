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
@pytest.mark.parametrize(("world", "side"), [(EASY_TRAP, "narrow"), (MEDIUM, "wide")])
def test_the_command_finds_the_side_of_the_beam_too(world: str, side: str, tmp_path: Path) -> None:
    arguments = [
        "--model", "sim:default", "--task", f"sim_tree(depth=10,{world})", "--process", "sim_tree", "--no-check",
        "--budget", "calls=300000", "--candidates", "beam_search(branch=4, verifier=sim_tree_score)",
        "--problems", "200", "--limit", "120", "--out", str(tmp_path / "pilot"), "--json",
    ]  # fmt: skip
    ran = CliRunner().invoke(command, arguments)
    assert ran.exit_code == 0, ran.output
    found = json.loads(ran.stdout)
    assert found["paid"] <= 0.1 * found["budget"]
    assert found["choice"]["samples"] == 4 if side == "narrow" else found["choice"]["samples"] >= 16


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
    doubtful = Simulated(right_nats=0.38, wrong_nats=0.42)
    found = with_sums(tmp_path, Counted(doubtful), budget="tokens=12000", candidates=CHEAP)
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


class Rambling(Counted):
    """Answers whose lengths differ tenfold between problems, in an order that no pilot could foresee."""

    @property
    def shape(self) -> Any:
        return self.inner.shape

    async def sample(self, request: Any) -> Any:
        from dataclasses import replace

        assert request.problem is not None
        factor = 12 if sum(map(ord, request.problem.id)) % 5 == 0 else 1
        async for position, completion in self.inner.sample(request):
            longer = min(completion.n_tokens * factor, request.sampling.max_new_tokens)
            grown = replace(completion, n_tokens=longer)
            self._count(grown)
            yield position, grown


@pytest.mark.parametrize("budget", ["tokens=9000", "tokens=30000", "generated_tokens=6000", "calls=700", "eflops=2e13"])
@pytest.mark.parametrize("candidates", [CHEAP, ["resample_until(verifier=log_probability)", *CHEAP[:1]]])
def test_the_pilot_never_passes_its_share_however_lengths_vary(
    budget: str, candidates: list[str], tmp_path: Path
) -> None:
    model = Rambling()
    try:
        found = with_sums(tmp_path, model, budget=budget, candidates=candidates)
    except BudgetError:
        paid, share = 0.0, float(budget.split("=")[1]) / 10
    else:
        paid, share = found.paid, found.budget / 10
    assert paid <= share
    sent = {"tokens": model.prompt_tokens + model.generated_tokens, "generated_tokens": model.generated_tokens,
            "calls": model.completions}  # fmt: skip
    assert sent.get(budget.split("=")[0], 0) <= share


def test_a_pilot_that_its_limit_cuts_counts_what_was_cut_and_is_the_same_again(tmp_path: Path) -> None:
    model, again = Rambling(), Rambling()
    options: dict[str, Any] = {"budget": "tokens=16000", "candidates": ["best_of_n"]}
    first = with_sums(tmp_path, model, **options)
    assert json.loads((tmp_path / "pilot.json").read_text())["cut"] > 0, "it was cut"
    assert model.prompt_tokens + model.generated_tokens <= first.paid <= 1600
    second = with_sums(tmp_path, again, **options)
    assert second == first and again.completions == 0


def test_problems_that_all_went_alike_do_not_decide() -> None:
    import numpy as np

    from ponder.studies.measured import AXES
    from ponder.studies.pilot import Pilot, Trial
    from ponder.studies.pilot_curve import CostCurve, Resamples, SearchCurve
    from ponder.studies.planner import decide

    def pilot(problems: int, rights: dict[str, float]) -> Pilot:
        resamples = Resamples.of(problems)
        trials = []
        for text, share in rights.items():
            right = (np.arange(problems) < round(share * problems)).astype(float)
            trial = Trial(ponder.parse(text), (8,), curve=SearchCurve({8: right}, resamples, text), problems=problems)
            trial.points = {8: None}  # type: ignore[dict-item]
            trial.cost = CostCurve({8: 1.0})
            trials.append(trial)
        return Pilot(tuple(trials), AXES["calls"], 1.0, tuple(map(str, range(problems))), {}, resamples)

    both = {"beam_search(n=8)": 1.0, "dvts(n=8)": 1.0}
    few, many = decide(pilot(26, both), 1e4, 100), decide(pilot(2000, both), 1e4, 100)
    assert not few.decided and few.rivals, "26 of 26 for both: either may be better by several points"
    assert many.decided
    # Jeffreys' interval of 26 of 26, whose lower end is (0.025)-quantile of Beta(26.5, 0.5)
    assert few.choice is not None and few.choice.low == pytest.approx(0.9075, abs=0.02) and few.choice.high > 0.999
    apart = decide(pilot(26, {"beam_search(n=8)": 1.0, "dvts(n=8)": 0.5}), 1e4, 100)
    assert apart.decided
    sure = decide(pilot(26, both), 1e4, 100, target=0.98)
    assert sure.reaches is not None and sure.reaches < 0.95 and not sure.decided
    assert decide(pilot(26, both), 1e4, 100, target=0.8).decided


def test_the_choice_has_the_highest_expected_accuracy_and_is_the_cheapest_of_equal_ones() -> None:
    import numpy as np

    from ponder.studies.planner import Prediction, _choose

    accuracy = np.array([[0.5, 0.5, 0.5, 0.5], [0.2, 0.5, 0.7, 0.8], [0.8, 0.7, 0.5, 0.2], [0.4, 0.5, 0.5, 0.6]])
    options = [Prediction(f"s{i}", 1, 0.0, 0.0, 0.0, cost, True, 0.0) for i, cost in enumerate([1.0, 3.0, 2.0, 0.5])]
    # Doubt counts neither for nor against an option: the second and third promise 0.55, the others 0.5.
    assert _choose(options, accuracy, accuracy, None) == (2, None)
    assert _choose(options[:2], accuracy[:2], accuracy[:2], None) == (1, None)
