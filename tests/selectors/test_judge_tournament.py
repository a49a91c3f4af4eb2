"""Pairwise tournaments: the best wins under a perfect judge, noise is outvoted, and what cannot be read is a tie."""

import asyncio
import math
import random
import re
from dataclasses import replace

import pytest

import ponder
from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.model import Capabilities, Completion, Model
from ponder.core.problem import Problem
from ponder.ledger.budget import Budget
from ponder.processes.text_steps import TextSteps
from ponder.selectors.judge_tournament import parse_better


class Judge(Model):
    """Prefers the larger number; errs with chance `noise`, may follow the place, or say nothing."""

    name = "judge"
    capabilities = Capabilities(context_tokens=100_000)

    def __init__(self, noise=0.0, says=None):
        self.noise, self.says, self.calls = noise, says, 0

    identity = "judge"

    def __str__(self):
        return "judge"

    async def sample(self, request):
        for position, seed in enumerate(request.seeds):
            self.calls += 1
            a, b = map(int, re.findall(r"Answer [AB]:\nvalue (\d+)", request.prompt[-1]["content"]))
            right = "A" if a > b else "B" if b > a else "tie"
            if right != "tie" and random.Random(seed).random() < self.noise:
                right = "AB"["BA".index(right)]
            yield position, Completion(self.says or f"Hm. Better: {right}", 4, prompt_tokens=9, requests=1)


def choose(values, judge, text="judge_tournament", k=1, seed=0, **options):
    candidates = [Candidate(f"value {v}", str(v), index=i) for i, v in enumerate(values)]
    ctx = Context(Problem("p", ({"role": "user", "content": "?"},)), TextSteps(judge), seed=seed, **options)
    return asyncio.run(ponder.selector(text).choose(ctx.problem, candidates, ctx, k)), ctx


@pytest.mark.parametrize("mode", ["round_robin", "knockout"])
@pytest.mark.parametrize("values", [[3], [1, 2], [2, 1], [5, 3, 9, 1, 7], [4, 4, 8, 4], [1, 2, 3, 4, 5, 6, 7]])
def test_a_perfect_judge_picks_the_best_of_any_number(mode, values):
    judge = Judge()
    chosen, _ = choose(values, judge, f"judge_tournament(mode={mode}, both_orders=false)")
    assert chosen.answers == [str(max(values))] and not chosen.fallback
    distinct = len(set(values))
    assert judge.calls == (distinct - 1 if mode == "knockout" else math.comb(distinct, 2))


def test_k_answers_are_the_best_ones_in_order():
    assert choose([3, 9, 1, 7], Judge(), k=3)[0].answers == ["9", "7", "3"]


def test_a_judge_that_follows_the_place_decides_nothing_when_both_orders_are_asked():
    chosen, _ = choose([3, 9, 7], Judge(says="Better: A"))
    assert chosen.answers == ["3"]  # all ties: the earliest draw
    assert choose([3, 9, 7], Judge(says="Better: A"), "judge_tournament(both_orders=false)")[0].answers == ["3"]


def test_what_cannot_be_read_is_a_tie_and_is_told():
    chosen, _ = choose([3, 9], Judge(says="I would rather not"))
    assert chosen.answers == ["3"] and "1 of 1 comparisons could not be read" in chosen.fallback


def plain_round_robin(rng, n, noise):
    """Whether the best of n wins a round robin under a judge that errs with chance `noise`, written plainly."""
    wins, beats = [0] * n, {}
    for a in range(n):
        for b in range(a + 1, n):
            later = rng.random() >= noise
            beats[a, b] = later
            wins[b if later else a] += 1
    top = [i for i in range(n) if wins[i] == max(wins)]
    winner = top[1] if len(top) == 2 and beats[top[0], top[1]] else top[0]
    return winner == n - 1


@pytest.mark.parametrize("mode", ["round_robin", "knockout"])
def test_under_a_noisy_judge_the_best_wins_as_often_as_chance_says(mode):
    runs, rng = 200, random.Random(1)
    text = f"judge_tournament(mode={mode}, both_orders=false)"
    won = sum(choose(list(range(8)), Judge(noise=0.2), text, seed=s)[0].answers == ["7"] for s in range(runs)) / runs
    expected = 0.8**3 if mode == "knockout" else sum(plain_round_robin(rng, 8, 0.2) for _ in range(4000)) / 4000
    assert won == pytest.approx(expected, abs=4 * math.sqrt(0.25 / runs))


def test_every_call_is_in_the_ledger_and_a_budget_that_runs_out_leaves_ties():
    judge = Judge()
    _, ctx = choose([1, 2, 3], judge)
    assert judge.calls == 6 and ctx.ledger.total.requests == 6
    assert ctx.ledger.total.generated_tokens == 6 * 4
    judge = Judge()
    chosen, ctx = choose([1, 2, 3], judge, budget=Budget(tokens=0))
    assert judge.calls == 0 and chosen.answers == ["1"] and "could not be read" in chosen.fallback


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("Better: A", 1), ("better - Answer B.", 0), ("**Better:** B", 0), ("Better: neither", 0.5), ("A", 1),
        ("Better: A. No, wait.\nBetter: B", 0), ("", None), ("Both are fine.", None), ("Better: C", None),
        ("Better: Absolutely none", None),
    ],
)  # fmt: skip
def test_replies_are_read_by_their_last_verdict(reply, said):
    assert parse_better(reply) == said


def test_without_a_context_it_says_how_to_run_it():
    two = [Candidate("a", "1"), Candidate("b", "2", index=1)]
    with pytest.raises(ponder.errors.CapabilityError, match="judge_tournament"):
        ponder.selector("judge_tournament").select(two)
    assert ponder.selector("judge_tournament").select([two[0], replace(two[0], index=1)]).answers == ["1"]
