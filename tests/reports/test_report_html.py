from __future__ import annotations

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from ponder.cli.report import command
from ponder.errors import MissingExtraError, ParameterError, StoreError, StudyError
from ponder.reports.html import coverage_fit, equal_compute, redact, render, write_report
from ponder.reports.table import results_table
from ponder.studies.measured import AXES, Measured

N = 40


def row(strategy: str, budget: int, correct: list[int], **more: Any) -> dict[str, Any]:
    return {
        "model": "openai:m@https://user:hunter2@host/v1", "task": "jsonl:x.jsonl", "strategy": strategy,
        "budget": budget, "n_problems": len(correct), "accuracy": sum(correct) / len(correct),
        "coverage": sum(correct) / len(correct), "prompt_tokens": 30 * N, "cached_tokens": 0,
        "generated_tokens": 20 * budget * N, "model_calls": budget * N, "verifier_calls": 0, "flops": 1e12 * budget,
        "seconds": 0.5 * budget, "errors": 0,
    } | more  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    p = rng.beta(0.8, 1.2, size=N)
    c = rng.binomial(16, p)
    base = (rng.random(N) < p).astype(int).tolist()
    better = np.maximum(base, rng.random(N) < 0.5).astype(int).tolist()
    worse = (np.array(base) * (rng.random(N) < 0.4)).astype(int).tolist()
    points = [
        ("single", 1, base, {}),
        ("repeated_sampling | majority", 1, base, {}),
        ("repeated_sampling | majority", 16, better, {"cut": 7, "unparsed": 2, "errors": 1}),
        ("best_of_n(verifier=exact)", 16, (c > 0).astype(int).tolist(), {}),
        ("tricky<script>alert(1)</script>", 16, worse, {}),
    ]
    rows = [row(name, budget, correct, **more) for name, budget, correct, more in points]
    stages = {"draw": {"generated_tokens": 100.0, "model_calls": 5}, "judge": {"generated_tokens": 300.0}}
    outcomes = {
        "problem_ids": [str(i) for i in range(N)],
        "series": [{"strategy": s, "budget": b, "correct": x, "stages": stages} for s, b, x, _ in points],
        "draws": {"repeated_sampling | majority": {"n": [16] * N, "c": c.tolist()}},
        "failures": ["draw: 401 api_key=sk-abcdefghijklmnop refused"],
    }
    (tmp_path / "results.json").write_text(json.dumps(rows))
    (tmp_path / "outcomes.json").write_text(json.dumps(outcomes))
    (tmp_path / "study.toml").write_text(
        'model = "openai:m@https://user:hunter2@host/v1"\ntask = "jsonl:x.jsonl"\n'
        'strategies = ["single", "repeated_sampling | majority"]\nsamples = [1, 16]\nseed = 3\napi_key = "topsecret"\n'
    )
    return tmp_path


