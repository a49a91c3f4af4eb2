"""Seeds from names: the same place in the same study always draws the same numbers.

A seed is a hash of (study seed, problem id, path in the tree), never of arrival order, so
concurrency and resuming cannot change a result, and drawing more never changes earlier draws.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SEED_BITS = 31
"""Seeds lie in [0, 2**31): what every backend accepts (llama.cpp keeps 2**32 - 1 for "random")."""


def derive_seed(*parts: object) -> int:
    """A seed in [0, 2**31) from any sequence of numbers and texts.

    Parts are told apart from each other: `("a", "bc")` and `("ab", "c")` differ.

    >>> derive_seed(0, "p1", 3) == derive_seed(0, "p1", 3) != derive_seed(0, "p1", 4)
    True
    """
    digest = blake2b("\x1f".join(map(str, parts)).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") % (1 << SEED_BITS)


def derive_seeds(parts: Sequence[object], last: Iterable[object]) -> tuple[int, ...]:
    """`derive_seed(*parts, x)` for each `x` of `last`; what they share is hashed once.

    >>> derive_seeds((0, "p1"), range(2)) == (derive_seed(0, "p1", 0), derive_seed(0, "p1", 1))
    True
    """
    start = "".join(f"{part}\x1f" for part in parts)
    shared = blake2b(start.encode("utf-8", "surrogatepass"), digest_size=8)
    seeds = []
    for part in last:
        digest = shared.copy()
        digest.update(str(part).encode("utf-8", "surrogatepass"))
        seeds.append(int.from_bytes(digest.digest(), "little") % (1 << SEED_BITS))
    return tuple(seeds)


def generator(*parts: object) -> np.random.Generator:
    """A numpy generator seeded by `derive_seed`'s full-width sibling of the same parts."""
    import numpy as np

    digest = blake2b("\x1f".join(map(str, parts)).encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(int.from_bytes(digest, "little")))


def uniforms(seeds: Sequence[int], columns: int) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1), shape (len(seeds), columns), each row from its own seed (SplitMix64)."""
    import numpy as np

    state = np.asarray(seeds, dtype=np.uint64)[:, None] * np.uint64(0x2545F4914F6CDD1D)
    with np.errstate(over="ignore"):
        z = state + np.uint64(0x9E3779B97F4A7C15) * np.arange(1, columns + 1, dtype=np.uint64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return np.asarray(z >> np.uint64(11), dtype=np.float64) * 2.0**-53
