"""Two studies of one task with different models, at equal cost."""

import json

import pytest
from click.testing import CliRunner

import ponder
from ponder.cli.recommend import command
from ponder.errors import ParameterError, StudyError
from ponder.laws import SampledModel, compare_at_equal_cost
from ponder.studies.compare_models import compare_models
from ponder.testing import Sums

STRATEGIES = ["repeated_sampling | majority", "best_of_n(verifier=exact)"]


def studied(folder, model, price, **settings):
    ponder.bench(
        model=model, task=Sums(), strategies=STRATEGIES, samples=[1, 4, 16], limit=40, out=folder, check=False,
        prices={model: price}, **settings,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("models")
    return studied(base / "weak", "sim:default", (0.1, 0.1, 0.4)), studied(base / "strong", "sim:strong", (2, 2, 8))


def counts(folder):
    data = json.loads((folder / "outcomes.json").read_text())["draws"]["repeated_sampling | majority"]
    return data["n"], data["c"]


def test_equal_dollars_buy_the_cheap_model_more_draws(folders):
    got = compare_models(*folders)
    assert (got.cheap, got.dear, got.axis, got.problems) == ("sim:default", "sim:strong", "cost_usd", 40)
    first = got.coverage[0]
    assert (first.dear_k, first.capped) == (1, True) and first.cheap_k == 16
    rows = {
        r["budget"]: r for r in json.loads((folders[1] / "results.json").read_text()) if "majority" in r["strategy"]
    }
    assert first.cost == pytest.approx(rows[1]["cost_usd"] / 40, rel=0.3)
    # The same as the law by hand, from the counts in the directory.
    (n, c), (m, d) = counts(folders[0]), counts(folders[1])
    by_hand = compare_at_equal_cost(SampledModel("a", n, c, first.cost / 20), SampledModel("b", m, d, first.cost))
    assert first.dear_coverage == by_hand.dear_coverage and first.cheap_coverage == by_hand.cheap_coverage
    assert [row.dear_k for row in got.coverage] == [1, 2, 4, 8, 16]


def test_the_order_of_the_studies_does_not_matter(folders):
    assert compare_models(*folders).as_dict() == compare_models(*reversed(folders)).as_dict()


def test_strategies_that_see_the_reference_are_left_out_and_the_rest_is_paired(folders):
    got = compare_models(*folders)
    assert {pair.strategy for pair in got.strategies} == {"repeated_sampling | majority"}
    pair = next(p for p in got.strategies if p.dear_budget == 1)
    assert pair.cheap_budget == 16 and pair.difference.n == 40
    assert pair.difference.estimate == pytest.approx(pair.cheap_accuracy - pair.dear_accuracy)


def test_a_shared_prompt_is_paid_once(folders):
    got = compare_models(*folders, axis="tokens")
    one, two = got.coverage[0].cost, got.coverage[1].cost
    rows = {
        r["budget"]: r for r in json.loads((folders[1] / "results.json").read_text()) if "majority" in r["strategy"]
    }
    per_draw = (rows[16]["generated_tokens"] - rows[1]["generated_tokens"]) / 15 / 40
    assert two - one == pytest.approx(per_draw, rel=0.35) and one > two - one


def test_only_the_problems_of_both_are_compared(folders, tmp_path):
    few = tmp_path / "few"
    ponder.bench(
        model="sim:strong", task=Sums(), strategies=STRATEGIES[:1], samples=[4], limit=10, out=few, check=False
    )
    got = compare_models(folders[0], few, axis="samples")
    assert (got.problems, got.axis, got.cheap) == (10, "samples", "sim:default")
    n, c = counts(folders[0])
    ten = SampledModel("the first ten", n[:10], c[:10], 1.0)
    assert got.coverage[0].cheap_coverage == pytest.approx(float(ten.solved(got.coverage[0].cheap_k).mean()))


def test_the_command_prints_and_writes_it(folders):
    shown = CliRunner().invoke(command, [str(folders[0]), "--against", str(folders[1])])
    assert shown.exit_code == 0 and "For the cost_usd of one draw of sim:strong, 16 of sim:default" in shown.output
    assert "Coverage at equal cost" in shown.output and "Accuracy at equal cost" in shown.output
    written = CliRunner().invoke(command, [str(folders[0]), "--against", str(folders[1]), "--json"])
    assert json.loads(written.output)["against"]["coverage"][0]["cheap_k"] == 16


def test_studies_that_cannot_be_compared_say_why(folders, tmp_path):
    other = tmp_path / "other"
    ponder.bench(model="sim:strong", task=Sums(), strategies=["single"], samples=[1], limit=5, out=other, check=False)
    with pytest.raises(StudyError, match="add repeated_sampling"):
        compare_models(folders[0], other)
    with pytest.raises(ParameterError, match="one of samples"):
        compare_models(*folders, axis="joules")
    with pytest.raises(StudyError, match="did not measure cost_usd"):
        compare_models(folders[0], other, axis="cost_usd")
    rows = json.loads((folders[1] / "results.json").read_text())
    for name in ("results.json", "outcomes.json"):
        (tmp_path / name).write_bytes((folders[1] / name).read_bytes())
    (tmp_path / "results.json").write_text(json.dumps([r | {"task": "another"} for r in rows]))
    with pytest.raises(StudyError, match="one task"):
        compare_models(folders[0], tmp_path)
    data = json.loads((folders[1] / "outcomes.json").read_text())
    data["problem_ids"] = [f"other-{i}" for i in range(40)]
    (tmp_path / "results.json").write_text(json.dumps(rows))
    (tmp_path / "outcomes.json").write_text(json.dumps(data))
    with pytest.raises(StudyError, match="share no problem"):
        compare_models(folders[0], tmp_path)
