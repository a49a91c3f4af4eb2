"""How far resampling with a verifier that errs can go, and when to stop.

Paper    Stroebl et al. 2024, "Inference Scaling fLaws: The Limits of LLM Resampling with Imperfect Verifiers".
Equal    Utility: 1 for a right accepted answer, `false_positive` ≤ 0 for a wrong accepted one, 0 for abstaining.
         Two difficulties with posterior weights after k - 1 rejections; the optimal K.
Differs  The chance to reach draw k is exact by default, Σ p_i β_i^(k-1). The published formula weighs it by the
         posterior instead, which counts late draws too often; `mode="published"` reproduces it. The best K is
         the same in both. Pools are evaluated exactly instead of by random orders.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ponder.errors import LawFitError, ParameterError
from ponder.laws.intervals import Interval, clustered_share

Floats = npt.NDArray[np.float64]
Mode = Literal["exact", "published"]

_TIE = 1e-12


@dataclass(frozen=True, slots=True)
class ResamplingModel:
    """Resampling until accepted, for problems of known difficulties.

    Args:
        accuracies: r_i, single-sample accuracy of each difficulty, in [0, 1].
        weights: p_i, how common each is; they sum to 1.
        completeness: c, chance that a right answer is accepted.
        soundness: s, chance that a wrong answer is rejected.
        false_positive: utility of a wrong accepted answer, ≤ 0.
        cost: price of one draw, ≥ 0.

    >>> model = ResamplingModel((0.9, 0.05), (0.5, 0.5), 0.95, 0.8, false_positive=-4.0)
    >>> [round(model.total(k), 4) for k in (1, 2, 5)], model.best_k()
    ([0.0313, -0.192, -0.6705], 1)
    """

    accuracies: tuple[float, ...]
    weights: tuple[float, ...]
    completeness: float
    soundness: float
    false_positive: float = 0.0
    cost: float = 0.0

    def __post_init__(self) -> None:
        owner = "resampling model"
        if len(self.accuracies) != len(self.weights) or not self.accuracies:
            raise ParameterError(owner, "weights", self.weights, allowed="one per accuracy")
        if abs(sum(self.weights) - 1) > 1e-9 or min(self.weights) < 0:
            raise ParameterError(owner, "weights", self.weights, allowed="numbers ≥ 0 that sum to 1")
        for name in ("completeness", "soundness"):
            if not 0 <= getattr(self, name) <= 1:
                raise ParameterError(owner, name, getattr(self, name), allowed="in [0, 1]")
        if not all(0 <= r <= 1 for r in self.accuracies):
            raise ParameterError(owner, "accuracies", self.accuracies, allowed="numbers in [0, 1]")
        if self.false_positive > 0:
            raise ParameterError(
                owner, "false_positive", self.false_positive, allowed="a number ≤ 0",
                hint="It is the utility of a wrong accepted answer",
            )  # fmt: skip
        if self.cost < 0:
            raise ParameterError(owner, "cost", self.cost, allowed="a number ≥ 0")

    @classmethod
    def beta(
        cls, alpha: float, beta: float, completeness: float, soundness: float, *, false_positive: float = 0.0,
        cost: float = 0.0, points: int = 400,
    ) -> ResamplingModel:  # fmt: skip
        """Difficulties spread as Beta(alpha, beta), as `points` equally likely quantiles of its distribution."""
        if not (alpha > 0 and beta > 0 and points >= 1):
            raise ParameterError("resampling model", "alpha/beta/points", (alpha, beta, points), allowed="numbers > 0")
        # Both ends in powers, so that densities with poles at 0 or 1 are resolved: u in (0, 1) on a smooth map.
        t = np.linspace(-18.0, 18.0, 20_001)
        x = 1.0 / (1.0 + np.exp(-t))
        log_density = alpha * -np.logaddexp(0.0, -t) + beta * -np.logaddexp(0.0, t)  # x^a (1-x)^b, Jacobian included
        mass = np.cumsum(np.exp(log_density - log_density.max()))
        at = np.searchsorted(mass / mass[-1], (np.arange(points) + 0.5) / points)
        accuracies = tuple(x[at].tolist())
        return cls(accuracies, (1.0 / points,) * points, completeness, soundness, false_positive, cost)

    @property
    def _r(self) -> Floats:
        return np.asarray(self.accuracies)

    @property
    def _p(self) -> Floats:
        return np.asarray(self.weights)

    @property
    def rejected(self) -> Floats:
        """β_i, chance that one draw is rejected, per difficulty."""
        return np.asarray((1 - self.completeness) * self._r + self.soundness * (1 - self._r))

    def posterior(self, k: int) -> Floats:
        """Weights of the difficulties among problems whose first k - 1 draws were all rejected."""
        logs = np.log(np.maximum(self._p, 1e-300)) + (k - 1) * np.log(np.maximum(self.rejected, 1e-300))
        weights = np.exp(logs - logs.max()) * (self._p > 0)
        return np.asarray(weights / weights.sum())

    def bracket(self, k: int) -> float:
        """Expected utility of draw k, given that it is made, before its cost."""
        _check_k(k, 1)
        gain = self.completeness * self._r + self.false_positive * (1 - self.soundness) * (1 - self._r)
        return float(self.posterior(k) @ gain)

    def reaches(self, k: int, mode: Mode = "exact") -> float:
        """Chance that draw k is made at all."""
        weights = self._p if mode == "exact" else self.posterior(k)
        return float(weights @ self.rejected ** (k - 1))

    def total(self, k: int, mode: Mode = "exact") -> float:
        """Expected utility of resampling up to `k` draws; 0 for k = 0, which abstains."""
        _check_k(k, 0)
        return float(sum((self.bracket(j) - self.cost) * self.reaches(j, mode) for j in range(1, k + 1)))

    def totals(self, most: int, mode: Mode = "exact") -> Floats:
        """`total(k)` for k = 0, …, `most`."""
        steps = [(self.bracket(j) - self.cost) * self.reaches(j, mode) for j in range(1, most + 1)]
        return np.concatenate([[0.0], np.cumsum(steps)])

    def accuracy(self, k: int) -> float:
        """Chance that an answer is accepted within `k` draws and right."""
        _check_k(k, 0)
        beta = self.rejected
        true_accept = self.completeness * self._r
        share = np.where(beta < 1, (1 - beta**k) / np.where(beta < 1, 1 - beta, 1.0), float(k))
        return float(self._p @ (true_accept * share))

    def ceiling(self) -> float:
        """Accuracy of unlimited resampling: the mean chance that what is accepted first is right.

        Problems of which nothing is ever accepted count as abstained.
        """
        accepted = 1 - self.rejected
        precision = np.where(accepted > 0, self.completeness * self._r / np.where(accepted > 0, accepted, 1.0), 0.0)
        return float(self._p @ precision)

    def false_share(self, k: int) -> float:
        """Share of wrong answers among those accepted at draw k; it rises with k, for survivors are hard."""
        right = float(self.posterior(k) @ (self.completeness * self._r))
        wrong = float(self.posterior(k) @ ((1 - self.soundness) * (1 - self._r)))
        return wrong / (right + wrong) if right + wrong > 0 else math.nan

    def best_k(self, most: int = 200) -> int | None:
        """The number of draws with the largest total, the smallest of equals, 0 to abstain at once.

        None if drawing pays for ever: the hardest problems alone still bring a gain.
        """
        totals = self.totals(most)
        best = int(np.flatnonzero(totals >= totals.max() - _TIE)[0])
        if best == 0 and totals.max() <= _TIE:
            return 0
        limit = self._p * (self.rejected == self.rejected[self._p > 0].max())
        gain = self.completeness * self._r + self.false_positive * (1 - self.soundness) * (1 - self._r)
        hardest = float(limit @ gain / limit.sum())
        return None if hardest - self.cost > _TIE else best


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Saved samples of one problem, counted.

    Args:
        n: samples.
        accepted: m, those that the verifier accepted.
        accepted_right: m_r, accepted ones that are right.
        right: right ones altogether; None if unknown.
    """

    n: int
    accepted: int
    accepted_right: int
    right: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.accepted_right <= self.accepted <= self.n or self.n < 1:
            raise ParameterError(
                "verdicts", "n/accepted/accepted_right", (self.n, self.accepted, self.accepted_right),
                allowed="counts with accepted_right ≤ accepted ≤ n and n ≥ 1",
            )  # fmt: skip

    @classmethod
    def of(cls, accept: Sequence[bool], right: Sequence[bool]) -> Verdicts:
        """Count the verdicts and the truth of a problem's samples."""
        if len(accept) != len(right):
            raise ParameterError("verdicts", "right", len(right), allowed=f"as many as verdicts ({len(accept)})")
        both = sum(bool(a) and bool(r) for a, r in zip(accept, right, strict=True))
        return cls(len(accept), sum(map(bool, accept)), both, sum(map(bool, right)))

    def accepted_within(self, k: int) -> float:
        """Chance that any of the first `k` samples, in random order, is accepted."""
        if k > self.n:
            raise ParameterError("verdicts", "k", k, allowed=f"at most the {self.n} saved samples")
        missing = self.n - self.accepted
        if k > missing:
            return 1.0 if k else 0.0
        return 1.0 - math.prod(1 - k / i for i in range(missing + 1, self.n + 1))


