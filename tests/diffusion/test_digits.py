"""The trained digits: halves, classifiers, verifier, task and ensemble agree on what a digit is."""

import numpy as np
import pytest

pytest.importorskip("sklearn")

import ponder
from ponder.api import run_sync
from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.diffusion import digits
from ponder.errors import ParameterError
from ponder.models.diffusers import digit_of
from ponder.verifiers.rank_ensemble import ranks_of


def test_the_judge_and_the_classifier_learn_from_different_halves_and_both_know_digits():
    half = digits.data()
    assert len(half.labels) + len(half.held_labels) == 1797
    shared = {row.tobytes() for row in half.images} & {row.tobytes() for row in half.held_images}
    assert not shared
    assert digits.search_classifier().score(half.held_images, half.held_labels) > 0.94
    assert digits.judge().score(half.images, half.labels) > 0.96
    assert digits.search_classifier(True).score(half.held_images, half.held_labels) < 0.9


def test_the_verifier_and_the_task_grade_real_pictures():
    half, task = digits.data(), ponder.task("digits(count=12)")
    problems = task.problems()
    assert [p.prompt for p in problems] == [str(i % 10) for i in range(12)]
    pictures = [(half.held_images[half.held_labels == c][0].reshape(8, 8) + 1) / 2 for c in (3, 8)]
    ctx = Context(problems[3], ponder.api.build_process("denoising", (), ponder.model("gmm:a")))
    candidates = [ponder.Candidate(picture) for picture in pictures]
    right, wrong = run_sync(lambda: ctx.score(problems[3], candidates, ponder.verifier("class_confidence")))
    assert right > 0.9 > 0.1 > wrong
    logs = run_sync(lambda: ctx.score(problems[3], candidates, ponder.verifier("class_confidence(log=true)")))
    np.testing.assert_allclose(np.exp(logs), [right, wrong])
    assert task.grade(problems[3], (digits.data().images[digits.data().labels == 3][0].reshape(8, 8) + 1) / 2).correct
    assert not task.grade(problems[3], pictures[1]).correct
    assert task.extract(pictures[0]) != task.extract(pictures[1])


def test_prompts_name_one_digit():
    assert [digit_of(p) for p in ("7", "a bright seven, please", 0)] == [7, 7, 0]
    for prompt in ("", "77", "three or four"):
        with pytest.raises(ParameterError, match="one digit from 0 to 9"):
            digit_of(prompt)


def test_ranks_are_means_of_ties_and_never_sums_of_scores():
    np.testing.assert_allclose(ranks_of([1.0, 2.0, 2.0, 9.0]), [0.0, 0.5, 0.5, 1.0])
    ensemble = ponder.verifier("rank_ensemble(verifiers=[gmm_reward(scale=1000.0), gmm_reward(scale=-0.001)])")
    assert ponder.verifier(str(ensemble)) == ensemble
    result = ponder.solve("x", model="gmm:a", process="denoising(steps=3)", strategy="repeated_sampling(n=5)")
    ctx = Context(Problem("x", "x"), ponder.api.build_process("denoising(steps=3)", (), ponder.model("gmm:a")))
    scores = run_sync(lambda: ctx.score(ctx.problem, result.candidates, ensemble))
    np.testing.assert_allclose(scores, 0.5)
    with pytest.raises(ParameterError, match="at least one verifier"):
        ponder.verifier("rank_ensemble(verifiers=[])")
