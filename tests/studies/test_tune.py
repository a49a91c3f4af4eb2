from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ponder.cli.tune import command
from ponder.errors import ParameterError, StudyError, TaskError
from ponder.studies.runner import Silent
from ponder.studies.tune import Tuning, tune
from ponder.testing import Counted, Sums

pytest.importorskip("optuna")

VOTES = "repeated_sampling(n=1..12) | majority"
TREE = "sim_tree(depth=10,survival=[0.8],sharpness=[0.5],noise=[1.5])"


def votes(out: Path, model: Any = None, space: Any = VOTES, trials: int = 6, **options: Any) -> Tuning:
    return tune(model or Counted(), Sums(), space, out, trials=trials, limit=24, check=False, **options)


def test_the_front_rises_with_its_cost_and_was_run_on_problems_that_did_not_choose_it(tmp_path: Path) -> None:
    found = votes(tmp_path)
    costs = [p.tuned.cost for p in found.front]
    assert costs == sorted(costs)
    assert [p.tuned.accuracy for p in found.front] == sorted(p.tuned.accuracy for p in found.front)
    assert all(p.tuned.problems == 12 and p.held_out.problems == 12 for p in found.front)
    assert found.curse == pytest.approx(found.front[-1].tuned.accuracy - found.front[-1].held_out.accuracy)
    assert found.curse_low <= found.curse <= found.curse_high


def test_a_search_that_is_run_again_pays_nothing_and_more_trials_go_on_from_it(tmp_path: Path) -> None:
    first = votes(tmp_path)
    again = Counted()
    assert votes(tmp_path, again) == first and again.completions == 0
    more = votes(tmp_path, trials=9)
    assert more.finished + more.pruned >= first.finished + first.pruned
    assert votes(tmp_path / "whole", trials=9) == more


class Killed(Exception):
    pass


class KillAfter(Silent):
    def __init__(self, outcomes: int) -> None:
        self.left = outcomes

    def finished(self, *_: Any) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed


def test_a_killed_search_goes_on_as_an_undisturbed_one_and_pays_nothing_twice(tmp_path: Path) -> None:
    whole = Counted()
    undisturbed = votes(tmp_path / "whole", whole)
    first, second = Counted(), Counted()
    with pytest.raises(StudyError, match="Killed"):
        votes(tmp_path / "killed", first, progress=KillAfter(40), concurrency=1)
    assert votes(tmp_path / "killed", second, concurrency=1) == undisturbed
    assert first.completions + second.completions == whole.completions


def test_parameters_that_do_not_go_together_cost_nothing_and_are_named(tmp_path: Path) -> None:
    model = Counted()
    found = votes(tmp_path, model, "best_of_n(n=-3..4)", trials=8)
    assert found.impossible and "an integer ≥ 1" in next(iter(found.impossible.values()))
    assert "impossible" in found.notes[-1]


def test_a_trial_that_an_earlier_one_beats_for_less_is_given_up(tmp_path: Path) -> None:
    # Beam search reads the tree's score, a vote does not: at equal width the vote has no chance (.85 against .01).
    found = tune(
        "sim:default", TREE,
        ["repeated_sampling(n=16..20) | majority", "beam_search(n=12..16, verifier=sim_tree_score)"],
        tmp_path, trials=14, limit=80, process="sim_tree", check=False, axis="samples",
    )  # fmt: skip
    assert found.pruned >= 1 and found.finished >= 1
    assert "beam_search" in found.front[-1].strategy


def test_another_space_needs_another_directory(tmp_path: Path) -> None:
    votes(tmp_path, trials=1)
    with pytest.raises(StudyError, match="the search of another space"):
        votes(tmp_path, space="best_of_n(n=1..4)", trials=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"space": "repeated_sampling | majority"}, "with a number of samples"),
        ({"space": "best_of_n(n=1..4, verifier=exact)"}, "do not look at the reference"),
        ({"space": []}, "a strategy such as"),
        ({"trials": 0}, "an integer ≥ 1"),
        ({"held_out": 0.0}, "a share of the problems"),
    ],
)
def test_what_cannot_be_tuned_is_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=message):
        votes(tmp_path, **options)


def test_three_problems_are_too_few(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="tuning needs 4 or more"):
        tune(Counted(), Sums(), VOTES, tmp_path, limit=3, check=False)


def test_the_command_prints_the_front_and_json(tmp_path: Path) -> None:
    arguments = [
        "repeated_sampling(n=1..8) | majority", "beam_search(n=4..8, branch=2|4, verifier=sim_tree_score)", "--model",
        "sim:default", "--task", TREE, "--process", "sim_tree", "--trials", "4", "--limit", "16", "--no-check",
        "--out", str(tmp_path),
    ]  # fmt: skip
    shown = CliRunner().invoke(command, arguments)
    assert shown.exit_code == 0, shown.output
    assert "held out" in shown.output and "winner's curse" in shown.output
    data = json.loads(CliRunner().invoke(command, [*arguments, "--json"]).stdout)
    assert data == json.loads((tmp_path / "tuning.json").read_text()) and data["axis"] == "calls"
