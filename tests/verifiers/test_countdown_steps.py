"""Countdown steps: exact reachability, however the steps are written, and errors that are dialled in."""

import asyncio
import itertools
import math
import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ponder
from ponder import testing
from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.core.state import root
from ponder.errors import ParameterError, TaskError
from ponder.processes.text_steps import TextSteps
from ponder.verifiers._arithmetic import apply, completable, parse_open, reachable, values, whole, without

PUZZLE = Problem("p", "Q", None, {"numbers": [94, 4, 61, 6], "target": 309})
SIGNED = Problem("q", "Q", None, {"numbers": [3, 7, 2, 4], "target": 2})
EXACT = ponder.verifier("countdown_steps")


def scores(text, items, problem=PUZZLE, seed=0):
    ctx = Context(problem, TextSteps(testing.CountdownSolver(), "line"), seed=seed)
    return asyncio.run(ctx.score(problem, items, ponder.verifier(text))), ctx


def chain(*steps):
    state = root(PUZZLE)
    for step in steps:
        state = state.child(0, step)
    return state


def every_expression(numbers):
    """All token sequences of expressions of a sequence of numbers, with up to two pairs of brackets around any part."""
    bare = [(str(numbers[0]),)] if len(numbers) == 1 else []
    for i in range(1, len(numbers)):
        for left, right in itertools.product(every_expression(numbers[:i]), every_expression(numbers[i:])):
            bare += [(*left, o, *right) for o in "+-*/"]
    return [(*"(" * k, *e, *")" * k) for e in bare for k in range(3)]


def value_of(tokens):
    try:
        return eval("".join(f"Fraction({t})" if t.isdigit() else t for t in tokens), {"Fraction": Fraction})
    except ZeroDivisionError:
        return None


@pytest.mark.parametrize("numbers", [(7, 7), (2, 3, 8)])
def test_the_beginning_of_an_expression_is_hopeful_exactly_if_some_expression_continues_it(numbers):
    written = {e for p in set(itertools.permutations(numbers)) for e in every_expression(p)}
    by_value = {}
    for tokens in written:
        by_value.setdefault(value_of(tokens), []).append(tokens)
    prefixes = sorted({t[:k] for t in written for k in range(1, len(t))})
    prefixes = [p for p in prefixes if p.count("(") - p.count(")") <= 2]
    rng = random.Random(5)
    for target in [*rng.sample(sorted(v for v in by_value if v is not None), 3), Fraction(0), Fraction(1001)]:
        right = {t[:k] for t in by_value.get(target, ()) for k in range(1, len(t))}
        for prefix in rng.sample(prefixes, min(len(prefixes), 300)):
            frames, left = (
                parse_open(list(prefix)),
                without(tuple(sorted(numbers)), [int(t) for t in prefix if t.isdigit()]),
            )
            found = frames is not None and completable(frames, left, whole(target), then_steps=False)
            assert found == (prefix in right), (numbers, target, prefix)


@given(st.lists(st.integers(1, 12), min_size=4, max_size=4), st.data())
def test_what_is_made_forwards_is_reached_backwards_and_nothing_else_is(numbers, data):
    numbers = tuple(sorted(numbers))
    made = values(numbers)
    assert reachable(numbers, data.draw(st.sampled_from(sorted(made))))
    other = data.draw(st.integers(-300, 300))
    assert reachable(numbers, other) == (other in made)


@given(st.lists(st.integers(1, 30), min_size=5, max_size=5), st.randoms(use_true_random=False))
def test_five_numbers_reach_whatever_random_play_ends_at(numbers, rng):
    pool = list(numbers)
    while len(pool) > 1:
        a, b = (pool.pop(rng.randrange(len(pool))) for _ in range(2))
        made = apply(rng.choice("+-*/"), a, b)
        pool.append(a + b if made is None else made)
    assert reachable(tuple(sorted(numbers)), whole(Fraction(pool[0])))


