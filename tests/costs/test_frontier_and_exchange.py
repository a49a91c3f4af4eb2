"""Frontiers over models, trials and lengths, with known truth; training exchanged for inference."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

import ponder
from ponder import costs
from ponder.cli.bench import command as bench_command
from ponder.cli.kinetics import command
from ponder.cli.recommend import command as recommend_command
from ponder.errors import ParameterError, StudyError
from ponder.models.simulated import Simulated
from ponder.studies.kinetics import kinetics
from ponder.studies.measured import Measured
from ponder.testing import Sums

SMALL, LARGE = costs.ModelShape.read("qwen3-0.6b"), costs.ModelShape.read("qwen3-8b")
KS = [2**i for i in range(9)]


def drawn(name, shape, p, length, n=256, seed=0, prompt=50):
    rng = np.random.default_rng(seed)
    right = rng.random((len(p), n)) < np.asarray(p)[:, None]
    return costs.GradedSamples(name, shape, [prompt] * len(p), [[length] * n] * len(p), right.tolist())


def analytic_switch(small, large):
    """Of (cost, coverage) lists: the cost at which the large model first beats all that is no dearer."""
    for cost, coverage in large:
        if coverage > max([q for c, q in small if c <= cost], default=0.0):
            return cost
    return None


def test_where_two_models_cross_is_where_the_formulas_cross():
    # The small one solves only half of the problems: its coverage ends at 0.5, the large one's does not.
    p_small, p_large = [0.3] * 100 + [0.0] * 100, [0.5] * 200
    small, large = drawn("small", SMALL, p_small, 200), drawn("large", LARGE, p_large, 400, seed=1)
    found = costs.kinetics_frontier([*costs.best_of_n_costs(small), *costs.best_of_n_costs(large)])

    def curve(shape, p, length):
        return [
            (costs.generation(shape, 50, length, trials=k).eflops(), np.mean(1 - (1 - np.array(p)) ** k)) for k in KS
        ]

    expected = analytic_switch(curve(SMALL, p_small, 200), curve(LARGE, p_large, 400))
    assert [(s.before, s.after) for s in found.switches] == [("small", "large")]
    assert found.switches[0].cost == pytest.approx(expected, rel=1e-12)
    assert found.switches[0].share > 0.95
    below, above = found.at(expected * 0.999), found.at(expected)
    assert (below.configuration.model, above.configuration.model) == ("small", "large")
    assert found.at(1) is None


def test_the_oracle_is_above_the_deployable_by_what_knowing_is_worth():
    # Each model solves one half: one configuration reaches a half, the best for each problem everything.
    small, large = drawn("a", SMALL, [1, 0], 100), drawn("b", SMALL, [0, 1], 100)
    found = costs.kinetics_frontier([*costs.best_of_n_costs(small, [1]), *costs.best_of_n_costs(large, [1])])
    assert [s.quality for s in found.steps] == [0.5]
    assert found.oracle[-1][1] == 1.0
    qualities = [q for _, q in found.oracle]
    assert qualities == sorted(qualities)


def test_the_expected_cost_of_k_trials_is_the_mean_over_all_subsets():
    from itertools import combinations

    lengths, shape = [3, 9, 4, 20], costs.ModelShape(10, 4, 2, 1, 1, window=6, windowed_layers=2)
    samples = costs.GradedSamples("m", shape, [7], [lengths], [[True, False, False, True]])
    for k, got in zip((1, 2, 3, 4), costs.best_of_n_costs(samples, [1, 2, 3, 4], prefill=True), strict=True):
        by_hand = [costs.generation(shape, 7, list(some), prefill=True).eflops() for some in combinations(lengths, k)]
        assert got.cost[0] == pytest.approx(np.mean(by_hand))


def test_cutting_is_a_configuration_of_its_own():
    samples = costs.GradedSamples("m", SMALL, [10], [[100, 50]], [[True, True]])
    short = costs.cut(samples, 60, [[False, True]])
    assert short.lengths == [[60, 50]] and short.cap == 60
    found = costs.kinetics_frontier([*costs.best_of_n_costs(samples, [1]), *costs.best_of_n_costs(short, [1])])
    assert [(s.configuration.cap, s.quality) for s in found.steps] == [(60, 0.5), (None, 1.0)]
    with pytest.raises(ParameterError, match="integer ≥ 1"):
        costs.cut(samples, 0, [[True, True]])


def test_samples_that_do_not_fit_together_are_refused():
    with pytest.raises(ParameterError, match="as many everywhere"):
        costs.GradedSamples("m", SMALL, [10, 10], [[1]], [[True]])
    with pytest.raises(ParameterError, match="a length ≥ 0 for each of 2"):
        costs.GradedSamples("m", SMALL, [10], [[1]], [[True, False]])
    one, two = drawn("a", SMALL, [0.5], 9), drawn("b", SMALL, [0.5, 0.5], 9)
    with pytest.raises(ParameterError, match="same problems for all"):
        costs.kinetics_frontier([*costs.best_of_n_costs(one), *costs.best_of_n_costs(two)])
    with pytest.raises(ParameterError, match="from 1 to 256"):
        costs.best_of_n_costs(one, [257])


def test_the_exchange_is_the_balance_of_training_and_inference():
    p, d_pre, d_inf, m_size = 1e9, 3e12, 1e12, 14
    m = costs.exchange_multiplier(m_size, d_inf / d_pre)
    assert 6 * p * d_pre + m * 2 * p * d_inf == pytest.approx(6 * m_size * p * d_pre + 2 * m_size * p * d_inf)
    assert m == m_size + 3 * 3 * 13
    small, large = drawn("s", SMALL, [0.2] * 50, 9, n=128), drawn("l", LARGE, [0.6] * 50, 9)
    few, about, many = costs.exchange_table(small, large)
    assert (few.trials, few.capped) == (128, True) and many.trials == int(many.multiplier) < about.trials
    assert many.small == pytest.approx(1 - 0.8**many.trials, abs=0.05) and many.large == pytest.approx(0.6, abs=0.02)
    for call, message in [
        (lambda: costs.exchange_multiplier(0.5, 1), "≥ 1"),
        (lambda: costs.exchange_multiplier(2, 0), "above 0"),
        (lambda: costs.exchange_table(large, small), "≥ 1"),
        (lambda: costs.exchange_table(small, drawn("l", LARGE, [0.5], 9)), "the same 50"),
    ]:
        with pytest.raises(ParameterError, match=message):
            call()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("kinetics")
    for name, model in (("small", "sim:weak(size=qwen3-0.6b)"), ("large", "sim:strong(size=qwen3-8b)")):
        ponder.bench(model=model, task=Sums(), strategies=["repeated_sampling"], samples=[1, 64], limit=30,
                     out=base / name, check=False, sampling={"max_new_tokens": 200})  # fmt: skip
    return base / "small", base / "large"


@pytest.fixture
def sums(monkeypatch):
    """Stored studies name a task that only tests have."""
    from ponder.core.registry import TASKS

    build = TASKS.build
    monkeypatch.setattr(TASKS, "build", lambda text, *a: Sums() if str(text) == str(Sums()) else build(text, *a))


def test_stored_studies_of_two_models_switch_where_their_known_truth_says(folders, sums, tmp_path):
    found = kinetics(folders)
    assert found.problems == 30 and found.models == ("sim:weak(size=qwen3-0.6b)", "sim:strong(size=qwen3-8b)")
    curves = []
    for profile, folder, name in (("weak", folders[0], found.models[0]), ("strong", folders[1], found.models[1])):
        known = Simulated(**({"alpha": 0.3, "beta": 3.0} if profile == "weak" else {"alpha": 4.0, "beta": 1.0}))
        ids = json.loads((folder / "outcomes.json").read_text())["problem_ids"]
        p = np.array([known.accuracy(i) for i in ids])
        by_trials = {s.configuration.trials: s.cost for s in found.each[name].steps}
        curves.append([(c, np.mean(1 - (1 - p) ** k)) for k, c in sorted(by_trials.items())])
    assert found.frontier.switches[0].cost == pytest.approx(analytic_switch(*curves), rel=1e-12)
    assert [e.inference_ratio for e in found.exchange] == [0.16, 0.79, 22.0]


def test_the_command_names_the_switch_the_choice_and_writes_the_plot(folders, sums, tmp_path):
    args = [*map(str, folders), "--caps", "8,16"]
    out = CliRunner().invoke(command, [*args, "--plot", str(tmp_path / "k.png"), "--budget", "1e12"])
    assert out.exit_code == 0, out.output
    assert "is the better buy than" in out.output and "Within 1e+12 eflops a problem" in out.output
    assert "Training exchanged for inference" in out.output and (tmp_path / "k.png").stat().st_size > 10_000
    told = json.loads(CliRunner().invoke(command, [*args, "--json", "--unit", "flops", "--budget", "1"]).output)
    assert told["within_budget"] is None and told["frontier"]["unit"] == "flops"
    assert any("share of their text" in note for note in told["notes"])
    same = kinetics([folders[0], folders[0]], shapes=["qwen3-0.6b", "qwen3-8b"])
    assert not same.frontier.switches  # the same draws for more cost: never better


def test_studies_that_cannot_be_weighed_are_refused(folders, sums):
    with pytest.raises(ParameterError, match="one for each of 2 studies"):
        kinetics(folders, shapes=["qwen3-8b"])
    with pytest.raises(ParameterError, match="integers ≥ 1"):
        kinetics(folders, caps=[0])
    with pytest.raises(ParameterError, match="one of eflops"):
        kinetics(folders, unit="tokens")


def test_rows_and_stages_have_eflops_on_the_study_s_hardware_or_another(folders):
    rows = json.loads((folders[1] / "results.json").read_text())
    assert all(r["eflops"] == r["flops"] + 562.5 * r["kv_bytes"] and r["kv_bytes"] > 0 for r in rows)
    axis = Measured.load(folders[1]).axis("eflops")
    here = Measured.load(folders[1], hardware="peak_flops=1e12,memory_bandwidth=1e11")
    assert [p.row["eflops"] for p in here.points] == [r["flops"] + 10 * r["kv_bytes"] for r in rows]
    assert here.points[0].stages["draw"]["eflops"] == here.points[0].row["eflops"]
    assert here.points[0].cost(axis) < Measured.load(folders[1]).points[0].cost(axis)


def test_what_compute_means_is_a_choice_of_the_study(tmp_path):
    study = {"model": "sim:strong(size=qwen3-8b)", "task": Sums(), "strategies": ["repeated_sampling | majority"],
             "samples": [1, 8], "limit": 20, "check": False}  # fmt: skip
    ponder.bench(out=tmp_path / "a", compute="eflops", hardware="h100", **study)
    assert ponder.recommend(tmp_path / "a").axis == "eflops"
    row = json.loads((tmp_path / "a" / "results.json").read_text())[0]
    assert row["eflops"] == pytest.approx(row["flops"] + 989e12 / 3.35e12 * row["kv_bytes"])
    told = CliRunner().invoke(recommend_command, [str(tmp_path / "a"), "--hardware", "b200", "--json"])
    assert json.loads(told.output)["axis"] == "eflops"
    assert ponder.recommend(tmp_path / "a", axis="tokens").axis == "tokens"
    with pytest.raises(StudyError, match="did you mean eflops"):
        ponder.bench(compute="eflop", **study)
    with pytest.raises(ParameterError, match="one of b200"):
        ponder.bench(hardware="h10", **study)
    with pytest.raises(StudyError, match="give it, as in openai:NAME@URL"):
        ponder.bench(**{**study, "model": "openai:m@http://localhost:1/v1"}, compute="flops")
    assert "--compute" in CliRunner().invoke(bench_command, ["--help"]).output


def test_a_served_model_is_told_its_size_without_becoming_another_model():
    plain, sized = ponder.model("openai:m@http://h/v1"), ponder.model("openai:m@http://h/v1(size=qwen3-8b)")
    assert plain.shape is None and sized.shape == LARGE and plain.identity == sized.identity
    assert str(ponder.model(str(sized))) == str(sized)
