"""Diffusion tree sampling against exact Gaussian mixtures, by hand, and gone on with."""

import importlib.util
import itertools
import math
import pickle
from dataclasses import dataclass

import numpy as np
import pytest

import ponder
from ponder.core.model import Capabilities, Completion, Model
from ponder.core.seeds import generator
from ponder.diffusion.gmm import INSTANCES, tilted
from ponder.diffusion.measures import mmd_squared, total_variation
from ponder.errors import NotStochasticError, ParameterError
from ponder.models.catalog import CATALOG
from ponder.strategies.diffusion_tree_sampling import DiffusionTreeSampling


def solve(strategy, model="gmm:a", steps=4, **options):
    return ponder.solve("x", model=model, process=f"denoising(steps={steps})", strategy=strategy, **options)


def dts(settings="", n=10_000):
    return ponder.parse(f"diffusion_tree_sampling(n={n}, verifier=gmm_reward{settings})")


def weighted(result):
    x = np.asarray([c.output for c in result.candidates])
    return x, np.asarray([c.scores.get("weight", 0.0) for c in result.candidates])


def descended(result, strength):
    """Each leaf's chance when a walk goes down by exp(λV), from the noted values alone."""
    notes, chances = result.tree.notes, []
    children: dict = {}
    for node in result.tree.nodes:
        if node in notes["value"]:
            children.setdefault(node.parent, []).append(node)
    for candidate in result.candidates:
        chance = 1.0
        for node in candidate.state.ancestry():
            if node.parent is not None:
                logs = [strength * notes["value"][c] + math.log(notes["copies"][c]) for c in children[node.parent]]
                own = strength * notes["value"][node] + math.log(notes["copies"][node])
                chance *= math.exp(own - np.logaddexp.reduce(logs))
        chances.append(chance)
    return chances


@pytest.mark.parametrize("strength", [0.5, 3.0])
@pytest.mark.parametrize("select", ["boltzmann", "uct"])
def test_a_leafs_weight_is_its_reward_over_its_siblings_and_what_a_walk_by_values_gives(strength, select):
    result = solve(dts(f", strength={strength}, select={select}", n=30))
    x, share = weighted(result)
    drawn: dict = {}
    for node in result.tree.nodes:
        if node in result.tree.notes["value"]:
            drawn[node.parent] = drawn.get(node.parent, 0) + result.tree.notes["copies"][node]
    logs = strength * INSTANCES["a"][1](x)
    for i, candidate in enumerate(result.candidates):
        for node in candidate.state.ancestry():
            if node.parent is not None:
                logs[i] += math.log(result.tree.notes["copies"][node] / drawn[node.parent])
    expected = np.exp(logs - np.logaddexp.reduce(logs))
    np.testing.assert_allclose(share, expected, rtol=1e-9)
    np.testing.assert_allclose(share, descended(result, strength), rtol=1e-9)
    assert result.details["effective_sample_size"] == pytest.approx(1 / np.square(share).sum(), abs=1e-3)


