"""Rewards are kept, weighted or dropped by how well they agree with a judgement, category by category."""

import csv
import json
import math

import numpy as np
import pytest
from click.testing import CliRunner

import ponder
from ponder.cli.main import cli
from ponder.core.context import Context
from ponder.errors import ParameterError
from ponder.models.gmm import Gmm
from ponder.processes.denoising import Denoising
from ponder.studies.reward_selection import select_rewards
from ponder.verifiers.category_weighted import CategoryWeighted


def table(n=300, seed=0):
    """Two categories; `good` agrees everywhere, `half` with one and against the other, `bad` against both."""
    rng = np.random.default_rng(seed)
    category = np.where(np.arange(n) % 2, "shape", "color")
    human = rng.standard_normal(n)
    sign = np.where(category == "color", 1.0, -1.0)
    rewards = {
        "good": human + 0.5 * rng.standard_normal(n),
        "half": sign * human + 0.5 * rng.standard_normal(n),
        "bad": -human + 0.5 * rng.standard_normal(n),
        "flat": np.zeros(n),
    }
    return human, rewards, list(category)


def test_anti_correlated_and_constant_rewards_are_dropped_and_weights_are_one_on_average():
    found = select_rewards(*table(), resamples=200)
    color, shape = found.agreements["color"], found.agreements["shape"]
    assert {r for r, a in color.items() if a.dropped is None} == {"good", "half"}
    assert {r for r, a in shape.items() if a.dropped is None} == {"good"}
    assert color["bad"].dropped == shape["half"].dropped == "no positive correlation"
    assert color["flat"].dropped == "the same number in all rows" and math.isnan(color["flat"].correlation)
    for own in found.agreements.values():
        kept = [a.weight for a in own.values() if a.dropped is None]
        assert np.mean(kept) == pytest.approx(1.0)
    ratio = color["good"].weight / color["half"].weight
    assert ratio == pytest.approx(color["good"].correlation / color["half"].correlation)


def test_a_reward_that_is_surely_worse_than_the_best_is_dropped_and_one_that_may_not_be_is_kept():
    rng = np.random.default_rng(1)
    human = rng.standard_normal(400)
    rewards = {
        "best": human + 0.1 * rng.standard_normal(400),
        "worse": human + 3.0 * rng.standard_normal(400),
        "equal": human + 0.1 * rng.standard_normal(400),
    }
    own = select_rewards(human, rewards, resamples=300).agreements["overall"]
    assert own["worse"].dropped in ("worse than best", "worse than equal") and own["worse"].behind[0] > 0
    assert own["best"].dropped is None or own["equal"].dropped is None


def test_correlations_equal_scipys_and_the_same_seed_gives_the_same_intervals():
    from scipy.stats import spearmanr

    human, rewards, _ = table()
    ties = {"ties": np.round(rewards["good"])}
    found = select_rewards(human, rewards | ties, resamples=50).agreements["overall"]
    for name in ("good", "half", "bad", "ties"):
        assert found[name].correlation == pytest.approx(spearmanr(human, (rewards | ties)[name]).statistic)
        assert found[name].interval[0] <= found[name].correlation <= found[name].interval[1]
    again = select_rewards(human, rewards | ties, resamples=50).agreements["overall"]
    assert again["good"] == found["good"]


def test_rows_with_missing_numbers_are_left_out_and_small_categories_take_the_overall_weights():
    human, rewards, category = table(40)
    rewards["good"][3] = math.nan
    category[:2] = ["rare", "rare"]
    found = select_rewards(human, rewards, category, resamples=20)
    assert found.unread == 1 and "rare" not in found.agreements and found.rows["rare"] == 2
    with pytest.raises(ParameterError, match="at least 5 rows"):
        select_rewards([1.0], {"a": [1.0]})
    with pytest.raises(ParameterError, match="at least one column"):
        select_rewards([1.0], {})


@pytest.fixture
def csv_file(tmp_path):
    human, rewards, category = table()
    names = {"gmm_reward": rewards["good"], "constant": rewards["half"], "random_score": rewards["bad"]}
    path = tmp_path / "täble.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["note", "cat", "human", *names])
        for i, row in enumerate(zip(category, human, *names.values(), strict=True)):
            writer.writerow([f"nr {i}", *row])
    return path


