"""The value of a state by rollouts: unbiased where it is known in closed form, charged, apart from the search."""

import asyncio
import math

import pytest

import ponder
from ponder.core.context import Context
from ponder.errors import ParameterError
from ponder.ledger.budget import Budget
from ponder.processes.sim_tree import SimTreeSteps
from ponder.verifiers.rollout_value import RolloutValue

DEPTH, P = 6, 0.8


def context(budget=None, seed=0, problem=0, **world):
    task = ponder.task("sim_tree")
    task = type(task)(depth=DEPTH, survival=(P,), **world)
    return Context(task.problems(problem + 1)[problem], SimTreeSteps(), task=task, seed=seed, budget=budget)


async def alive_at(ctx, depth):
    """A state at a depth on which every step stayed right."""
    state = ctx.root()
    while state.depth < depth:
        ((*children,),) = await ctx.extend([state], [8])
        state = next(child for child in children if child.payload.alive)
    return state


@pytest.mark.parametrize("depth", [0, 2, 5])
def test_the_mean_over_seeds_is_the_closed_form(depth):
    rollouts, runs = 4, 300

    async def one(seed):
        ctx = context(seed=seed)
        return float((await ctx.score(ctx.problem, [await alive_at(ctx, depth)], RolloutValue(rollouts)))[0])

    async def go():
        return [await one(seed) for seed in range(runs)]

    values = asyncio.run(go())
    truth = P ** (DEPTH - depth)
    error = math.sqrt(truth * (1 - truth) / (rollouts * runs))
    assert abs(sum(values) / runs - truth) < 4 * error
    spread = sum((v - truth) ** 2 for v in values) / runs
    assert spread == pytest.approx(truth * (1 - truth) / rollouts, rel=0.35)  # rollouts are independent


def test_a_lost_state_is_worth_nothing_and_a_finished_one_its_grade():
    async def go():
        ctx = context()
        state = ctx.root()
        while state.payload.alive:
            ((state,),) = await ctx.extend([state], [1])
            if ctx.process.done(state):
                break
        end = await alive_at(ctx, DEPTH)
        before = ctx.ledger.total.function_evaluations
        values = await ctx.score(ctx.problem, [state, end, ctx.candidate(end)], RolloutValue(3))
        return values.tolist(), ctx.ledger.total.function_evaluations - before, DEPTH - state.depth

    values, spent, left = asyncio.run(go())
    assert values == [0.0, 1.0, 1.0]
    assert spent == 3 * left


def test_rollouts_are_charged_as_verification_and_a_state_is_tried_once():
    async def go():
        ctx = context()
        state = await alive_at(ctx, 2)
        drawn = ctx.ledger.stages["extend"]
        first = await ctx.score(ctx.problem, [state], RolloutValue(5))
        again = await ctx.score(ctx.problem, [state, state], RolloutValue(5))
        assert ctx.ledger.stages["extend"] == drawn
        return first.tolist(), again.tolist(), ctx.ledger.stages["verify"]

    first, again, spent = asyncio.run(go())
    assert again == first * 2
    assert spent.function_evaluations == 5 * (DEPTH - 2) and spent.model_calls == 0
    assert spent.verifier_calls == 1 + 5 + 2  # the state, its rollouts' grades, and the two that were known


def test_rollouts_change_nothing_in_the_search_that_asks_for_them():
    async def children(look):
        ctx = context()
        state = await alive_at(ctx, 1)
        if look:
            await ctx.score(ctx.problem, [state], RolloutValue(5))
        ((*drawn,),) = await ctx.extend([state], [4])
        return [(s.path, s.step) for s in drawn]

    assert asyncio.run(children(True)) == asyncio.run(children(False))


def test_a_rollout_does_not_meet_the_searchs_own_continuation_again():
    async def go():
        ctx = context()
        seen = []
        extend = ctx.process.extend

        class Watching(SimTreeSteps):
            def extend(self, states, slots, ctx):
                seen.extend(seed for s, k in zip(states, slots, strict=True) for seed in ctx.seeds_for(s, k))
                return extend(states, slots, ctx)

        ctx.process = Watching()
        await ctx.score(ctx.problem, [ctx.root()], RolloutValue(5))
        await ctx.extend([ctx.root()], [5])
        return seen

    seeds = asyncio.run(go())
    assert len(set(seeds)) == len(seeds)


def test_text_is_rolled_out_to_its_end_and_graded_by_another_verifier():
    result = ponder.solve(
        "What is 17+25?", model="sim:strong",
        strategy="beam_search(n=4, branch=2, verifier=rollout_value(rollouts=2, verifier=llm_judge))",
    )  # fmt: skip
    assert result.output and 0 < result.spend["verify"].generated_tokens == result.spend["verify"].verifier_tokens - (
        result.spend["verify"].prompt_tokens
    )


def test_a_value_that_the_budget_cuts_short_is_none():
    async def go():
        ctx = context(Budget(function_evaluations=10))
        return (await ctx.score(ctx.problem, [ctx.root()], RolloutValue(4))).tolist(), ctx

    values, ctx = asyncio.run(go())
    assert math.isnan(values[0]) and ctx.ledger.total.function_evaluations <= 10
    assert any("of 4 rollouts" in why for why in ctx.shortfalls)


def test_no_rollouts_are_refused():
    with pytest.raises(ParameterError, match="rollouts"):
        RolloutValue(0)
