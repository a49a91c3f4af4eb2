"""Tree of frames: its schedule by hand, its gain over linear search on simulated videos, a small real video, errors."""

import numpy as np
import pytest

import ponder
from ponder.api import run_sync
from ponder.core.context import Context
from ponder.diffusion.model import FunctionModel
from ponder.errors import NotAutoregressiveError, ParameterError, TaskError, VerifierError
from ponder.models.gmm import Gmm
from ponder.processes.denoising import Denoising
from ponder.processes.frames import Frames
from ponder.processes.sim_frames import SimFrameChain
from ponder.strategies.tree_of_frames import TreeOfFrames
from ponder.tasks.sim_frames import SimFrames

SEEN = "verifier=sim_frame_quality"


def run(text, task, problem, seed=0, budget=None):
    plan = ponder.parse(text) if isinstance(text, str) else text
    ctx = Context(problem, SimFrameChain(), task=task, seed=seed, budget=budget)
    return run_sync(lambda: plan.run(problem, ctx))


def test_units_and_scores_are_those_of_the_schedule():
    """n=4, branch 2 at depth 2, 3 candidates for first units; the median prunes 4 to 2 at depth 1."""
    task = SimFrames(frames=3)
    result = run(f"tree_of_frames(n=4, branch=[1, 2], candidates=[3], prune=[1], {SEEN})", task, task.problems(1)[0])
    assert result.total.function_evaluations == result.details["units"] == 12 + 2 + 4
    assert result.total.verifier_calls == 12 + 4, "first units, because they are chosen, and outputs"
    assert len(result.candidates) == 4
    first = sorted({c.output[0] for c in result.candidates})
    drawn = np.reshape([s.step for s in result.tree.nodes if s.depth == 1], (4, 3)).max(axis=1)
    assert first == sorted(drawn)[2:], "the two best of the four groups' best"
    assert result.best.output[-1] == max(c.output[-1] for c in result.candidates)


def test_without_branching_and_pruning_it_is_best_of_n():
    task = SimFrames(frames=4)
    problem = task.problems(1)[0]
    tree, linear = run(f"tree_of_frames(n=5, {SEEN})", task, problem), run(f"best_of_n(n=5, {SEEN})", task, problem)
    assert tree.output == linear.output and tree.total.function_evaluations == linear.total.function_evaluations


def test_single_videos_have_the_variance_of_the_chain():
    task = SimFrames(frames=5, rho=0.8, sd=1.0, count=800)
    last = np.asarray([run("single", task, p).output[-1] for p in task.problems()])
    expected = sum(0.8 ** (2 * i) for i in range(5))
    assert abs(last.mean()) < 4 * np.sqrt(expected / 800)
    assert abs(last.var() - expected) < 4 * expected * np.sqrt(2 / 800)


def gains(rho, count=150):
    """Quality of the tree's choice minus that of linear search, each with 64 unit-steps."""
    task = SimFrames(frames=8, rho=rho, count=count)
    verifier = "verifier=sim_frame_quality(noise=0.5)"
    tree = f"tree_of_frames(n=8, branch=[1, 2, 1, 2, 1, 2, 1], prune=[2, 4, 6], {verifier})"
    found = []
    for problem in task.problems():
        a, b = run(tree, task, problem), run(f"best_of_n(n=8, {verifier})", task, problem, seed=1)
        assert a.total.function_evaluations == b.total.function_evaluations == 64
        found.append(a.output[-1] - b.output[-1])
    return np.mean(found), np.std(found, ddof=1) / np.sqrt(count)


def test_at_equal_unit_steps_the_gain_grows_with_rho_and_vanishes_without_memory():
    (none, e0), (some, e1), (much, e2) = (gains(rho) for rho in (0.0, 0.6, 0.95))
    assert abs(none) < 4 * e0
    assert some > none + 2 * np.hypot(e0, e1) and much > some + 2 * np.hypot(e1, e2) and much > 4 * e2


def test_a_budget_in_the_middle_still_gives_an_output():
    task = SimFrames(frames=4)
    limit = ponder.Budget(function_evaluations=9)
    result = run(f"tree_of_frames(n=4, prune=[2], {SEEN})", task, task.problems(1)[0], budget=limit)
    assert result.total.function_evaluations <= 9 and result.status == "ok"


def video(motion, n=1, seed=0):
    process = Frames(Gmm("two_modes"), frames=4, steps=10, motion=motion)
    ctx = Context(ponder.Problem("v", "x"), process, seed=seed)
    return run_sync(lambda: ponder.parse(f"repeated_sampling(n={n})").run(ctx.problem, ctx))


