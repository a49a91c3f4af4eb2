"""Which values can be made of numbers, each used once, with + - * / and brackets: exact, by memoised search.

A number here is an int where it is whole, else a Fraction; nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from itertools import combinations

Number = int | Fraction
Numbers = tuple[Number, ...]
"""A multiset, sorted."""

_MANY = 1 << 17


def whole(value: Number) -> Number:
    """An int where the value is one."""
    return value.numerator if isinstance(value, Fraction) and value.denominator == 1 else value


def apply(operator: str, a: Number, b: Number) -> Number | None:
    """The value of `a operator b`; None for a division by zero.

    >>> apply("/", 6, 4), apply("/", 6, 3), apply("/", 6, 0)
    (Fraction(3, 2), 2, None)
    """
    if operator == "+":
        return whole(a + b)
    if operator == "-":
        return whole(a - b)
    if operator == "*":
        return whole(a * b)
    return None if b == 0 else whole(Fraction(a) / b)


def splits(numbers: Numbers) -> Iterator[tuple[Numbers, Numbers]]:
    """Every way to part a multiset in two, empty parts too; equal ways come once."""
    seen: set[Numbers] = set()
    for size in range(len(numbers) + 1):
        for chosen in combinations(range(len(numbers)), size):
            part = tuple(numbers[i] for i in chosen)
            if part not in seen:
                seen.add(part)
                yield part, tuple(n for i, n in enumerate(numbers) if i not in chosen)


def without(numbers: Numbers, used: Numbers) -> Numbers | None:
    """What is left of a multiset; None if it does not hold all that is used.

    >>> without((3, 5, 5), (5,)), without((3, 5), (5, 5))
    ((3, 5), None)
    """
    left = list(numbers)
    for number in used:
        if number not in left:
            return None
        left.remove(number)
    return tuple(left)


@lru_cache(maxsize=_MANY)
def values(numbers: Numbers) -> frozenset[Number]:
    """Everything that can be made of all the numbers; for at most four or so."""
    if len(numbers) == 1:
        return frozenset(numbers)
    found: set[Number] = set()
    for part, rest in splits(numbers):
        if part and rest:
            found.update(
                v for a in values(part) for b in values(rest) for o in "+-*/" if (v := apply(o, a, b)) is not None
            )
    return frozenset(found)


@lru_cache(maxsize=_MANY)
def reachable(numbers: Numbers, target: Number) -> bool:
    """Whether some expression uses all the numbers, each once, and equals the target.

    Searches backwards: the larger part must make what the operation with a value of the smaller part leaves to it.
    Six numbers take up to about a second where the answer is no, five some hundredths.

    >>> reachable((1, 3, 4, 6), 24), reachable((1, 1, 1), 7)
    (True, False)
    """
    if len(numbers) <= 3:
        return bool(numbers) and target in values(numbers)
    for part, rest in splits(numbers):
        if not part or len(part) > len(rest):
            continue
        for b in values(part):
            for wanted in inverses(b, target):
                if reachable(rest, wanted):
                    return True
    return False


def inverses(b: Number, target: Number) -> Iterator[Number]:
    """Every x for which x + b, x - b, b - x, x * b, x / b or b / x is the target."""
    yield whole(target - b)
    yield whole(target + b)
    yield whole(b - target)
    if b != 0:
        yield whole(Fraction(target) / b)
        yield whole(target * b)
        if target != 0:
            yield whole(Fraction(b) / target)
    elif target == 0:
        yield 0


Frame = tuple[Number, Number | None, str]
"""A bracket that is not closed: what was added up, the product after it (with its sign), and the operator that waits.

