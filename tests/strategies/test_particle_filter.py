"""Particle filters on a chain whose posterior is known: unbiased evidence, the right target, and their limits."""

import asyncio
import math
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import pytest

import ponder
from ponder.core.context import Context
from ponder.core.process import Process
from ponder.core.registry import PROCESSES, VERIFIERS, verifier
from ponder.core.verifier import Verifier
from ponder.ledger.budget import Budget
from ponder.processes.sim_tree import uniforms

START = np.array([0.5, 0.3, 0.2])
STEP = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.2, 0.7]])
POTENTIAL = np.array([0.9, 0.3, 0.05])
LENGTH = 5


@dataclass(frozen=True)
class Chain(Process):
    """A Markov chain of three states; ends after five steps, or earlier from state 2 if `short`."""

    short: bool = False
    name = "chain"

    async def extend(self, states, slots, ctx):
        wanted = [(s, k) for s, own in zip(states, slots, strict=True) for k in own]
        seeds = [seed for s, own in zip(states, slots, strict=True) for seed in ctx.seeds_for(s, own)]
        m, luck = await ctx.evaluate(len(wanted), lambda m: uniforms(seeds[:m], 1)[:, 0])
        for (state, slot), u in zip(wanted[:m], luck if m else (), strict=True):
            row = START if state.step is None else STEP[state.step]
            value = int(np.searchsorted(np.cumsum(row), u, side="right"))
            last = state.depth + 1 == LENGTH or (self.short and value == 2)
            yield state.child(slot, min(value, 2), n_tokens=1, finish="stop" if last else None)

    def output(self, state):
        return tuple(state.steps())


@pytest.fixture(scope="module", autouse=True)
def chain_score():
    @verifier("chain_score")
    @dataclass(frozen=True)
    class ChainScore(Verifier):
        """The potential of the last state."""

        constant: bool = False
        dead: bool = False

        async def score(self, problem, items, ctx):
            return [0.0 if self.dead else 0.5 if self.constant else float(POTENTIAL[s.step]) for s in items]

    yield
    VERIFIERS._entries.pop("chain_score")


def exact(short=False):
    """Mass p(x) ∏ G of every path."""
    mass = Counter()
    for path in product(range(3), repeat=LENGTH):
        if short and 2 in path:
            path = path[: path.index(2) + 1]
        p = START[path[0]] * math.prod(STEP[a][b] for a, b in pairwise(path))
        mass[path] = p * math.prod(POTENTIAL[list(path)])
    return mass


MASS = exact()
Z = sum(MASS.values())


def run(strategy, seed, short=False, budget=None):
    problem = ponder.Problem(f"chain-{seed}", "")
    ctx = Context(problem, Chain(short), seed=seed, budget=budget)
    return asyncio.run(ponder.parse(strategy).run(problem, ctx))


def runs(strategy, count, short=False):
    method = ponder.parse(strategy)

    async def go():
        out = []
        for seed in range(count):
            problem = ponder.Problem(f"chain-{seed}", "")
            out.append(await method.run(problem, Context(problem, Chain(short), seed=seed)))
        return out

    return asyncio.run(go())


def within(values, truth, errors=4):
    values = np.asarray(values)
    return abs(values.mean() - truth) <= errors * values.std(ddof=1) / math.sqrt(len(values))


def test_the_closed_forms_are_those_of_the_literature():
    assert pytest.approx(0.06203533028125002) == Z
    last = [sum(m for path, m in MASS.items() if path[-1] == s) / Z for s in range(3)]
    assert last == pytest.approx([0.815217, 0.172544, 0.012239], abs=1e-6)


FILTERS = [
    f"particle_filter(n={n}, verifier=chain_score, potential=product, finished=neutral, scheme={scheme}, threshold={k})"
    for n, scheme, k in [
        (1, "systematic", 1), (4, "multinomial", 1), (8, "stratified", 1), (8, "systematic", 0.5), (8, "residual", 1),
        (8, "systematic", 0),
    ]
] + [
    "particle_filter(n=8, verifier=chain_score, potential=product, finished=freeze)",
    "entropic_particle_filter(n=8, verifier=chain_score, potential=product, finished=neutral, correct=true, "
    "early_phase=1, ess_threshold=1)",
    "entropic_particle_filter(n=6, verifier=chain_score, potential=product, finished=neutral, correct=true, "
    "look_ahead=true, max_steps=5)",
]  # fmt: skip


