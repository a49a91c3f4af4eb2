"""Every search over diffusion on a tiny Stable Diffusion and a tiny video pipeline: shape, ledger, twice the same."""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

import ponder
from ponder.api import run_sync
from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.verifier import Verifier, output_of
from ponder.errors import GradientUnavailableError, NotAutoregressiveError, NotStochasticError, VerifierError
from ponder.models.diffusers import Diffusers
from ponder.processes.denoising import Denoising
from ponder.verifiers.per_frame import PerFrame

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parent.parent / "support"))
import tiny_pipelines  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 4
PROMPT = "a red fox"
SHAPES = {"stable_diffusion": (16, 16, 3), "ltx": (5, 16, 16, 3)}


@dataclass(frozen=True)
class Redness(Verifier):
    """How much redder than blue a picture is, from 0 to 1."""

    name = "redness"
    range = (0.0, 1.0)

    async def score(self, problem, items, ctx):
        outputs = [output_of(item, ctx) for item in items]
        return [0.5 + 0.5 * float((x[..., 0] - x[..., 2]).mean()) for x in outputs]

    def score_tensors(self, problem, outputs, ctx):
        return 0.5 + 0.5 * (outputs[..., 0] - outputs[..., 2]).flatten(1).mean(1)


@pytest.fixture(scope="module", params=SHAPES)
def model(request, tmp_path_factory):
    folder = tiny_pipelines.saved(request.param, tmp_path_factory.mktemp(request.param))
    size = {"height": 16, "width": 16, "frames": 5} if request.param == "ltx" else {}
    found = Diffusers(str(folder), guidance=3.0, **size)
    assert found.decode(np.zeros(found.latent_shape)).shape == SHAPES[request.param]
    return found


def reward(model):
    return Redness() if len(model.latent_shape) == 3 else PerFrame(Redness())


def solve(model, strategy, seed=0, **options):
    plan = ponder.parse(strategy) if isinstance(strategy, str) else strategy
    if hasattr(plan, "verifier"):
        plan = replace(plan, verifier=reward(model))
    return ponder.solve(
        PROMPT, model=model, process=Denoising(model, **{"steps": STEPS} | options), strategy=plan, seed=seed
    )


def nodes(result):
    """Of the whole search: those that the network was asked about, and the finished ones."""
    whole = [node for node in result.tree.nodes if node.parent is not None]
    return sum(node.finish is None for node in whole), sum(node.finish is not None for node in whole)


def by_tree(result):
    """A prediction for each node on the way, and a score for each end."""
    return nodes(result)


def by_tree_and_levels(result):
    """The same, and a score for each node; equal siblings are scored once (a last step may add no noise)."""
    whole = [node for node in result.tree.nodes if node.parent is not None]
    return nodes(result)[0], len({(node.parent, node.step) for node in whole})


def of_generations(result):
    """First noises to the end, then the children of each generation from its timestep on."""
    sizes, points = result.details["population"], result.details["schedule"]
    children = [size - 1 for size in sizes[1:]]  # of elites=1
    return (
        sizes[0] * STEPS + sum(c * (STEPS - at) for c, at in zip(children, points, strict=True)),
        sizes[0] + sum(children),
    )


EXACT = {"solver": "euler"}
SEARCHES = {
    "repeated_sampling(n=3)": ((3 * STEPS, 0), {}),
    "best_of_n(n=3)": ((3 * STEPS, 3), {}),
    "beam_search(n=4, branch=2)": ((4 * STEPS, 4 * (STEPS + 1)), {}),
    "particle_filter(n=3)": ((3 * STEPS, 3 * (STEPS + 1)), {}),
    "fk_steering(n=3, every=2)": ((3 * STEPS, 3 * 3), {}),  # the draws, the third level and the end
    "zero_order_search(n=4, neighbours=2)": ((4 * STEPS, 4), EXACT),
    # One path to timestep 2; there two ways from timestep 1 to 3, and from the best two from timestep 2 to the end.
    "search_over_paths(n=4, noises=2)": ((3 + 2 * 3 + 2 * 2, 2 + 2), {}),
    "evo_search(n=6, elites=1)": (of_generations, {}),
    "diffusion_tree_sampling(n=4)": (by_tree, {}),
    "diffusion_tree_sampling(n=4, select=uct)": (by_tree, {}),
    "mcts(n=4, branch=2)": (by_tree_and_levels, {}),
    "noise_ascent(n=4, restarts=2, gradient=autograd)": (((2 * 3 + 2) * STEPS, 2 * 2 + 2), EXACT),
    "noise_ascent(n=4, restarts=2, gradient=spsa)": ((4 * STEPS, 4), EXACT),
}


