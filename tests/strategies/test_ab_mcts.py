"""AB-MCTS: posteriors by hand, the mixed model against numerical integration, limits, wider or deeper."""

import asyncio
import math

import numpy as np
import pytest

import ponder
from ponder.core.context import Context
from ponder.core.registry import PROCESSES
from ponder.errors import ParameterError, VerifierError
from ponder.strategies._posteriors import (
    Sums,
    beta_posterior,
    draw_beta,
    draw_mixed,
    draw_normal,
    mixed_grid,
    normal_posterior,
    rescaled,
)
from ponder.strategies.ab_mcts import ABMCTS, AdaptiveBranching

DEEP = "sim_scores(count=5000)"
WIDE = "sim_scores(root_mean=0.4, root_sd=0.15, step_mean=-0.05, count=5000)"


def run(text, problem=0, world=DEEP, **options):
    task = ponder.task(world)
    wanted = task.problems(problem + 1)[problem]
    ctx = Context(wanted, PROCESSES.build(world.partition("(")[0]), task=task, **options)
    return asyncio.run(ponder.parse(text).run(wanted, ctx))


def mean_best(text, problems, world):
    task, process, method = ponder.task(world), PROCESSES.build("sim_scores"), ponder.parse(text)

    async def go():
        return [(await method.run(p, Context(p, process, task=task))).output for p in task.problems(problems)]

    return float(np.mean(asyncio.run(go())))


def sums(*scores):
    return np.array([[len(scores), sum(scores), sum(s * s for s in scores)]], dtype=float)


@pytest.mark.parametrize(("scores", "wanted"), [((), (0, 1, 1, 0.1)), ((0.5,), (0.25, 2, 2, 0.1125)),
                                                ((0.2, 0.8), (1 / 3, 3, 3, 0.148889)),
                                                ((0.9, 0.9, 0.6), (0.6, 4, 4, 0.16))])  # fmt: skip
def test_normal_posteriors_are_those_worked_by_hand(scores, wanted):
    assert [float(p[0]) for p in normal_posterior(sums(*scores))] == pytest.approx(wanted, abs=1e-6)


def test_beta_posteriors_count_scores_as_shares_of_success():
    a, b = beta_posterior(sums(0.2, 0.8, 1.0))
    assert (a[0], b[0]) == pytest.approx((2.5, 1.5))


def test_draws_have_the_posteriors_mean_and_spread():
    rng = np.random.default_rng(0)
    rows = np.repeat(sums(0.9, 0.9, 0.6, 0.7, 0.8, 0.9), 40_000, axis=0)
    m, kappa, nu, tau2 = (p[0] for p in normal_posterior(rows))
    drawn = draw_normal(rows, rng)  # a t distribution of ν degrees
    deviation = math.sqrt(tau2 / kappa * nu / (nu - 2))
    assert drawn.mean() == pytest.approx(m, abs=5 * deviation / 200)
    assert drawn.std() == pytest.approx(deviation, rel=0.05)
    a, b = (p[0] for p in beta_posterior(rows))
    assert draw_beta(rows, rng).mean() == pytest.approx(a / (a + b), abs=0.005)


def test_sums_grow_and_rescale_as_the_scores_would():
    held, scores = Sums(), [-3.0, -1.0, -2.5]
    for _ in range(9):
        group = held.new()
    for score in scores:
        held.add(group, score)
    assert held.rows.shape == (9, 3) and held.rows[:-1].sum() == 0
    moved = rescaled(held.rows[-1:], -3.0, -1.0)
    assert moved == pytest.approx(sums(*[(s + 3) / 2 for s in scores]))
    assert np.isfinite(rescaled(held.rows, -1.0, -1.0)).all()


def test_the_mixed_models_weights_are_the_integral_over_the_group_means():
    groups = [[0.3, 0.5], [0.8]]
    sigma_a, sigma_y, log_weight = mixed_grid(np.concatenate([sums(*g) for g in groups]))
    assert np.exp(log_weight).sum() == pytest.approx(1)
    flat = np.concatenate(groups)
    member = np.repeat(np.arange(2), [2, 1])
    direct = []
    for a, y in zip(sigma_a, sigma_y, strict=True):
        cov = 0.2**2 + a * a * (member[:, None] == member) + y * y * np.eye(3)
        off = flat - 0.5
        direct.append(-0.5 * (np.linalg.slogdet(cov)[1] + off @ np.linalg.solve(cov, off)))
    direct = np.asarray(direct) - np.max(direct)
    assert np.exp(log_weight) == pytest.approx(np.exp(direct) / np.exp(direct).sum(), rel=1e-6)


def test_the_mixed_model_predicts_high_for_high_groups_and_between_for_a_new_one():
    rng = np.random.default_rng(1)
    rows = np.concatenate([sums(*[0.2, 0.25, 0.15] * 4), sums(*[0.8, 0.75, 0.85] * 4)])
    low, high, new = np.mean([draw_mixed(rows, rng) for _ in range(4000)], axis=0)
    assert low == pytest.approx(0.2, abs=0.02) and high == pytest.approx(0.8, abs=0.02) and 0.4 < new < 0.6


