"""A study says how far its confidences, scores and shortcuts can be trusted."""

import json
import math

import numpy as np
import pytest
from click.testing import CliRunner

import ponder
from ponder.cli.select import command
from ponder.core.candidate import Candidate
from ponder.laws import auroc
from ponder.reports.html import write_report
from ponder.studies.calibration import confidence_table, measure_table, measures
from ponder.studies.export import records
from ponder.studies.reselect import reselect
from ponder.testing import Sums

STRATEGIES = ["single", "repeated_sampling | majority", "best_of_n(verifier=imperfect_oracle) | weighted_majority"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    ponder.bench(
        model="sim:default", task=Sums(), strategies=STRATEGIES, samples=[1, 8], limit=40, out=out, check=False
    )
    return out


def rows_of(folder):
    return {(r["strategy"], r["budget"]): r for r in json.loads((folder / "results.json").read_text())}


async def test_the_area_in_the_results_is_that_of_the_stored_samples(folder):
    kept = {}
    async for record in records(folder, task=Sums()):
        if record["strategy"] == "repeated_sampling":
            kept.setdefault(record["problem"], []).append(record)
    won = of = 0.0
    for drawn in kept.values():
        finished = [d for d in drawn if d["finish"] == "stop"]
        right = [d["correct"] for d in finished]
        pairs = sum(right) * (len(right) - sum(right))
        if pairs:
            won += pairs * auroc([-d["n_tokens"] for d in finished], right)
            of += pairs
    found = rows_of(folder)["repeated_sampling | majority", 8]["measures"]["shorter"]
    assert found["pairs"] == of > 0 and found["auroc"] == pytest.approx(won / of, abs=1e-6)
    assert found["low"] <= found["auroc"] <= found["high"]


def test_votes_and_scores_come_with_their_calibration_and_what_has_no_votes_with_none(folder):
    rows = rows_of(folder)
    majority = rows["repeated_sampling | majority", 8]
    found = majority["calibration"]
    assert found["n"] == 40 - majority["abstained"] and found["ece"][1] <= found["ece"][2]
    assert found["accuracy"] == pytest.approx(majority["accuracy"] * 40 / found["n"], abs=1e-5)
    assert rows["single", 1]["calibration"] is None and "calibration" in rows["single", 1]
    oracle = next(r for (name, budget), r in rows.items() if "oracle" in name and budget == 8)["measures"]
    score = oracle["imperfect_oracle"]
    assert score["auroc"] > 0.7 and 0 <= score["calibration"]["ece"][0] <= 1 and score["calibration"]["n"] > 200
    assert oracle["shorter"]["calibration"] is None


def test_reselection_agrees_with_the_study_and_the_command_prints_it(folder):
    chosen = reselect(folder, ["majority"], task=Sums())[0]
    study = rows_of(folder)["repeated_sampling | majority", 8]
    assert chosen["calibration"] == study["calibration"]
    assert chosen["measures"]["shorter"] == study["measures"]["shorter"]
    several = reselect(folder, ["majority"], ks=[1, 2], task=Sums())
    assert several[1]["calibration"] is None, "the confidence of two answers is not that of the first"


def test_the_report_holds_both_tables(folder):
    text = write_report(folder).read_text()
    assert "How far to trust it" in text and "What tells a right draw from a wrong one" in text
    assert "first_finish relies on" in text and "imperfect_oracle" in text


def test_the_select_command_shows_calibration_error_and_what_tells_right_from_wrong(tmp_path):
    data = tmp_path / "sums.jsonl"
    lines = [{"id": f"s{i}", "prompt": f"How much is {i} plus {i}?", "reference": str(2 * i)} for i in range(12)]
    data.write_text("\n".join(json.dumps(line) for line in lines))
    out = str(tmp_path / "out")
    ponder.bench(
        model="sim:default", task=f"jsonl:{data}", strategies=["repeated_sampling"], samples=[8], out=out, check=False
    )
    ran = CliRunner().invoke(command, [out, "-s", "majority"])
    assert ran.exit_code == 0 and "ECE" in ran.output and "shorter" in ran.output
    rows = json.loads(CliRunner().invoke(command, [out, "-s", "majority", "--json"]).output)
    assert rows[0]["calibration"]["brier"][0] >= 0 and 0 <= rows[0]["measures"]["shorter"]["auroc"] <= 1


def drawn(right, lengths, score=None, finish="stop"):
    return [
        Candidate("x", "x", -1.0, n, {} if score is None else {"judge": score[i]}, i, finish)
        for i, (n, _) in enumerate(zip(lengths, right, strict=True))
    ]


def test_outputs_that_were_cut_are_no_finish():
    right = [True, False, False]
    cut = drawn(right, [5, 9, 3])
    cut[2] = Candidate("x", "x", -1.0, 3, {}, 2, "length")
    assert measures(cut, right)["shorter"] == {"ordered": 1.0, "pairs": 1, "bins": None}
    assert measures(drawn(right, [5, 9, 3]), right)["shorter"] == {"ordered": 1.0, "pairs": 2, "bins": None}


def test_a_score_outside_0_and_1_on_one_problem_is_no_probability_on_any():
    right = [True, False]
    inside, outside = (measures(drawn(right, [1, 1], s), right) for s in ([0.9, 0.1], [4.0, 0.1]))
    assert measure_table([inside, inside])["judge"]["calibration"]["ece"][0] == pytest.approx(0.1)
    both = measure_table([inside, outside])["judge"]
    assert both["calibration"] is None and both["auroc"] == 1.0 and both["problems"] == 2


def test_problems_that_are_all_right_count_for_calibration_and_not_for_the_area():
    found = measures(drawn([True, True], [1, 2], [0.8, 0.8]), [True, True])
    table = measure_table([found])
    assert table["judge"]["auroc"] is None and table["judge"]["calibration"]["accuracy"] == 1.0
    assert "shorter" not in table


def test_confidences_are_compared_only_where_there_are_some():
    assert confidence_table([None, 0.5], [True, True]) is None
    table = confidence_table([0.5, None, 1.0 + 1e-16], [True, True, False])
    assert table["n"] == 2 and table["ece"][0] == pytest.approx(0.75)
    assert not any(isinstance(v, float) and math.isnan(v) for v in table.values())
    assert np.isfinite(table["log_loss"][0])
