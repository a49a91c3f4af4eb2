"""Saffron: the same outputs as a beam that asks about each child, with far fewer calls; its limits and faults."""

import asyncio
import math
from dataclasses import dataclass

import numpy as np
import pytest

import ponder
from ponder.core.context import Context
from ponder.core.process import Process
from ponder.core.registry import VERIFIERS, verifier
from ponder.core.verifier import NextStepVerifier
from ponder.ledger.budget import Budget

V, END = 20, 19
rng = np.random.default_rng(3)
POLICY = rng.dirichlet(np.full(V, 0.5), size=V)
REWARD = rng.normal(size=(V, V))


@dataclass(frozen=True)
class Tokens(Process):
    """Twenty tokens with known chances after each other; the last one ends."""

    length: int = 8
    name = "tokens"

    def _row(self, state):
        return POLICY[0 if state.step is None else state.step]

    def extend(self, states, slots, ctx):
        raise NotImplementedError

    async def branch(self, states, ctx, *, most):
        m, _ = await ctx.evaluate(len(states), lambda m: None)
        for state in states[:m]:
            row = self._row(state)
            order = np.argsort(-row, kind="stable")[:most]
            yield (
                state,
                [
                    state.child(r, int(t), logprob=math.log(row[t]), n_tokens=1, finish="stop" if t == END else None)
                    for r, t in enumerate(order)
                ],
            )

    def output(self, state):
        return tuple(state.steps())


@pytest.fixture(scope="module", autouse=True)
def bigram_reward():
    @verifier("bigram_reward")
    @dataclass(frozen=True)
    class BigramReward(NextStepVerifier):
        """A known reward of each pair of tokens; `unseen` forbids odd tokens, or all of them."""

        unseen: str = "none"

        def of(self, state, token):
            if self.unseen == "all" or (self.unseen == "odd" and token % 2 and token != END):
                return -math.inf
            return float(REWARD[0 if state.step is None else state.step, token])

        async def score_next(self, problem, states, steps, ctx):
            return [[self.of(s, t) for t in own] for s, own in zip(states, steps, strict=True)]

    yield
    VERIFIERS._entries.pop("bigram_reward")


def run(text, **options):
    problem = ponder.Problem("p", "")
    ctx = Context(problem, Tokens(), **options)
    return asyncio.run(ponder.parse(text).run(problem, ctx)), ctx


def by_children(n, top_p, rounds, min_new):
    """The same search with one reward call per child, written plainly."""
    kept, calls = [((), 0.0, False)], 0
    for number in range(rounds):
        pool = [k for k in kept if k[2]]
        for path, _, ended in kept:
            if ended:
                continue
            row = POLICY[path[-1] if path else 0]
            order = [t for t in np.argsort(-row, kind="stable") if t != END or number >= min_new]
            total = sum(row[t] for t in order) if number < min_new else 1.0
            mass = 0.0
            for t in order:
                if mass >= top_p * total - 1e-12:
                    break
                calls += 1
                pool.append(((*path, int(t)), float(REWARD[path[-1] if path else 0, t]), t == END))
                mass += row[t]
        pool.sort(key=lambda k: -k[1])
        kept = pool[:n]
        if all(k[2] for k in kept):
            break
    return sorted(k[0] for k in kept), calls


@pytest.mark.parametrize(("n", "top_p"), [(1, 0.8), (4, 0.8), (6, 0.95)])
def test_it_finds_what_a_beam_with_one_reward_call_per_child_finds_with_a_third_of_the_calls_or_fewer(n, top_p):
    text = f"saffron(n={n}, verifier=bigram_reward, top_p={top_p}, max_new_tokens=8, min_new_tokens=2)"
    result, ctx = run(text)
    expected, calls = by_children(n, top_p, 8, 2)
    assert sorted(c.output for c in result.candidates) == expected
    assert calls / ctx.ledger.total.verifier_calls >= 3


def test_no_output_ends_before_its_time_and_all_explored_tokens_are_in_the_nucleus():
    result, _ = run("saffron(n=5, verifier=bigram_reward, top_p=0.5, max_new_tokens=8, min_new_tokens=4)")
    assert all(len(c.output) > 4 for c in result.candidates if c.finish == "stop")
    for node in result.tree.nodes:
        row = POLICY[0 if node.parent.step is None else node.parent.step].copy()
        if node.depth <= 4:
            row[END] = 0
        assert row[row > row[node.step]].sum() < 0.5 * row.sum() + 1e-9


def test_tokens_that_were_never_trained_on_are_left_out_but_for_the_likeliest_where_all_are():
    odd, _ = run("saffron(n=4, verifier=bigram_reward(unseen=odd), max_new_tokens=6, min_new_tokens=0)")
    single = [c for c in odd.candidates if any(t % 2 and t != END for t in c.output)]
    assert not single or odd.details["all_forbidden"] > 0
    every, _ = run("saffron(n=1, verifier=bigram_reward(unseen=all), max_new_tokens=4, min_new_tokens=9)")
    (only,) = every.candidates
    likeliest, last = [], 0
    for _ in range(4):
        row = POLICY[last].copy()
        row[END] = 0
        last = int(row.argmax())
        likeliest.append(last)
    assert only.output == tuple(likeliest) and every.details["all_forbidden"] == 4


@pytest.mark.parametrize("limit", [0, 1, 4, 9])
def test_a_budget_ends_it_with_the_best_so_far(limit):
    result, ctx = run(
        "saffron(n=3, verifier=bigram_reward, max_new_tokens=30, min_new_tokens=25)", budget=Budget(calls=limit)
    )
    total = ctx.ledger.total
    assert total.model_calls + total.verifier_calls <= limit
    if limit >= 4:
        assert result.candidates and result.reason


def test_only_a_verifier_of_next_steps_will_do_and_numbers_are_checked():
    for bad in ("verifier=log_probability", "n=0", "top_p=0", "max_new_tokens=0"):
        with pytest.raises(ponder.errors.ParameterError, match="saffron"):
            ponder.parse(f"saffron({bad})")


def test_on_text_it_keeps_away_from_banned_words_that_the_policy_likes():
    import ponder.testing as testing

    task = testing.Sums()
    problem = task.problems(3)[2]
    model = testing.Counted()
    wrong = []
    for words in ("", f'words=["{problem.reference}"], '.replace("words", "words")):
        inner = f"banned_words({words.rstrip(', ')})"
        plan = ponder.parse(f"saffron(n=2, verifier={inner}, min_new_tokens=1, max_new_tokens=12, top_p=0.99)")
        from ponder.api import build_process, default_sampling

        ctx = Context(problem, build_process(None, (plan,), model), task=task, sampling=default_sampling(plan, model))
        result = asyncio.run(plan.run(problem, ctx))
        assert result.best.output.startswith("Let me think. The answer is")
        wrong.append(any(c.answer == problem.reference for c in result.candidates))
    assert wrong == [True, False]
