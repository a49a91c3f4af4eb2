"""Ranks among the items of a call, and among a reference."""

import numpy as np
import pytest

import ponder
from ponder.errors import ParameterError
from ponder.verifiers.rank_ensemble import shares_below


@pytest.fixture
def reference(tmp_path):
    path = tmp_path / "drawn.npy"
    np.save(path, np.random.default_rng(0).standard_normal((40, 2)))
    return path


def scores(strategy, seed=0):
    result = ponder.solve("x", model="gmm:a", process="denoising(steps=4)", strategy=strategy, seed=seed)
    return [c.scores["rank_ensemble"] for c in result.candidates], result


def test_a_reference_makes_scores_of_different_calls_comparable(reference):
    plan = "best_of_n(n={n}, verifier=rank_ensemble(verifiers=[gmm_reward]{more}))"
    told = f", reference='{reference}'"
    few, many = scores(plan.format(n=3, more=told))[0], scores(plan.format(n=30, more=told))[0]
    assert many[:3] == few
    assert scores(plan.format(n=3, more=""))[0] != scores(plan.format(n=30, more=""))[0][:3]


def test_a_share_is_what_counting_says(reference):
    found, result = scores(f"best_of_n(n=8, verifier=rank_ensemble(verifiers=[gmm_reward], reference='{reference}'))")
    rewards = ponder.diffusion.gmm.INSTANCES["a"][1]
    known = rewards(np.load(reference))
    for share, candidate in zip(found, result.candidates, strict=True):
        assert share == pytest.approx(np.mean(known < rewards(candidate.output[None])[0]))


def test_ties_are_halved_and_what_is_missing_is_last():
    assert shares_below([1.0, np.inf, -np.inf, np.nan], [1.0, 1.0, 0.0, np.nan]).tolist() == [0.75, 1.0, 0.125, 0.0]


def test_verifiers_of_other_scales_count_alike(reference):
    one = f"rank_ensemble(verifiers=[gmm_reward, gmm_reward(scale=0.001)], reference='{reference}')"
    two = f"rank_ensemble(verifiers=[gmm_reward], reference='{reference}')"
    assert scores(f"best_of_n(n=5, verifier={one})")[0] == pytest.approx(scores(f"best_of_n(n=5, verifier={two})")[0])


def test_a_tree_may_search_by_ranks_of_a_reference(reference):
    plan = f"verifier=rank_ensemble(verifiers=[gmm_reward], reference='{reference}')"
    found, _ = scores(f"diffusion_tree_sampling(n=10, select=uct, exploration=0.05, {plan})")
    assert len(set(found)) > 3


def test_a_reference_that_cannot_be_read_is_told(tmp_path):
    missing = tmp_path / "missing.npy"
    empty, text = tmp_path / "empty.npy", tmp_path / "text.npy"
    np.save(empty, np.zeros((0, 2)))
    text.write_text("no array")
    for path, told in ((missing, "numpy.save"), (empty, "n ≥ 1"), (text, "numpy.save")):
        with pytest.raises(ParameterError, match=told):
            scores(f"best_of_n(n=2, verifier=rank_ensemble(verifiers=[gmm_reward], reference='{path}'))")