class Tags(HTMLParser):
    """Every tag with its attributes, and the tags still open at the end."""

    void = frozenset({"meta", "link", "br", "wbr", "img", "input", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"


def test_the_report_is_one_file_that_asks_nothing_of_the_network(folder: Path) -> None:
    path = write_report(folder)
    assert path == folder / "report.html"
    text = path.read_text()
    page = Tags(text)
    assert not page.open
    for tag, attributes in page.seen:
        assert tag not in ("link", "iframe", "img", "object")
        assert not {"src", "href", "srcset", "action"} & attributes.keys(), (tag, attributes)
    assert "url(" not in text and "@import" not in text and "default-src 'none'" in text


def test_it_holds_the_recommendation_the_tables_and_the_settings(folder: Path) -> None:
    text = write_report(folder).read_text()
    for words in (
        "Quality against compute", "At equal compute", "Coverage and its law", "What it cost", "Lost, cut and unparsed",
        "Measure it again", "sees the reference", "beta-binomial", "extrapolated", "ponder bench", "--seed 3",
        "By stage", "judge",
    ):  # fmt: skip
        assert words in text, words
    headline = re.search(r"<h1>(.*?)</h1>", text, re.S)
    assert headline is not None and "majority" in headline[1] and "exact" not in headline[1]


def test_a_loss_against_the_baseline_is_shown_as_a_loss(folder: Path) -> None:
    data = Measured.load(folder)
    table = equal_compute(data, AXES["generated_tokens"])
    tricky = next(r for r in table["rows"] if r["strategy"].startswith("tricky"))
    assert tricky["cells"][-1]["verdict"] == "worse" and tricky["cells"][-1]["high"] < 0
    majority = next(r for r in table["rows"] if "majority" in r["strategy"])
    assert [c["verdict"] for c in majority["cells"]] == ["same", "better"]
    assert "▼" in write_report(folder).read_text()


def test_equal_compute_never_shows_a_point_that_costs_more(folder: Path) -> None:
    data = Measured.load(folder)
    for axis in data.usable_axes():
        table = equal_compute(data, axis)
        for r in table["rows"]:
            assert all(c is None or c["share"] <= 1.03 for c in r["cells"])


def test_names_are_escaped_and_secrets_left_out(folder: Path) -> None:
    text = write_report(folder).read_text()
    assert "<script>alert" not in text and "&lt;script&gt;" in text
    assert "hunter2" not in text and "topsecret" not in text and "sk-abc" not in text
    assert "host/v1" in text


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("Authorization: Bearer abcdefgh12345", "Authorization: …"),
        ("hf_abcdefghijkl", "…"),
        ("max_new_tokens = 256", "max_new_tokens = 256"),
        ("budget = 'tokens=2000'", "budget = 'tokens=2000'"),
        ("https://host:8000/v1", "https://host:8000/v1"),
    ],
)
def test_redaction_takes_keys_and_leaves_settings(given: str, kept: str) -> None:
    assert redact(given).startswith(kept) and "abcdefgh" not in redact(given)


def test_every_chart_is_well_formed_and_named_for_screen_readers(folder: Path) -> None:
    text = write_report(folder).read_text()
    charts = re.findall(r"<svg viewBox=\"0 0 760.*?</svg>", text, re.S)
    assert len(charts) == len(Measured.load(folder).usable_axes()) + 1
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    for chart in charts:
        root = ElementTree.fromstring(chart)  # the report's own text
        assert root.attrib["aria-labelledby"] and root.find("title") is not None
        points = [g for g in root.iter("g") if g.attrib.get("class") == "point"]
        assert points and all(g.attrib["aria-label"] and g.attrib["tabindex"] == "0" for g in points)
        numbers = re.findall(r'\b(?:cx|cy|x1|y1)="([^"]+)"', chart)
        assert all(-20 <= float(x) <= 800 for x in numbers)


def test_the_laws_meet_the_measured_curve(folder: Path) -> None:
    fit = coverage_fit(Measured.load(folder))
    assert fit is not None and fit.law is not None and fit.beta is not None
    assert np.abs(fit.law.predict(fit.k) - np.array(fit.measured)).max() < 0.03
    assert all(low <= y <= high for low, y, high in zip(fit.low, fit.measured, fit.high, strict=True))
    assert [f["k"] for f in fit.forecast()] == [16, 32, 160]


def test_a_study_with_rows_only_still_gets_a_report(folder: Path) -> None:
    (folder / "outcomes.json").unlink()
    (folder / "study.toml").unlink()
    text = render(Measured.load(folder))
    assert "there is no coverage curve" in text and "not paired" in text


def test_a_study_of_oracles_only_gets_a_report_without_a_recommendation(folder: Path) -> None:
    rows = [r for r in json.loads((folder / "results.json").read_text()) if "exact" in r["strategy"]]
    (folder / "results.json").write_text(json.dumps(rows))
    text = render(Measured.load(folder))
    assert "no recommendation" in text and "looks at the reference" in text
    assert CliRunner().invoke(command, [str(folder)]).exit_code == 0


def test_coverage_that_is_always_zero_or_one_says_why_there_is_no_law(folder: Path) -> None:
    data = json.loads((folder / "outcomes.json").read_text())
    for c in (0, 16):
        data["draws"]["repeated_sampling | majority"]["c"] = [c] * N
        (folder / "outcomes.json").write_text(json.dumps(data))
        assert "CoverageLaw needs 3 or more points" in render(Measured.load(folder))


