"""Pictures as results: files of a solve, the report's gallery, and the viewer's nodes."""

import json
import re
import shutil
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import ponder
from ponder.api import build_process
from ponder.cli.main import cli
from ponder.core.problem import Problem
from ponder.core.strategy import Result
from ponder.reports import shown_pictures
from ponder.reports.html import write_report
from ponder.reports.pictures import _ranked, default_folder, sheet_of, write_result
from ponder.reports.shown_pictures import gallery
from ponder.studies.measured import Measured
from ponder.studies.runner import bench
from ponder.studies.store import StoreReader

Image = pytest.importorskip("PIL.Image")
sys.path[:0] = [str(Path(__file__).parent.parent / "support"), str(Path(__file__).parent)]
from dots import Dots, DotsTask, registered  # noqa: E402
from test_viewer import in_browser  # noqa: E402

PARTICLES = "particle_filter(n=4, verifier=dots_ink)"
BEST = "best_of_n(verifier=dots_ink)"
CHOSEN = (0xC4, 0x50, 0x0A)


@pytest.fixture(scope="module", autouse=True)
def names():
    with registered():
        yield


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    bench(
        model=Dots(), task=DotsTask(), process="denoising(steps=4)", strategies=[BEST, PARTICLES], samples=[2, 4],
        baselines=False, out=folder, check=False,
    )  # fmt: skip
    return folder


def result_of(outputs, scores=None, chosen=(0,)):
    scores = scores or [1.0 - i / 10 for i in range(len(outputs))]
    candidates = tuple(
        ponder.Candidate(o, None, scores={"ink": s}, index=i)
        for i, (o, s) in enumerate(zip(outputs, scores, strict=True))
    )
    return Result(Problem("p", "a 赤い fox / 7!"), candidates, chosen)


def test_the_sheet_has_every_candidate_best_first_and_frames_the_chosen_ones(tmp_path):
    shades = [np.full((8, 8), v) for v in (0.2, 0.6, 0.4)]
    result = result_of(shades, [0.1, 0.3, 0.2], chosen=(2,))
    written = write_result(result, tmp_path)
    with Image.open(written.sheet) as sheet:
        assert sheet.info["Description"] == "a 赤い fox / 7!"
        pixels = np.asarray(sheet)
    middle = [int(pixels[10 + 48, 10 + 48 + 116 * i, 0]) for i in range(2)]
    assert middle == [102, 153], "the chosen one, then by score"
    assert tuple(pixels[6, 6]) == CHOSEN and (pixels == CHOSEN).all(axis=2).sum() > 4 * 96
    with Image.open(written.chosen) as chosen:
        np.testing.assert_array_equal(np.asarray(chosen), np.full((8, 8), 102))
    assert "search.html" in str(written.search) and written.left_out == 0


def test_ranks_are_by_score_even_where_the_chosen_one_comes_first(monkeypatch):
    from PIL import ImageDraw

    told = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda self, at, text, **_: told.append(text))
    sheet_of(result := result_of([np.zeros((8, 8))] * 3, [0.1, 0.3, 0.2], chosen=(2,)), _ranked(result))
    assert told[1:] == ["2  0.2", "1  0.3", "3  0.1"], "the chosen one is not the best-scored one, and says so"


def test_a_video_is_an_animation_and_a_strip(tmp_path):
    video = np.stack([np.full((8, 8, 3), v) for v in np.linspace(0, 1, 7)])
    written = write_result(result_of([video, video[::-1]]), tmp_path)
    with Image.open(written.chosen) as film, Image.open(written.sheet) as sheet:
        assert written.chosen.suffix == ".gif" and film.n_frames == 7 and film.info["loop"] == 0
        assert sheet.width > 6 * 96


def test_files_of_another_result_are_kept_and_the_same_ones_not_doubled(tmp_path):
    first, second = result_of([np.zeros((8, 8))]), result_of([np.ones((8, 8))])
    assert write_result(first, tmp_path).sheet.name == "pictures.png"
    assert write_result(first, tmp_path).sheet.name == "pictures.png"
    again = write_result(second, tmp_path)
    assert (again.sheet.name, again.chosen.name) == ("pictures-2.png", "chosen-2.png")
    assert write_result(second, tmp_path) == again
    assert default_folder(first) != default_folder(second)
    with pytest.raises(ponder.errors.StoreError, match="--out"):
        write_result(first, again.sheet)


def test_candidates_without_scores_choices_or_of_other_sizes_still_make_a_sheet(tmp_path):
    odd = [np.zeros((8, 8)), np.ones((300, 500, 3)), np.zeros((40, 10))]
    result = result_of(odd, [float("nan"), float("nan"), 1.0], chosen=())
    assert write_result(result, tmp_path).chosen is None
    assert sheet_of(result, result.candidates[:1]).height > 96


