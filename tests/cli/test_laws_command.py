from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import orjson
import pytest
from click.testing import CliRunner

from ponder.cli.main import cli
from ponder.errors import ParameterError, StudyError
from ponder.studies.fit_law import LAWS, fit_law
from ponder.studies.how_well import how_well
from ponder.studies.measured import Measured


def run(*words: object) -> str:
    got = CliRunner().invoke(cli, [str(w) for w in words], catch_exceptions=False)
    assert got.exit_code == 0, got.output
    return got.output


@pytest.fixture
def counts(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    rows = "".join(f"32,{c}\n" for c in rng.binomial(32, rng.beta(0.4, 1.6, 60)))
    path = tmp_path / "counts.csv"
    path.write_text("n,c\n" + rows)
    return path


@pytest.fixture
def study(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    rows, series = [], []
    base = rng.random(50)
    for budget, chance in ((1, 0.3), (2, 0.45), (4, 0.55), (8, 0.6)):
        correct = (base < chance).astype(int).tolist()
        tokens = [100 * budget] * 50
        rows.append(
            {"model": "m", "task": "t", "strategy": "best_of_n", "budget": budget, "n_problems": 50,
             "accuracy": sum(correct) / 50, "generated_tokens": sum(tokens)}
        )  # fmt: skip
        series.append({"strategy": "best_of_n", "budget": budget, "correct": correct, "tokens": tokens})
    rows.append(rows[0] | {"strategy": "single"})
    draws = {"best_of_n": {"n": [8] * 50, "c": rng.binomial(8, rng.beta(0.5, 1.5, 50)).tolist()}}
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "results.json").write_bytes(orjson.dumps(rows))
    (folder / "outcomes.json").write_bytes(orjson.dumps({"series": series, "draws": draws}))
    return folder


def test_the_list_names_every_law() -> None:
    assert set(json.loads(run("laws", "--json"))) == set(LAWS)
    assert "step_law" in run("laws")


def test_step_law_is_a_calculator() -> None:
    text = run("laws", "step", "--params", "1B", "--tokens", "100B")
    assert "1.632e-03" in text and "540.9 sequences" in text
    assert json.loads(run("laws", "step", "--params", "135M", "--tokens", "1e6", "--json"))["notes"]


@pytest.mark.parametrize("law", ["beta_binomial", "coverage_law", "geometric_saturation"])
def test_a_law_is_fitted_to_a_table_with_interval_saturation_and_held_out_error(counts: Path, law: str) -> None:
    got = fit_law(counts, law, resamples=200)
    assert all(low is not None and low < value < high for value, low, high in got.parameters.values())
    assert got.saturation and got.held_out is not None and got.held_out < 0.2 and got.held_out_range == (8, 32)
    text = run("laws", "fit", counts, "--law", law)
    assert "saturation" in text and "held-out error: at most" in text and "95 %" in text


def test_other_tables(tmp_path: Path) -> None:
    curve = tmp_path / "curve.csv"
    curve.write_text("k,quality\n" + "".join(f"{k},{0.9 * (1 - 0.8**k)}\n" for k in (1, 2, 3, 4, 8, 16)))
    got = fit_law(curve, "geometric_saturation_single")
    assert got.saturation == 13 and got.parameters["p"][1] is None and got.held_out == pytest.approx(0, abs=1e-6)
    rounds = tmp_path / "rounds.csv"
    rng = np.random.default_rng(0)
    table = np.maximum.accumulate(rng.random((80, 5)) < 0.3, axis=1).astype(int)
    table[:3, 2] = 0
    rounds.write_text("r0,r1,r2,r3,r4\n" + "\n".join(",".join(map(str, r)) for r in table))
    assert fit_law(rounds, "rethinking_chain", resamples=100).held_out is not None
    power = tmp_path / "power.csv"
    power.write_text("budget,value\n1,1\n2,1.5\n4,2.2\n8,3.4\n")
    assert fit_law(power, "power_law").parameters["budget"][0] == pytest.approx(0.586, abs=0.02)


def test_bad_sources_say_what_is_wrong(counts: Path, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="law must be one of"):
        fit_law(counts, "moore")
    with pytest.raises(ParameterError, match="those of rethinking_chain"):
        fit_law(counts, "rethinking_chain")
    with pytest.raises(StudyError, match="cannot be read"):
        fit_law(tmp_path / "none.csv")
    (tmp_path / "x.csv").write_text("n,c\n4,ä\n")
    with pytest.raises(StudyError, match="column c, row 1: 'ä' is not a number"):
        fit_law(tmp_path / "x.csv")
    (tmp_path / "e.csv").write_text("n,c\n")
    with pytest.raises(StudyError, match="no rows"):
        fit_law(tmp_path / "e.csv")


def test_a_study_says_how_well_it_scales_and_what_was_not_measured(study: Path) -> None:
    best, single = how_well(Measured.load(study))
    assert best.doubling.value is not None and 0.05 < best.doubling.value < 0.2
    assert best.arise.value is not None and best.arise.low is not None and "improved" in best.arise.reason
    assert best.saturation.value is not None and best.area.value is not None
    assert single.doubling.value is None and "two different budgets" in single.doubling.reason
    assert single.arise.value is None and "one budget" in single.arise.reason
    assert "beta_binomial" in run("laws", "fit", study)
    html = study / "report.html"
    assert json.loads(run("report", study, "--json"))["how_well"][0]["strategy"] == "best_of_n"
    text = html.read_text(encoding="utf-8")
    assert "How well it scales" in text and "not measured" in text and "Saturation by the" in text
