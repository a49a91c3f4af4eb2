"""Learning from a history whose truth is known which settings to try first."""

import json
from dataclasses import replace

import numpy as np
import orjson
import pytest
from click.testing import CliRunner

from ponder.cli.main import cli
from ponder.errors import StoreError, UnknownNameError
from ponder.tuning.catalogue import AXES, FEATURES, catalogue, engines
from ponder.tuning.choose import Regression, choose, fit, group_features, leave_one_out, usable
from ponder.tuning.history import Row, append, read
from ponder.tuning.profiles import profile, save_profile
from ponder.tuning.workload import Workload

HOST = {"processor": "p", "cores": 2, "memory_bytes": 1 << 33}
METHODS = ({}, {"prompt_cache": False}, {"parallel": 1}, {"unified": False})


def full(config):
    return {"prompt_cache": True, "parallel": 32, "unified": True, **config}


def truth(load, config):
    """A cache for prompts pays if prompts share much and clients are many, and costs otherwise."""
    pays = load.shared / load.prompt[0] * np.log2(load.clients) > 1.2
    if config.get("prompt_cache") is False:
        return 60.0 if pays else 130.0
    return {"parallel": 80.0, "unified": 70.0}.get(next(iter(config), ""), 100.0)


def history(groups=50, noise=0.03, seed=0, shuffled=False):
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(groups):
        load = Workload.parse(
            f"chat(prompt=400, shared={rng.integers(0, 400)}, clients={2 ** rng.integers(0, 6)}, "
            f"output={rng.integers(8, 200)})"
        )
        values = [float(truth(load, config) * np.exp(noise * rng.standard_normal())) for config in METHODS]
        if shuffled:
            values = [float(v) for v in rng.permutation(values)]
        for config, value in zip(METHODS, values, strict=True):
            rows.append(Row("run", "search", "llamacpp 1", "llamacpp:m", {"log params": 27.0}, HOST, str(load),
                            load.features(), "throughput", full(config), config, value, value / values[0]))  # fmt: skip
    return rows


def test_a_known_interaction_is_learnt_from_200_rows():
    """The best of four methods depends on two features together; 50 new workloads, at least 90 % chosen right."""
    rows = history()
    learnt = fit(usable(rows))
    right = 0
    for group in usable(history(seed=1, noise=0.0)):
        predicted = learnt.predict(group_features(group[0]), [r.settings for r in group])
        right += group[int(np.argmax(predicted))].value == max(r.value for r in group)
    assert right >= 45


def test_choosing_saves_tries_over_any_other_order():
    saved = leave_one_out(history(20))
    orders = saved.orders
    assert saved.groups == 20 and orders["random"].tries == pytest.approx(2.5)
    assert orders["learnt"].tries < 1.25 < orders["average"].tries
    assert orders["learnt"].regret < orders["nearest group"].regret and orders["learnt"].regret < 0.05


def test_permuted_values_teach_nothing():
    """Six histories of 12 groups whose values are shuffled: as many tries as by chance (2.5; deviation 1.12)."""
    tries = [leave_one_out(history(12, seed=s, shuffled=True)).orders["learnt"].tries for s in range(6)]
    assert abs(np.mean(tries) - 2.5) < 4 * 1.12 / np.sqrt(12 * 6)


def test_the_error_of_groups_left_out_in_closed_form_is_that_of_leaving_them_out():
    rows = usable(history(6))
    whole, total = Regression(rows, 0.6, 0.2), 0.0
    start = 0
    kernel = whole._kernel(whole._groups, whole._configs)
    for group in rows:
        held = np.zeros(len(kernel), bool)
        held[start : start + len(group)] = True
        start += len(group)
        weights = np.linalg.solve(kernel[~held][:, ~held] + 0.2 * np.eye((~held).sum()), whole._target[~held])
        gap = whole._target[held] - kernel[held][:, ~held] @ weights
        total += ((gap - gap.mean()) ** 2).sum()
    assert whole.left_out_error() == pytest.approx(total)


def test_a_choice_is_relative_to_the_default_and_names_simple_settings_first():
    rows = history()
    few, many = (
        Workload.parse(f"chat(prompt=400, output=100, {rest})") for rest in ("shared=10", "shared=390, clients=16")
    )
    for load, best in ((few, {"prompt_cache": False}), (many, {})):
        chosen = choose(rows, "llamacpp:m", load, {"log params": 27.0}, HOST)
        assert dict(chosen.picks[0].config) == best and "learnt from 200 rows of 50 groups" in chosen.reason
        assert next(p.ratio for p in chosen.picks if not p.config) == pytest.approx(1.0)
    assert chosen.picks[0].ratio == pytest.approx(1.0)


def test_a_stranger_gets_the_average_order():
    rows = history()
    load = Workload.parse("chat(prompt=400, output=100, shared=10)")
    far = choose(rows, "llamacpp:m", load, {"log params": 40.0}, {**HOST, "cores": 4096})
    assert "nothing like this was measured" in far.reason
    assert "too few" in choose(rows[:12], "llamacpp:m", load, {"log params": 27.0}, HOST).reason
    none = choose(rows, "embedded:m", load, {}, HOST)
    assert not none.picks and "nothing was measured on embedded" in none.reason
    assert leave_one_out(rows[:4]) is None


