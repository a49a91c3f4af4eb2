"""Countdown solutions step by step: can the numbers that are left still make the target? A perfect process reward.

Equal    A prefix of a solution scores 1 if some continuation of it is right, and 0 if none is: exact search.
Differs  Noise, sharpness and flipped verdicts are dialled in, as in the imperfect verifiers of search studies.
Needs    Problems with `numbers` and a `target`, as reasoning_gym:countdown has. No model, no reference answer.
Cost     No tokens. Five numbers left take some hundredths of a second at most, six up to about a second; memoised.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from ponder.core.problem import Problem
from ponder.core.registry import verifier
from ponder.errors import TaskError, VerifierError
from ponder.verifiers._arithmetic import (
    Frame,
    Number,
    Numbers,
    completable,
    most_left,
    parse_open,
    reachable,
    splits,
    whole,
    without,
)
from ponder.verifiers._noisy_truth import NoisyTruth

_SIGNS = str.maketrans({"×": "*", "·": "*", "⋅": "*", "∙": "*", "÷": "/", "−": "-", "–": "-", "[": "(", "]": ")"})
_COMMANDS = {r"\times": "*", r"\cdot": "*", r"\div": "/", r"\left": "", r"\right": "", r"\(": " ", r"\)": " "}
_POWER = re.compile(r"(?<=[\d)])\s*(?:\*\*|\^)\s*(?=[\d(])")
_LETTER_TIMES = re.compile(r"(?<=[\d)])\s*[xX]\s*(?=[\d(])")
_THOUSANDS = re.compile(r"(?<![\d,])\d{1,3}(?:,\d{3})+(?![\d,])")
_MARKER = re.compile(r"^\s*(?:(?:step\s*)?\d+\s*[:)]|(?:step\s*)?\d+\.\s|[-*•]\s)\s*", re.IGNORECASE)
_LEFT = re.compile(
    r"(?:[(\[{]\s*(?:numbers?\s+)?(?:left|remaining)\b\s*[:=]?|[,;]?\s*\b(?:numbers?\s+)?(?:left|remaining)\b"
    r"(?:\s+numbers?)?\s*(?:are\b|is\b|[:=]))\s*:?\s*[(\[{]?"
    r"(?P<list>(?:none|nothing|(?:-?\d+(?:[./]\d+)?(?:\s*,\s*|\s+and\s+|\s+)?)*))\s*[)\]}]*",
    re.IGNORECASE,
)
_DASH = re.compile(r"^[-+][ \t]+")
_IN_LIST = re.compile(r"-?\d+(?:[./]\d+)?")
_RUN = re.compile(r"(?:(?:\d+(?:\.\d+)?|[-+*/()=])[ \t]*)+")
_TOKEN = re.compile(r"\d+(?:\.\d+)?|[-+*/()=]")


_EMPTY: Frame = (0, None, "+")


@verifier("countdown_steps", aliases=("countdown_prm",), how="verification:process:rule", where="math, game")
@dataclass(frozen=True)
class CountdownSteps(NoisyTruth):
    """1 while the target can still be reached, 0 from the first step after which it cannot; errors as dialled in.

    Lines such as `3 * 7 = 21 (left: 21 5)` are steps: what they use is taken away, what they give is added. A wrong
    result, a number that is not there, a wrong list of what is left, or any power is a mistake for good. An expression
    of all the problem's numbers is a whole solution, whatever came before, and the last one counts. Lines without
    arithmetic say nothing.

    Args:
        sharpness: how far the scores of the two verdicts lie from one half, in logits; inf gives 1 and 0.
        noise: standard deviation of a score's error, in logits; drawn once for each place in the tree.
        flip: chance that a verdict is turned round, in [0, 1].
        form: how an unfinished expression may go on: as a line of steps (`steps`), only to the whole solution
            (`expression`), or `auto`: by whether there is a line of steps before it.
        all_numbers: whether a solution has to use all the numbers, as reasoning_gym wants it.
    """

    form: Literal["auto", "steps", "expression"] = "auto"
    all_numbers: bool = True

    def hopeful(self, problem: Problem, text: str, *, finished: bool) -> bool:
        """Whether the text is a right solution (finished), or the beginning of one."""
        numbers, target = self._puzzle(problem)
        lines = _plain(text).split("\n")
        tail = None if finished else lines.pop()
        pool: Numbers | None = numbers
        solution: bool | None = None
        stepped = False
        for line in lines:
            for run in _runs(line):
                stated = self._solution(run, numbers, target, pool)
                if stated is not None:
                    solution = stated
                elif "=" in run and _has_operator(run):
                    pool, stepped = None if pool is None else _after(run, pool), True
            pool = _as_listed(line, pool)
        if solution is not None:
            return solution
        if pool is None:
            return False
        if finished:
            return (pool == (target,)) if self.all_numbers else target in pool and stepped
        return self._may_go_on(tail or "", pool, numbers, target, stepped)

    def _puzzle(self, problem: Problem) -> tuple[Numbers, Number]:
        entry: Any = problem.metadata.get("entry")
        inner = entry.get("metadata") if isinstance(entry, Mapping) else None
        for holder in (inner, problem.metadata):
            if isinstance(holder, Mapping) and "numbers" in holder and "target" in holder:
                try:
                    numbers = tuple(sorted(whole(Fraction(n)) for n in holder["numbers"]))
                    return numbers, whole(Fraction(holder["target"]))
                except (TypeError, ValueError) as error:
                    raise TaskError(
                        f"countdown_steps: the numbers and target of {problem.id} are {holder['numbers']!r} and "
                        f"{holder['target']!r}; they must be a list of numbers and a number"
                    ) from error
        raise TaskError(
            f"countdown_steps needs problems with numbers and a target; {problem.id} has none. Use "
            "reasoning_gym:countdown, or give the problems metadata with `numbers` and `target`."
        )

    def _solution(self, run: list[str], numbers: Numbers, target: Number, pool: Numbers | None) -> bool | None:
        """Whether a run that states a whole solution is right; None if it is none."""
        sides = _sides(run)
        expression = next((side for side in sides if _has_operator(side)), None)
        if expression is None:
            return None
        used = _literals(expression)
        left = without(numbers, used)
        value = _value(expression)
        complete = left == () if self.all_numbers else left is not None and value == target
        if not complete or (len(sides) > 1 and pool == numbers and left):
            return None
        return value == target and all(_same(side, value) for side in sides if side is not expression)

    def _may_go_on(self, tail: str, pool: Numbers, numbers: Numbers, target: Number, stepped: bool) -> bool:
        """Whether what stands in the line that is being written can become part of a solution."""
        listing = _LEFT.search(tail)
        if listing is not None and listing.end() == len(tail):  # a list being written: the step before it counts
            if listing.group()[-1] in ")]}" and _as_listed(listing.group(), _stepped(tail, pool)) is None:
                return False
            tail = tail[: listing.start()] + "\t;"
        runs = _runs(tail, open_end=True)
        open_run = runs.pop() if runs and tail.rstrip(" \t").endswith(runs[-1][-1]) else []
        for run in runs:
            stated = self._solution(run, numbers, target, pool)
            if stated is not None:
                return stated
            if "=" in run and _has_operator(run):
                after = _after(run, pool)
                if after is None:
                    return False
                pool, stepped = after, True
        growing = bool(tail) and tail[-1].isdigit()
        if "=" in open_run:
            at = open_run.index("=")
            stated = self._solution(open_run[:at], numbers, target, pool)
            value = _value(_merged(open_run[:at], pool))
            if _has_operator(open_run[:at]) and value is not None:
                rest = open_run[at + 1 :]
                if not (_still(rest, value) if growing or not rest else _same(rest, value) or not _ends(rest)):
                    return False
                if stated is not None:
                    return stated
                after = _after(open_run[:at], pool)
                return after is not None and self._enough(after, target)
            if _has_operator(open_run[:at]):
                return False
            open_run = []
        if not open_run or (not _has_operator(open_run) and "(" not in open_run and self._enough(pool, target)):
            return self._enough(pool, target)
        steps = self.form == "steps" or (self.form == "auto" and stepped)
        return any(
            self._completable([*open_run[:-1], last] if last else open_run, among, target, steps)
            for among in ((pool, numbers) if steps else (numbers,))
            for last in (_longer(open_run[-1], among) if growing else [""])
        )

    def _completable(self, tokens: list[str], among: Numbers, target: Number, steps: bool) -> bool:
        tokens = _merged(tokens, among)
        left, frames = without(among, _literals(tokens)), parse_open(tokens)
        if left is None or frames is None:
            return False
        if all(frame == _EMPTY for frame in frames):
            return self._enough(left, target)
        while frames[: len(left) + 2] == (_EMPTY,) * (len(left) + 2):  # more brackets than can be of use
            frames = frames[1:]
        self._limit(len(left), len(frames))
        choices = [left] if self.all_numbers else [part for part, _ in splits(left)]
        return any(completable(frames, part, target, then_steps=steps) for part in choices)

    def _enough(self, pool: Numbers, target: Number) -> bool:
        self._limit(len(pool), 0)
        if self.all_numbers:
            return reachable(pool, target)
        return any(reachable(part, target) for part, _ in splits(pool) if part)

    def _limit(self, left: int, depth: int) -> None:
        if left > most_left(depth):
            raise VerifierError(
                f"countdown_steps: {left} numbers are left{' with a bracket open' if depth > 1 else ''}, which takes "
                f"too long to search exactly; at most {most_left(depth)} are allowed. Use smaller problems "
                "(reasoning_gym:countdown(max_numbers=6)) or score whole lines."
            )


def _plain(text: str) -> str:
    """A text with one way of writing each operation and without marks of emphasis; a power becomes a division by zero.

    >>> _plain("**6 × 7 = 42**"), _plain("2^3 = 8")
    ('6 * 7 = 42', '2/0*3 = 8')
    """
    for command, sign in _COMMANDS.items():
        text = text.replace(command, sign)
    text = _POWER.sub("/0*", text.translate(_SIGNS)).replace("**", "").replace("$", "").replace("`", "")
    return _THOUSANDS.sub(lambda found: found.group().replace(",", ""), _LETTER_TIMES.sub(" * ", text))


def _runs(line: str, *, open_end: bool = False) -> list[list[str]]:
    """Stretches of arithmetic in a line, as tokens; lists of what is left and numbers of steps are none.

    Dashes and brackets of the prose around them are cut off, at the end of an open line only if words follow.
    """
    line = _LEFT.sub(" ; ", _MARKER.sub("", line, count=1))
    found = []
    for match in _RUN.finditer(line):
        tokens = _TOKEN.findall(_DASH.sub("", match.group()))
        if not (open_end and match.end() == len(line)):
            while tokens and (tokens[-1] in "+-*/=(" or (tokens[-1] == ")" and tokens.count(")") > tokens.count("("))):
                tokens.pop()
            while tokens and tokens[0] == "(" and tokens.count("(") > tokens.count(")"):
                tokens.pop(0)
        while tokens and tokens[0] in "*/=)":
            tokens.pop(0)
        if any(t[0].isdigit() or t == "(" for t in tokens):
            found.append(tokens)
    return found


def _merged(tokens: list[str], pool: Numbers) -> list[str]:
    """Tokens in which negative numbers and fractions that the pool holds are one token each."""
    out: list[str] = []
    at = 0
    while at < len(tokens):
        here, after = tokens[at], tokens[at + 1 : at + 3]
        unary = here == "-" and (not out or out[-1] in ("+", "-", "*", "/", "("))
        if unary and after and after[0][0].isdigit() and -Fraction(after[0]) in pool:
            out.append(f"-{after[0]}")
            at += 2
        elif (
            here[0].isdigit() and len(after) == 2 and after[0] == "/" and after[1].isdigit() and here.isdigit()
            and int(after[1]) and Fraction(int(here), int(after[1])) in pool and int(here) % int(after[1])
        ):  # fmt: skip
            out.append(f"{here}/{after[1]}")
            at += 3
        else:
            out.append(here)
            at += 1
    return out


def _sides(run: list[str]) -> list[list[str]]:
    """What stands between the equals signs."""
    sides: list[list[str]] = [[]]
    for token in run:
        if token == "=":
            sides.append([])
        else:
            sides[-1].append(token)
    return [side for side in sides if side]


def _has_operator(tokens: list[str]) -> bool:
    """Whether something is computed; a sign before a number is nothing."""
    return any(t in ("+", "-", "*", "/") for t in tokens[1:])


def _literals(tokens: list[str]) -> Numbers:
    return tuple(sorted(whole(Fraction(t)) for t in tokens if t[-1].isdigit()))


def _value(tokens: list[str]) -> Number | None:
    """What a whole expression is worth; None if it is not whole or divides by zero."""
    frames = parse_open(tokens)
    if frames is None or len(frames) > 1 or frames[0][2] or frames[0][1] is None:
        return None
    return whole(frames[0][0] + frames[0][1])


def _same(side: list[str], value: Number | None) -> bool:
    """Whether a side of an equation has the value; decimals count as rounded to the places they show."""
    if value is None:
        return False
    given = _value(side)
    if given is None:
        return False
    if len(side) == 1 and "." in side[0]:
        return abs(Fraction(side[0]) - value) <= Fraction(1, 2 * 10 ** len(side[0].partition(".")[2]))
    return given == value


def _ends(side: list[str]) -> bool:
    """Whether an expression could be complete."""
    return bool(side) and (side[-1] == ")" or side[-1][0].isdigit())


def _still(side: list[str], value: Number) -> bool:
    """Whether the beginning of a result can become the value."""
    if not side or (side == ["-"] and value < 0):
        return True
    if len(side) > 1 and _has_operator(side):
        return not _ends(side) or _value(side) is None or _same(side, value) or side[-1][0].isdigit()
    written = "".join(side)
    return str(value).startswith(written) or f"{float(value):.10f}".startswith(written)


def _after(run: list[str], pool: Numbers) -> Numbers | None:
    """The numbers after a step, whose sides must be equal; None if it is a mistake."""
    sides = _sides(run)
    expression = next((side for side in sides if _has_operator(side)), None)
    if expression is None:
        return pool
    tokens = _merged(expression, pool)
    value, left = _value(tokens), without(pool, _literals(tokens))
    if value is None or left is None or not all(_same(side, value) for side in sides if side is not expression):
        return None
    return tuple(sorted((*left, value)))


def _stepped(line: str, pool: Numbers) -> Numbers | None:
    """The numbers after all steps of a line; None after a mistake."""
    left: Numbers | None = pool
    for run in _runs(line):
        if left is not None and "=" in run and _has_operator(run):
            left = _after(run, left)
    return left


def _as_listed(line: str, pool: Numbers | None) -> Numbers | None:
    """None if the line lists other numbers as left than there are."""
    found = _LEFT.search(line)
    if pool is None or found is None or (not found["list"].strip() and "(" not in found.group()):
        return pool
    if not _IN_LIST.search(found["list"]) and found["list"].strip().lower() not in ("none", "nothing"):
        return pool
    try:
        listed = [Fraction(t) for t in _IN_LIST.findall(found["list"])]
    except ZeroDivisionError:
        return None
    kept = list(pool)
    for number in listed:
        near = next((n for n in kept if n == number or abs(n - number) < Fraction(1, 100)), None)
        if near is None:
            return None
        kept.remove(near)
    return pool if not kept or (len(pool) == 1 and not listed) else None


def _longer(written: str, among: Numbers) -> list[str]:
    """Numbers that the digits at the end of a text are, or may become."""
    return sorted({str(n) for n in among if str(n).startswith(written)}, key=len)
