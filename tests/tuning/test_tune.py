"""Tuning simulated engines of known speed."""

import itertools
import math
import os
import sys
from dataclasses import replace

import numpy as np
import pytest
from tests.support.simulated_engine import FakeBench

from ponder.errors import EngineError, NoisyHostError, ParameterError, TuningPausedError, UnknownNameError
from ponder.tuning.bench import ProcessBench
from ponder.tuning.compare import median_interval, paired_ratio
from ponder.tuning.history import read
from ponder.tuning.measure import SLO
from ponder.tuning.servers import SERVERS, Server, server_for
from ponder.tuning.space import Knob, Space, parse_knobs, space_for
from ponder.tuning.tune import Plan, compare_outputs, tune
from ponder.tuning.workload import Workload

LOAD = Workload.parse("chat")
SMALL = Space("fake", "fake:model", (Knob("a", 1, (1, 2, 3)), Knob("b", 0, (0, 1, 2, 3)), Knob("c", "x", ("x", "y"))))
"""24 configurations: a grid."""
LARGE = Space("fake", "fake:model", tuple(Knob(name, 0, (0, 1, 2, 3)) for name in "abcde"))
"""1024: Optuna."""


def tuned(truth, noise, seed, space=SMALL, **plan):
    bench = FakeBench(truth, noise, seed=seed)
    given = {"seed": seed, "trials": 40, "seconds": 1e9, "allow_noise": True, **plan}
    return tune(space, LOAD, bench, Plan(**given), clock=bench.clock)


# ---------------------------------------------------------------- landscapes


def test_on_a_flat_landscape_the_default_is_kept():
    """8 % noise and nothing else: at most 5 of 100 tunings may crown a configuration."""
    kept = sum(tuned(lambda config: 100.0, 0.08, seed).kept_default for seed in range(100))
    assert kept >= 95


def irregular(config):
    """Peaks apart from each other: moving one knob alone from the default gains nothing."""
    at = (config.get("a", 1), config.get("b", 0), config.get("c", "x"))
    special = {(3, 2, "y"): 150.0, (2, 3, "x"): 120.0, (1, 0, "x"): 100.0}
    return special.get(at, 60.0 + (hash(at[:2]) % 7) * 4)


def test_an_irregular_landscape_is_found_within_5_percent():
    found = [irregular(tuned(irregular, 0.08, seed).config) for seed in range(100)]
    assert sum(speed >= 0.95 * 150 for speed in found) >= 90


def test_a_large_space_is_searched_by_tpe():
    def truth(config):
        return 60 * math.prod(1 + 0.15 * config.get(name, 0) for name in "ab") * (0.8 if config.get("c") else 1)

    best = max(truth({"a": a, "b": b}) for a, b in itertools.product(range(4), repeat=2))
    got = [tuned(truth, 0.03, seed, LARGE, trials=40) for seed in range(5)]
    assert all(truth(t.config) > 0.8 * best for t in got)
    assert all(len(t.trials) == 41 and len({repr(t.config) for t in t.trials}) == 41 for t in got)


def test_the_gain_is_measured_anew_and_the_searchs_luck_is_told():
    got = [tuned(lambda c: 130.0 if c.get("a") == 2 else 100.0, 0.1, seed) for seed in range(30)]
    ratios = [t.gain.value for t in got if t.gain is not None]
    assert len(ratios) >= 15 and abs(np.mean(ratios) - 1.3) < 0.1
    assert np.mean([t.proofs[1].optimism for t in got]) > 0.05  # best of 24 noisy ones
    assert all(t.gain.low > 1 for t in got if t.gain is not None)


# ---------------------------------------------------------------- the search


