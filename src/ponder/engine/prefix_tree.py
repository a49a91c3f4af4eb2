"""What the key-value cache holds: a radix tree of runs of tokens.

A *path* is one sequence of the backend: the tokens from the root to the end of its last run. A run is in the
cache as long as a path goes through it, and is counted once however many do. Tokens that were evaluated in different
ways (`kind`) are never shared.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field


@dataclass(eq=False, slots=True)
class Run:
    """Tokens that follow each other without a fork.

    Args:
        parent: the run before it, None for the root.
        tokens: what is evaluated of it.
        children: the runs that follow it.
        paths: sequences that end here.
    """

    parent: Run | None
    tokens: list[int] = field(default_factory=list)
    children: list[Run] = field(default_factory=list)
    paths: set[int] = field(default_factory=set)


class PrefixTree:
    """The cache's content.

    Attributes:
        cells: distinct tokens in it.
    """

    def __init__(self) -> None:
        self.root = Run(None)
        self._roots: dict[Hashable, Run] = {None: self.root}
        self.cells = 0
        self._tip: dict[int, Run] = {}

    def match(self, tokens: Sequence[int], kind: Hashable = None) -> tuple[Run, int, int]:
        """The longest beginning of `tokens` in the cache: its last run, how much of that run, and its length."""
        run, used, length = self._roots.setdefault(kind, Run(None)), 0, 0
        while True:
            best, far = None, 0
            for child in run.children:
                common = shared(child.tokens, tokens, length)
                if common > far:
                    best, far = child, common
            if best is None:
                return run, used, length
            run, used, length = best, far, length + far
            if used < len(run.tokens):
                return run, used, length

    def add(self, path: int, run: Run, used: int) -> int | None:
        """Begin a path after the first `used` tokens of a run; the sequence to fork it from, None at the root."""
        if used < len(run.tokens):
            run = self._split(run, used)
        source = None if run.parent is None else self._holder(run)
        own = Run(run)
        own.paths.add(path)
        run.children.append(own)
        self._tip[path] = own
        return source

    def grow(self, path: int, tokens: Sequence[int]) -> None:
        """Note that tokens of a path were evaluated."""
        tip = self._tip[path]
        if tip.children or len(tip.paths) > 1:  # another path has been forked from its end
            tip.paths.discard(path)
            own = Run(tip)
            own.paths.add(path)
            tip.children.append(own)
            tip = self._tip[path] = own
        tip.tokens.extend(tokens)
        self.cells += len(tokens)

    def remove(self, path: int) -> int:
        """Forget a path; how many cells that frees."""
        run: Run | None = self._tip.pop(path)
        assert run is not None
        run.paths.discard(path)
        freed = 0
        while run is not None and run.parent is not None and not run.children and not run.paths:
            freed += len(run.tokens)
            run.parent.children.remove(run)
            run = run.parent
        self.cells -= freed
        return freed

    def _split(self, run: Run, at: int) -> Run:
        """Put the first tokens of a run into a run of their own before it; that one."""
        assert run.parent is not None
        upper = Run(run.parent, run.tokens[:at], [run])
        siblings = run.parent.children
        siblings[siblings.index(run)] = upper
        run.parent, run.tokens = upper, run.tokens[at:]
        return upper

    def _holder(self, run: Run) -> int:
        while not run.paths:
            run = run.children[0]
        return next(iter(run.paths))


def shared(run: Sequence[int], tokens: Sequence[int], at: int) -> int:
    """How many of the first tokens of a run equal those of `tokens` from `at` on."""
    n = min(len(run), len(tokens) - at)
    if n <= 0 or run[0] != tokens[at]:
        return 0
    if list(run[:n]) == list(tokens[at : at + n]):
        return n
    low, high = 1, n  # run[:low] is equal, run[:high] is not
    while high - low > 1:
        middle = (low + high) // 2
        if list(run[low:middle]) == list(tokens[at + low : at + middle]):
            low = middle
        else:
            high = middle
    return low