def test_solve_writes_pictures_and_the_search_and_says_where(tmp_path, monkeypatch):
    run = CliRunner()
    monkeypatch.chdir(tmp_path)
    asked = ["solve", "明るい 🌞", "-m", "dots", "-s", PARTICLES, "-p", "denoising(steps=4, macro=2)"]
    shown = run.invoke(cli, asked, catch_exceptions=False)
    assert shown.exit_code == 0 and "16 function evaluations" in shown.output
    places = dict(re.findall(r"^(pictures|chosen|search): (\S+)", shown.output, re.MULTILINE))
    assert set(places) == {"pictures", "chosen", "search"} and all(Path(p).is_file() for p in places.values())
    assert "ponder-明るい" in places["pictures"]
    told = run.invoke(cli, [*asked, "--json", "-o", "run"], catch_exceptions=False)
    record = json.loads(told.output)
    assert record["files"]["pictures"] == "run/pictures.png" and record["output"].startswith("array (8, 8) #")
    view = run.invoke(cli, ["view", "run", "--no-browser"], catch_exceptions=False)
    assert view.output.strip() == "run/search.html"
    page = Path("run/search.html").read_text(encoding="utf-8")
    assert page.count("data:image/png") == 3 * 4, "finished and unfinished nodes have a picture"
    text = run.invoke(cli, ["solve", "What is 2+3?", "-m", "sim:strong", "-s", "best_of_n(n=2)"])
    assert text.exit_code == 0 and "search:" not in text.output
    kept = run.invoke(cli, ["solve", "What is 2+3?", "-m", "sim:strong", "-s", "best_of_n(n=2)", "-o", "text"])
    assert "search: text/search.html" in kept.output and not Path("text/pictures.png").exists()


def test_every_node_of_a_stored_search_has_its_picture(study):
    with closing(StoreReader(study)) as store:
        tree = store.tree(PARTICLES, 4, "dots-0-0")
        assert all(("picture" in node) == (node["parent"] >= 0) for node in tree["nodes"])
        flat = store.tree(BEST, 4, "dots-0-0")
        assert len(flat["nodes"]) == 5 and all(flat["nodes"][leaf["node"]]["picture"] for leaf in flat["leaves"])
        assert flat["nodes"][flat["leaves"][0]["node"]]["score"] == flat["leaves"][0]["scores"]["dots_ink"]


def test_the_report_shows_chosen_pictures_and_candidates_with_rewards_and_asks_nobody(study):
    text = write_report(study).read_text(encoding="utf-8")
    assert text.count('<figure class="picked">') == 4 * 2 and text.count("<figure") == 4 * (4 + 4)
    assert "“hell &amp; klar &lt;b&gt;”" in text and "“明るい”" in text
    assert len(re.findall(r"<figcaption><span class=.(?:better.>✓|worse.>✗)</span> [\d.]", text)) == 32
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text)
    assert "Function evaluations" in text


def test_pictures_that_do_not_fit_are_left_out_and_counted(study, monkeypatch):
    data = Measured.load(study)
    whole = gallery(data)
    size = sum(len(s.source) for _, rows in whole.problems for row in rows for s in (*row.chosen, *row.others))
    small = gallery(data, most_bytes=size // 2)
    shots = [s for _, rows in small.problems for row in rows for s in (*row.chosen, *row.others)]
    assert sum(len(s.source) for s in shots) <= size // 2 and len(shots) + small.left_out == 32
    assert all(row.chosen for _, rows in small.problems for row in rows), "chosen ones come first"
    none = gallery(data, most_bytes=0)
    assert none.left_out == 32
    monkeypatch.setattr(shown_pictures, "MOST_PROBLEMS", 2)
    assert "The first 2 of 4 problems" in write_report(study, study / "two.html").read_text(encoding="utf-8")


def test_a_study_of_text_has_no_gallery(tmp_path):
    from ponder.testing import Sums

    bench(model="sim:default", task=Sums(), strategies=["single"], limit=2, out=tmp_path, check=False)
    assert gallery(Measured.load(tmp_path)) is None
    assert "h-pictures" not in write_report(tmp_path).read_text(encoding="utf-8")


def test_a_preview_that_cannot_be_made_takes_nothing_away(tmp_path):
    result = ponder.solve("x", model=Dots(), process="denoising(steps=3)", strategy=PARTICLES)
    process = build_process("denoising(steps=2)", (), Dots(side=9))
    assert write_result(result, tmp_path, process).search.is_file()


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
@pytest.mark.slow
def test_a_browser_shows_the_pictures_of_leaves_and_of_the_chosen_one(study, tmp_path):
    from ponder.reports.viewer import export

    export(study, tmp_path / "one.html", strategy=PARTICLES)
    shown = in_browser(tmp_path / "one.html", tmp_path / "profile")
    assert shown.count("<image ") == 4 and shown.count('class="frame chosen"') == 1
    assert shown.count('class="picture') == 1


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
@pytest.mark.slow
def test_a_browser_shows_whole_pictures_and_no_number_of_samples_that_was_not_asked_for(tmp_path):
    result = ponder.solve("x", model=Dots(), process="denoising(steps=3)", strategy="best_of_n(n=2, verifier=dots_ink)")
    page = write_result(result, tmp_path, strategy="evo_search(n=1)").search
    shown = in_browser(page, tmp_path / "profile")
    assert ">evo_search(n=1)</option>" in shown and "<dt>n</dt>" not in shown
    tops = [float(y) for y in re.findall(r'<rect [^>]*y="(-?[\d.]+)"', shown)]
    assert len(tops) == 2 and min(tops) > 1.5, "the frame of the first picture is not cut"