@pytest.mark.parametrize(
    ("text", "hopeful"),
    [
        ("", True),
        ("94 * 4 = 376\n", True),
        ("94 * 4 = 376 (left: 376 61 6)\n", True),
        ("Step 1: 94 x 4 = 376, left: 376 61 6\nStep 2: 376 − 61 = 315 (left: 315, 6)\n", True),
        ("1. 94 * 4 = 376\n2) $376 - 61 = 315$\n", True),
        (r"\(94 \times 4 = 376\)" + "\n", True),
        ("- **94 · 4 = 376**\n", True),
        ("Let me think first.\n", True),
        ("(because 94 * 4 = 376, which helps)\n", True),
        ("94 * 4 = 375\n", False),
        ("94 * 4 = 376 (left: 376, 61, 4)\n", False),
        ("94 * 4 = 376 (left: 376, 61)\n", False),
        ("94 + 4 = 98\n", False),
        ("94 * 5 = 470\n", False),
        ("94 * 4 = 376\n94 + 6 = 100\n", False),
        ("94 / 0 = 1\n", False),
        ("94 ** 4 = 78074896\n", False),
        ("94*4 = 376 - 61 = 315\n", False),
        ("94*4 = 376\n376 - 61 = 315\n315 + 6 = 321\n", False),
        ("94 + 4 = 98\nNo. The answer is 94*4 - 61 - 6.\n", True),
    ],
)
def test_lines_of_steps_are_read_however_they_are_written(text, hopeful):
    assert EXACT.hopeful(PUZZLE, text, finished=False) is hopeful


@pytest.mark.parametrize(
    ("text", "hopeful"),
    [
        ("94*4 -", True), ("94*4 - 6", True), ("94*4 - 7", False), ("9", True), ("(94", True), ("94 - 4 *", False),
        ("94 * 4 =", True), ("94 * 4 = 3", True), ("94 * 4 = 38", False), ("94 * 4 = 376 (lef", True),
        ("94 * 4 = 376 (left: 37", True), ("94 * 4 = 376\n376 -", True), ("94 * 4 = 376\n376 - 4", False),
        ("94*4 - 61 +", False), ("\x00\ufffd ((((", True), ("94 * )", False),
    ],
)  # fmt: skip
def test_a_line_that_breaks_off_counts_by_what_it_may_become(text, hopeful):
    assert EXACT.hopeful(PUZZLE, text, finished=False) is hopeful


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("94*4 - 61 - 6", True), ("94*4 - 61 - 6 = 309", True), ("94*4 - 61 + 6", False), ("", False), ("309", False),
        ("94 * 4 = 376\n376 - 61 = 315\n315 - 6 = 309", True), ("94 * 4 = 376\n376 - 67 = 309", False),
        ("94 * 4 = 376\n376 - 61 = 315\n315 - 6 = 309\nThe answer is 94*4 - 61 + 6.", False),
    ],
)  # fmt: skip
def test_a_finished_solution_is_right_only_if_it_is(text, right):
    assert EXACT.hopeful(PUZZLE, text, finished=True) is right


def test_negative_numbers_and_fractions_are_numbers_too():
    assert EXACT.hopeful(SIGNED, "3 - 7 = -4 (left: -4 2 4)\n-4 + 2 = -2\n-2 + 4 = 2", finished=True)
    assert EXACT.hopeful(SIGNED, "3 / 2 = 1.5\n3/2 * 4 = 6\n", finished=False) is False
    assert EXACT.hopeful(SIGNED, "3 / 2 = 3/2 (left: 3/2, 7, 4)\n", finished=False)


def test_without_all_numbers_a_part_of_them_may_do():
    free = ponder.verifier("countdown_steps(all_numbers=false)")
    problem = Problem("p", "Q", None, {"numbers": [5, 8, 99], "target": 13})
    assert free.hopeful(problem, "5 + 8 = 13", finished=True) and free.hopeful(problem, "5 + 8", finished=True)
    assert not EXACT.hopeful(problem, "5 + 8 = 13", finished=True)


