"""Workloads and what is measured of them, on an engine whose times are known to the last digit."""

import asyncio
from dataclasses import replace

import pytest
from tests.support.simulated_engine import Clockwork, run_virtual

from ponder.core.model import Capabilities
from ponder.errors import EngineError, ParameterError, SpecError, UnknownNameError
from ponder.tuning.measure import SLO, measure, value_of
from ponder.tuning.workload import WORKLOADS, Workload


def test_the_text_form_round_trips_and_says_only_what_differs():
    for text in ("chat", "samples", "search(requests=12, output=[8, 48])", "arrivals(rate=0.5, burst=3)"):
        load = Workload.parse(text)
        assert str(load) == text and Workload.parse(str(load)) == load
    assert {str(w) for w in WORKLOADS.values()} == set(WORKLOADS)


def test_lengths_follow_from_the_seed_and_texts_from_the_repetition_too():
    load = Workload.parse("search(requests=6)")
    a, again, b, c = load.jobs(1), load.jobs(1), load.jobs(1, repetition=1), load.jobs(2)
    assert a == again
    assert [j.output for j in a] == [j.output for j in b] and not {j.prompt for j in a} & {j.prompt for j in b}
    assert [j.output for j in a] != [j.output for j in c]
    shared = {" ".join(j.prompt.split()[:100]) for j in a}
    assert len(shared) == 1 and shared != {" ".join(b[0].prompt.split()[:100])}
    assert all(110 <= len(j.prompt.split()) <= 130 and 8 <= j.output <= 128 for j in a)


def test_a_part_of_a_workload_is_its_beginning():
    load = Workload.parse("arrivals(requests=8)")
    whole, half = load.jobs(3), load.jobs(3, fraction=0.5)
    assert len(half) == 4 and [j.output for j in half] == [j.output for j in whole[:4]]
    assert [j.arrival_s for j in half] == [j.arrival_s for j in whole[:4]]
    assert len(load.jobs(3, fraction=0.01)) == 1


def test_bursts_arrive_together_and_at_the_stated_rate():
    load = Workload.parse("arrivals(requests=900, rate=3.0, burst=3)")
    times = [j.arrival_s for j in load.jobs(0)]
    assert times[0] == times[2] < times[3] == times[5]
    assert abs(900 / times[-1] - 3.0) < 4 * 3.0 / 300**0.5  # 300 exponential gaps


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("chat(requests=0)", "requests"),
        ("chat(prompt=[100, 50])", "in order"),
        ("chat(prompt=10)", "from 0 to the shortest prompt, 10"),
        ("arrivals(rate=0)", "a number > 0"),
        ("chat(output=[])", "output"),
    ],
)
def test_impossible_workloads_are_refused(text, said):
    with pytest.raises(ParameterError, match=said):
        Workload.parse(text)


def test_unknown_workloads_and_settings_name_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean samples"):
        Workload.parse("sampels")
    with pytest.raises(UnknownNameError, match="clients"):
        Workload.parse("chat(client=2)")
    with pytest.raises(SpecError):
        Workload.parse("chat(")


FIXED = Workload.parse("chat(requests=4, clients=1, output=11, prompt=10, shared=0)")


def test_one_client_pays_every_latency_in_turn():
    got = run_virtual(lambda: measure(Clockwork(), FIXED, seed=0))
    assert got.seconds == pytest.approx(4 * 1.5) and got.output_tokens == 44
    assert got.ttft["p50"] == pytest.approx(0.5) and got.ttft["p99"] == pytest.approx(0.5)
    assert got.tpot["p50"] == pytest.approx(0.1) and got.latency["p90"] == pytest.approx(1.5)
    assert value_of(got, "throughput") == pytest.approx(44 / 6) and value_of(got, "latency") == pytest.approx(1 / 1.5)
    assert got.prompt_tokens == 40 and got.evaluated_tokens == 40


def test_a_single_token_has_no_time_per_token():
    got = run_virtual(lambda: measure(Clockwork(), replace(FIXED, output=(1,)), seed=0))
    assert got.tpot == {} and got.ttft["p50"] == pytest.approx(0.5)


