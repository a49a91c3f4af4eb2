"""Recorded traces replayed, and what they cost."""

import json

import pytest
from click.testing import CliRunner
from tests.support.fake_endpoint import FakeEndpoint
from tests.support.simulated_engine import Clockwork, FakeBench, run_virtual

import ponder
from ponder.cli.main import cli
from ponder.errors import ParameterError, StoreError, TaskError
from ponder.testing import Sums
from ponder.tuning.measure import Measured, measure
from ponder.tuning.prices import price_card
from ponder.tuning.replay import Replay, study_trace, write_trace
from ponder.tuning.scorecard import scorecard
from ponder.tuning.workload import Workload

TRACE = [
    {"prompt": "Q: 2 + 3\nA:", "output_tokens": [3, 5, 3], "correct": [True, False, True], "arrival_s": 2.0},
    {"prompt_tokens": 18, "shared": "system", "shared_tokens": 12, "output_tokens": 4, "arrival_s": 0.0,
     "correct": False},
    {"prompt_tokens": 20, "shared": "system", "shared_tokens": 12, "output_tokens": 4, "samples": 2,
     "arrival_s": 6.0, "correct": [False, False]},
]  # fmt: skip


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "trace.jsonl"
    write_trace(path, TRACE)
    return path


def test_a_trace_keeps_arrivals_lengths_and_shared_beginnings(trace):
    load = Workload.parse(f"replay:{trace}")
    first, three, five, last = load.jobs(1)
    assert [j.arrival_s for j in (first, three, five, last)] == [0, 2, 2, 6]
    assert (three.output, len(three.seeds), five.output, len(five.seeds)) == (3, 2, 5, 1) and len(last.seeds) == 2
    mark = first.prompt.partition(". ")[0]
    assert three.prompt == five.prompt == f"{mark}. Q: 2 + 3\nA:"
    common = [j.prompt.partition(". ")[2].split()[:12] for j in (first, last)]
    assert common[0] == common[1] and len(first.prompt.partition(". ")[2].split()) == 18
    seeds = [s for j in (first, three, five, last) for s in j.seeds]
    assert len(set(seeds)) == 6


def test_repetitions_have_another_first_word_and_the_same_lengths(trace):
    load = Workload.parse(f"replay:{trace}")
    a, b = load.jobs(1), load.jobs(1, repetition=1)
    assert load.jobs(1) == a and not {j.prompt for j in a} & {j.prompt for j in b}
    assert [(j.output, j.arrival_s) for j in a] == [(j.output, j.arrival_s) for j in b]
    assert len(load.jobs(1, fraction=0.3)) == 1


def test_the_text_form_names_the_file_and_what_it_held(trace):
    load = Workload.parse(f"replay:{trace}(speed=2)")
    assert Workload.parse(str(load)) == load and load.rate == pytest.approx(2 / 6 * 2)
    assert [j.arrival_s for j in load.jobs(0)] == [0, 1, 1, 3]
    write_trace(trace, TRACE[:1])
    with pytest.raises(TaskError, match="is not the trace that it was"):
        Workload.parse(str(load))


def test_requests_start_when_they_were_recorded(trace):
    """Three seconds a call: nothing waits, the last ends at 6 + 0.5 + 3 · 0.1."""
    got = run_virtual(lambda: measure(Clockwork(), Workload.parse(f"replay:{trace}"), seed=0))
    assert got.seconds == pytest.approx(6.8) and got.output_tokens == 3 + 5 + 3 + 4 + 4 + 4


def test_without_arrivals_clients_ask_in_turn(tmp_path):
    path = tmp_path / "t.jsonl"
    write_trace(path, [{"prompt_tokens": 5, "output_tokens": 6} for _ in range(6)])
    for clients, seconds in ((1, 6.0), (2, 3.0), (6, 1.0)):
        load = Workload.parse(f"replay:{path}(clients={clients})")
        assert load.rate is None
        assert run_virtual(lambda load=load: measure(Clockwork(), load, seed=0)).seconds == pytest.approx(seconds)


def test_what_is_shared_is_counted_from_texts_and_names(tmp_path):
    path = tmp_path / "t.jsonl"
    write_trace(path, [{"prompt": "a b c d", "output_tokens": 1}, {"prompt": "a b x y", "output_tokens": 1}])
    assert Workload.parse(f"replay:{path}").features()["shared share"] == 2 / 8
    write_trace(path, [{"prompt_tokens": 10, "shared": "s", "shared_tokens": 4, "output_tokens": 1}] * 3)
    assert Workload.parse(f"replay:{path}").features()["shared share"] == 8 / 30


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("", "holds no requests"),
        ("{}", "line 1 is no request"),
        ("[1]", "line 1 is no request"),
        ('{"output_tokens": 3}', "prompt or prompt_tokens"),
        ('{"prompt": "a", "output_tokens": []}', "≥ 1"),
        ('{"prompt": "a", "output_tokens": 0}', "≥ 1"),
        ('{"prompt": "a", "output_tokens": [1], "correct": [true, false]}', "2 verdicts for 1"),
        ('{"prompt_tokens": 3, "shared_tokens": 4, "output_tokens": 1}', "shared_tokens up to"),
        ('{"prompt": "a", "output_tokens": 1}\n{"prompt": "a", "output_tokens": 1, "arrival_s": 1}', "some have none"),
    ],
)
def test_a_broken_trace_is_named_by_its_line(tmp_path, lines, said):
    (tmp_path / "t.jsonl").write_text(lines)
    with pytest.raises(TaskError, match=said):
        Workload.parse(f"replay:{tmp_path / 't.jsonl'}")