def test_wide_only_is_best_of_n_draw_by_draw():
    for world, verifier in ((DEEP, "exact"), (DEEP, "noisy_grade(noise=0.2)")):
        plain = run(f"best_of_n(n=12, verifier={verifier})", world=world)
        wide = run(f"ab_mcts(n=12, max_depth=1, verifier={verifier})", world=world)
        assert [c.output for c in wide.candidates] == [c.output for c in plain.candidates]
        assert wide.chosen == plain.chosen and wide.details["depth"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(("world", "adaptive", "wide", "chain"), [(DEEP, 0.483, 0.438, 0.812),
                                                                  (WIDE, 0.725, 0.745, 0.405)])  # fmt: skip
def test_reference_scores_of_the_deep_and_the_wide_task(world, adaptive, wide, chain):
    assert mean_best("ab_mcts(n=64, verifier=exact)", 300, world) == pytest.approx(adaptive, abs=0.03)
    assert mean_best("best_of_n(n=64, verifier=exact)", 300, world) == pytest.approx(wide, abs=0.03)
    assert mean_best("sequential_revisions(n=64, length=64, verifier=exact)", 300, world) == pytest.approx(
        chain, abs=0.04
    )


@pytest.mark.parametrize("variant", ["variant=a", "posterior=beta"])
def test_it_is_above_wide_on_the_deep_task_near_it_on_the_wide_one_and_never_the_worst(variant):
    for world in (DEEP, WIDE):
        adaptive, wide, chain = (mean_best(t, 60, world) for t in (
            f"ab_mcts(n=64, verifier=exact, {variant})", "best_of_n(n=64, verifier=exact)",
            "sequential_revisions(n=64, length=64, verifier=exact)"))  # fmt: skip
        assert adaptive > min(wide, chain)
        assert adaptive > wide + 0.01 if world == DEEP else adaptive > wide - 0.03


def test_the_mixed_variant_goes_deeper_where_depth_pays():
    text = "ab_mcts(n=32, verifier=exact, variant=m)"
    depth, width = (
        [np.mean([run(text, p, world).details[name] for p in range(8)]) for world in (DEEP, WIDE)]
        for name in ("depth", "width")
    )
    assert depth[0] > depth[1] and width[0] < width[1]


def test_each_score_is_backed_up_once_to_every_ancestor():
    task = ponder.task(DEEP)
    problem = task.problems(1)[0]
    ctx = Context(problem, PROCESSES.build("sim_scores"), task=task)
    rules = ABMCTS(n=40, verifier=ponder.verifier("exact"))
    policy = AdaptiveBranching(rules, ctx, 40)

    async def go():
        while asked := policy.ask(1):
            (children,) = await ctx.extend([asked[0][0]], [asked[0][1]])
            for state in children:
                policy.made(ctx.candidate(state), state.step, "")
            policy.tell(asked[0][0], children, np.asarray([s.step for s in children]))

    asyncio.run(go())
    root = policy._root
    nodes = [root, *policy._nodes]
    assert len(nodes) == 41 and root.size == 40

    def below(node):
        return [c.state.step for c in node.children] + [s for c in node.children for s in below(c)]

    for node in nodes:
        own = [c.state.step for c in node.children]
        assert node.gen.rows[0, :2] == pytest.approx([len(own), sum(own)])
        deeper = below(node)
        assert node.cont.rows[0, :2] == pytest.approx([len(deeper) - len(own), sum(deeper) - sum(own)])
        for child in node.children:
            tree = [child.state.step, *below(child)]
            assert node.subtrees.rows[child.place, :2] == pytest.approx([len(tree), sum(tree)])


def test_a_batch_is_that_many_choices_at_once_and_the_number_of_answers_is_kept():
    for batch in (1, 3, 7, 50):
        result = run(f"ab_mcts(n=20, verifier=exact, batch={batch})")
        assert len(result.candidates) == 20 and len({c.state.path for c in result.candidates}) == 20


def test_settings_are_actions_and_each_is_taken():
    text = "ab_mcts(n=12, verifier=random_score, temperatures=[0.2, 1.0], instructions=[Think., Guess.], action=ucb)"
    result = ponder.solve("What is 17+25?", model="sim:strong", strategy=text)
    assert (
        len(result.details["actions"]) == 4
        and sum(result.details["actions"]) == 12
        and min(result.details["actions"]) > 0
    )
    assert {(c.meta["temperature"], c.meta["instruction"]) for c in result.candidates} == {
        (t, i) for t in (0.2, 1.0) for i in ("Think.", "Guess.")
    }


@pytest.mark.parametrize("variant", ["variant=a", "variant=m", "posterior=beta"])
@pytest.mark.parametrize("verifier", ["exact", "random_score"])
def test_equal_scores_one_answer_and_any_variant_work(variant, verifier):
    same = "sim_scores(root_mean=0.5, root_sd=0, step_mean=0, step_sd=0)"
    for n in (1, 2, 9):
        assert len(run(f"ab_mcts(n={n}, verifier={verifier}, {variant})", world=same).candidates) == n


def test_scores_outside_the_unit_interval_are_rescaled_and_beta_takes_them_too():
    text = "ab_mcts(n=20, verifier=noisy_grade(noise=3), {})"
    for variant in ("variant=a", "variant=m", "posterior=beta"):
        result = run(text.format(variant))
        scores = [c.scores["noisy_grade"] for c in result.candidates]
        assert min(scores) < 0 < 1 < max(scores) and result.chosen == (int(np.argmax(scores)),)


def test_a_verifier_that_says_unit_and_gives_more_is_an_error_for_beta():
    class Loud(type(ponder.verifier("exact"))):
        name = "loud"

        async def score(self, problem, items, ctx):
            return [1.5 for _ in items]

    task = ponder.task(DEEP)
    problem = task.problems(1)[0]
    ctx = Context(problem, PROCESSES.build("sim_scores"), task=task)
    with pytest.raises(VerifierError, match=r"needs scores in \[0, 1\]; .* gave 1.5"):
        asyncio.run(ABMCTS(n=2, verifier=Loud(), posterior="beta").run(problem, ctx))
    with pytest.raises(ParameterError, match="integer ≥ 1"):
        ponder.parse("ab_mcts(batch=0)")
    with pytest.raises(ParameterError, match="numbers ≥ 0"):
        ponder.parse("ab_mcts(temperatures=[-1])")
