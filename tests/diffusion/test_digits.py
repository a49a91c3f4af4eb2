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
    assert digits.search_classifier(examples=3).score(half.held_images, half.held_labels) < 0.9


def test_fewer_images_or_pixels_make_weaker_classifiers_and_variants_differ():
    half = digits.data()

    def right(**settings):
        return digits.search_classifier(**settings).score(half.held_images, half.held_labels)

    assert right() > right(examples=3) > right(examples=1) > 0.4
    assert right() > right(pixels=16) > right(pixels=4) > 0.2
    seen = [np.flatnonzero(np.abs(digits.search_classifier(pixels=4, variant=v).coef_).sum(axis=0)) for v in (0, 1)]
    assert len(seen[0]) <= 4 and len(seen[1]) <= 4 and set(seen[0]) != set(seen[1])
    weights = [digits.search_classifier(examples=3, variant=v).coef_ for v in (0, 1)]
    assert not np.allclose(*weights)
    weak = digits.search_classifier(examples=3).coef_
    assert np.array_equal(ponder.verifier("class_confidence(weak=true)")._classifier.coef_, weak)
    for settings, told in (("examples=0", "1 to 50"), ("pixels=65", "1 to 64"), ("variant=-1", "0 to 1000")):
        with pytest.raises(ParameterError, match=told):
            ponder.verifier(f"class_confidence({settings})")


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


def test_digits_have_one_size_and_refuse_another():
    for name in ("height", "width", "frames"):
        with pytest.raises(ParameterError, match=rf"{name}=32 is not allowed.*8 x 8"):
            ponder.model(f"diffusers:digits({name}=32)")


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


def test_tensors_give_what_arrays_give_so_that_gradients_are_of_the_real_thing():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = digits.Digits(digits.network().eval())
    x = np.random.default_rng(0).standard_normal((3, 64))
    expected = model.predict(x, np.full(3, 0.6), np.full(3, 0.8), [4, 4, 4])
    z = torch.from_numpy(x).requires_grad_()
    x0, eps = model.predict_tensors(z, 0.6, 0.8, 4)
    np.testing.assert_allclose(x0.detach().numpy(), expected.x0, atol=1e-6)
    np.testing.assert_allclose(eps.detach().numpy(), expected.eps, atol=1e-6)
    (slope,) = torch.autograd.grad(x0.sum(), z)
    assert np.isfinite(slope.numpy()).all() and float(slope.abs().sum()) > 0
    problem = Problem("p", "4")
    ctx = Context(problem, ponder.api.build_process("denoising", (), ponder.model("gmm:a")))
    pictures = [ponder.Candidate(p) for p in np.random.default_rng(1).random((3, 8, 8))]
    outputs = torch.from_numpy(np.stack([c.output for c in pictures]))
    for text in ("class_confidence", "class_confidence(log=true, weak=true)", "digit_trait", "digit_trait(trait=ink)"):
        verifier = ponder.verifier(text)
        scores = run_sync(lambda v=verifier: ctx.score(problem, pictures, v))
        np.testing.assert_allclose(verifier.score_tensors(problem, outputs, ctx).numpy(), scores, rtol=1e-6)
    brighter = [ponder.Candidate(np.full((8, 8), v)) for v in (0.2, 0.7)]
    ink = run_sync(lambda: ctx.score(problem, brighter, ponder.verifier("digit_trait(trait=ink)")))
    np.testing.assert_allclose(ink, [0.2, 0.7])
    flat = run_sync(lambda: ctx.score(problem, brighter, ponder.verifier("digit_trait(trait=smoothness)")))
    np.testing.assert_allclose(flat, 0.0)
    wrong = run_sync(lambda: ctx.score(problem, [ponder.Candidate(np.ones(3))], ponder.verifier("digit_trait")))
    assert np.isnan(wrong).all() and "8 x 8" in ctx.failures[-1].message
