from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from ponder.cli.recommend import command
from ponder.errors import ParameterError, StudyError
from ponder.studies.recommend import recommend

# Strategy, budget, accuracy, generated tokens a problem.
Spec = tuple[str, int, float, float]


def study(folder: Path, specs: list[Spec], n: int = 400, *, outcomes: bool = True, pool: bool = True) -> Path:
    """A study in which problem i is solved by a point exactly if it is among its easiest problems."""
    rng = np.random.default_rng(0)
    difficulty = rng.permutation(n)
    rows, series = [], []
    for name, budget, accuracy, tokens in specs:
        correct = (difficulty < round(accuracy * n)).astype(int)
        rows.append(
            {
                "model": "sim:default",
                "task": "t",
                "strategy": name,
                "budget": budget,
                "n_problems": n,
                "accuracy": float(correct.mean()),
                "generated_tokens": tokens * n,
                "model_calls": budget * n,
                "verifier_calls": 0,
            }
        )
        series.append({"strategy": name, "budget": budget, "correct": correct.tolist()})
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps(rows))
    if outcomes:
        data: dict[str, Any] = {"problem_ids": [str(i) for i in range(n)], "series": series, "draws": {}}
        if pool:
            c = rng.binomial(16, rng.beta(0.6, 1.0, size=n))
            data["draws"] = {"repeated_sampling": {"n": [16] * n, "c": c.tolist()}}
        (folder / "outcomes.json").write_text(json.dumps(data))
    return folder


CLEAR: list[Spec] = [
    ("single", 1, 0.3, 20),
    ("majority", 4, 0.5, 80),
    ("majority", 16, 0.7, 320),
    ("best_of_n(verifier=llm_judge)", 16, 0.55, 600),
    ("best_of_n(verifier=exact)", 16, 0.95, 320),
]


def test_a_target_names_the_cheapest_that_reaches_it(tmp_path: Path) -> None:
    got = recommend(study(tmp_path, CLEAR), target=0.45)
    assert got.choice is not None and (got.choice.strategy, got.choice.budget) == ("majority", 4)
    assert got.decided and got.probability is not None and got.probability > 0.95
    assert "'majority' with 4 samples" in got.headline and got.goal == "target"
    assert got.gain is not None and got.gain[0] == pytest.approx(0.2) and got.gain[1] > 0


def test_a_budget_names_the_best_within_it(tmp_path: Path) -> None:
    folder = study(tmp_path, CLEAR)
    for budget, expected in ((100, ("majority", 4)), (20, ("single", 1)), (10_000, ("majority", 16))):
        got = recommend(folder, budget=budget)
        assert got.choice is not None and (got.choice.strategy, got.choice.budget) == expected
        assert got.decided and got.probability == pytest.approx(1.0)
    by_calls = recommend(folder, budget=4, axis="calls")
    assert by_calls.choice is not None and by_calls.choice.budget == 4 and by_calls.axis == "calls"


def test_what_sees_the_reference_is_shown_and_never_recommended(tmp_path: Path) -> None:
    folder = study(tmp_path, CLEAR)
    for got in (recommend(folder), recommend(folder, target=0.9), recommend(folder, budget=1e6)):
        assert [o.strategy for o in got.oracles] == ["best_of_n(verifier=exact)"]
        assert got.choice is None or "exact" not in got.choice.strategy
        assert all("exact" not in o.strategy for o in got.front)
    with pytest.raises(StudyError, match="looks at the reference"):
        recommend(study(tmp_path / "o", CLEAR[-1:]))


def test_a_target_out_of_reach_gives_the_best_and_an_upper_bound(tmp_path: Path) -> None:
    got = recommend(study(tmp_path, CLEAR), target=0.9)
    assert got.choice is None and got.decided
    assert "Nothing measured reaches 90 %" in got.headline and "'majority' with 16 samples" in got.headline
    assert got.upper_bound is not None and got.upper_bound.draws is not None
    assert any("verifier that is never wrong" in note for note in got.notes)