@dataclass(frozen=True, slots=True)
class PoolCurve:
    """What resampling does on saved samples.

    Attributes:
        rewards: mean utility for K = 0, …, shape (most + 1,).
        best_k: the K with the largest one; 0 if none is positive.
        ceiling: accuracy for unlimited draws, problems without any accepted sample counted as abstained.
        ceiling_bounds: with those problems counted as wrong, and as right.
        never_accepted: problems without any accepted sample.
    """

    rewards: Floats
    best_k: int
    ceiling: float
    ceiling_bounds: tuple[float, float]
    never_accepted: int

    def closes_gap_to(self, strong: float) -> bool:
        """Whether any number of draws could reach a strong model's single-sample accuracy."""
        return self.ceiling >= strong


def pool_curve(
    problems: Sequence[Verdicts], *, false_positive: float = 0.0, cost: float = 0.0, drop_false_negatives: bool = False
) -> PoolCurve:
    """Rewards of resampling up to K, exactly, from saved samples.

    Within a problem, the first accepted sample of a random order is right with probability m_r/m whenever it
    comes, so reward_K = (1 - C(n-m, K)/C(n, K)) (m_r + V (m - m_r))/m.

    Args:
        problems: one per problem.
        false_positive: V ≤ 0, utility of a wrong accepted answer.
        cost: price of one draw.
        drop_false_negatives: leave out problems with right samples of which none was accepted, as the paper does.

    Raises:
        LawFitError: no problems, or the verifier never accepts anything.
    """
    if false_positive > 0:
        raise ParameterError("pool_curve", "false_positive", false_positive, allowed="a number ≤ 0")
    used = [v for v in problems if not (drop_false_negatives and v.right and not v.accepted_right)]
    if not used:
        raise LawFitError("pool_curve needs saved samples of at least one problem")
    if not any(v.accepted for v in used):
        raise LawFitError("the verifier never accepts: none of the saved samples was accepted")
    most = min(v.n for v in used)
    rewards = np.zeros(most + 1)
    for v in used:
        value = (v.accepted_right + false_positive * (v.accepted - v.accepted_right)) / v.accepted if v.accepted else 0
        within = np.asarray([v.accepted_within(k) for k in range(most + 1)])
        drawn = np.concatenate([[0.0], np.cumsum(1.0 - within[:-1])])
        rewards += (value * within - cost * drawn) / len(used)
    best = int(np.flatnonzero(rewards >= rewards.max() - _TIE)[0])
    precision = [v.accepted_right / v.accepted for v in used if v.accepted]
    silent = len(used) - len(precision)
    low = sum(precision) / len(used)
    return PoolCurve(rewards, best, low, (low, (sum(precision) + silent) / len(used)), silent)