def calibrate(*arguments):
    return CliRunner().invoke(cli, ["calibrate-verifiers", *map(str, arguments)], catch_exceptions=True)


def test_the_command_writes_weights_that_category_weighted_follows(csv_file, tmp_path):
    out = tmp_path / "weights.json"
    done = calibrate(csv_file, "--category", "cat", "--out", out, "--resamples", 100, "-k", "color=red,blue", "--json")
    assert done.exit_code == 0, done.output
    plain = json.loads(done.stdout)
    assert plain == json.loads(out.read_text(encoding="utf-8")) and plain["dropped"] == ["random_score"]
    assert "note" not in plain["agreement"]["overall"]
    text = f'category_weighted(rewards=[gmm_reward, constant, random_score], weights="{out}", base=[5, 1, 1])'
    verifier = ponder.verifier(text)
    assert ponder.verifier(str(verifier)) == verifier

    def terms(prompt, **metadata):
        return {v.name: f for f, v in verifier.terms(ponder.Problem("p", prompt, metadata=metadata))}

    weights = plain["weights"]
    assert terms("a red house") == {
        "gmm_reward": 5 * weights["color"]["gmm_reward"],
        "constant": weights["color"]["constant"],
    }
    assert terms("a house", category="shape") == pytest.approx({"gmm_reward": 5.0})
    assert terms("a house") == pytest.approx(
        {n: w * (5 if n == "gmm_reward" else 1) for n, w in weights["overall"].items()}
    )
    assert terms("a house", category="unheard of") == terms("a house")
    mixed = terms("a house", category={"color": 3, "shape": 1})
    assert mixed["constant"] == pytest.approx(0.75 * weights["color"]["constant"])
    assert [f for f, _ in verifier.unweighted().terms(ponder.Problem("p", "x"))] == [1.0] * 3


def test_the_command_prints_a_table_and_names_the_columns_there_are(csv_file):
    done = calibrate(csv_file, "--category", "cat", "--resamples", 20)
    assert "dropped: no positive correlation" in done.output and "color (150 rows)" in done.output
    assert "one of note, cat, human" in str(calibrate(csv_file, "-j", "judge").exception)
    assert calibrate(csv_file, "-k", "color").exit_code == 2


def test_the_sum_is_that_of_the_rewards_and_wrong_settings_are_refused(tmp_path):
    ctx = Context(ponder.Problem("p", "x"), Denoising(Gmm("a"), steps=3))
    both = "category_weighted(rewards=[constant(value=2), gmm_reward], base=[3, 1])"

    async def scored():
        states = (await ctx.extend([ctx.root()], [3], to_end=True))[0]
        return await ctx.score(ctx.problem, states, ponder.verifier(both)), await ctx.score(
            ctx.problem, states, ponder.verifier("gmm_reward")
        )

    from ponder.api import run_sync

    total, reward = run_sync(scored)
    np.testing.assert_allclose(total, 6.0 + reward)
    with pytest.raises(ParameterError, match="at least one verifier"):
        CategoryWeighted(())
    with pytest.raises(ParameterError, match="one for each reward"):
        ponder.verifier("category_weighted(rewards=[constant], base=[1, 2])")
    with pytest.raises(ParameterError, match="calibrate-verifiers"):
        ponder.verifier(f'category_weighted(rewards=[constant], weights="{tmp_path / "none.json"}")')
    (tmp_path / "w.json").write_text('{"weights": {"overall": {"exact": 1}}}')
    with pytest.raises(ParameterError, match="it knows exact"):
        ponder.verifier(f'category_weighted(rewards=[constant], weights="{tmp_path / "w.json"}")')


def test_a_column_may_spell_out_defaults_and_a_nested_error_is_told(tmp_path):
    path = tmp_path / "w.json"
    path.write_text('{"weights": {"overall": {"constant(value=0.0)": 0.5, "gmm_reward(scale=1.0)": 1.5}}}')
    verifier = ponder.verifier(f'category_weighted(rewards=[constant(value=0), gmm_reward], weights="{path}")')
    assert [f for f, _ in verifier.terms(ponder.Problem("p", "x"))] == [0.5, 1.5]
    with pytest.raises(ParameterError, match="a file that knows exact; it knows constant"):
        ponder.parse(f'best_of_n(verifier=category_weighted(rewards=[exact], weights="{path}"))')