def test_poor_configurations_are_given_up_early_and_the_default_is_not():
    result = tuned(lambda c: 200.0 if c.get("a") == 3 else 50.0 if c else 100.0, 0.0, 0)
    assert set(result.trials[0].values) == {0.25, 0.5, 1.0}
    assert all(set(t.values) == {0.25} for t in result.trials if t.ratio == 0.5)
    assert result.config == {"a": 3} or result.config.get("a") == 3
    assert result.effects["a"]["3"] == pytest.approx(2.0)


def test_a_configuration_that_crashes_is_infeasible_with_its_last_words():
    result = tuned(lambda c: 0.0 if c.get("c") == "y" else 100.0, 0.01, 0)
    crashed = [t for t in result.trials if t.failure]
    assert len(crashed) == 12 and all("out of memory" in t.failure and t.ratio == 0 for t in crashed)
    assert not any(p.config.get("c") for p in result.proofs)


def test_one_that_takes_three_times_as_long_is_stopped():
    bench = FakeBench(lambda c: 1.0 if c.get("a") == 2 else 100.0, 0.0, work=4000)
    result = tune(SMALL, LOAD, bench, Plan(trials=40, seconds=1e9), clock=bench.clock)
    slow = [t for t in result.trials if t.config.get("a") == 2]
    assert len(slow) == 8 and all("no answer within 30 s" in t.failure for t in slow)


def test_a_default_that_does_not_start_ends_the_tuning():
    with pytest.raises(EngineError, match=r"default settings cannot be measured.*out of memory"):
        tuned(lambda c: 0.0, 0.0, 0)


def test_the_time_limit_holds():
    bench = FakeBench(lambda c: 100.0, 0.01)
    result = tune(SMALL, LOAD, bench, Plan(trials=40, seconds=50), clock=bench.clock)
    assert 2 <= len(result.trials) < 12


def test_the_validation_takes_turns_on_another_seed():
    bench = FakeBench(lambda c: 150.0 if c.get("a") == 2 else 100.0, 0.01)
    tune(SMALL, LOAD, bench, Plan(trials=40, seconds=1e9, finalists=2), clock=bench.clock)
    last = [name for name, _ in bench.order[-15:]]
    first, second, third = last[:3]
    assert first == "{}" and len({first, second, third}) == 3
    assert last == [first, second, third, third, first, second, second, third, first, *last[9:]]


def test_a_machine_that_slows_down_hits_all_alike():
    bench = FakeBench(lambda c: 130.0 if c.get("a") == 2 else 100.0, 0.005, drift=lambda now: 1 / (1 + now / 4000))
    result = tune(SMALL, LOAD, bench, Plan(trials=23, seconds=1e9, allow_noise=True), clock=bench.clock)
    assert result.gain is not None and abs(result.gain.value - 1.3) < 0.05


def test_a_noisy_machine_is_refused_unless_noise_is_allowed():
    with pytest.raises(NoisyHostError, match=r"limit 20%.*--allow-noise"):
        tuned(lambda c: 100.0, 0.6, 0, allow_noise=False)
    result = tuned(lambda c: 100.0, 0.6, 0, allow_noise=True)
    assert result.spread > 0.2


def test_an_interrupted_search_goes_on_where_it_was(tmp_path):
    path = tmp_path / "history.jsonl"

    def go(trials, space=LARGE):
        bench = FakeBench(lambda c: 100.0 + 10 * c.get("a", 0), 0.01)
        plan = Plan(trials=trials, seconds=1e9, finalists=1)
        return tune(space, LOAD, bench, plan, history=path, clock=bench.clock), bench

    first, _ = go(6)
    second, bench = go(15)
    whole, _ = go(15)
    assert [t.config for t in second.trials[:7]] == [t.config for t in first.trials]
    assert len(bench.opened) == 9 + 2 + 2  # nine new trials, two in the validation, two for the outputs
    assert [t.config for t in whole.trials] == [t.config for t in second.trials]
    assert {r.stage for r in read(path)} == {"search", "repetition", "validation"}
    with path.open("ab") as f:
        f.write(b'{"run": "cut o')
    assert len(read(path)) > 16