def test_close_contenders_are_named_with_the_problems_that_would_decide(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    folder = study(tmp_path, [("single", 1, 0.3, 20), ("majority", 8, 0.5, 160), ("rpc", 8, 0.5, 170)], n=60)
    data = json.loads((folder / "outcomes.json").read_text())
    rows = json.loads((folder / "results.json").read_text())
    correct = rng.permutation([1] * 32 + [0] * 28)
    data["series"][2]["correct"], rows[2]["accuracy"] = correct.tolist(), 32 / 60
    (folder / "outcomes.json").write_text(json.dumps(data))
    (folder / "results.json").write_text(json.dumps(rows))
    got = recommend(folder, budget=200)
    assert got.choice is not None and got.choice.strategy == "rpc" and not got.decided
    assert "majority" in {c.option.strategy for c in got.contenders}
    rival = next(c for c in got.contenders if c.option.strategy == "majority")
    assert rival.low <= 0 < rival.high and rival.problems_needed is not None and rival.problems_needed > 60
    assert got.probability is not None and 0.3 < got.probability < 0.95
    assert any("cannot decide" in note for note in got.notes) and any("would be needed" in n for n in got.notes)


def test_a_target_that_is_barely_reached_offers_the_safe_choice_and_the_cheaper_one(tmp_path: Path) -> None:
    specs = [("single", 1, 0.3, 20), ("majority", 4, 0.49, 80), ("majority", 8, 0.52, 160), ("majority", 16, 0.7, 320)]
    got = recommend(study(tmp_path, specs, n=100), target=0.5)
    assert got.choice is not None and got.choice.budget == 8 and not got.decided
    assert got.probability is not None and 0.5 < got.probability < 0.95
    assert got.safe is not None and got.safe.budget == 16
    assert [c.option.budget for c in got.contenders] == [4]
    text = str(got)
    assert "safe side" in text and "perhaps enough" in text


def test_without_a_goal_the_knee_of_the_front_is_named(tmp_path: Path) -> None:
    specs = [("single", 1, 0.3, 20)] + [
        ("majority", k, a, 20 * k) for k, a in ((2, 0.5), (4, 0.65), (8, 0.67), (16, 0.68))
    ]
    got = recommend(study(tmp_path, specs))
    assert got.goal == "knee" and got.choice is not None and got.choice.budget == 4 and got.decided
    assert [o.budget for o in got.front] == [1, 2, 4, 8, 16]


def test_a_front_that_does_not_bend_is_followed_to_its_end(tmp_path: Path) -> None:
    specs = [("single", 1, 0.3, 20)] + [("majority", k, a, 20 * k) for k, a in ((2, 0.4), (4, 0.5), (8, 0.6))]
    got = recommend(study(tmp_path, specs))
    assert got.choice is not None and got.choice.budget == 8


def test_when_nothing_beats_a_single_sample_it_says_so(tmp_path: Path) -> None:
    got = recommend(study(tmp_path, [("single", 1, 0.5, 20), ("majority", 4, 0.4, 80)]))
    assert got.choice is not None and got.choice.strategy == "single" and got.gain is None and got.decided
    assert "nothing that costs more is worth it" in got.headline


def test_the_cheaper_of_two_that_answer_alike_wins(tmp_path: Path) -> None:
    got = recommend(study(tmp_path, [("single", 1, 0.5, 20), ("majority", 4, 0.5, 80)]), budget=100)
    assert got.choice is not None and got.choice.strategy == "single" and got.decided
    assert got.probability == pytest.approx(1.0)


def test_probabilities_mean_what_they_say() -> None:
    # Two methods that differ by 5 points in truth: the named best is right about as often as it claims on average.
    import tempfile

    claimed, right = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        p = rng.random(80)
        a, b = (rng.random(80) < 0.9 * p).astype(int), (rng.random(80) < p).astype(int)
        with tempfile.TemporaryDirectory() as name:
            folder = study(Path(name), [("single", 1, 0.5, 20), ("majority", 4, 0.5, 40)], n=80, pool=False)
            rows = json.loads((folder / "results.json").read_text())
            data = json.loads((folder / "outcomes.json").read_text())
            for i, column in enumerate((a, b)):
                rows[i]["accuracy"], data["series"][i]["correct"] = float(column.mean()), column.tolist()
            (folder / "results.json").write_text(json.dumps(rows))
            (folder / "outcomes.json").write_text(json.dumps(data))
            got = recommend(folder, budget=50)
        assert got.choice is not None and got.probability is not None
        claimed.append(got.probability)
        right.append(got.choice.strategy == "majority")
    assert abs(np.mean(claimed) - np.mean(right)) < 0.2


def test_without_outcomes_it_still_recommends_and_says_it_is_not_paired(tmp_path: Path) -> None:
    got = recommend(study(tmp_path, CLEAR, outcomes=False), target=0.45)
    assert got.choice is not None and got.choice.budget == 4 and not got.paired
    assert got.upper_bound is None and any("not paired" in note for note in got.notes)


def test_problems_that_a_stopped_study_did_not_finish_are_left_out_of_comparisons(tmp_path: Path) -> None:
    folder = study(tmp_path, CLEAR, n=50)
    data = json.loads((folder / "outcomes.json").read_text())
    data["series"][0]["correct"][:10] = [None] * 10
    (folder / "outcomes.json").write_text(json.dumps(data))
    assert recommend(folder).choice is not None


def test_one_seed_gives_one_answer_and_json_holds_no_infinities(tmp_path: Path) -> None:
    folder = study(tmp_path, CLEAR)
    first, again = recommend(folder, target=0.6), recommend(folder, target=0.6)
    assert first == again
    json.dumps(first.as_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"target": 1.5}, "at most 1"),
        ({"target": 0}, "above 0"),
        ({"budget": 0}, "budget must be"),
        ({"budget": math.nan}, "budget must be"),
        ({"axis": "joules"}, "generated_tokens"),
    ],
)
def test_wishes_that_make_no_sense_are_refused(tmp_path: Path, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        recommend(study(tmp_path, CLEAR), **arguments)


def test_studies_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="not a directory"):
        recommend(tmp_path / "missing")
    with pytest.raises(StudyError, match=r"no results\.json"):
        recommend(tmp_path)
    file = tmp_path / "results.json"
    for content, words in (
        ("[]", "no rows"),
        ("{", "damaged"),
        ('[{"strategy": "single"}]', "row 0 is not a result"),
        ('[{"strategy": "s", "budget": 1, "n_problems": 0, "accuracy": 0}]', "holds no problems"),
        ('[{"strategy": "s", "budget": 1, "n_problems": 1, "accuracy": 7}]', "between 0 and 1"),
    ):
        file.write_text(content)
        with pytest.raises(StudyError, match=words):
            recommend(tmp_path)
    study(tmp_path, CLEAR)
    with pytest.raises(StudyError, match="--price"):
        recommend(tmp_path, axis="cost_usd")


def test_a_budget_that_buys_nothing_says_what_the_cheapest_costs(tmp_path: Path) -> None:
    got = recommend(study(tmp_path, CLEAR), budget=5)
    assert got.choice is None and "the cheapest is a single sample at 20 generated tokens" in got.headline


def test_the_command_prints_the_choice_or_json(tmp_path: Path) -> None:
    study(tmp_path, CLEAR)
    shown = CliRunner().invoke(command, [str(tmp_path), "--target", "0.45"])
    assert shown.exit_code == 0, shown.output
    assert "To reach 45 %, use 'majority' with 4 samples" in shown.output and "Pareto front" in shown.output
    data = json.loads(CliRunner().invoke(command, [str(tmp_path), "--budget", "100", "--json"]).output)
    assert data["choice"]["budget"] == 4 and data["goal"] == "budget"
    assert isinstance(CliRunner().invoke(command, [str(tmp_path / "no")]).exception, StudyError)
