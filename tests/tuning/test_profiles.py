"""Models take what a tuning has proved, say so, and can be told not to."""

import logging
from dataclasses import replace

import orjson
import pytest
from tests.models.test_llama_cpp import header

import ponder
from ponder.core.spec import parse_term
from ponder.studies.plan import Study
from ponder.studies.runner import prepare
from ponder.testing import Sums
from ponder.tuning import profiles
from ponder.tuning.compare import Ratio
from ponder.tuning.history import engine_version, host
from ponder.tuning.profiles import save_profile, with_profile
from ponder.tuning.tune import Proof, Tuned

MODEL = "llamacpp:model.gguf"
ENGINE = engine_version("llamacpp")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PONDER_CACHE", str(tmp_path / "cache"))
    for name in ("PONDER_PROFILES", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(profiles, "_SAID", set())
    monkeypatch.chdir(tmp_path)


def tuned(config=None, low=1.1, workload="samples", environment=None, **changed):
    config = {"parallel": 4} if config is None else config
    proofs = (
        Proof({}, (1.0,), Ratio(1, 1, 1), 1.0),
        Proof(config or {"parallel": 1}, (1.2,), Ratio(1.2, low, 1.3), 1.2),
    )
    made = Tuned(MODEL, workload, "throughput", config, "", environment or {}, (), proofs, (), 0.02, None, False, {},
                 host(measure=False))  # fmt: skip
    return replace(made, **changed)


def taken(text=MODEL):
    return str(with_profile(parse_term(text))[0])


def test_a_bare_model_takes_what_was_proved_and_says_so_once(caplog):
    assert taken() == MODEL
    save_profile(tuned(), ENGINE)
    with caplog.at_level(logging.WARNING):
        assert taken() == f"{MODEL}(parallel=4)" and taken() == f"{MODEL}(parallel=4)"
    (said,) = caplog.messages
    assert (
        "parallel=4, as tuned here for samples (1.20 times the default, 1.10 to 1.30)" in said
        and "profile=none" in said
    )


@pytest.mark.parametrize("text", [f"{MODEL}(profile=none)", f"{MODEL}(profile=off)"])
def test_profile_none_keeps_the_default(text):
    save_profile(tuned(), ENGINE)
    assert taken(text) == MODEL


def test_the_environment_variable_keeps_the_default(monkeypatch):
    save_profile(tuned(), ENGINE)
    monkeypatch.setenv("PONDER_PROFILES", "off")
    assert taken() == MODEL and taken(f"{MODEL}(profile=samples)") == MODEL


def test_settings_of_the_text_keep_profiles_away_unless_one_is_asked_for():
    save_profile(tuned({"parallel": 4, "ubatch": 64}), ENGINE)
    assert taken(f"{MODEL}(parallel=8)") == f"{MODEL}(parallel=8)"
    assert taken(f"{MODEL}(parallel=8, profile=samples)") == f"{MODEL}(parallel=8, ubatch=64)"
    assert taken(f"{MODEL}(profile=search)") == MODEL


@pytest.mark.parametrize(
    "changed",
    [{"low": 0.99}, {"lossy": True}, {"spread": 0.4}, {"flags": ("--x",)}, {"host": {"processor": "z80", "cores": 1}},
     {"config": {}}],
    ids=lambda c: next(iter(c)),
)  # fmt: skip
def test_what_was_not_proved_here_is_not_taken(changed):
    save_profile(tuned(**changed), ENGINE)
    assert taken() == MODEL


def test_another_version_of_the_engine_is_another_engine():
    save_profile(tuned(), "llamacpp 0.0.1")
    assert taken() == MODEL


def test_the_newest_counts_and_a_later_tuning_that_keeps_the_default_takes_it_back():
    save_profile(tuned({"parallel": 4}), ENGINE)
    save_profile(tuned({"parallel": 2}, workload="samples(samples=16)"), ENGINE)
    assert taken() == f"{MODEL}(parallel=2)"
    save_profile(tuned({}, workload="samples(samples=16)"), ENGINE)
    assert taken() == f"{MODEL}(parallel=4)"


def test_other_workloads_profiles_are_taken_by_name_only():
    """One slot was 1.7 times as fast where clients share a prefix, and 0.4 times where one prompt has 16 samples."""
    save_profile(tuned({"parallel": 1}, workload="search(requests=8)"), ENGINE)
    assert taken() == MODEL and taken(f"{MODEL}(profile=search)") == f"{MODEL}(parallel=1)"
    save_profile(tuned({"parallel": 8}, workload="replay:trace.jsonl(digest=ab)"), ENGINE)
    assert taken() == taken(f"{MODEL}(profile=replay)") == f"{MODEL}(parallel=8)"


def test_waiting_is_set_while_it_can_be_and_the_profile_left_if_it_cannot(monkeypatch, caplog):
    import os

    save_profile(tuned({"GOMP_SPINCOUNT": 0, "parallel": 4}, environment={"GOMP_SPINCOUNT": "0"}), ENGINE)
    monkeypatch.setattr(profiles, "_openmp_is_loaded", lambda: True)
    assert taken() == MODEL and "not used" in caplog.text
    monkeypatch.setattr(profiles, "_openmp_is_loaded", lambda: False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    assert taken() == MODEL
    monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.setenv("GOMP_SPINCOUNT", "0")  # also makes the test clean up what is set
    assert taken() == f"{MODEL}(parallel=4)" and os.environ["GOMP_SPINCOUNT"] == "0"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    assert taken() == f"{MODEL}(parallel=4)" and os.environ["GOMP_SPINCOUNT"] == "0"


def test_a_file_of_an_older_version_or_none_at_all_is_no_profile(tmp_path):
    path = save_profile(tuned(), ENGINE)
    path.write_bytes(orjson.dumps({"old|chat|throughput|p|2": {"spec": MODEL, "gain": {"low": 2.0}, "lossy": False}}))
    assert taken() == MODEL
    path.write_bytes(b"[")
    assert taken() == MODEL


def test_a_study_records_the_settings_it_ran_with(tmp_path):
    header(tmp_path / "model.gguf")
    save_profile(tuned(), ENGINE)
    study = Study.of({"model": MODEL, "task": "sums", "strategies": ["repeated_sampling"]})
    prepared = prepare(study, task=Sums())
    assert prepared.study.model == str(prepared.model) == f"{MODEL}(parallel=4)"
    assert any("as tuned here for samples" in line for line in prepared.warnings)
    again = prepare(prepared.study, task=Sums())  # the text that was recorded
    assert str(again.model) == str(prepared.model) and not again.warnings
    assert ponder.model(f"{MODEL}(profile=none)").parallel == 32