@pytest.mark.parametrize("short", [False, True], ids=["equal lengths", "unequal lengths"])
@pytest.mark.parametrize("text", FILTERS)
def test_the_evidence_and_weighted_sums_are_unbiased_for_every_scheme_and_threshold(text, short):
    if "max_steps" not in text and "entropic" in text:
        text = text[:-1] + ", max_steps=5)"
    mass = exact(short)
    z = sum(mass.values())
    good = sum(m for path, m in mass.items() if path[0] == 0)
    results = runs(text, 500, short)
    evidence = [math.exp(r.details["log_evidence"]) for r in results]
    starts_well = [
        e * sum(c.scores["weight"] for c in r.candidates if c.output[0] == 0)
        for e, r in zip(evidence, results, strict=True)
    ]
    assert within(evidence, z), (np.mean(evidence), z)
    assert within(starts_well, good)


@pytest.mark.slow
@pytest.mark.parametrize("text", FILTERS)
def test_the_evidence_is_unbiased_over_many_more_seeds(text):
    if "max_steps" not in text and "entropic" in text:
        text = text[:-1] + ", max_steps=5)"
    evidence = [math.exp(r.details["log_evidence"]) for r in runs(text, 8000)]
    assert within(evidence, Z)


def test_the_bias_of_the_posterior_falls_as_one_over_the_number_of_particles():
    def wrong(n, count):
        text = f"particle_filter(n={n}, verifier=chain_score, potential=product, scheme=multinomial)"
        share = [sum(c.scores["weight"] for c in r.candidates if c.output[-1] == 0) for r in runs(text, count)]
        return np.mean(share) - 0.815217, np.std(share) / math.sqrt(count)

    few, few_error = wrong(4, 800)
    many, many_error = wrong(64, 150)
    assert few < -4 * few_error
    assert abs(many) < abs(few) / 4 + 4 * many_error


def test_constant_scores_make_it_independent_sampling_of_the_process():
    results = runs("particle_filter(n=4, verifier=chain_score(constant=true), scheme=multinomial, threshold=0.9)", 600)
    assert all(r.details["resampled"] == 0 and r.details["effective_sample_size"] == [4] * 4 for r in results)
    drawn = Counter(c.output[-1] for r in results for c in r.candidates)
    p = START @ np.linalg.matrix_power(STEP, LENGTH - 1)
    total = drawn.total()
    chi = sum((drawn[s] - total * p[s]) ** 2 / (total * p[s]) for s in range(3))
    assert chi < 13.8  # the 0.1 % point of chi-square with 2 degrees of freedom


def test_one_particle_is_a_plain_sample_and_never_resampling_is_importance_sampling():
    one = run("particle_filter(n=1, verifier=chain_score, potential=product)", 3)
    assert len(one.candidates) == 1 and one.candidates[0].scores["weight"] == 1
    many = run("particle_filter(n=6, verifier=chain_score, potential=product, threshold=0)", 3)
    own = np.array([math.prod(POTENTIAL[list(c.output)]) for c in many.candidates])
    assert [c.scores["weight"] for c in many.candidates] == pytest.approx(own / own.sum())


def test_telescoping_weights_without_resampling_are_the_odds_of_the_last_score():
    result = run("particle_filter(n=6, verifier=chain_score, potential=telescope, threshold=0)", 4)
    odds = np.array([POTENTIAL[c.output[-1]] / (1 - POTENTIAL[c.output[-1]]) for c in result.candidates])
    assert [c.scores["weight"] for c in result.candidates] == pytest.approx(odds / odds.sum())


def test_copies_of_a_finished_particle_are_one_candidate_with_their_weights_added():
    for seed in range(30):
        result = run(
            "particle_filter(n=8, verifier=chain_score, finished=neutral, potential=product)", seed, short=True
        )
        assert len({c.state for c in result.candidates}) == len(result.candidates)
        assert sum(c.scores["weight"] for c in result.candidates) == pytest.approx(1)


def test_dead_particles_are_a_clear_outcome_and_uniform_goes_on():
    dead = "verifier=chain_score(dead=true), potential=product"
    result = run(f"particle_filter(n=4, {dead})", 0)
    assert "all 4 particles died at step 1" in result.reason
    assert result.candidates[0].finish == "unfinished" and len(result.tree) == 4
    onward = run(f"particle_filter(n=4, {dead}, on_dead=uniform)", 0)
    assert len(onward.candidates) == 4 and onward.output is not None