# ---------------------------------------------------------------- spaces


def test_lossy_values_are_left_out_unless_asked_for():
    space = space_for("llamacpp:smollm2-135m")
    assert space.is_lossy({"kv": "q8_0"}) and not space.is_lossy({"threads": 1})
    assert "kv" not in {k.name for k in space.lossless().knobs}


def test_outputs_are_compared_with_the_defaults():
    space = replace(SMALL, knobs=(Knob("kv", "f16", ("f16", "q8_0"), lossy=frozenset({"q8_0"})),))
    result = tuned(lambda c: 150.0 if c else 100.0, 0.01, 0, space)
    assert result.config == {"kv": "q8_0"} and result.lossy
    assert (result.sameness.equal, result.sameness.first_difference) == (0.5, 0)
    assert compare_outputs(["a"], ["a"]).first_difference is None


def test_a_configuration_is_written_as_a_model_text_and_an_environment():
    space = space_for("llamacpp:smollm2-135m(context=8192, parallel=8)")
    assert space.knob("parallel").default == 8 and space.spec({}) == "llamacpp:smollm2-135m(context=8192, parallel=8)"
    config = space.sparse({**space.full({}), "parallel": 2, "kv": "q8_0", "GOMP_SPINCOUNT": 0})
    assert space.spec(config) == "llamacpp:smollm2-135m(context=8192, parallel=2, kv=q8_0)"
    assert space.environment(config) == {"GOMP_SPINCOUNT": "0"}


def test_values_that_do_not_go_together_are_no_configuration():
    space = space_for("llamacpp:smollm2-135m")
    assert not space.allowed({"batch": 256}) and space.allowed({"batch": 256, "ubatch": 256})
    assert not space.allowed({"kv": "q8_0", "flash": "off"})
    only = space.narrowed(parse_knobs(["batch=256,512", "ubatch=256,512"]))
    pairs = {(c.get("batch", 2048), c.get("ubatch", 512)) for c in only.grid()}
    assert pairs == {(2048, 512), (2048, 256), (512, 512), (512, 256), (256, 256)}


def test_every_configuration_of_the_llamacpp_grid_is_one_that_the_model_accepts(tmp_path):
    from dataclasses import fields

    from ponder.models.embedded import Embedded
    from ponder.models.llama_cpp import LlamaCpp

    for name, cls in (("llamacpp", LlamaCpp), ("embedded", Embedded)):
        known = {f.name for f in fields(cls)}
        knobs = [k for k in space_for(f"{name}:x").knobs if k.where == "model"]
        assert {k.name for k in knobs} <= known
        defaults = {f.name: f.default for f in fields(cls)}
        for k in knobs:
            assert defaults[k.name] in (k.default, None)


def test_unknown_knobs_and_engines_are_named():
    with pytest.raises(UnknownNameError, match="did you mean threads"):
        space_for("llamacpp:x").narrowed({"thread": (1,)})
    with pytest.raises(ParameterError, match="llamacpp, embedded"):
        space_for("sim:default")
    with pytest.raises(ParameterError, match="NAME=VALUE"):
        parse_knobs(["threads"])
    with pytest.raises(UnknownNameError, match="vllm"):
        space_for("openai:m@http://h:1/v1", server="vlm")


def test_servers_have_their_arguments_written_as_they_want_them():
    space = space_for("openai:Qwen/Qwen3-8B@http://127.0.0.1:8000/v1", server="vllm")
    config = {"max_num_seqs": 64, "enable_prefix_caching": False, "max_n": 4}
    assert space.flags(config) == ["--max-num-seqs", "64", "--no-enable-prefix-caching"]
    assert space.spec(config) == "openai:Qwen/Qwen3-8B@http://127.0.0.1:8000/v1(max_n=4)"
    words = server_for("vllm", space.base).words(space.flags(config))
    assert words[:7] == ["vllm", "serve", "Qwen/Qwen3-8B", "--host", "127.0.0.1", "--port", "8000"]
    assert all(space_for("openai:m@http://h:1/v1", server=name).knobs for name in SERVERS)
    with pytest.raises(ParameterError, match="PORT"):
        server_for("vllm", "openai:gpt")