@dataclass(frozen=True, slots=True)
class VerifierRates:
    """A verifier's error rates, each with a 95 % interval.

    Attributes:
        completeness: chance that a right answer is accepted.
        soundness: chance that a wrong answer is rejected.
        precision: share of right ones among the accepted.
        label_noise: 1 - precision: wrong labels if accepted samples are kept for training.
    """

    completeness: Interval
    soundness: Interval
    precision: Interval

    @property
    def label_noise(self) -> float:
        """Share of wrong samples among those kept."""
        return 1.0 - self.precision.estimate


def verifier_rates(
    accept: Sequence[bool], right: Sequence[bool], problem: Sequence[Hashable] | None = None
) -> VerifierRates:
    """Completeness, soundness and precision from labelled samples: (estimate, low, high) each.

    Args:
        accept: the verdict on each sample.
        right: whether it is right.
        problem: what each sample is a solution of. Samples of one problem share its difficulty, so they count as
            fewer: see `clustered_share`. None if each is of a problem of its own.

    Raises:
        LawFitError: no labelled samples, or only right or only wrong ones.
    """
    accepted, good = (np.array([bool(x) for x in column]) for column in (accept, right))
    groups: Sequence[Hashable] = range(good.size) if problem is None else problem
    if not accepted.size == good.size == len(groups):
        raise ParameterError(
            "verifier_rates", "right/problem", (good.size, len(groups)), allowed="one for each verdict"
        )
    if not good.any() or good.all():
        raise LawFitError(
            "verifier_rates needs labelled right and wrong samples; without them no best K can be given. "
            "Look at sensitivity() instead"
        )

    def share(hits: npt.NDArray[np.bool_], of: npt.NDArray[np.bool_]) -> Interval:
        chosen = [g for g, inside in zip(groups, of, strict=True) if inside]
        return clustered_share(hits[of], chosen) if chosen else Interval(math.nan, 0.0, 1.0)

    return VerifierRates(share(accepted, good), share(~accepted, ~good), share(good, accepted))