def test_a_report_that_cannot_be_written_is_named(folder: Path) -> None:
    with pytest.raises(StoreError, match="--out"):
        write_report(folder, folder / "missing" / "r.html")
    with pytest.raises(StudyError, match="not a directory"):
        write_report(folder / "missing")


def test_the_table_leaves_missing_numbers_blank() -> None:
    from rich.console import Console

    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(results_table([{"strategy": "single", "budget": 1, "n_problems": 4, "accuracy": 0.25, "cut": 3}]))
    shown = console.export_text()
    assert "0.250" in shown and "3 cut" in shown
    console.file.close()


def test_the_command_writes_report_and_plots(folder: Path) -> None:
    pytest.importorskip("matplotlib")
    done = CliRunner().invoke(command, [str(folder), "--png", "--svg"])
    assert done.exit_code == 0, done.output
    for name in ("report.html", "quality.png", "quality.svg", "coverage.png", "coverage.svg"):
        assert (folder / name).stat().st_size > 1000
        assert name in done.output
    data = json.loads(CliRunner().invoke(command, [str(folder), "--json", "--out", str(folder / "r.html")]).output)
    assert data["report"].endswith("r.html") and set(data["coverage_law"]) >= {"a", "b"}
    assert data["recommendation"]["choice"]["strategy"] == "repeated_sampling | majority"


def test_plots_without_matplotlib_name_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from ponder.reports.plots import write_plots

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"ponder\[plots\]"):
        write_plots(folder)
    with pytest.raises(ParameterError, match="png, svg or pdf"):
        write_plots(folder, formats=["gif"])


@pytest.mark.slow
def test_a_browser_shows_it_and_its_buttons_work(folder: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("needs chromium")
    path = write_report(folder)
    probe = """<script>
    document.querySelector('[data-axis="calls"]').click();
    document.querySelector('[data-toggle="single"]').click();
    document.querySelector('[data-axis-of="calls"] .point').dispatchEvent(new Event("focus"));
    document.title = [document.querySelector('[data-axis-of="calls"]').hidden,
      document.querySelector('[data-axis-of="generated_tokens"]').hidden,
      document.querySelectorAll("[data-series].off").length > 0, !document.getElementById("tip").hidden].join();
    </script></body>"""
    page = tmp_path / "probe.html"
    page.write_text(path.read_text().replace("</body>", probe))
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", f"file://{page}"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "<title>false,true,true,true</title>" in done.stdout


def test_it_shows_front_difficulty_and_bounds_or_says_not_measured(folder: Path) -> None:
    text = render(Measured.load(folder))
    for heading in (
        "The Pareto front",
        "Who gains: by difficulty",
        "Where the compute goes",
        "Bounds: independent runs",
    ):
        assert heading in text
    assert text.count("Not measured") == 2  # nothing here draws adaptively, and no protocol was asked for
    assert "times the compute" in text and "Never right" in text
    data = json.loads((folder / "outcomes.json").read_text())
    data["draws"]["tricky<script>alert(1)</script>"] = {"n": [1 + i % 3 for i in range(N)], "c": [0] * N}
    (folder / "outcomes.json").write_text(json.dumps(data))
    bound = {
        "n_problems": 40, "n_runs": 4, "average": 0.31, "average_std": 0.02, "worst": 0.123, "majority": 0.4,
        "best": 0.777, "tokens": 9.0, "tokens_all": 36.0, "tokens_std": None,
    }  # fmt: skip
    attempt = {"attempts": 2, "solved": 0.456, "generated_tokens": 7, "tokens": 9, "teacher_tokens": 2, "leaked": 3}
    found = {
        "by": "level<i>", "parallel": {"all": bound, "levels": {"3": bound}, "warnings": ["not independent"]},
        "sequential": [{"strategy": "feedback_attempts", "attempts": [attempt]}],
    }  # fmt: skip
    (folder / "protocol.json").write_text(json.dumps(found))
    text = render(Measured.load(folder))
    for shown in (
        "12.3",
        "77.7",
        "45.6",
        "level&lt;i&gt;",
        "not independent",
        "of the strategies that do not draw equally",
    ):
        assert shown in text
    assert "Not measured" not in text and not Tags(text).open
    (folder / "protocol.json").write_text("{damaged")
    assert text.count("Not measured") == 0 and "Not measured" in render(Measured.load(folder))
