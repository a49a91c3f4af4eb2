"""The command line as a user meets it: exit codes, JSON, one-line errors and no traceback."""

import json
import subprocess
import sys

import pytest


def ponder(*arguments, stdin=""):
    return subprocess.run(
        [sys.executable, "-m", "ponder.cli.main", *arguments], input=stdin, capture_output=True, text=True, timeout=120
    )


def test_help_names_every_verb():
    shown = ponder("--help")
    assert shown.returncode == 0
    for verb in ("solve", "bench", "recommend", "report", "select", "check", "list", "models"):
        assert verb in shown.stdout


@pytest.mark.parametrize("verb", ["solve", "bench", "recommend", "report", "select", "check", "list", "models"])
def test_every_verb_has_help(verb):
    shown = ponder(verb, "--help")
    assert shown.returncode == 0, shown.stderr
    assert "Usage" in shown.stdout


def test_solve_prints_the_answer_the_votes_and_the_spend():
    shown = ponder("solve", "-m", "sim:strong", "-s", "best_of_n(n=8) | majority", "What is 17+25?")
    assert shown.returncode == 0, shown.stderr
    assert "votes" in shown.stdout and "16 calls (8 draws, 8 scores)" in shown.stdout


def test_solve_json_holds_candidates_votes_and_spend_per_stage():
    shown = ponder("solve", "-m", "sim:strong", "-s", "best_of_n(n=4) | majority", "--json", "What is 17+25?")
    record = json.loads(shown.stdout)
    assert record["status"] == "ok"
    assert sum(v["count"] for v in record["votes"]) == len(record["candidates"]) == 4
    assert record["total"]["model_calls"] == record["spend"]["draw"]["model_calls"] == 4


def test_solve_says_how_many_rows_of_its_table_are_not_shown():
    asked = ("solve", "-m", "gmm:a", "-p", "denoising(steps=3)", "x", "-s")
    assert "and 2 more" in ponder(*asked, "best_of_n(n=12, verifier=gmm_reward)").stdout
    assert "and 2 more" in ponder(*asked, "repeated_sampling(n=12) | majority").stdout
    assert " more" not in ponder(*asked, "best_of_n(n=10, verifier=gmm_reward)").stdout


def test_the_reason_for_no_answer_is_one_line_however_long():
    asked = ("solve", "-m", "gmm:a", "-p", "denoising(steps=3)", "x", "-b", "function_evaluations=1", "-s")
    shown = ponder(*asked, "diffusion_tree_sampling(n=4, verifier=gmm_reward)")
    first = shown.stdout.splitlines()[0]
    assert shown.returncode == 3 and first.startswith("no answer: the budget") and len(first) > 80
    assert first.endswith("3 function_evaluations, 3 transitions, 3 model_calls")


def test_solve_reads_a_prompt_in_any_script_from_standard_input():
    shown = ponder("solve", "-m", "sim:strong", "-s", "single", "-", stdin="17 と 25 の合計は? 🧮")
    assert shown.returncode == 0, shown.stderr


def test_a_budget_of_zero_is_no_answer_with_a_reason_and_exit_code_3():
    shown = ponder("solve", "-m", "sim:strong", "-b", "calls=0", "hello")
    assert shown.returncode == 3
    assert "budget" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["solve", "-m", "sim:strong", "-s", "best_of_m", "x"], "did you mean best_of_n"),
        (["solve", "-m", "sim:strong", "-s", "best_of_n(n=", "x"], "^"),
        (["solve", "-m", "nothing:x", "x"], "unknown model"),
        (["solve", "-m", "sim:strong", "-b", "tokns=4", "x"], "tokens"),
        (["solve", "-m", "sim:strong", "-t", "-1", "x"], "temperature"),
        (["solve", "-m", "sim:strong", ""], "prompt is empty"),
        (["solve", "-m", "sim:strong", "--price", "x", "x"], "MODEL=PROMPT,CACHED,GENERATED"),
        (["slove"], "Did you mean solve"),
        (["list", "strategys-x"], "unknown kind"),
        (["check", "-m", "sim:strong", "--verifier", "exact"], "--task"),
        (["solve", "-m", "diffusers:digits", "7"], "Its verifier log_probability does; give another, verifier=…"),
        (["solve", "-m", "diffusers:digit", "-s", "single", "7"], "there is no folder digit"),
    ],
)
def test_bad_input_is_one_message_without_a_traceback(arguments, says):
    shown = ponder(*arguments)
    assert shown.returncode in (1, 2)
    assert says in shown.stderr
    assert "Traceback" not in shown.stderr


def test_an_error_under_json_is_json():
    shown = ponder("solve", "-m", "sim:strong", "-s", "best_of_m", "--json", "x")
    assert json.loads(shown.stdout)["error"] == "UnknownNameError"


def test_list_shows_techniques_and_filters_by_tag():
    rows = json.loads(ponder("list", "--json").stdout)
    assert {"best_of_n", "majority", "exact", "sim"} <= {row["name"] for row in rows}
    only = json.loads(ponder("list", "strategies", "--how", "verification,search:mcts", "--json").stdout)
    assert {"mcts", "ab_mcts"} <= {row["name"] for row in only}
    for row in only:
        heads = {tag.split(":")[0] for tag in row["tags"]["how"]}
        assert row["kind"] == "strategy" and {"verification", "search"} <= heads


def test_check_reports_what_a_model_does(tmp_path, monkeypatch):
    monkeypatch.setenv("PONDER_CACHE", str(tmp_path))
    found = json.loads(ponder("check", "-m", "sim:default", "--json").stdout)
    verdicts = {f["name"]: f["verdict"] for f in found["findings"]}
    assert verdicts["n"] == verdicts["seeds"] == verdicts["logprobs"] == "yes"
    ignores = json.loads(ponder("check", "-m", "sim:default(ignore_n=true)", "--json").stdout)
    assert any("ignores n" in line for line in ignores["warnings"])


def test_import_ponder_loads_no_heavy_package():
    heavy = "{'torch', 'matplotlib', 'numpy', 'scipy', 'aiohttp', 'rich'}"
    code = f"import sys, ponder; print(sorted({heavy} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert shown.stdout.strip() == "[]"


def test_help_loads_no_numerics():
    code = (
        "import sys\nfrom ponder.cli.main import cli\n"
        "try:\n    cli(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'numpy', 'rich', 'aiohttp', 'torch', 'matplotlib'} & set(sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert shown.returncode == 0, shown.stderr
