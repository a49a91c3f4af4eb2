"""pass@k: the chance that at least one of k draws is right, estimated from n draws without bias.

Paper    Brown et al. 2024, "Large Language Monkeys: Scaling Inference Compute with Repeated Sampling", §2;
         the estimator is from Chen et al. 2021, "Evaluating Large Language Models Trained on Code", §2.1.
Equal    1 - C(n - c, k) / C(n, k), as a product of ratios, so no binomial coefficient is ever formed.
Differs  The product runs over the smaller of c and k, so k = 1 is exactly c / n.
Needs    Counts only.    Cost: min(c, k) multiplications a problem.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ponder.errors import ParameterError


def pass_at_k(n: ArrayLike, c: ArrayLike, k: ArrayLike) -> Any:
    """Estimate pass@k without bias: the share of k-subsets of n draws that hold at least one right draw.

    Args:
        n: draws per problem, n ≥ 1.
        c: how many of them are right, 0 ≤ c ≤ n.
        k: size of the subset, 1 ≤ k ≤ n. The three broadcast against each other.

    Returns:
        A float if all three are scalars, else an array of the broadcast shape, in [0, 1]. It is 0 when c = 0,
        1 when fewer than k draws are wrong, and c / n when k = 1.

    Raises:
        ParameterError: a count that is not a whole number, n < 1, c outside 0..n, or k outside 1..n.

    Source: Chen et al. 2021, eq. 1.

    >>> pass_at_k(10, 3, 1)
    0.3
    >>> pass_at_k(n=[4, 4], c=[1, 0], k=2).tolist()
    [0.5, 0.0]
    """
    samples, right, size = np.broadcast_arrays(_whole("n", n), _whole("c", c), _whole("k", k))
    _check(samples, right, size)
    # The share of subsets without a right draw, C(n-c, k) / C(n, k), is symmetric in c and k:
    # it is the product over i < min(c, k) of (n - max(c, k) - i) / (n - i).
    few, many = np.minimum(right, size), np.maximum(right, size)
    if samples.ndim == 0:
        i = np.arange(int(few))
        wrong = np.prod(np.maximum(samples - many - i, 0) / (samples - i))
        return float(right / samples) if size == 1 else float(1.0 - wrong)
    # A study has few distinct (n, c, k): compute each product once, without padding.
    base = int(samples.max(initial=0)) + 1
    if base**3 < 2**62:
        keys, where = np.unique((samples * base + few) * base + many, return_inverse=True)
        triples = np.stack([keys // base**2, keys // base % base, keys % base], axis=1)
    else:
        triples, where = np.unique(
            np.stack([x.ravel() for x in (samples, few, many)], axis=1), axis=0, return_inverse=True
        )
    fail = np.empty(len(triples))
    for at, (n_, few_, many_) in enumerate(triples):
        i = np.arange(few_)
        fail[at] = np.prod(np.maximum(n_ - many_ - i, 0) / (n_ - i))
    out = 1.0 - fail[np.ravel(where)].reshape(samples.shape)
    return np.where(size == 1, right / samples, out)


def coverage_curve(n: ArrayLike, c: ArrayLike, k: ArrayLike) -> NDArray[np.float64]:
    """Coverage at each k: the mean of pass@k over problems.

    Args:
        n: draws per problem, shape (problems,) or one number for all.
        c: right draws per problem, shape (problems,).
        k: subset sizes, shape (points,); none above the smallest n.

    Returns:
        Shape (points,), in [0, 1].

    Raises:
        ParameterError: as for `pass_at_k`, or no problems at all.

    Source: Brown et al. 2024, §2.

    >>> coverage_curve(4, [4, 0, 1], [1, 4]).round(4).tolist()
    [0.4167, 0.6667]
    """
    right = np.atleast_1d(_whole("c", c))
    if right.size == 0:
        raise ParameterError("coverage_curve", "c", [], allowed="counts of one problem or more")
    samples = np.broadcast_to(_whole("n", n), right.shape)
    sizes = np.atleast_1d(_whole("k", k))
    table = np.asarray(pass_at_k(samples[:, None], right[:, None], sizes[None, :]))
    return np.asarray(table.mean(axis=0), dtype=np.float64)


def log_spaced_k(n: int, points: int = 40) -> NDArray[np.int64]:
    """Give whole k from 1 to n, evenly spaced in ln k, each once.

    Args:
        n: the largest k, n ≥ 1.
        points: how many before duplicates are dropped.

    Returns:
        Rising whole numbers; the first is 1 and the last is n.

    Raises:
        ParameterError: n or points below 1.

    >>> log_spaced_k(16, 5).tolist()
    [1, 2, 4, 8, 16]
    """
    if n < 1:
        raise ParameterError("log_spaced_k", "n", n, allowed="a whole number ≥ 1")
    if points < 1:
        raise ParameterError("log_spaced_k", "points", points, allowed="a whole number ≥ 1")
    return np.unique(np.append(np.rint(np.geomspace(1, n, points)).astype(np.int64), n))


def _whole(name: str, value: ArrayLike) -> NDArray[np.int64]:
    """Read counts; numbers such as 3.0 are whole, 3.5, NaN and text are not."""
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ParameterError("pass_at_k", name, value, allowed="whole numbers") from None
    if not np.all(np.isfinite(array)) or np.any(array != np.rint(array)):
        raise ParameterError("pass_at_k", name, value, allowed="whole numbers")
    return array.astype(np.int64)


def _check(n: NDArray[np.int64], c: NDArray[np.int64], k: NDArray[np.int64]) -> None:
    """Refuse counts that cannot be, naming the first bad one."""
    for bad, name, values, allowed in (
        (n < 1, "n", n, "a whole number ≥ 1: no draws say nothing about pass@k"),
        (c < 0, "c", c, "≥ 0: it counts the right draws"),
        (c > n, "c", c, "at most n, the number of draws"),
        (k < 1, "k", k, "a whole number ≥ 1"),
    ):
        if np.any(bad):
            raise ParameterError("pass_at_k", name, _first(values, bad), allowed=allowed)
    above = k > n
    if np.any(above):
        at, draws = _first(k, above), _first(n, above)
        raise ParameterError(
            "pass_at_k",
            "k",
            at,
            allowed=f"at most n={draws}",
            hint=f"pass@k needs k <= samples per problem (k={at}, n={draws}): draw more, or fit a CoverageLaw",
        )


def _first(values: NDArray[np.int64], where: NDArray[np.bool_]) -> int:
    """Give the first of the values that a mask marks."""
    return int(np.ravel(values)[int(np.argmax(np.ravel(where)))])