def sensitivity(
    model: ResamplingModel, soundness: Sequence[float] = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
) -> dict[float, int | None]:
    """The best K for each assumed soundness: all that can be said without labelled data."""
    from dataclasses import replace

    return {s: replace(model, soundness=s).best_k() for s in soundness}


@dataclass(frozen=True, slots=True)
class TwoDifficulties:
    """Two kinds of problems fitted to counts: accuracies (easy first), their weights, and the log-likelihood."""

    accuracies: tuple[float, float]
    weights: tuple[float, float]
    log_likelihood: float


def fit_two_difficulties(counts: Sequence[tuple[int, int]], *, iterations: int = 500) -> TwoDifficulties:
    """Two difficulties by expectation-maximisation on (right, n) per problem; five starts, the likeliest wins.

    Raises:
        LawFitError: fewer than two problems.
    """
    if len(counts) < 2:
        raise LawFitError(f"two difficulties need at least two problems; {len(counts)} given")
    right = np.asarray([c for c, _ in counts], dtype=float)
    n = np.asarray([m for _, m in counts], dtype=float)
    if (n < 1).any() or (right < 0).any() or (right > n).any():
        raise ParameterError(
            "fit_two_difficulties", "counts", "…", allowed="pairs (right, n) with 0 ≤ right ≤ n, n ≥ 1"
        )
    ordered = np.sort(right / n)
    best: TwoDifficulties | None = None
    for cut in (0.2, 0.35, 0.5, 0.65, 0.8):
        low, high = np.quantile(ordered, cut / 2), np.quantile(ordered, 0.5 + cut / 2)
        r, p = np.clip([high, low], 0.02, 0.98), np.asarray([0.5, 0.5])
        if r[0] == r[1]:
            r = np.clip(r + np.asarray([0.05, -0.05]), 0.01, 0.99)
        previous = -math.inf
        for _ in range(iterations):
            logs = np.log(p)[:, None] + right * np.log(r)[:, None] + (n - right) * np.log1p(-r)[:, None]
            top = logs.max(axis=0)
            likelihood = float((top + np.log(np.exp(logs - top).sum(axis=0))).sum())
            share = np.exp(logs - top)
            share /= share.sum(axis=0)
            p = np.clip(share.mean(axis=1), 1e-9, 1.0)
            p /= p.sum()
            r = np.clip((share * right).sum(axis=1) / np.maximum((share * n).sum(axis=1), 1e-12), 1e-9, 1 - 1e-9)
            if likelihood - previous < 1e-10 * abs(likelihood):
                break
            previous = likelihood
        order = np.argsort(-r)
        fit = TwoDifficulties(
            (float(r[order[0]]), float(r[order[1]])), (float(p[order[0]]), float(p[order[1]])), likelihood
        )
        if best is None or fit.log_likelihood > best.log_likelihood:
            best = fit
    assert best is not None
    return best


def _check_k(k: int, least: int) -> None:
    if k < least:
        raise ParameterError("resampling model", "k", k, allowed=f"an integer ≥ {least}")
