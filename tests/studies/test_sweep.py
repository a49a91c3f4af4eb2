"""Sweeps: which cells there are, that draws are shared, that a killed one goes on, and what is refused."""

import pytest
from click.testing import CliRunner

from ponder.cli.main import cli
from ponder.errors import StudyError
from ponder.studies.runner import bench
from ponder.studies.sweep import Sweep
from ponder.testing import Counted, Sums

TEMPLATES = (
    "with_settings(repeated_sampling, temperature={temperature}, prompt={prompt}) | majority",
    "with_settings(best_of_n(verifier={verifier}), temperature={temperature})",
)
AXES = {"temperature": ("0.7", "1.0", "0.5"), "prompt": ("none", "direct"), "verifier": ("random_score", "exact")}


def sweep(**changes):
    study = {"model": "sim:strong", "samples": [4], "limit": 5}
    given = {"tasks": ("sums",), "templates": TEMPLATES, "axes": AXES, "study": study}
    return Sweep(**{**given, **changes})


def test_one_at_a_time_changes_one_trick_from_the_first_values_and_a_grid_changes_all():
    cells = sweep().cells()
    assert [c.changed for c in cells] == [None, "temperature", "temperature", "prompt", None, "verifier"] + [
        "temperature"
    ] * 2
    assert cells[0].values == {"temperature": "0.7", "prompt": "none"}
    assert len(sweep(mode="grid").cells()) == 3 * 2 + 2 * 3
    assert len({c.strategy for c in sweep(mode="grid").cells()}) == 12


def test_effects_are_differences_to_the_first_value_and_the_control_lies_below_the_oracle(tmp_path):
    plan = sweep()
    texts = list(dict.fromkeys(c.strategy for c in plan.cells()))
    results = bench(model="sim:default", task=Sums(), strategies=texts, samples=[6], limit=60, check=False)
    lines = plan.effects({"sums": results})
    assert len(lines) == 8 and sum(line["changed"] is None for line in lines) == 2
    by_value = {(line["strategy"], line["value"]): line for line in lines}
    oracle = by_value[TEMPLATES[1], "exact"]
    assert oracle["difference"] == pytest.approx(oracle["accuracy"] - by_value[TEMPLATES[1], None]["accuracy"])
    assert oracle["difference"] > 0.1


def test_methods_share_the_draws_of_equal_settings():
    model = Counted()
    texts = [
        c.strategy for c in sweep(axes={**AXES, "prompt": ("none",), "verifier": ("random_score", "exact")}).cells()
    ]
    bench(model=model, task=Sums(), strategies=texts, samples=[4], limit=5, check=False)
    assert model.completions == 3 * 4 * 5  # three temperatures, whatever the method and the verifier


def test_a_finished_sweep_draws_nothing_again(tmp_path):
    file = tmp_path / "sweep.toml"
    file.write_text(
        'model = "sim:strong"\ntasks = ["sim_tree(count=3)", "sim_tree(count=3, depth=2)"]\nprocess = "sim_tree"\n'
        'samples = [2]\nstrategies = ["best_of_n(verifier={v})"]\n[axes]\nv = ["sim_tree_score", "random_score"]\n'
    )
    plan = Sweep.from_toml(file)
    first = plan.run(tmp_path / "out", check=False)
    again = plan.run(tmp_path / "out", check=False)
    assert [r.rows for r in first.values()] == [r.rows for r in again.values()] and len(first) == 2
    assert len(plan.effects(again)) == 4


def test_the_command_prints_a_table_per_task_and_goes_on_where_it_stopped(tmp_path):
    file = tmp_path / "sweep.toml"
    file.write_text(
        'model = "sim:strong"\ntasks = ["sim_tree(count=3)", "sim_tree(count=3, depth=2)"]\nprocess = "sim_tree"\n'
        'samples = [2]\nstrategies = ["best_of_n(verifier={v})"]\n[axes]\nv = ["sim_tree_score", "random_score"]\n'
    )
    for _ in range(2):
        shown = CliRunner().invoke(cli, ["sweep", str(file), "--out", str(tmp_path / "out"), "--no-check"])
        assert shown.exit_code == 0, shown.output
        assert shown.output.count("v = random_score") == 2 and "sim_tree(depth=2, count=3)" in shown.output.replace(
            "count=3, depth=2", "depth=2, count=3"
        )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tasks": ()}, "needs tasks"),
        ({"axes": {"temperature": ("1",)}}, "no axis 'prompt'"),
        ({"axes": {**AXES, "colour": ("red",)}}, "no strategy uses the axis 'colour'"),
        ({"axes": {**AXES, "prompt": ()}}, "has no values"),
        ({"mode": "some"}, "one_at_a_time"),
        ({"templates": ("single(temperature={temperature)",)}, "braces"),
    ],
)
def test_a_sweep_that_makes_no_sense_says_what_is_wrong(changes, says):
    with pytest.raises(StudyError, match=says):
        sweep(**changes)