def test_failures_and_early_stops_are_no_speeds():
    rows = history(2)
    rows[0] = replace(rows[0], failure="crashed", value=0.0)
    rows[1] = replace(rows[1], share=0.25, value=1e9)
    assert [len(g) for g in usable(rows)] == [2, 4]


def test_validated_rows_and_other_versions_are_kept_apart():
    rows = history(1)
    proven = replace(rows[1], stage="validation", value=7.0)
    assert {r.value for r in usable([proven, *rows])[0] if r.config} >= {7.0}
    assert len(usable([*rows, *(replace(r, engine="llamacpp 2") for r in rows)])) == 2


def test_a_history_reads_back_and_a_broken_line_is_named(tmp_path):
    path = tmp_path / "deep" / "h.jsonl"
    rows = history(2)
    for row in rows:
        append(path, row)
    assert read(path) == rows and read(tmp_path / "none.jsonl") == []
    path.write_bytes(b"{}\n" + path.read_bytes())
    with pytest.raises(StoreError, match="line 1 is not a row"):
        read(path)


# ---------------------------------------------------------------- catalogue and command line


def test_the_catalogue_keeps_to_its_vocabulary():
    names = [e.name for e in catalogue()]
    assert len(names) == len(set(names)) >= 25
    for entry in catalogue():
        assert set(entry.can) <= set(FEATURES) and entry.hardware and entry.kind in ("open", "commercial")
        assert set(entry.axes) == set(AXES) and all(1 <= mark <= 3 for mark in entry.axes.values())
        assert "{model}" in entry.launch or not entry.launch or entry.name == "Ollama"
    assert set().union(*(e.can for e in catalogue())) == set(FEATURES)
    assert [e.name for e in engines(("disaggregated_prefill", "lora", "expert_parallel"))] == [
        "vLLM",
        "SGLang",
        "TensorRT-LLM",
    ]
    with pytest.raises(UnknownNameError, match="prefix_caching"):
        engines(("prefix_cache",))


def test_the_page_shows_the_catalogue_as_it_is():
    from pathlib import Path

    page = (Path(__file__).parents[2] / "docs/guide/engines.md").read_text(encoding="utf-8")
    for entry in catalogue():
        marks = " | ".join(str(entry.axes[a]) for a in AXES)
        assert f"| {entry.name} | {marks} |" in page, entry.name


def run(*words, code=0):
    got = CliRunner().invoke(cli, [str(w) for w in words], catch_exceptions=code == 0)
    assert got.exit_code == code, got.output
    return got.output


def test_the_command_lists_and_filters_engines():
    assert "vLLM" in run("engine", "list") and "Groq" not in run("engine", "list", "--can", "lora")
    told = json.loads(run("engine", "list", "--json", "--can", "cpu"))
    assert "not measured" in told["as_of"] and all("cpu" in e["can"] for e in told["engines"])


def test_a_dry_run_shows_settings_and_the_command():
    shown = run("engine", "tune", "-m", "openai:q/m@http://127.0.0.1:8000/v1", "--server", "sglang", "--dry-run")
    assert "chunked_prefill_size" in shown and "--model-path q/m --host 127.0.0.1 --port 8000" in shown
    assert "kv " in run("engine", "tune", "-m", "llamacpp:x", "--dry-run", "--lossy")


def test_the_command_chooses_from_a_history(tmp_path, monkeypatch):
    monkeypatch.setenv("PONDER_CACHE", str(tmp_path))
    path = tmp_path / "h.jsonl"
    for row in history(10):
        append(path, row)
    shown = run("engine", "choose", "--history", path)
    assert "left out in turn, 10 groups" in shown and "random" in shown
    assert "too small" in run("engine", "choose", "--history", tmp_path / "none")
    told = json.loads(run("engine", "choose", "--history", path, "--json"))
    assert told["left_out"]["groups"] == 10 and told["chosen"] is None


def test_the_command_probes_a_model(tmp_path, monkeypatch):
    monkeypatch.setenv("PONDER_CACHE", str(tmp_path))
    shown = run("engine", "probe", "sim:default")
    assert "distinct_samples" in shown and "prompt_cache" in shown and "strategies that it can run" in shown
    told = json.loads(run("engine", "probe", "sim:default", "--json", "--max-tokens", 0))
    assert "best_of_n" in told["runs"]
    assert {f["verdict"] for f in told["findings"] if f["name"] == "cancelling"} == {"unknown"}


def test_a_tuning_is_remembered_by_model_workload_and_machine(tmp_path, monkeypatch):
    from tests.tuning.test_tune import tuned

    monkeypatch.setenv("PONDER_CACHE", str(tmp_path))
    result = replace(tuned(lambda c: 150.0 if c.get("a") == 2 else 100.0, 0.01, 0), host=HOST)
    path = save_profile(result, "fake")
    known = profile("fake:model", "chat", "throughput", HOST)
    assert known["spec"] == result.spec and result.config["a"] == 2 and known["gain"]["low"] > 1
    assert profile("fake:model", "search", "throughput", HOST) is None
    assert profile("fake:model", "chat", "throughput", {**HOST, "cores": 64}) is None
    path.write_bytes(b"{")
    assert profile("fake:model", "chat", "throughput", HOST) is None
    save_profile(result, "fake")
    assert orjson.loads(path.read_bytes())