@pytest.mark.parametrize("final", ["vote", "best", "sample"])
def test_the_final_choice_is_by_weight_by_last_score_or_drawn(final):
    result = run(f"particle_filter(n=8, verifier=chain_score, final={final})", 1)
    assert result.status == "ok" and result.best is not None
    if final == "best":
        assert result.best.scores["chain_score"] == max(c.scores["chain_score"] for c in result.candidates)


def test_a_particle_drawn_by_weight_follows_the_posterior():
    results = runs("particle_filter(n=32, verifier=chain_score, potential=product, final=sample)", 300)
    drawn = np.array([r.output[-1] == 0 for r in results])
    assert abs(drawn.mean() - 0.815217) < 4 * math.sqrt(0.815 * 0.185 / 300) + 0.01


@pytest.mark.parametrize("limit", [0, 3, 9, 14, 19])
def test_a_budget_is_never_passed_and_still_yields_an_output_where_it_can(limit):
    problem = ponder.Problem("chain-b", "")
    ctx = Context(problem, Chain(), budget=Budget(function_evaluations=limit))
    result = asyncio.run(ponder.parse("particle_filter(n=4, verifier=chain_score)").run(problem, ctx))
    assert ctx.ledger.total.function_evaluations <= limit
    assert result.status == ("failed" if limit == 0 else "ok") and result.reason


def sweep_from_the_posterior(text, count):
    """Outputs of the last sweep, whose first reference is a draw from the exact posterior."""
    from ponder.core.level_loop import scorer
    from ponder.core.search_tree import SearchTree
    from ponder.strategies._particles import Filter, drawn_from, run_conditional

    paths = list(MASS)
    chances = np.array([MASS[p] for p in paths]) / Z
    method = ponder.parse(text)

    async def one(seed):
        problem = ponder.Problem(f"chain-{seed}", "")
        ctx = Context(problem, Chain(), seed=seed)
        score = scorer(problem, ctx, method.verifier)
        path = paths[np.random.default_rng(seed).choice(len(paths), p=chances)]
        reference, nodes = ctx.root(), []
        for depth, value in enumerate(path, start=1):
            reference = reference.child("given", value, finish="stop" if depth == LENGTH else None)
            nodes.append(reference)
        tree = SearchTree()
        tree.add(nodes, await score(nodes))
        rules = Filter(4, method.verifier, "product", "neutral", "multinomial", method.threshold)
        search = await run_conditional(problem, ctx, rules, score, reference, tree, "sweep")
        return tuple(drawn_from(rules.shares(search), ctx.rng("pick")).steps())

    async def go():
        return [await one(seed) for seed in range(count)]

    return asyncio.run(go())


@pytest.mark.parametrize("threshold", [1, 0.6])
def test_a_conditional_sweep_leaves_the_posterior_invariant(threshold):
    drawn = Counter(sweep_from_the_posterior(f"particle_gibbs(verifier=chain_score, threshold={threshold})", 1500))
    common = [p for p in MASS if MASS[p] / Z * 1500 >= 8]
    rest = 1500 - sum(drawn[p] for p in common)
    expected = [MASS[p] / Z * 1500 for p in common]
    chi = sum((drawn[p] - e) ** 2 / e for p, e in zip(common, expected, strict=True))
    chi += (rest - (1500 - sum(expected))) ** 2 / (1500 - sum(expected))
    freedom = len(common)
    assert chi < freedom + 4 * math.sqrt(2 * freedom)


def test_many_gibbs_sweeps_of_few_particles_come_nearer_the_posterior_than_one_filter_of_as_few():
    def distance(results):
        share = Counter()
        for r in results:
            for c in r.candidates:
                share[c.output[-1]] += c.scores["weight"] / len(results)
        return 0.5 * sum(abs(share[s] - t) for s, t in enumerate([0.815217, 0.172544, 0.012239]))

    one = distance(runs("particle_filter(n=4, verifier=chain_score, potential=product, scheme=multinomial)", 400))
    many = distance(runs("particle_gibbs(n=48, sweeps=12, verifier=chain_score, potential=product)", 60))
    assert many < one


