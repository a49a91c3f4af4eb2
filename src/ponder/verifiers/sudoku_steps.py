"""Sudoku grids as they are filled: can this grid still be completed? A perfect process reward.

Equal    A partial grid scores 1 if it agrees with the puzzle and has a completion, and 0 if not: exact search.
Differs  Noise, sharpness and flipped verdicts are dialled in, as in the imperfect verifiers of search studies.
Needs    Problems with a `puzzle`, as reasoning_gym:sudoku and reasoning_gym:mini_sudoku have. No model, no reference
         answer.    Cost: no tokens; some milliseconds for a new grid, memoised.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ponder.core.problem import Problem
from ponder.core.registry import verifier
from ponder.errors import TaskError
from ponder.verifiers._noisy_truth import NoisyTruth

Grid = tuple[tuple[int, ...], ...]
"""Rows of numbers from 1 to n; 0 is an empty cell."""

_ANSWER = re.compile(r"</?answer>", re.IGNORECASE)
_LABEL = re.compile(r"^\s*(?:row\s*\d+|r\d+)\s*[:)=]\s*", re.IGNORECASE)
_ROW = re.compile(r"(?:\s*\d|[\s_.?*0|,\[\]])*")
_BORDER = re.compile(r"[\s|+=-]*")
_CELL = re.compile(r"[\d_.?*]")
_PLACED = re.compile(
    r"\br(?:ow)?\s*(\d)\s*[,;]?\s*(?:and\s+)?c(?:ol(?:umn)?)?\s*(\d)\s*\)?\s*(?:=|:|->|→|is\b|must be\b|gets\b)\s*(\d)",
    re.IGNORECASE,
)


@verifier("sudoku_steps", aliases=("sudoku_prm",), how="verification:process:rule", where="logic, game")
@dataclass(frozen=True)
class SudokuSteps(NoisyTruth):
    """1 while the grid can still be completed, 0 from the first wrong number on; errors as dialled in.

    Rows are read in order, with or without blanks, borders and labels (`Row 2: …`); of several grids, which words part,
    the last one counts. Placements such as `r2c3 = 4` are numbers put into the puzzle. A row of the wrong length or one
    too many is a mistake. A finished output is right only with all cells filled. Between `<answer>` tags only what
    stands there counts.

    Args:
        sharpness: how far the scores of the two verdicts lie from one half, in logits; inf gives 1 and 0.
        noise: standard deviation of a score's error, in logits; drawn once for each place in the tree.
        flip: chance that a verdict is turned round, in [0, 1].
    """

    def hopeful(self, problem: Problem, text: str, *, finished: bool) -> bool:
        """Whether the text holds the completed grid (finished), or one that can be completed."""
        puzzle = self._puzzle(problem)
        n = len(puzzle)
        rows = read_rows(text, n, finished=finished)
        if rows is None or len(rows) > n:
            return False
        written = tuple(tuple(row) + (0,) * (n - len(row)) for row in (*rows, *[()] * (n - len(rows))))
        grid = merge(puzzle, written)
        for row, column, value in ((int(i) for i in found) for found in _PLACED.findall(_after_tag(text))):
            if grid is None or not (1 <= row <= n and 1 <= column <= n and 1 <= value <= n):
                return False
            placed = tuple(tuple(value * (i == row - 1 and j == column - 1) for j in range(n)) for i in range(n))
            grid = merge(grid, placed)
        if grid is None or not completable(grid):
            return False
        if not finished:
            return True
        return all(map(all, written if rows else grid))

    def _puzzle(self, problem: Problem) -> Grid:
        entry: Any = problem.metadata.get("entry")
        inner = entry.get("metadata") if isinstance(entry, Mapping) else None
        given = next((h["puzzle"] for h in (inner, problem.metadata) if isinstance(h, Mapping) and "puzzle" in h), None)
        if given is None:
            raise TaskError(
                f"sudoku_steps needs problems with a puzzle; {problem.id} has none. Use reasoning_gym:sudoku or "
                "reasoning_gym:mini_sudoku, or give the problems metadata with `puzzle`: rows of numbers, 0 for empty."
            )
        try:
            grid = tuple(tuple(int(cell) for cell in row) for row in given)
        except (TypeError, ValueError):
            grid = ()
        n = len(grid)
        fits = n in (4, 9) and all(len(row) == n and all(0 <= cell <= n for cell in row) for row in grid)
        if not fits:
            raise TaskError(
                f"sudoku_steps: the puzzle of {problem.id} is {given!r}; it must be 4 rows of 4 or 9 rows of 9 numbers "
                "from 1 to the side's length, 0 for empty"
            )
        return grid


def _after_tag(text: str) -> str:
    parts = _ANSWER.split(text)
    return parts[1 if len(parts) == 2 else -2] if len(parts) > 1 else text


def read_rows(text: str, n: int, *, finished: bool) -> list[list[int]] | None:
    r"""The rows of the last grid in a text; the last may be short if the text goes on. None if a row does not fit.

    >>> read_rows("Row 1: 1 _ 3 4\n| 3 4 |", 4, finished=False)
    [[1, 0, 3, 4], [3, 4]]
    >>> read_rows("1 2 3\n", 4, finished=False) is None
    True
    """
    lines = _after_tag(text).split("\n")
    grids: list[list[list[int]]] = [[]]
    good = [True]
    for number, line in enumerate(lines):
        body = _LABEL.sub("", line)
        cells = [int(c) if c.isdigit() else 0 for c in _CELL.findall(body)]
        if not cells and _BORDER.fullmatch(body):
            continue
        if not cells or not _ROW.fullmatch(body):
            if grids[-1]:
                grids.append([])
                good.append(True)
            continue
        open_line = not finished and number == len(lines) - 1
        grids[-1].append(cells)
        if any(c > n for c in cells) or len(cells) > n or (len(cells) < n and not open_line):
            good[-1] = False
    last = max((i for i, rows in enumerate(grids) if rows), default=None)
    if last is None:
        return []
    return grids[last] if good[last] else None


def merge(grid: Grid, more: Grid) -> Grid | None:
    """Two grids over each other; None where they contradict."""
    if any(
        a and b and a != b for first, second in zip(grid, more, strict=True) for a, b in zip(first, second, strict=True)
    ):
        return None
    return tuple(tuple(a or b for a, b in zip(f, s, strict=True)) for f, s in zip(grid, more, strict=True))


@lru_cache(maxsize=1 << 16)
def completable(grid: Grid) -> bool:
    """Whether the empty cells of a grid can be filled by the rules.

    Fills the cell with the fewest possibilities first; rows, columns and boxes are sets of bits.

    >>> completable(((1, 2, 3, 4), (3, 4, 1, 2), (0,) * 4, (0,) * 4))
    True
    >>> completable(((1, 2, 3, 0), (0, 0, 0, 4), (0,) * 4, (0,) * 4))
    False
    """
    n, side = len(grid), math.isqrt(len(grid))
    rows, columns, boxes = [0] * n, [0] * n, [0] * n
    empty: list[tuple[int, int, int]] = []
    for i in range(n):
        for j in range(n):
            box = i // side * side + j // side
            if not grid[i][j]:
                empty.append((i, j, box))
                continue
            bit = 1 << (grid[i][j] - 1)
            if (rows[i] | columns[j] | boxes[box]) & bit:
                return False
            rows[i] |= bit
            columns[j] |= bit
            boxes[box] |= bit
    every = (1 << n) - 1

    def fill() -> bool:
        best, fewest, options = -1, n + 1, 0
        for at, (i, j, box) in enumerate(empty):
            free = every & ~(rows[i] | columns[j] | boxes[box])
            count = free.bit_count()
            if count < fewest:
                best, fewest, options = at, count, free
                if count <= 1:
                    break
        if best < 0:
            return True
        i, j, box = cell = empty.pop(best)
        while options:
            bit = options & -options
            options ^= bit
            rows[i] |= bit
            columns[j] |= bit
            boxes[box] |= bit
            if fill():
                return True
            rows[i] ^= bit
            columns[j] ^= bit
            boxes[box] ^= bit
        empty.insert(best, cell)
        return False

    return fill()