def test_an_unfinished_expression_may_be_a_step_where_steps_are_expected():
    problem = Problem("p", "Q", None, {"numbers": [2, 3, 5], "target": 25})
    assert not ponder.verifier("countdown_steps(form=expression)").hopeful(problem, "2 + 3", finished=False)
    assert ponder.verifier("countdown_steps(form=steps)").hopeful(problem, "2 + 3", finished=False)


@given(st.text(alphabet="0123456789+-*/()=.,:leftx \n−×^$", max_size=60), st.booleans())
def test_no_text_is_too_odd(text, finished):
    problem = Problem("p", "Q", None, {"numbers": [3, 5, 8], "target": 23})
    assert EXACT.hopeful(problem, text, finished=finished) in (True, False)


def test_too_many_numbers_are_a_recorded_failure_that_says_what_to_do():
    problem = Problem("p", "Q", None, {"numbers": list(range(2, 12)), "target": 309})
    (score,), ctx = scores("countdown_steps", [root(problem).child(0, "Hm.\n")], problem)
    assert math.isnan(score) and "max_numbers=6" in ctx.failures[0].message


@pytest.mark.parametrize("metadata", [{}, {"numbers": [1, "x"], "target": 3}])
def test_other_problems_are_refused(metadata):
    with pytest.raises(TaskError, match="numbers and"):
        scores("countdown_steps", [chain("1 + 1 = 2\n")], Problem("p", "Q", None, metadata))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("noise=1", "Give a sharpness too"), ("flip=1.5", "in \\[0, 1\\]"), ("sharpness=-1", "≥ 0"),
        ("noise=-1, sharpness=1", "≥ 0"),
    ],
)  # fmt: skip
def test_impossible_dials_are_refused(text, message):
    with pytest.raises(ParameterError, match=message):
        ponder.verifier(f"countdown_steps({text})")


def test_the_dial_is_right_on_average_and_the_same_place_has_the_same_score():
    good = [chain("94 * 4 = 376\n").child(i, "Hm.\n") for i in range(2000)]
    bad = [chain("94 + 4 = 98\n").child(i, "Hm.\n") for i in range(2000)]
    flipped, _ = scores("countdown_steps(flip=0.2)", good + bad)
    assert set(flipped) == {0.0, 1.0}
    for wrong in (1 - flipped[:2000], flipped[2000:]):
        assert abs(wrong.mean() - 0.2) < 4 * math.sqrt(0.2 * 0.8 / 2000)
    noisy, _ = scores("countdown_steps(sharpness=2, noise=1.5)", good + bad)
    logits = np.log(noisy) - np.log1p(-noisy)
    for part, mean in ((logits[:2000], 2.0), (logits[2000:], -2.0)):
        assert abs(part.mean() - mean) < 4 * 1.5 / math.sqrt(2000) and part.std() == pytest.approx(1.5, rel=0.07)
    again, _ = scores("countdown_steps(sharpness=2, noise=1.5)", [bad[7], good[3]])
    assert list(again) == [noisy[2007], noisy[3]]
    other, _ = scores("countdown_steps(sharpness=2, noise=1.5)", [good[3]], seed=1)
    assert other[0] != noisy[3]


def test_a_search_with_the_perfect_verifier_solves_what_single_draws_do_not():
    task = ponder.task("reasoning_gym:countdown(format=chat, shots=0, max_numbers=4, max_value=20, min_target=10)")

    async def accuracy(text):
        strategy, solved = ponder.parse(text), 0
        for problem in task.problems(25):
            ctx = Context(problem, TextSteps(testing.CountdownSolver(0.3), "line"), task=task)
            result = await strategy.run(problem, ctx)
            solved += task.grade(problem, result.output).correct
        return solved / 25

    alone = asyncio.run(accuracy("single"))
    guided = asyncio.run(accuracy("beam_search(n=16, verifier=countdown_steps)"))
    assert alone <= 0.4 and guided >= 0.9
