"""The nouns hold beyond text: a Gaussian random walk scored by an energy, driven by the same strategies."""

import math
from dataclasses import dataclass

import numpy as np
import pytest

import ponder
from ponder.core.context import Context
from ponder.core.process import Process
from ponder.core.registry import VERIFIERS, verifier
from ponder.core.verifier import Verifier


@dataclass(frozen=True)
class RandomWalk(Process):
    """Each step adds a standard normal vector; a walk of `length` steps is finished."""

    length: int = 5
    dimension: int = 3
    name = "random_walk"

    def start(self, problem, *, label="", meta=None):
        return ponder.State(problem, slot=label or 0, payload=np.zeros(self.dimension), meta=meta or {})

    async def extend(self, states, slots, ctx):
        wanted = [(state, slot) for state, own in zip(states, slots, strict=True) for slot in own]

        def step(m):
            return [ctx.rng("walk", *s.path, slot).standard_normal(self.dimension) for s, slot in wanted[:m]]

        _, steps = await ctx.evaluate(len(wanted), step)
        for (state, slot), vector in zip(wanted, steps or [], strict=False):
            yield state.child(
                slot, vector, payload=state.payload + vector, n_tokens=1,
                logprob=float(-0.5 * (vector @ vector) - 0.5 * self.dimension * math.log(2 * math.pi)),
                finish="stop" if state.depth + 1 == self.length else None,
            )  # fmt: skip

    def output(self, state):
        return state.payload


@pytest.fixture(scope="module", autouse=True)
def energy():
    @verifier("energy")
    @dataclass(frozen=True)
    class Energy(Verifier):
        """Minus the squared distance from the origin."""

        range = (-math.inf, 0.0)

        async def score(self, problem, items, ctx):
            return [-float(np.sum(np.square(item.output))) for item in items]

    yield
    VERIFIERS._entries.pop("energy")


def walk(strategy, *, budget=None, seed=0):
    async def go():
        problem = ponder.Problem("walk", None)
        ctx = Context(problem, RandomWalk(), budget=budget, seed=seed)
        return await ponder.parse(strategy).run(problem, ctx)

    from ponder.api import run_sync

    return run_sync(go)


def test_best_of_n_takes_the_walk_of_least_energy():
    result = walk("best_of_n(n=16, verifier=energy)")
    energies = [float(np.sum(np.square(c.output))) for c in result.candidates]
    assert len(energies) == 16
    assert result.chosen == (int(np.argmin(energies)),)
    assert result.candidates[0].scores["energy"] == -energies[0]


def test_more_walks_repeat_the_first_ones_exactly():
    few, many = walk("repeated_sampling(n=4)"), walk("repeated_sampling(n=9)")
    for a, b in zip(few.candidates, many.candidates, strict=False):
        np.testing.assert_array_equal(a.output, b.output)


def test_every_step_is_a_function_evaluation_and_the_critical_path_is_the_length():
    total = walk("repeated_sampling(n=7)").total
    assert (total.function_evaluations, total.sequential_tokens, total.requests) == (35, 5, 0)


def test_log_probability_of_a_walk_is_the_sum_over_its_steps():
    best = walk("best_of_n(n=3, verifier=log_probability)").best
    steps = best.state.steps()
    expected = sum(-0.5 * float(s @ s) - 1.5 * math.log(2 * math.pi) for s in steps)
    assert math.isclose(best.logprob, expected)


@pytest.mark.parametrize("limit", [0, 3, 12, 34])
def test_a_budget_of_evaluations_cuts_in_the_middle_and_is_never_passed(limit):
    result = walk("best_of_n(n=7, verifier=energy)", budget=ponder.Budget(function_evaluations=limit))
    assert result.total.function_evaluations <= limit
    assert result.reason


def test_mean_energy_is_length_times_dimension():
    result = walk("repeated_sampling(n=2000)", seed=3)
    energies = np.array([np.sum(np.square(c.output)) for c in result.candidates])
    standard_error = 5 * math.sqrt(2 * 3 / len(energies))  # 5 * chi-square with 3 degrees of freedom
    assert abs(energies.mean() - 15) < 4 * standard_error