While an operand is awaited the product is the left side of `*` or `/`, or None after a sum's sign, which the operator
then is. Otherwise the operator is empty.
"""


def parse_open(tokens: list[str]) -> tuple[Frame, ...] | None:
    """The open brackets of the beginning of an expression, outermost first; None if nothing can complete it.

    >>> parse_open(["94", "*", "4", "-"]), parse_open(["2", "*", "(", "1"]), parse_open([")"])
    (((376, None, '-'),), ((0, 2, '*'), (0, 1, '')), None)
    """
    frames: list[Frame] = [(0, None, "+")]
    for token in tokens:
        total, product, operator = frames[-1]
        if token == "(":
            if not operator:
                return None
            frames.append((0, None, "+"))
        elif token == ")":
            if operator or product is None or len(frames) == 1:
                return None
            frames.pop()
            joined = join(frames[-1], whole(total + product))
            if joined is None:
                return None
            frames[-1] = joined
        elif token in "+-*/":
            if operator or product is None:
                if token in "+-" and product is None and total == 0 and operator == "+":
                    frames[-1] = (0, None, token)  # a sign at the beginning
                    continue
                return None
            frames[-1] = (whole(total + product), None, token) if token in "+-" else (total, product, token)
        else:
            joined = join(frames[-1], whole(Fraction(token))) if operator else None
            if joined is None:
                return None
            frames[-1] = joined
    return tuple(frames)


def join(frame: Frame, operand: Number) -> Frame | None:
    """A frame that awaited an operand and has got it; None for a division by zero."""
    total, product, operator = frame
    if product is None:
        return (total, operand if operator == "+" else whole(-operand), "")
    value = apply(operator, product, operand)
    return None if value is None else (total, value, "")


def endings(frame: Frame, numbers: Numbers) -> Iterator[Number]:
    """Values that a bracket can be closed with when it uses all the numbers, and no others.

    One more factor and one more term are enough, since each may be a bracket of its own.
    """
    total, product, operator = frame
    if product is None:
        for v in values(numbers) if numbers else ():
            yield whole(total + v if operator == "+" else total - v)
        return
    for factor, term in splits(numbers):
        for value in _scaled(product, operator, factor):
            if not term:
                yield whole(total + value)
                continue
            for y in values(term):
                yield whole(total + value + y)
                yield whole(total + value - y)


def _scaled(product: Number, operator: str, factor: Numbers) -> set[Number]:
    """A product times or over one more factor, or as it is if it needs none."""
    if not factor:
        return set() if operator else {product}
    return {v for x in values(factor) for o in operator or "*/" if (v := apply(o, product, x)) is not None}


def completable(frames: tuple[Frame, ...], numbers: Numbers, target: Number, *, then_steps: bool) -> bool:
    """Whether the beginning of an expression can go on, with each of the numbers once, so that the target comes out.

    Args:
        frames: from `parse_open`.
        numbers: not used so far.
        target: what is to come out.
        then_steps: the expression may end early and its value be used as a number in further steps.
    """
    if len(frames) == 1 and _closes(frames[0], numbers, target):
        return True
    if len(frames) == 1 and not then_steps:
        return False
    for part, rest in splits(numbers):
        if len(frames) == 1 and not rest:
            continue  # all used: that was tried above
        for value in set(endings(frames[-1], part)):
            if len(frames) == 1:
                if reachable(tuple(sorted((*rest, value))), target):
                    return True
                continue
            joined = join(frames[-2], value)
            if joined is not None and completable((*frames[:-2], joined), rest, target, then_steps=then_steps):
                return True
    return False


def _closes(frame: Frame, numbers: Numbers, target: Number) -> bool:
    """Whether the outermost bracket can end at the target; the larger part is searched backwards."""
    total, product, operator = frame
    gap = whole(target - total)
    if product is None:
        return bool(numbers) and reachable(numbers, gap if operator == "+" else whole(-gap))
    for factor, term in splits(numbers):
        if operator and not factor:
            continue
        if len(factor) <= len(term):
            for value in _scaled(product, operator, factor):
                left = whole(gap - value)
                if reachable(term, left) or reachable(term, whole(-left)) if term else left == 0:
                    return True
            continue
        for y in (0,) if not term else {sign * y for y in values(term) for sign in (1, -1)}:
            if any(reachable(factor, x) for x in _factors(product, operator, whole(gap - y), factor)):
                return True
    return False


def _factors(product: Number, operator: str, wanted: Number, factor: Numbers) -> Iterator[Number]:
    """Every x for which the product times or over x is what is wanted."""
    if product == 0:
        if wanted == 0:  # any x will do but a divisor of 0; 0 times anything is reached by the smallest choice
            yield from values(factor) if operator == "/" and len(factor) <= 3 else (sum(factor),)
        return
    if operator != "/":
        yield whole(Fraction(wanted) / product)
    if operator != "*" and wanted != 0:
        yield whole(Fraction(product) / wanted)


def most_left(depth: int) -> int:
    """How many unused numbers can be searched exactly, in a second or two, within so many brackets (the text is one).

    >>> [most_left(depth) for depth in (0, 1, 2, 3, 4)]
    [6, 6, 4, 4, 3]
    """
    return 6 if depth <= 1 else 4 if depth <= 3 else 3