# ---------------------------------------------------------------- statistics


def test_the_interval_covers_what_it_says_with_five_pairs():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(2000):
        ratio = paired_ratio(np.exp(0.1 * rng.standard_normal(5)), np.exp(0.1 * rng.standard_normal(5)))
        inside += ratio.low <= 1 <= ratio.high
    assert abs(inside / 2000 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000)


def test_ratios_at_the_edge():
    one = paired_ratio([2.0], [1.0])
    assert one.value == 2 and not one.better
    assert not paired_ratio([0.0, 1.0], [1.0, 1.0]).better and not paired_ratio([1.0], [0.0]).better
    same = paired_ratio([2.0, 4.0], [1.0, 2.0])
    assert same.low == pytest.approx(2) and same.high == pytest.approx(2)
    with pytest.raises(ParameterError):
        paired_ratio([], [])
    assert median_interval([1, 2, 3, 4, 5])[0] == 3


@pytest.mark.parametrize("bad", [{"objective": "speed"}, {"trials": 0}, {"repetitions": 2}, {"seconds": 0}])
def test_impossible_plans_are_refused(bad):
    with pytest.raises(ParameterError):
        Plan(**bad)


# ---------------------------------------------------------------- processes


FAKE_SERVER = """
import http.server, json, socketserver, sys
class Server(http.server.ThreadingHTTPServer):
    server_bind = socketserver.TCPServer.server_bind  # HTTPServer's asks the name service for the host's name
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *a): pass
    def say(self, kind, body):
        self.send_response(200); self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def do_GET(self): self.say("application/json", b"{}")
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        n = asked["max_tokens"]
        usage = {"prompt_tokens": 7, "completion_tokens": n}
        if not asked.get("stream"):
            choices = [{"index": 0, "text": " x" * n, "finish_reason": "length"}]
            return self.say("application/json", json.dumps({"choices": choices, "usage": usage}).encode())
        events = [{"choices": [{"index": 0, "text": " x"}]}] * n
        events += [{"choices": [{"index": 0, "text": "", "finish_reason": "length"}]}, {"choices": [], "usage": usage}]
        body = "".join("data: " + json.dumps(e) + "\\n\\n" for e in events) + "data: [DONE]\\n\\n"
        self.say("text/event-stream", body.encode())
if "--broken" in sys.argv: sys.exit("no memory for that")
Server(("127.0.0.1", int(sys.argv[1])), H).serve_forever()
"""


@pytest.fixture
def server(tmp_path):
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    script = tmp_path / "server.py"
    script.write_text(FAKE_SERVER)
    return Server("mine", f"{sys.executable} {script} {{port}}", "m", f"http://127.0.0.1:{port}/v1")


def test_a_server_is_started_measured_and_ended(server):
    space = Space("mine", f"openai:m@{server.url}", (Knob("quiet", False, (False, True), "server", flag="--quiet"),))
    load = Workload.parse("chat(requests=3, output=4)")
    bench = ProcessBench(space, load, SLO(), server)
    assert not bench.several
    session = bench.open({"quiet": True}, 60)
    try:
        got = session.measure(seed=0, repetition=0, fraction=1.0, timeout_s=60)
        assert (got.output_tokens, got.prompt_tokens, got.requests) == (12, 21, 3) and got.goodput > 0
        assert got.peak_rss_bytes == 0  # the memory is another process's
        assert session.greedy()[0] == " x" * 32
    finally:
        session.close()
        session.close()
    with pytest.raises(EngineError, match=r"ended with code 1.*no memory for that"):
        server.launch(["--broken"], dict(os.environ), 30)