def test_a_missing_file_and_other_settings_are_refused(trace):
    with pytest.raises(TaskError, match="cannot be read"):
        Workload.parse("replay:none.jsonl")
    with pytest.raises(ParameterError, match="replay:FILE"):
        Workload.parse("replay")
    with pytest.raises(ParameterError, match="only clients, digest, natural, speed"):
        Workload.parse(f"replay:{trace}(requests=3)")
    with pytest.raises(ParameterError, match="speed"):
        Workload.parse(f"replay:{trace}(speed=0)")


# ---------------------------------------------------------------- prices


def test_prices_by_hand(trace):
    """Two dollars an hour, 18 s: a cent. Singles solve 2/3 of a problem with half the draws; all solve one."""
    load = Replay(path=str(trace))
    run = Measured(18.0, 4, 100, 60, 20)
    card = price_card(run, load, usd_per_hour=2.0)
    assert card.run == pytest.approx(0.01) and card.per_million_tokens == pytest.approx(100)
    assert card.per_request == pytest.approx(0.01 / 3)
    assert card.per_correct == pytest.approx(0.01 / 2 / (2 / 3)) and card.per_solved == pytest.approx(0.01)
    hosted = price_card(run, load, price=(1.0, 0.5, 4.0))
    assert hosted.run == pytest.approx((40 * 1 + 20 * 0.5 + 100 * 4) / 1e6)
    assert price_card(run, Workload(), usd_per_hour=2.0).per_correct is None
    assert "per million generated tokens" in str(card) and "correct" not in str(
        price_card(run, Workload(), usd_per_hour=1)
    )


def test_nothing_solved_has_no_price_and_two_prices_are_refused(trace):
    write_trace(trace, [replace_correct(r) for r in TRACE])
    card = price_card(Measured(18.0, 4, 100, 60, 20), Replay(path=str(trace)), usd_per_hour=2.0)
    assert card.per_correct is None and card.per_solved is None
    for given in ({}, {"usd_per_hour": 1.0, "price": (1, 1, 1)}, {"usd_per_hour": -1.0}, {"price": (1, -1, 1)}):
        with pytest.raises(ParameterError, match="price"):
            price_card(Measured(1.0, 1, 1, 1, 0), Workload(), **given)


def replace_correct(request):
    n = len(request["correct"]) if isinstance(request["correct"], list) else 1
    return {**request, "correct": [False] * n}


def test_models_are_measured_in_turns_and_compared_pair_by_pair():
    benches = {"a": FakeBench(lambda c: 100.0, 0.05, seed=1), "b": FakeBench(lambda c: 150.0, 0.05, seed=2)}
    first, second = scorecard(["a", "b"], Workload(), benches.__getitem__, repetitions=8, usd_per_hour=1.0)
    assert first.ratio.value == 1 and second.ratio.low > 1.3 and second.ratio.better
    assert len(second.prices) == 8 and second.prices[0].run < first.prices[0].run
    with pytest.raises(ParameterError, match="≥ 1"):
        scorecard([], Workload(), benches.__getitem__)


# ---------------------------------------------------------------- from a study, against an endpoint


def test_a_study_becomes_a_trace_with_its_lengths_and_verdicts(tmp_path):
    ponder.bench(model="sim:strong", task=Sums(), strategies=["repeated_sampling"], samples=[4], limit=5,
                 out=tmp_path / "s", check=False)  # fmt: skip
    found = study_trace_of(tmp_path / "s")
    assert len(found) == 5 and all(len(r["output_tokens"]) == len(r["correct"]) == 4 for r in found)
    assert any(any(r["correct"]) for r in found) and "arrival_s" not in found[0]
    timed = study_trace_of(tmp_path / "s", rate=2.0)
    assert timed[0]["arrival_s"] == 0 and timed[-1]["arrival_s"] > 0
    with pytest.raises(StoreError):
        study_trace(tmp_path / "none")


def study_trace_of(folder, **options):
    from unittest import mock

    from ponder.core.registry import TASKS

    with mock.patch.object(TASKS, "build", return_value=Sums()):
        return study_trace(folder, **options)


async def test_a_trace_is_replayed_against_an_endpoint_by_the_command(trace):
    import asyncio

    async with FakeEndpoint() as server:
        words = ["engine", "measure", "-m", f"openai:m@{server.url}", "-w", f"replay:{trace}(speed=20)",
                 "--repetitions", "1", "--price", "1,0.5,4", "--json"]  # fmt: skip
        got = await asyncio.to_thread(CliRunner().invoke, cli, words)
    assert got.exit_code == 0, got.output
    (card,) = json.loads(got.stdout)
    assert card["measured"][0]["requests"] == 4 and card["prices"][0]["per_correct"] > 0
    asked = [r for r in server.requests if "Q: 2 + 3" in str(r)]
    assert {r.get("max_tokens") or r.get("max_completion_tokens") for r in asked} == {3, 5}