@pytest.mark.parametrize("select", ["boltzmann", "uct"])
@pytest.mark.parametrize("budget", [None, "transitions=37"])
def test_going_on_with_a_tree_from_disk_equals_one_longer_run(select, budget):
    longer = dts(f", select={select}", n=25)
    first = solve(longer if budget else dts(f", select={select}", n=6), budget=budget)
    again = solve(longer.resumed(pickle.loads(pickle.dumps(first.tree))))
    once = solve(longer)
    assert len(first.candidates) < len(again.candidates)
    for mine, theirs in zip(weighted(again), weighted(once), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for detail in ("walks", "effective_sample_size", "log_evidence"):
        assert again.details[detail] == once.details[detail]
    assert again.chosen == once.chosen
    assert again.total.transitions < once.total.transitions


def test_the_roots_value_and_the_masses_come_closer_with_transitions():
    """Means of 5 runs. The value stays biased a little low, as exploration is finite."""
    mixture = INSTANCES["a"][0]
    target, log_z = tilted(*INSTANCES["a"])
    truth = mixture.masses(target.sample(20_000, np.random.default_rng(0)))
    errors, masses = [], []
    for limit in (60, 600):
        runs = [solve(dts(), budget=f"transitions={limit}", seed=seed) for seed in range(5)]
        errors.append(np.mean([abs(r.details["log_evidence"] - log_z) for r in runs]))
        masses.append(np.mean([total_variation(mixture.masses(*weighted(r)), truth) for r in runs]))
    assert errors[1] < 0.5 * errors[0] and errors[1] < 0.2
    assert masses[1] < 0.5 * masses[0]


@pytest.mark.slow
def test_error_falls_with_evaluations_beside_importance_sampling_and_smc():
    """All three fall by 3 or more from 160 to 1600 transitions and beat best-of-n; nothing is said of their order."""
    model = "ring"
    mixture, reward = INSTANCES[model]
    exact = tilted(mixture, reward)[0].sample(1000, np.random.default_rng(0))
    plans = {
        "dts": "diffusion_tree_sampling(n=10000, verifier=gmm_reward)",
        "is": "fk_steering(n={n}, verifier=gmm_reward, strength=1, potential=difference, threshold=0)",
        "smc": "fk_steering(n={n}, verifier=gmm_reward, strength=1, potential=difference)",
    }
    found: dict = {}
    for limit in (160, 1600):
        for name, plan in plans.items():
            runs = [
                solve(plan.format(n=limit // 5), f"gmm:{model}", 5, budget=f"transitions={limit}", seed=s)
                for s in range(4)
            ]
            found[name, limit] = np.mean([mmd_squared(x, exact, w) for x, w in map(weighted, runs)])
    best = solve(f"best_of_n(n={1600 // 5}, verifier=gmm_reward)", f"gmm:{model}", 5)
    greedy = mmd_squared(np.stack([best.output] * 2), exact)
    print({key: round(float(value), 4) for key, value in found.items()}, round(greedy, 4))  # with -s
    for name in plans:
        assert found[name, 1600] < found[name, 160] / 3 + 0.005
        assert found[name, 1600] < greedy


@pytest.mark.slow
def test_searching_the_tree_beats_four_times_as_many_draws_on_two_modes():
    rewards = {}
    for name, plan, limit in (
        ("best_of_n", "best_of_n(n=800, verifier=gmm_reward)", 6400),
        ("dts_star", "diffusion_tree_sampling(n=10000, verifier=gmm_reward, select=uct)", 1600),
    ):
        runs = [solve(plan, "gmm:two_modes", 8, budget=f"transitions={limit}", seed=seed) for seed in range(4)]
        rewards[name] = np.mean([max(c.scores["gmm_reward"] for c in r.candidates) for r in runs])
    assert rewards["dts_star"] > rewards["best_of_n"]


def test_one_output_is_a_plain_walk_and_the_uct_answer_is_the_best():
    assert solve(dts(n=1)).total.transitions == 4
    result = solve(dts(", select=uct", n=20))
    scores = [c.scores["gmm_reward"] for c in result.candidates]
    assert result.chosen == (int(np.argmax(scores)),)


def test_backups_are_mean_and_max_in_the_limits():
    def root(settings):
        values = solve(dts(f", explore=1.0{settings}", n=12)).tree.notes["value"]
        return next(v for s, v in values.items() if s.parent is None)

    assert root(", strength=0.000001") == pytest.approx(root(", backup=mean"), abs=1e-4)
    assert root(", strength=100000.0") == pytest.approx(root(", backup=max"), abs=1e-3)


def test_a_tree_of_text_stays_within_its_steps_and_weighs_its_outputs():
    (problem,) = ponder.task("sim_tree(count=1)").problems()
    result = ponder.solve(
        problem,
        model="sim:default",
        task="sim_tree(count=1)",
        process="sim_tree",
        strategy="diffusion_tree_sampling(n=12, verifier=sim_tree_score)",
    )
    assert result.status == "ok" and result.total.function_evaluations <= 12 * 8
    assert sum(c.scores["weight"] for c in result.candidates) == pytest.approx(1)


def test_a_budget_below_one_output_says_what_one_takes():
    result = solve(dts(), budget="transitions=3")
    assert result.status == "failed" and "4 transitions" in result.reason


def test_rewards_of_minus_infinity_have_no_weight():
    class Forbidding(ponder.verifier("gmm_reward").__class__):
        async def score(self, problem, items, ctx):
            found = await super().score(problem, items, ctx)
            return [-math.inf if self.scale == 0 or value < 0 else value for value in found]

    some = solve(ponder.strategy("diffusion_tree_sampling(n=20)").__class__(n=20, verifier=Forbidding()))
    assert all(c.scores["weight"] == 0 for c in some.candidates if "gmm_reward" not in c.scores)
    assert some.best.scores["gmm_reward"] >= 0
    none = solve(ponder.strategy("diffusion_tree_sampling(n=4)").__class__(n=4, verifier=Forbidding(scale=0.0)))
    assert none.status == "abstain" and not none.chosen and "judged impossible" in none.reason


@pytest.mark.parametrize("select", ["boltzmann", "uct"])
@pytest.mark.parametrize("batch", [3, 16])
def test_several_walks_at_once_spend_the_same_and_give_the_weights_of_their_tree(select, batch):
    result = solve(dts(f", select={select}, batch={batch}", n=40))
    assert sum(result.tree.notes["asked"].values()) == 40 * 5  # the draw of noise and four steps
    _, share = weighted(result)
    np.testing.assert_allclose(share, descended(result, 1.0), rtol=1e-9)
    notes = result.tree.notes
    (root,) = notes["walks"]
    drawn: dict = {}
    for node in result.tree.nodes:
        drawn[node.parent] = drawn.get(node.parent, 0) + notes["copies"][node]
    assert notes["visits"][root] == result.details["walks"]  # what walks under way had counted for is taken back
    assert {state: asked for state, asked in notes["asked"].items() if asked} == drawn


def test_walks_under_way_keep_others_from_following_them():
    """The bonus for few visits is all that chooses here, so that eight walks at once spread like one after another."""

    def visits(batch):
        tree = solve(dts(f", select=uct, exploration=1000.0, widening=0.5, batch={batch}", n=60)).tree
        return [tree.notes["visits"][node] for node in tree.nodes if node.parent.parent is None]

    assert max(visits(8)) <= 1.5 * np.mean(visits(8)) and max(visits(1)) <= 1.5 * np.mean(visits(1))


@pytest.mark.parametrize("limit", [4, 5, 7, 8, 9, 21, 30])
def test_a_budget_ends_walks_at_once_with_whole_outputs(limit):
    result = solve(dts(", batch=8"), budget=f"transitions={limit}")
    alone = solve(dts(), budget=f"transitions={limit}")
    assert result.total.transitions <= limit
    assert result.status == "ok" and len(result.candidates) >= limit // 4 >= len(alone.candidates) - limit // 8


def test_few_outputs_are_not_shared_out_over_walks_that_cannot_end():
    assert len(solve(dts(", batch=8", n=3)).candidates) >= 3


@pytest.mark.parametrize("batch", [1, 4])
def test_a_tree_goes_on_with_walks_at_once(batch):
    first = solve(dts(", batch=4"), budget="transitions=50")
    going = dts(f", batch={batch}", n=40).resumed(pickle.loads(pickle.dumps(first.tree)))
    again = solve(going)
    assert sum(first.tree.notes["asked"].values()) < sum(again.tree.notes["asked"].values()) == 40 * 5
    _, share = weighted(again)
    np.testing.assert_allclose(share, descended(again, 1.0), rtol=1e-9)
    assert again.tree.notes["visits"][again.tree.nodes[0].parent] == again.details["walks"]


def test_walks_at_once_through_equal_steps_of_text_count_copies():
    (problem,) = ponder.task("sim_tree(count=1)").problems()
    where = {"model": "sim:default", "task": "sim_tree(count=1)", "process": "sim_tree"}
    plan = "diffusion_tree_sampling(n=12, verifier=sim_tree_score, batch=5)"
    result = ponder.solve(problem, strategy=plan, **where)
    assert result.status == "ok" and result.total.function_evaluations <= 12 * 8
    assert sum(c.scores["weight"] for c in result.candidates) == pytest.approx(1)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(NotStochasticError, match="deterministic ones"):
        ponder.solve("x", model="gmm:a", process="denoising(steps=4, solver=euler)", strategy=dts())
    for settings, told in (
        ("strength=0.0", "a number > 0"),
        ("widening=1.0", r"in \(0, 1\)"),
        ("n=0", "≥ 1"),
        ("batch=0", "≥ 1"),
    ):
        with pytest.raises(ParameterError, match=told):
            ponder.parse(f"diffusion_tree_sampling({settings})")
    with pytest.raises(ParameterError, match="an earlier result"):
        solve(dts().resumed(solve("best_of_n(n=2, verifier=gmm_reward)").tree or ponder.core.search_tree.SearchTree()))


@dataclass
class Letters(Model):
    """Writes one letter at a time: b three times in ten, else a."""

    name = "letters"
    capabilities = Capabilities(max_n=4096, prefix=True, seeds=True)

    def __str__(self):
        return "letters"

    @property
    def identity(self):
        return "letters"

    def count_tokens(self, prompt):
        return 1

    async def sample(self, request):
        for position, seed in enumerate(request.seeds):
            letter = "b" if generator("letters", seed).random() < 0.3 else "a"
            yield position, Completion(letter, 1, "length", requests=int(position == 0))


class Spelling(ponder.verifier("constant").__class__):
    """One nat for each b, and two more for bbb."""

    async def score(self, problem, items, ctx):
        texts = [ctx.process.output(item) for item in items]
        return [float(text.count("b") + 2 * (text == "bbb")) for text in texts]


def test_texts_written_in_steps_have_the_shares_of_the_known_target():
    """Three letters one by one: p(x)·exp(r(x)) of all eight texts is known, and so is its normaliser.

    Means of 6 runs within 4.5 standard errors and what exploring leaves.
    """
    texts = ["".join(letters) for letters in itertools.product("ab", repeat=3)]
    chances = np.asarray([0.3 ** t.count("b") * 0.7 ** t.count("a") for t in texts])
    target = chances * np.exp([t.count("b") + 2.0 * (t == "bbb") for t in texts])
    shares, values = [], []
    for seed in range(6):
        result = ponder.solve(
            "x", model=Letters(), process="text_steps(step=tokens, step_tokens=1, max_steps=3)", seed=seed,
            strategy=DiffusionTreeSampling(n=40, verifier=Spelling(), widening=0.9),
        )  # fmt: skip
        found = {c.output: c.scores["weight"] for c in result.candidates}
        assert set(found) <= set(texts) and len(found) == len(result.candidates), "an equal step is one node"
        shares.append([found.get(t, 0.0) for t in texts])
        values.append(result.details["log_evidence"])
    error = np.std(shares, axis=0, ddof=1) / np.sqrt(6)
    assert (np.abs(np.mean(shares, axis=0) - target / target.sum()) < 4.5 * error + 0.03).all()
    assert abs(np.mean(values) - math.log(target.sum())) < 4.5 * np.std(values, ddof=1) / np.sqrt(6) + 0.1


@pytest.mark.model
@pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None or not CATALOG["smollm2-135m"].present,
    reason="needs xllamacpp and `ponder models pull smollm2-135m`",
)
def test_a_language_models_blocks_of_tokens_are_weighed_by_the_finished_texts():
    """Shorter texts are rewarded: weights are exp(λr) over the siblings, and lean to shorter texts than plain draws."""

    class Short(ponder.verifier("constant").__class__):
        async def score(self, problem, items, ctx):
            return [-len(ctx.process.output(item)) / 10 for item in items]

    result = ponder.solve(
        "Once upon a time", model="embedded:smollm2-135m",
        strategy=DiffusionTreeSampling(n=12, verifier=Short(), strength=3.0),
        process="text_steps(step=tokens, step_tokens=4, max_steps=3)", temperature=1.0, max_new_tokens=12,
    )  # fmt: skip
    assert result.status == "ok" and 12 <= len(result.tree) <= 12 * 3
    assert result.total.generated_tokens <= 12 * 12
    drawn: dict = {}
    for node in result.tree.nodes:
        if node in result.tree.notes["value"]:
            drawn[node.parent] = drawn.get(node.parent, 0) + result.tree.notes["copies"][node]
    logs = []
    for candidate in result.candidates:
        up = [node for node in candidate.state.ancestry() if node.parent is not None]
        shares = [result.tree.notes["copies"][node] / drawn[node.parent] for node in up]
        logs.append(-3.0 * len(candidate.output) / 10 + sum(map(math.log, shares)))
    weights = np.exp(logs - np.logaddexp.reduce(logs))
    np.testing.assert_allclose([c.scores["weight"] for c in result.candidates], weights, rtol=1e-9)
    lengths = np.asarray([len(c.output) for c in result.candidates])
    assert weights @ lengths < lengths.mean()