def test_tempering_swaps_references_and_reports_the_coldest_chain():
    result = run(
        "parallel_tempering(n=48, temperatures=[1, 2, 4], rounds=4, verifier=chain_score, potential=product)", 2
    )
    assert result.details["rounds"] == 4 and result.details["swaps_proposed"] == 4
    assert 0 <= result.details["swaps"] <= 4
    assert sum(c.scores["weight"] for c in result.candidates) == pytest.approx(1)
    assert any(c.scores["weight"] == 0 for c in result.candidates)


def test_one_chain_and_one_sweep_are_the_plain_filter():
    plain = run("particle_filter(n=6, verifier=chain_score, potential=product, scheme=multinomial)", 5)
    for text in (
        "particle_gibbs(n=6, sweeps=1, verifier=chain_score, potential=product)",
        "parallel_tempering(n=6, rounds=1, temperatures=[1], verifier=chain_score, potential=product)",
    ):
        assert len(run(text, 5).candidates) <= 6
        assert run(text, 5).details["nodes"] == plain.details["nodes"] == 30


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("particle_filter(n=0)", "n"),
        ("particle_filter(threshold=2)", "threshold"),
        ("particle_gibbs(n=7, sweeps=2)", "n=6 and n=8"),
        ("particle_gibbs(n=2, sweeps=2)", "n=4"),
        ("parallel_tempering(n=9)", "n=8 and n=12"),
        ("parallel_tempering(temperatures=[2, 1])", "rising"),
        ("entropic_particle_filter(early_phase=3)", "early_phase"),
    ],
)
def test_impossible_numbers_are_refused_with_what_is_possible(text, says):
    with pytest.raises(ponder.errors.ParameterError, match=says):
        ponder.parse(text)


def test_scores_outside_the_unit_interval_are_refused_by_name_unless_they_are_exponents():
    ctx = Context(ponder.Problem("x", ""), Chain())
    from ponder.core.search_tree import SearchTree
    from ponder.strategies._particles import Filter

    tree, state = SearchTree(), ctx.root().child(0, 1)
    tree.add([state], [1.5])
    with pytest.raises(ponder.errors.VerifierError, match=r"1\.5.*potential=exp"):
        Filter(2, ponder.verifier("chain_score"), "odds").log_potential(tree, state, 1)
    assert Filter(2, ponder.verifier("chain_score"), "exp").log_potential(tree, state, 1) == 1.5


TRAP = "sim_tree(survival=[0.85], sharpness=[1.5], noise=[0.5], trap=[0.5], trap_depth=3, depth=10, count=2000)"


def accuracy(strategy, problems):
    task, process, method = ponder.task(TRAP), PROCESSES.build("sim_tree"), ponder.parse(strategy)

    async def go():
        right = 0
        for problem in task.problems(problems):
            right += (await method.run(problem, Context(problem, process, task=task))).output == problem.reference
        return right / problems

    return asyncio.run(go())


def test_entropic_filtering_beats_the_plain_filter_by_a_tenth_where_early_scores_are_over_confident():
    score = "verifier=sim_tree_score"
    plain = accuracy(f"particle_filter(n=8, {score}, scheme=multinomial)", 400)
    entropic = accuracy(f"entropic_particle_filter(n=8, {score})", 400)
    assert plain == pytest.approx(0.569, abs=0.026 + 3 * 0.025)
    assert entropic == pytest.approx(0.751, abs=0.026 + 3 * 0.022)
    assert entropic - plain > 0.1 - 2 * math.sqrt(0.245 / 400 + 0.19 / 400)


def test_annealing_temperatures_are_those_of_their_formulas():
    from ponder.strategies.entropic_particle_filter import annealing_temperature

    one_of_five = [0.0] + [-math.inf] * 4
    assert annealing_temperature(one_of_five, 0.2, "ess") == pytest.approx(4.0)
    assert annealing_temperature(one_of_five, 0.3, "base") == pytest.approx(1.7)
    assert annealing_temperature(one_of_five, 0.25, "entropy") == pytest.approx(1 / 0.25)
    assert annealing_temperature(one_of_five, 0.5, "ess") == 1
    assert annealing_temperature([0.0] * 5, 0.1, "ess") == annealing_temperature([1.0], 0.1, "ess") == 1
