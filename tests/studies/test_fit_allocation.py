"""Difficulty tables: fitted to studies, held-out accuracies, bins, and their use by compute_optimal."""

import asyncio
import json
import warnings

import numpy as np
import pytest
from click.testing import CliRunner

import ponder
from ponder import testing
from ponder.cli.main import cli
from ponder.core.context import Context
from ponder.core.difficulty import DifficultyTable, carried, verifiers_in, with_verifier
from ponder.core.registry import PROCESSES
from ponder.errors import ParameterError, StudyError
from ponder.ledger.budget import Budget
from ponder.studies.fit_allocation import _edges, fit_table, held_out
from ponder.studies.runner import bench
from ponder.testing import Sums

JUDGE = "verifier=sim_tree_score"
MIX = (
    "sim_tree(depth=10, survival=[0.93, 0.8, 0.65], sharpness=[1.2, 0.5, 0.5], noise=[0.5, 1.5, 1.5], "
    "trap=[0.5, 0.0, 0.0], trap_depth=4, count={})"
)
ARMS = [f"best_of_n({JUDGE}) | weighted_majority", f"beam_search({JUDGE})"]


def tree_study(out, world=MIX.format(60), arms=ARMS, samples=(4, 16), **options):
    return bench(
        model="sim:default", task=world, process="sim_tree", strategies=arms, samples=list(samples), out=out,
        check=False, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    tree_study(folder)
    return folder


@pytest.fixture(scope="module")
def table(mixed, tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "table.json"
    fit_table([mixed], by="metadata", key="survival").save(path)
    return path


def solve(text, problem, world=MIX.format(60), **options):
    task = ponder.task(world)
    wanted = task.problems()[problem]
    ctx = Context(wanted, PROCESSES.build("sim_tree"), task=task, **options)
    return asyncio.run(ponder.parse(text).run(wanted, ctx)), ctx


def test_each_kind_of_problem_gets_the_strategy_that_suits_it(table):
    found = DifficultyTable.load(table)
    assert found.bins == 3 and [c.n for c in found.cells] == [20] * 6
    at_16 = {c.bin: c.strategy for c in found.cells if c.budget == 16}
    assert "best_of_n(n=16" in at_16[2] and "beam_search(n=16" in at_16[1] and "beam_search(n=16" in at_16[0]
    level = found.level(16)
    assert level.accuracy > level.fixed_accuracy + 0.1 and level.low > 0 and level.reached_at is None


def test_what_a_strategy_is_chosen_for_is_not_what_it_is_judged_by():
    rng = np.random.default_rng(0)
    noise = (rng.random((4000, 20)) < 0.5).astype(float)
    member, fold = np.zeros(4000, dtype=int), np.arange(4000) % 2
    assert held_out(noise, member, fold).mean() == pytest.approx(0.5, abs=4 * 0.5 / 4000**0.5)
    assert noise.mean(axis=0).max() > 0.51  # what choosing and judging on the same problems would say


def test_equal_problems_fall_back_to_the_best_single_strategy_and_cost_no_probe(tmp_path):
    world = "sim_tree(survival=[0.8], sharpness=[0.5], noise=[1.5], count=40)"
    tree_study(tmp_path, world, samples=(8,))
    found = fit_table([tmp_path], by="metadata", key="survival")
    assert found.bins == 1 and found.levels[0].degenerate and "one bin" in found.notes[0]
    assert {c.strategy for c in found.cells} == {found.levels[0].fixed}
    guessed = fit_table([tmp_path], by="predicted", bins=3)
    guessed.save(tmp_path / "t.json")
    if guessed.levels[0].degenerate:
        result, ctx = solve(f'compute_optimal(table="{tmp_path / "t.json"}", n=8)', 0, world)
        assert "probe" not in ctx.ledger.stages and result.details["difficulty"] is None


def test_a_strategy_is_not_taken_for_a_budget_that_it_passes(table):
    for cell in DifficultyTable.load(table).cells:
        assert int(cell.strategy.split("n=")[1].split(",")[0]) <= cell.budget


@pytest.mark.parametrize("by", ["predicted", "vote", "oracle"])
def test_difficulty_may_be_estimated_or_known_from_the_draws(mixed, by):
    found = fit_table([mixed], by=by, bins=3, probe=4)
    assert found.by == by and 1 <= found.bins <= 3
    assert (len(found.difficulties) == 60) == (by == "oracle")
    assert found.probe_cost.get("function_evaluations", 0) == (0 if by == "oracle" else 40)


def test_the_probe_is_a_stage_of_the_ledger_and_the_same_draws_as_everyones(mixed, tmp_path):
    found = fit_table([mixed], by="vote", bins=2)
    from dataclasses import replace

    kept = replace(found, levels=tuple(replace(level, degenerate=False) for level in found.levels))
    kept.save(tmp_path / "t.json")
    result, ctx = solve(f'compute_optimal(table="{tmp_path / "t.json"}", n=16)', 1)
    assert ctx.ledger.stages["probe"].function_evaluations == 40
    assert result.total.function_evaluations == 200 and result.details["probe"] == 4
    assert result.spend == ctx.ledger.stages
    plain, _ = solve(result.details["assigned"], 1)
    assert result.output == plain.output


def test_an_assigned_strategy_answers_as_it_does_alone(table):
    for problem in range(6):
        result, _ = solve(f'compute_optimal(table="{table}", n=16)', problem)
        alone, _ = solve(result.details["assigned"], problem)
        assert result.output == alone.output
        assert result.total.calls == alone.total.calls and "probe" not in result.spend


@pytest.mark.parametrize("limit", [0, 15, 39, 41, 100])
def test_a_budget_is_kept_through_probe_and_strategy(mixed, tmp_path, limit):
    from dataclasses import replace

    found = fit_table([mixed], by="predicted", bins=2)
    replace(found, levels=tuple(replace(v, degenerate=False) for v in found.levels)).save(tmp_path / "t.json")
    text = f'compute_optimal(table="{tmp_path / "t.json"}", n=16)'
    result, ctx = solve(text, 0, budget=Budget(function_evaluations=limit))
    assert ctx.ledger.total.function_evaluations <= limit
    assert result.status == "failed" or result.candidates


def test_a_budget_between_two_uses_the_lower_one_with_a_warning_and_one_below_all_is_refused(table):
    with pytest.warns(UserWarning, match="no budget 10; the next lower one, 4"):
        strategy = ponder.parse(f'compute_optimal(table="{table}", n=10)')
    assert ponder.parse(f'compute_optimal(table="{table}")').with_samples(16).n == 16 != strategy.n
    with pytest.raises(ParameterError, match="smallest budget is 4"):
        ponder.parse(f'compute_optimal(table="{table}", n=2)')


def test_another_verifier_than_the_tables_is_refused_or_replaced_with_a_warning(table):
    text = f'compute_optimal(table="{table}", n=4, verifier=sim_tree_score(noise=2.0)'
    with pytest.raises(ParameterError, match="depends on the verifier"):
        ponder.parse(f"{text})")
    with pytest.warns(UserWarning, match="was fitted with sim_tree_score, not with"):
        swapped = ponder.parse(f"{text}, other_verifier=replace)")
    used = {str(v) for choice in swapped._choices() for v in verifiers_in(choice)}
    assert used == {"sim_tree_score(noise=2.0)"}
    same = ponder.parse(f'compute_optimal(table="{table}", n=4, verifier=sim_tree_score)')
    assert same.stepwise


def test_verifiers_are_found_and_replaced_at_any_depth():
    nested = ponder.parse("with_settings(strategy=bayesian_stopping(strategy=best_of_n(n=2, verifier=exact)))")
    assert [str(v) for v in verifiers_in(nested)] == ["exact"]
    assert [str(v) for v in verifiers_in(with_verifier(nested, ponder.verifier("log_probability")))] == [
        "log_probability"
    ]


def test_small_bins_are_merged_and_bands_are_absolute():
    notes: list[str] = []
    values = np.array([0.05] * 3 + [0.2] * 10 + [0.9] * 10)
    assert _edges(values, "oracle", 5, True, notes) == [0.5] and "merged" in notes[0]
    assert _edges(np.full(20, 0.4), "oracle", 5, False, notes) == [] and "one bin" in notes[-1]
    assert _edges(np.arange(20) / 20, "oracle", 4, False, []) == pytest.approx([0.2375, 0.475, 0.7125])
    counts = np.bincount(np.searchsorted(_edges(np.arange(20) / 20, "oracle", 4, False, []), np.arange(20) / 20))
    assert counts.tolist() == [5, 5, 5, 5]


def test_too_few_problems_strangers_and_missing_numbers_are_refused(mixed, tmp_path):
    tree_study(tmp_path / "few", samples=(4,), limit=3)
    with pytest.raises(StudyError, match="two folds need 4"):
        fit_table([tmp_path / "few"], by="oracle")
    tree_study(tmp_path / "other", "sim_tree(count=5)", samples=(4,))
    with pytest.raises(StudyError, match="a table is of one"):
        fit_table([mixed, tmp_path / "other"], by="oracle")
    with pytest.raises(StudyError, match="no number 'height'"):
        fit_table([mixed], by="metadata", key="height")
    with pytest.raises(ParameterError, match="samples independently"):
        fit_table([mixed], by="oracle", pool="rebase")
    with pytest.raises(ParameterError, match="integers ≥ 1"):
        fit_table([mixed], probe=0)


def test_rows_of_allocators_are_no_strategies_of_a_table(tmp_path):
    tree_study(tmp_path, samples=(2,), limit=12, allocators=["marginal_gain"])
    found = fit_table([tmp_path], by="oracle", bins=1)
    assert not any("marginal_gain" in c.strategy for c in found.cells)


def test_damaged_tables_say_so(table, tmp_path):
    path = tmp_path / "t.json"
    with pytest.raises(StudyError, match="cannot be read"):
        ponder.parse(f'compute_optimal(table="{path}")')
    path.write_text("{")
    with pytest.raises(StudyError, match="no JSON"):
        DifficultyTable.load(path)
    path.write_text("{}")
    with pytest.raises(StudyError, match="no difficulty table"):
        DifficultyTable.load(path)
    data = json.loads(table.read_text())
    path.write_text(json.dumps({**data, "cells": data["cells"][1:]}))
    with pytest.raises(StudyError, match="a cell is missing"):
        DifficultyTable.load(path)
    assert DifficultyTable.load(table) == DifficultyTable.load(table)


def test_numbers_are_found_in_nested_metadata():
    problem = ponder.Problem("p", "q", metadata={"entry": {"difficulty": {"digits": 3}}, "name": "x"})
    assert carried(problem, "entry.difficulty.digits") == 3
    assert np.isnan(carried(problem, "name")) and np.isnan(carried(problem, "entry.none.digits"))


def test_the_command_fits_shows_and_the_table_runs_in_a_study(mixed, tmp_path):
    out = tmp_path / "t.json"
    done = CliRunner().invoke(
        cli, ["allocate", "fit", str(mixed), "--by", "metadata", "--key", "survival", "-o", str(out)]
    )
    assert done.exit_code == 0 and "use it" in done.output, done.output
    shown = CliRunner().invoke(cli, ["allocate", "show", str(out), "--json"])
    assert json.loads(shown.output)["verifier"] == "sim_tree_score"
    rows = tree_study(None, arms=[f'compute_optimal(table="{out}")', *ARMS], seed=1, limit=30).rows
    accuracy = {(r["strategy"].split("(")[0], r["budget"]): r["accuracy"] for r in rows}
    assert accuracy["compute_optimal", 16] >= max(accuracy["best_of_n", 16], accuracy["beam_search", 16])


@pytest.mark.parametrize("check", testing.STRATEGY_CHECKS, ids=lambda c: c.__name__)
def test_the_shared_suite_holds_with_a_table_that_probes(check, tmp_path):
    arms = ["repeated_sampling | majority", "best_of_n(verifier=exact)"]
    bench(model="sim:strong", task=Sums(), limit=12, strategies=arms, samples=[2, 6], out=tmp_path / "s", check=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # another model than the table's, in the suite
        found = fit_table([tmp_path / "s"], by="vote", bins=2, task=Sums())
        from dataclasses import replace

        replace(found, levels=tuple(replace(v, degenerate=False) for v in found.levels)).save(tmp_path / "t.json")
        testing.run(check, f'compute_optimal(table="{tmp_path / "t.json"}")')


def test_another_model_than_the_tables_is_warned_of(tmp_path):
    arms = ["repeated_sampling | majority", "repeated_sampling"]
    bench(model="sim:strong", task=Sums(), limit=12, strategies=arms, samples=[2], out=tmp_path / "s", check=False)
    fit_table([tmp_path / "s"], by="oracle", task=Sums()).save(tmp_path / "t.json")
    with pytest.warns(UserWarning, match="fitted with sim:strong, not with sim:weak"):
        ponder.solve("How much?", model="sim:weak", strategy=f'compute_optimal(table="{tmp_path / "t.json"}", n=2)')


def table_of(path, strategy, *, by="vote", probe_verifier="", probe=4):
    """A table that gives every difficulty the same strategy, and looks at it all the same."""
    from ponder.core.difficulty import Cell, Level

    cells = tuple(Cell(b, 8, strategy, 0.5, 4) for b in (0, 1))
    levels = (Level(8, 0.5, strategy, 0.5, 0.0, 0.0),)
    judges = ", ".join(sorted({str(v) for v in verifiers_in(ponder.parse(strategy))}))
    DifficultyTable("sim:default", "sums", judges, by, (0.5,), cells, levels, probe, probe_verifier).save(path)
    return f'compute_optimal(table="{path}", n=8)'


@pytest.mark.parametrize("probe", [1, 4, 8, 12])
@pytest.mark.parametrize("inner", ["repeated_sampling(n=8) | majority", "adaptive_consistency(n=8)", "single"])
@pytest.mark.filterwarnings("ignore:the table was fitted with")
def test_samples_of_the_probe_are_the_first_of_the_strategy_and_no_draw_is_paid_twice(tmp_path, inner, probe):
    text = table_of(tmp_path / "t.json", inner, probe=probe)
    for question in ("What is 17+25?", "What is 3+4?"):
        model, alone = testing.Counted(), testing.Counted()
        result = ponder.solve(question, model=model, strategy=text)
        plain = ponder.solve(question, model=alone, strategy=inner)
        assert result.output == plain.output
        assert [c.output for c in result.candidates] == [c.output for c in plain.candidates]
        assert model.completions == max(probe, alone.completions) == result.total.model_calls
        assert result.spend["probe"].model_calls == probe
        assert model.generated_tokens == result.total.generated_tokens


@pytest.mark.parametrize(
    ("inner", "calls"),
    [
        ("best_of_n(verifier=log_probability, n=8)", 8),
        ("best_of_n(verifier=random_score, n=8)", 4 + 8),
        # Scores by comparison say nothing across calls: they are made among all eight.
        ("best_of_n(verifier=rank_ensemble(verifiers=[log_probability]), n=8)", 4 + 8),
    ],
)
@pytest.mark.filterwarnings("ignore:the table was fitted with")
def test_scores_of_the_probe_are_taken_over_if_they_are_the_strategys_own(tmp_path, inner, calls):
    judge = "log_probability" if "rank" not in inner else "rank_ensemble(verifiers=[log_probability])"
    text = table_of(tmp_path / "t.json", inner, by="predicted", probe_verifier=judge)
    result = ponder.solve("What is 17+25?", model=testing.Counted(), strategy=text)
    plain = ponder.solve("What is 17+25?", model=testing.Counted(), strategy=inner)
    assert result.total.verifier_calls == calls and result.total.model_calls == 8
    assert [c.scores for c in result.candidates] == [c.scores for c in plain.candidates]
    assert result.output == plain.output


@pytest.mark.parametrize("calls", range(1, 20))
@pytest.mark.filterwarnings("ignore:the table was fitted with")
def test_scores_that_are_held_back_for_the_probes_samples_keep_every_limit(tmp_path, calls):
    inner = "best_of_n(verifier=random_score, n=8)"
    text = table_of(tmp_path / "t.json", inner, by="predicted", probe_verifier="log_probability")
    result = ponder.solve("What is 17+25?", model=testing.Counted(), strategy=text, budget=f"calls={calls}")
    assert result.total.calls <= calls


@pytest.mark.filterwarnings("ignore:the table was fitted with")
def test_a_race_does_not_begin_with_the_probes_samples(tmp_path):
    text = table_of(tmp_path / "t.json", "first_finish(n=8)")
    model, alone = testing.Counted(), testing.Counted()
    result = ponder.solve("What is 17+25?", model=model, strategy=text)
    plain = ponder.solve("What is 17+25?", model=alone, strategy="first_finish(n=8)")
    assert result.output == plain.output