def test_what_waits_for_a_place_waits_on_its_own_clock():
    """Open loop: latency counts from when a request was due, however late the client is."""
    load = Workload.parse("arrivals(requests=4, rate=1000.0, burst=4, output=11, prompt=10, shared=0)")
    got = run_virtual(lambda: measure(Clockwork(max_concurrency=1), load, seed=0))
    assert got.seconds == pytest.approx(6.0)
    assert got.ttft["p99"] == pytest.approx(0.5 + 3 * 1.5, rel=0.02)  # the last one waited for three others
    assert got.latency["p50"] == pytest.approx(3.75)


def test_goodput_counts_requests_that_meet_both_limits():
    load = Workload.parse("arrivals(requests=4, rate=1000.0, burst=4, output=11, prompt=10, shared=0)")
    ask = lambda slo: run_virtual(lambda: measure(Clockwork(slots=1), load, seed=0, slo=slo))  # noqa: E731
    assert ask(SLO(1.0, 1.0)).goodput == pytest.approx(1 / 6)
    assert ask(SLO(2.5, 1.0)).goodput == pytest.approx(2 / 6)
    assert ask(SLO(99.0, 0.05)).goodput == 0


def test_the_models_own_n_says_how_many_a_call_asks_for():
    load = replace(FIXED, requests=1, samples=8)
    one = Clockwork()
    apart = run_virtual(lambda: measure(one, load, seed=0))
    many = Clockwork(capabilities=Capabilities(chat=False, max_n=4))
    fused = run_virtual(lambda: measure(many, load, seed=0))
    assert len(one.calls) == 8 and len(many.calls) == 2
    assert apart.prompt_tokens == 80 and fused.prompt_tokens == 20
    assert fused.ttft == {} and fused.goodput is None and apart.goodput is not None
    with pytest.raises(EngineError, match="max_n=1"):
        value_of(fused, "goodput")


def test_texts_have_their_length_unless_they_may_end():
    model = Clockwork()
    run_virtual(lambda: measure(model, FIXED, seed=0))
    assert all(dict(call.sampling.extra) == {"ignore_eos": True} for call in model.calls)
    model = Clockwork()
    run_virtual(lambda: measure(model, replace(FIXED, natural=True), seed=0))
    assert not any(call.sampling.extra for call in model.calls)


def test_slo_texts():
    assert SLO.parse("ttft=0.5,tpot=0.02") == SLO(0.5, 0.02) and SLO.parse("") == SLO()
    for bad in ("ttft", "ttlt=1", "ttft=x", "ttft=0"):
        with pytest.raises(ParameterError):
            SLO.parse(bad)


def test_probes_tell_engines_apart():
    from ponder.tuning.probes import probe_engine

    def card(model):
        return {f.name: f.verdict for f in run_virtual(lambda: probe_engine(model))}

    good, poor = card(Clockwork(caches=True)), card(Clockwork(slots=1))
    assert (good["prefix_caching"], good["continuous_batching"], good["throughput_x4"]) == ("yes", "yes", "yes")
    assert (poor["prefix_caching"], poor["continuous_batching"], poor["throughput_x4"]) == ("no", "no", "no")
    assert good["cancelling"] == "yes" and good["greedy_in_a_batch"] == "yes"
    assert good["distinct_samples"] == "no"  # every text is the same
    assert card(Clockwork())["too_long_a_prompt"] == "unknown"


def test_probes_keep_to_their_tokens():
    from ponder.tuning.probes import probe_engine

    model = Clockwork()
    findings = run_virtual(lambda: probe_engine(model, max_tokens=0))
    assert all(f.verdict == "unknown" for f in findings if f.name != "too_long_a_prompt") and not model.calls


def test_the_virtual_clock_is_not_the_wall_clock():
    async def sleep():
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time()

    assert run_virtual(sleep) == pytest.approx(3600)


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("single", 1),
        ("samples(samples=16, clients=1)", 16),
        ("search", 12),
        ("chat(requests=2)", 2),
        ("arrivals(burst=3)", 3),
    ],
)
def test_an_engine_is_warmed_up_with_as_many_texts_as_the_workload_brings(text, width, monkeypatch):
    """What an engine loads only for many texts at once must not count as the first repetition's time."""
    from ponder.tuning.worker import _load

    assert Workload.parse(text).width == width
    model = Clockwork()
    model.capabilities = Capabilities(chat=False, max_n=8, prefix=True)
    monkeypatch.setattr("ponder.api.model", lambda spec: model)
    run_virtual(lambda: _load("clockwork", False, width))
    assert [call.n for call in model.calls] == sorted({1, min(width, 8)})
