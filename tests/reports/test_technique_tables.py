"""The generated tables: in step with the registry, and only between the markers."""

from pathlib import Path

import pytest

from ponder.core.registry import REGISTRIES
from ponder.core.taxonomy import DEFAULTS
from ponder.errors import StudyError
from ponder.reports.technique_tables import main, pages, shipped, stale

ROOT = Path(__file__).parent.parent.parent
MARKS = "<!-- techniques: written by make tables -->\n<!-- /techniques -->"


def test_the_tables_of_this_checkout_are_not_stale():
    assert not stale(ROOT), "run: make tables"


def test_they_list_every_technique_once_with_tags_and_paper():
    readme, techniques = pages(ROOT).values()
    for kind in DEFAULTS:
        for entry in shipped(kind):
            assert techniques.count(f"\n| [`{entry.name}`](") == sum(
                e.name == entry.name for k in DEFAULTS for e in shipped(k)
            )
            if kind in ("strategy", "selector", "verifier"):
                assert f"| [`{entry.name}`](docs/" in readme
    row = next(line for line in techniques.splitlines() if line.startswith("| [`majority`]"))
    assert "aggregation:majority" in row and "Wang et al. 2022" in row
    assert REGISTRIES["strategy"].entry("best_of_n") in shipped("strategy")


def test_what_lies_outside_the_markers_is_left_alone_and_writing_twice_changes_nothing(tmp_path, capsys):
    (tmp_path / "docs").mkdir()
    for file in ("README.md", "docs/techniques.md"):
        (tmp_path / file).write_text(f"before ünï\n{MARKS}\nafter\n", encoding="utf-8")
    assert len(stale(tmp_path)) == 2
    main([str(tmp_path)])
    assert not stale(tmp_path) and "written: " in capsys.readouterr().out
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert text.startswith("before ünï\n<!-- techniques") and text.endswith("<!-- /techniques -->\nafter\n")
    assert "[`single`](docs/techniques.md)" in text  # without a page of its own
    (tmp_path / "README.md").write_text("no markers", encoding="utf-8")
    with pytest.raises(StudyError, match="needs one line"):
        pages(tmp_path)
