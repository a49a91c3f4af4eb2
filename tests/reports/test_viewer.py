"""The viewer: what it stores, serves, refuses, and shows in a real browser."""

import asyncio
import json
import re
import shutil
import subprocess
from contextlib import closing

import pytest

from ponder.errors import StudyError
from ponder.reports.viewer import export, page, searches, serve
from ponder.studies.runner import bench
from ponder.studies.store import StoreReader

BEAM = "beam_search(n=8, verifier=sim_tree_score)"
PARTICLES = "particle_filter(n=4, verifier=sim_tree_score)"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    world = "sim_tree(survival=[0.8], sharpness=[0.5], noise=[1.5], count=6)"
    bench(
        model="sim:default", task=world, process="sim_tree", strategies=[BEAM, PARTICLES, "best_of_n(n=2)"],
        out=folder, check=False,
    )  # fmt: skip
    return folder


def test_every_search_of_a_study_is_kept_with_its_tree_scores_and_grades(study):
    with closing(StoreReader(study)) as store:
        listed = searches(store)
        assert len(listed) == 12 and {s["problem"] for s in listed} == {f"tree-0-{i}" for i in range(6)}
        for one in listed:
            tree = store.tree(one["strategy"], one["budget"], one["problem"])
            assert all(-1 <= node["parent"] < i for i, node in enumerate(tree["nodes"]))
            assert len(tree["nodes"]) == one["nodes"] == 8 * one["budget"] + 1
            chosen = [leaf for leaf in tree["leaves"] if leaf["chosen"]]
            assert len(chosen) == 1 and chosen[0]["answer"] == tree["answer"]
            assert chosen[0]["right"] == one["right"] == (tree["answer"] == tree["reference"])
            assert sum(node.get("continuations", 0) for node in tree["nodes"]) > 0
        weights = [n for n in tree["nodes"] if "log_weight" in n]
        assert len(weights) >= 4


def test_a_study_without_searches_and_a_problem_that_is_not_there_say_so(study, tmp_path):
    with pytest.raises(StudyError, match="no search of problem 'nine'"):
        export(study, tmp_path / "x.html", problem="nine")
    bench(
        model="sim:default", task="sim_tree(count=2)", process="sim_tree", strategies=["repeated_sampling(n=2)"],
        out=tmp_path / "plain", check=False,
    )  # fmt: skip
    with closing(StoreReader(tmp_path / "plain")) as store, pytest.raises(StudyError, match="holds no search trees"):
        searches(store)


def test_the_page_has_no_outside_reference_and_text_cannot_leave_its_place(study, tmp_path):
    text = page({"index": [{"prompt": "</script><script>alert(1)</script>"}], "tree": None})
    assert text.count("</script>") == 1
    outside = re.findall(r"(?:https?:)?//[\w.]+", text.replace("http://www.w3.org/2000/svg", ""))
    assert not outside
    export(study, tmp_path / "one.html", strategy=BEAM, problem="tree-0-3")
    assert "tree-0-3" in (tmp_path / "one.html").read_text(encoding="utf-8")


def test_it_serves_this_machine_only_and_only_what_there_is(study):
    import aiohttp

    async def visit():
        address = asyncio.get_running_loop().create_future()
        server = asyncio.create_task(serve(study, 0, address.set_result))
        try:
            url = await asyncio.wait_for(address, 10)
            async with aiohttp.ClientSession() as session:
                async with session.get(url) as home:
                    assert home.status == 200 and "default-src 'none'" in home.headers["Content-Security-Policy"]
                async with session.get(url, headers={"Host": "elsewhere.example"}) as foreign:
                    assert foreign.status == 403
                async with session.get(url + "api/searches") as listing:
                    assert len(await listing.json()) == 12
                async with session.get(url + "api/searches/3") as one:
                    assert json.loads(await one.text())["nodes"]
                for missing in ("99", "x", "-1x"):
                    async with session.get(url + f"api/searches/{missing}") as none:
                        assert none.status == 404
        finally:
            server.cancel()
            await asyncio.gather(server, return_exceptions=True)

    asyncio.run(visit())


def in_browser(file, profile):
    """The page's DOM after its scripts have run."""
    return subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         f"--user-data-dir={profile}", "--virtual-time-budget=3000", "--dump-dom", file.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
@pytest.mark.slow
def test_a_browser_draws_the_tree_marks_the_chosen_path_and_lists_the_problem(study, tmp_path):
    file = tmp_path / "one.html"
    export(study, file, strategy=BEAM)
    shown = in_browser(file, tmp_path / "profile")
    assert shown.count('class="node') == 65
    assert shown.count('class="edge path"') == 8
    assert "★" in shown and "tree-0-0" in shown


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
@pytest.mark.slow
def test_a_browser_shows_resampling_and_answers_that_others_refine(study, tmp_path):
    file = tmp_path / "particles.html"
    export(study, file, strategy=PARTICLES)
    shown = in_browser(file, tmp_path / "profile")
    assert re.search(r'text-anchor="middle">×\d', shown) and "effective sample size" in shown
    assert "pruned" in shown  # particles without offspring
    adaptive = "ab_mcts(n=12, verifier=exact)"
    bench(
        model="sim:default", task="sim_scores(count=1)", process="sim_scores", strategies=[adaptive],
        out=tmp_path / "refined", check=False,
    )  # fmt: skip
    export(tmp_path / "refined", file, strategy=adaptive)
    shown = in_browser(file, tmp_path / "profile")
    with closing(StoreReader(tmp_path / "refined")) as store:
        tree = store.tree(adaptive, 12, "scores-0-0")
    leaves, parents = {leaf["node"] for leaf in tree["leaves"]}, {node["parent"] for node in tree["nodes"]}
    assert leaves & parents and len(re.findall(r'text-anchor="middle"[^>]*>(?:★ )?[✓✗] ', shown)) == len(
        leaves & parents
    )