def test_frames_resemble_the_one_before_the_more_the_less_they_move_and_cost_what_they_repeat():
    little, much = video(0.2, 30), video(1.0, 30)

    def moved(result):
        return np.mean([np.square(np.diff(c.output, axis=0)).sum(axis=1).mean() for c in result.candidates])

    assert moved(little) < 0.5 * moved(much)
    assert little.total.function_evaluations == 30 * (10 + 3 * 2) and much.total.function_evaluations == 30 * 40
    assert little.candidates[0].output.shape == (4, 16)


def test_siblings_share_their_prefix_and_differ_after_it():
    ctx = Context(ponder.Problem("v", "x"), Frames(Gmm("a"), frames=3, steps=4))
    (first,) = run_sync(lambda: ctx.extend([ctx.root()], [1]))
    (pair,) = run_sync(lambda: ctx.extend(first, [2]))
    a, b = (ctx.process.output(s) for s in pair)
    np.testing.assert_array_equal(a[0], b[0])
    assert not np.allclose(a[1], b[1])


def test_numbers_that_are_none_are_a_lost_video():
    model = FunctionModel(lambda x, t, prompt: x * np.nan, (2,))
    process = Frames(model, frames=3, steps=4)
    result = ponder.solve("x", model=model, process=process, strategy="tree_of_frames(n=2, verifier=constant)")
    assert result.status == "failed" and "not finite in frame 1 of 3" in result.reason


def test_questions_change_with_the_stage_and_count_yes_minus_no():
    verifier = ponder.verifier(
        "staged_questions(questions=[[constant(value=1)], [constant(value=1), constant(value=0)], "
        "[constant(value=0), constant(value=1)]], until=[1, 2], weights=[1, 3])"
    )
    assert ponder.verifier(str(verifier)) == verifier
    task = SimFrames(frames=4)
    ctx = Context(task.problems(1)[0], SimFrameChain())

    async def scores():
        level, found = [ctx.root()], []
        for _ in range(4):
            level = [(await ctx.extend(level, [1]))[0][0]]
            found.append(float((await ctx.score(ctx.problem, level, verifier))[0]))
        return found

    assert run_sync(scores) == [1.0, 0.0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("staged_questions(questions=[])", "at least one question"),
        ("staged_questions(questions=[[constant], [constant]])", "1 depths"),
        ("staged_questions(questions=[[constant], [constant], [constant]], until=[3, 3])", "that rise"),
        ("staged_questions(questions=[[constant]], weights=[1, 2])", "1 numbers > 0"),
    ],
)
def test_questions_that_do_not_fit_their_stages_are_refused(text, message):
    with pytest.raises(ParameterError, match=message):
        ponder.verifier(text)


def test_what_makes_no_sense_is_refused_with_what_to_do():
    task = SimFrames(frames=4)
    problem = task.problems(1)[0]
    with pytest.raises(ParameterError, match="depths from 1 to 3, for outputs of 4 units"):
        run(f"tree_of_frames(n=2, prune=[4], {SEEN})", task, problem)
    with pytest.warns(UserWarning, match=r"branch=\[2\] ends at depth 1 of 3"):
        run(f"tree_of_frames(n=2, branch=[2], {SEEN})", task, problem)
    plan, short = "tree_of_frames(n=2, verifier=constant)", SimFrames(frames=1)
    with pytest.raises(NotAutoregressiveError, match=r"denoising makes all parts at once\. Use best_of_n"):
        ponder.solve("x", model="gmm:a", strategy=plan, process=Denoising(Gmm("a"), steps=3))
    with pytest.raises(NotAutoregressiveError):
        run(f"tree_of_frames(n=2, {SEEN})", short, short.problems(1)[0])
    with pytest.raises(TaskError, match="sim_frames needs problems of the task"):
        ponder.solve("x", model="sim:strong", process="sim_frames", strategy="single")
    for setting in ({"n": 0}, {"branch": (0,)}, {"candidates": (0,)}, {"prune": (0,)}):
        with pytest.raises(ParameterError):
            TreeOfFrames(**setting)
    for setting in ({"frames": 0}, {"motion": 0.0}, {"motion": 0.01}):
        with pytest.raises(ParameterError):
            Frames(Gmm("a"), **setting)


def test_per_frame_joins_a_picture_verifiers_scores_and_wants_frames():
    ctx = Context(ponder.Problem("v", "x"), SimFrameChain())
    from ponder.core.candidate import Candidate

    videos = [Candidate(np.arange(6.0).reshape(3, 2), None, index=0), Candidate(np.ones((1, 2)), None, index=1)]
    for how in ("last", "mean", "min"):
        verifier = ponder.verifier(f"per_frame(verifier=constant(value=0.25), how={how})")
        assert run_sync(lambda v=verifier: v.score(ctx.problem, videos, ctx)) == [0.25, 0.25]
    with pytest.raises(VerifierError, match="sequences of frames"):
        run_sync(lambda: verifier.score(ctx.problem, [Candidate("text", None, index=0)], ctx))