def test_a_server_that_is_not_installed_says_its_command():
    with pytest.raises(EngineError, match=r"not installed here.*no-such-server m --port 1"):
        Server("x", "no-such-server {model} --port {port}", "m", "http://h:1/v1").launch([], {}, 1)


def test_a_process_that_cannot_load_says_why():
    space = space_for("llamacpp:/nowhere/model.gguf")
    with pytest.raises(EngineError, match="ModelNotFoundError"):
        ProcessBench(space, LOAD, SLO()).open({}, 60)


# ---------------------------------------------------------------- in slices


def sliced(path, slice_s, **plan):
    """Runs of one tuning, each a slice, until it is done; the result, the slices, and what was measured."""
    order, slices = [], 0
    while True:
        slices += 1
        bench = FakeBench(lambda c: 150.0 if c.get("a") == 2 else 100.0, 0.03, seed=5 + slices)
        try:
            given = {"trials": 8, "seconds": 1e9, "allow_noise": True, "slice_s": slice_s, **plan}
            result = tune(SMALL, LOAD, bench, Plan(**given), history=path, clock=bench.clock)
        except TuningPausedError:
            order.append(bench.order)
            continue
        return result, slices, [*order, bench.order]


def test_a_tuning_in_slices_measures_nothing_twice_and_ends_as_one_in_one_go(tmp_path):
    whole, one, _ = sliced(tmp_path / "whole.jsonl", 1e9)
    cut, several, parts = sliced(tmp_path / "cut.jsonl", 20)
    assert one == 1 and several > 3
    assert [t.config for t in cut.trials] == [t.config for t in whole.trials]
    assert cut.config["a"] == whole.config["a"] == 2 and len(cut.proofs[0].values) == 5
    seen = [step for part in parts for step in part]
    finalists = {repr(dict(p.config)) for p in cut.proofs}
    for config in {config for config, _ in seen}:
        runs = sum(step[0] == config for step in seen)
        assert runs <= 3 + 5 * (config in finalists)


def test_the_searchs_time_limit_counts_earlier_slices(tmp_path):
    result, slices, _ = sliced(tmp_path / "h.jsonl", 15, seconds=50, trials=23)
    assert slices > 2 and len(result.trials) < 12


def test_a_repetition_that_was_interrupted_is_measured_anew_as_a_whole(tmp_path):
    path = tmp_path / "h.jsonl"
    sliced(path, 1e9)
    rows = read(path)
    lost = {i for i, r in enumerate(rows) if r.stage == "validation"}
    lost.add(max(i for i, r in enumerate(rows) if r.stage == "repetition" and "4" in r.values and not r.config))
    path.write_bytes(b"".join(line + b"\n" for i, line in enumerate(path.read_bytes().splitlines()) if i not in lost))
    _, _, ((*order,),) = sliced(path, 1e9)
    assert {repetition for _, repetition in order} == {4} and len(order) == 4


def test_a_finished_tuning_is_validated_afresh(tmp_path):
    """A machine that was too noisy must not be remembered as such."""
    sliced(tmp_path / "h.jsonl", 1e9)
    _, _, ((*order,),) = sliced(tmp_path / "h.jsonl", 1e9)
    assert {repetition for _, repetition in order} == set(range(5))


def test_a_slice_needs_a_history_and_some_time():
    with pytest.raises(ParameterError, match="history"):
        tuned(lambda c: 100.0, 0.0, 0, slice_s=5.0)
    with pytest.raises(ParameterError, match="slice_s"):
        Plan(slice_s=0.0)


def test_a_paused_tuning_says_how_to_go_on(tmp_path):
    bench = FakeBench(lambda c: 100.0, 0.0)
    with pytest.raises(TuningPausedError, match=r"paused after .* run the same command again"):
        tune(SMALL, LOAD, bench, Plan(slice_s=1.0), history=tmp_path / "h.jsonl", clock=bench.clock)