@pytest.mark.parametrize("strategy", SEARCHES)
def test_a_search_makes_outputs_counts_what_it_spends_and_repeats(model, strategy):
    expected, options = SEARCHES[strategy]
    result, again = (solve(model, strategy, **options) for _ in range(2))
    shape = SHAPES["ltx" if len(model.latent_shape) == 4 else "stable_diffusion"]
    assert not result.failures and result.output.shape == shape
    assert result.output.min() >= 0 and result.output.max() <= 1
    np.testing.assert_array_equal(result.output, again.output)
    assert [c.scores for c in result.candidates] == [c.scores for c in again.candidates]
    assert not np.array_equal(result.output, solve(model, strategy, seed=1, **options).output)
    total = result.total
    assert replace(total, seconds=0.0) == replace(again.total, seconds=0.0)
    assert total.model_calls == 2 * total.function_evaluations, "guidance asks twice"
    spent = expected(result) if callable(expected) else expected
    assert (total.function_evaluations, total.verifier_calls) == spent


def test_prompts_are_refined_for_pictures_and_videos(model, tmp_path):
    corpus = tmp_path / "prompts.jsonl"
    texts = ["a red fox, in the snow, at dusk", "a red fox, on a hill, film grain"]
    corpus.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    plan = ponder.parse(f'prompt_refinement(n=3, corpus="{corpus}", patience=0)')
    result, again = (solve(model, plan) for _ in range(2))
    assert result.details["rounds"] == 3 and len(set(result.details["prompts"])) == 3
    assert result.total.function_evaluations == 3 * STEPS and result.total.verifier_calls == 3
    np.testing.assert_array_equal(result.output, again.output)
    outputs = [c.output for c in result.candidates]
    assert np.abs(outputs[1] - outputs[0]).max() > 1e-6, "the same noise, another prompt"


def test_climbing_by_gradients_raises_the_reward(model):
    scores = [
        max(c.scores.values())
        for c in solve(model, "noise_ascent(n=4, restarts=1, lr=20, regulariser=0)", **EXACT).candidates
    ]
    assert scores[1] > scores[0] and max(scores) > scores[0] + 1e-4


def test_what_makes_no_sense_is_refused(model):
    with pytest.raises(NotAutoregressiveError, match=r"denoising makes all parts at once\. Use best_of_n"):
        solve(model, "tree_of_frames(n=2)")
    for strategy in ("beam_search(n=4, branch=2)", "evo_search(n=6, elites=1)", "diffusion_tree_sampling(n=2)"):
        with pytest.raises(NotStochasticError):
            solve(model, strategy, **EXACT)
    with pytest.raises(GradientUnavailableError, match="stochastic steps"):
        solve(model, "noise_ascent(n=2, gradient=autograd)")


def test_per_frame_looks_at_start_middle_and_end_by_default_and_gives_gradients():
    ctx = Context(ponder.Problem("v", "x"), None)
    video = np.zeros((5, 4, 4, 3))
    video[:, ..., 0] = np.asarray([0.1, 0.5, 0.3, 0.9, 0.8])[:, None, None]
    expected = {"ends": 0.7, "last": 0.9, "mean": 0.76, "min": 0.55}
    for how, value in expected.items():
        verifier = PerFrame(Redness(), how=how)
        (score,) = run_sync(lambda v=verifier: v.score(ctx.problem, [Candidate(video, None)], ctx))
        assert score == pytest.approx(value)
        tensors = torch.tensor(np.stack([video, video]), requires_grad=True)
        (slope,) = torch.autograd.grad(verifier.score_tensors(ctx.problem, tensors, ctx).sum(), tensors)
        np.testing.assert_allclose(verifier.score_tensors(ctx.problem, tensors, ctx).detach(), [value] * 2)
        assert (slope.abs().sum(dim=(2, 3, 4))[0] > 0).sum() == {"ends": 3, "last": 1, "mean": 5, "min": 1}[how]
    assert PerFrame(Redness()).how == "ends"
    for n, value in ((1, 0.55), (2, 0.65)):
        (score,) = run_sync(lambda n=n: PerFrame(Redness()).score(ctx.problem, [Candidate(video[:n], None)], ctx))
        assert score == pytest.approx(value)
    with pytest.raises(VerifierError, match="a picture of shape"):
        run_sync(lambda: PerFrame(Redness()).score(ctx.problem, [Candidate(video[0], None)], ctx))
