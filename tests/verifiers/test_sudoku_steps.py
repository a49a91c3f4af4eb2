"""Sudoku steps: a grid is hopeful exactly if it has a completion, however it is written."""

import asyncio
import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ponder
from ponder import testing
from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.core.state import root
from ponder.errors import TaskError
from ponder.processes.text_steps import TextSteps
from ponder.verifiers.sudoku_steps import completable

EXACT = ponder.verifier("sudoku_steps")
PUZZLE = Problem("p", "Q", None, {"puzzle": [[0, 0, 2, 0], [0, 4, 0, 1], [4, 3, 0, 0], [0, 0, 0, 0]]})
SOLVED = "3 1 2 4\n2 4 3 1\n4 3 1 2\n1 2 4 3"


def fours():
    """Every filled 4x4 grid that keeps the rules, found by going through all permutations of the rows."""
    for rows in itertools.product(itertools.permutations((1, 2, 3, 4)), repeat=4):
        columns = all(len({row[j] for row in rows}) == 4 for j in range(4))
        if columns and all(len({*rows[i][j : j + 2], *rows[i + 1][j : j + 2]}) == 4 for i in (0, 2) for j in (0, 2)):
            yield rows


@pytest.fixture(scope="module")
def filled():
    return list(fours())


def test_there_are_288_filled_grids_and_a_partial_one_is_completable_exactly_if_one_of_them_agrees(filled):
    assert len(filled) == 288
    rng, seen = random.Random(3), {True: 0, False: 0}
    for _ in range(1500):
        base = rng.choice(filled)
        grid = [[c if rng.random() < 0.35 else 0 for c in row] for row in base]
        for _ in range(rng.randrange(3)):
            grid[rng.randrange(4)][rng.randrange(4)] = rng.randrange(1, 5)
        grid = tuple(map(tuple, grid))
        agrees = any(all(a in (0, b) for i, r in enumerate(grid) for a, b in zip(r, g[i], strict=True)) for g in filled)
        assert completable(grid) is agrees
        seen[agrees] += 1
    assert min(seen.values()) > 200


@pytest.mark.parametrize("dataset", ["mini_sudoku", "sudoku"])
def test_every_beginning_of_the_answer_is_hopeful_and_no_other_number_is(dataset):
    task, rng = ponder.task(f"reasoning_gym:{dataset}(shots=0)"), random.Random(1)
    for problem in task.problems(3):
        answer = problem.reference
        n = len(answer.split("\n"))
        assert all(EXACT.hopeful(problem, answer[:k], finished=False) for k in range(len(answer) + 1))
        assert EXACT.hopeful(problem, answer, finished=True)
        for at in rng.sample([i for i, c in enumerate(answer) if c.isdigit()], 12):
            other = str(rng.choice([d for d in range(1, n + 1) if str(d) != answer[at]]))
            changed = answer[:at] + other + answer[at + 1 :]
            assert not EXACT.hopeful(problem, changed[: at + 1], finished=False)
            assert not EXACT.hopeful(problem, changed, finished=True)
            assert not task.grade(problem, changed).correct


@pytest.mark.parametrize(
    ("text", "finished", "hopeful"),
    [
        ("", False, True), ("", True, False), (SOLVED, True, True), (SOLVED + "\n", False, True),
        (SOLVED.replace(" ", ""), True, True), ("Let me see.\n3 1 2 4\n", False, True), ("3 1 2 _\n", False, True),
        ("| 3 1 | 2 4 |\n| 2 4 | 3 1 |\n+-----+-----+\n| 4 3", False, True),
        ("Row 1: 3 1 2 4\nRow 2: 2 4", False, True),
        ("_ _ 2 _\n_ 4 _ 1\n4 3 _ _\n_ _ _ _\nSo it is\n" + SOLVED, True, True),
        ("1 2 3 4\n2 4 3 1\nNo, wrong. Again:\n3 1 2 4\n", False, True),
        ("<answer>\n" + SOLVED + "\n</answer>", True, True), ("4 is a good start\n<answer>\n3 1", False, True),
        ("3 1 2\n", False, False), ("3 1 2 4 4\n", False, False), (SOLVED + "\n1 2 3 4", False, False),
        ("3 1 2 4\n2 4 3 1\n4 3 1 2", True, False), ("3 1 2 4\n2 4 3 1\n4 3 1 2\n1 2 4 _", True, False),
        ("3 1 4 2\n", False, False), ("3 1 2 9\n", False, False), ("1 1 2 4\n", False, False),
        ("r1c1 = 3\n", False, True), ("Row 1, column 1: 3\nrow 2, column 3 is 3", False, True),
        ("r1c1 = 1", False, False),
        ("(r1c3) = 4", False, False), ("r7c1 = 4", False, False),
    ],
)  # fmt: skip
def test_grids_are_read_however_they_are_written(text, finished, hopeful):
    assert EXACT.hopeful(PUZZLE, text, finished=finished) is hopeful


def test_filling_in_all_cells_one_by_one_is_a_solution():
    rows = [row.split() for row in SOLVED.split("\n")]
    lines = [f"r{i + 1}c{j + 1} = {rows[i][j]}" for i in range(4) for j in range(4)]
    assert EXACT.hopeful(PUZZLE, "\n".join(lines), finished=True)
    assert not EXACT.hopeful(PUZZLE, "\n".join(lines[:-1]), finished=True)


@given(st.text(alphabet="0123456789_|.-+ \nrc=:<answer>/", max_size=80), st.booleans())
def test_no_text_is_too_odd(text, finished):
    assert EXACT.hopeful(PUZZLE, text, finished=finished) in (True, False)


def test_states_are_scored_with_the_dialled_errors():
    ctx = Context(PUZZLE, TextSteps(testing.CountdownSolver(), "line"))
    good = [root(PUZZLE).child(i, "3 1 2 4\n") for i in range(400)]
    bad = [root(PUZZLE).child(i, "1 3 2 4\n") for i in range(400)]
    exact = asyncio.run(ctx.score(PUZZLE, good + bad, EXACT))
    assert list(exact) == [1.0] * 400 + [0.0] * 400
    noisy = asyncio.run(ctx.score(PUZZLE, good + bad, ponder.verifier("sudoku_steps(flip=0.25)")))
    assert 0.15 < (noisy != exact).mean() < 0.35


@pytest.mark.parametrize(
    ("metadata", "message"),
    [({}, "mini_sudoku"), ({"puzzle": [[1, 2], [2, 1]]}, "4 rows of 4"), ({"puzzle": 7}, "4 rows")],
)
def test_other_problems_are_refused(metadata, message):
    with pytest.raises(TaskError, match=message):
        EXACT.hopeful(Problem("p", "Q", None, metadata), "", finished=False)
