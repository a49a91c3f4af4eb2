"""Say which strategy and budget to use, how sure that is, and when the data cannot decide.

Points that look at the reference answer (an exact or imperfect oracle as the verifier) are shown as what a perfect
verifier would reach, and never recommended: nobody has the reference of an open question.

Everything is resampled over problems, the same problems for every point. "Best" is the highest accuracy within a
budget, or the cheapest point that reaches a target; without either it is the knee of the Pareto front, the point
that lies farthest above the straight line from its cheapest to its best point in (ln compute, accuracy), or the best
point if the front hardly bends.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ponder.errors import LawFitError, ParameterError, StudyError
from ponder.laws.beta_binomial import BetaBinomialLaw
from ponder.laws.intervals import PairedDifference, paired_difference, percentiles
from ponder.studies.measured import Axis, Measured, Point

Floats = NDArray[np.float64]
Goal = Literal["knee", "target", "budget"]

SURE = 0.95
"""A statement counts as decided from this probability on."""

_RESAMPLES = 2000

_BEND = 0.15
"""How far a knee lies above the chord at least, as a share of the front's rise."""


@dataclass(frozen=True)
class Option:
    """A point as the recommendation shows it.

    Attributes:
        strategy: canonical text.
        budget: samples.
        accuracy: share of problems answered rightly.
        low: lower end of its 95 % interval.
        high: upper end.
        cost: compute per problem on the recommendation's axis.
    """

    strategy: str
    budget: int
    accuracy: float
    low: float
    high: float
    cost: float


@dataclass(frozen=True)
class Contender:
    """A point that the data cannot tell from the choice.

    Attributes:
        option: the point.
        difference: the choice's accuracy minus this one's.
        low: lower end of the 95 % interval of the difference, paired over problems.
        high: upper end.
        problems_needed: roughly how many problems in all would decide; None if the two do not differ at all.
    """

    option: Option
    difference: float
    low: float
    high: float
    problems_needed: int | None


@dataclass(frozen=True)
class UpperBound:
    """What a perfect verifier would reach with the same draws; never a recommendation.

    Attributes:
        draws: draws per problem that would reach the target; None without a target or if it is never reached.
        coverage: measured coverage at `measured_k` draws.
        measured_k: draws per problem that were measured.
        predicted_k: ten times as many.
        predicted: coverage that the beta-binomial law predicts there.
        low: lower end of its 95 % interval.
        high: upper end.
    """

    draws: float | None
    coverage: float
    measured_k: int
    predicted_k: int
    predicted: float
    low: float
    high: float


@dataclass(frozen=True)
class Recommendation:
    """What to use.

    Attributes:
        goal: `target`, `budget`, or `knee` if neither was given.
        axis: what compute means.
        choice: the recommended point; None if none reaches the target or fits the budget.
        probability: that the choice reaches the target, is the best within the budget, or (for the knee) is
            better than the baseline.
        decided: whether the data say so with 95 % probability.
        gain: accuracy above the baseline, with the ends of its interval; None if the choice is the baseline.
        baseline: the point that more compute has to beat.
        contenders: points the data cannot tell from the choice, or that may reach the target for less.
        safe: for a target, the cheapest point that reaches it with 95 % probability.
        front: the Pareto front, cheapest first.
        oracles: points that look at the reference, for comparison.
        upper_bound: what a perfect verifier would reach; None if it cannot be estimated.
        problems: how many the study has.
        paired: whether comparisons are paired by problem.
        headline: one sentence.
        notes: more sentences.
    """

    goal: Goal
    axis: str
    choice: Option | None
    probability: float | None
    decided: bool
    gain: tuple[float, float, float] | None
    baseline: Option
    contenders: tuple[Contender, ...]
    safe: Option | None
    front: tuple[Option, ...]
    oracles: tuple[Option, ...]
    upper_bound: UpperBound | None
    problems: int
    paired: bool
    headline: str
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON; infinities become None."""
        return {k: _plain(v) for k, v in asdict(self).items()}

    def __str__(self) -> str:
        return "\n".join([self.headline, *(f"  {note}" for note in self.notes)])


def recommend(
    study: Path | str | Measured,
    target: float | None = None,
    budget: float | None = None,
    axis: str | None = None,
    *,
    seed: int = 0,
) -> Recommendation:
    """Recommend a strategy and a budget from a study.

    Args:
        study: the directory that `ponder bench` wrote, or what was read from it.
        target: accuracy to reach, above 0 and at most 1: the cheapest point that does is recommended.
        budget: compute per problem that may be spent: the most accurate point within it is recommended.
            Target and budget together: the cheapest within the budget that reaches the target.
        axis: what compute means: samples, generated_tokens, tokens, calls, flops, eflops, cost_usd or seconds. By
            default what the study says, else generated tokens if it has them.
        seed: of the bootstrap.

    Raises:
        StudyError: no study there, no results in it, the axis was not measured, or every strategy looks at the
            reference.
        ParameterError: a target outside (0, 1], a budget ≤ 0, or an unknown axis.
    """
    if target is not None and not 0 < target <= 1:
        raise ParameterError("recommend", "target", target, allowed="an accuracy above 0 and at most 1, such as 0.8")
    if budget is not None and not (budget > 0 and math.isfinite(budget)):
        raise ParameterError("recommend", "budget", budget, allowed="above 0: the compute one problem may take")
    data = study if isinstance(study, Measured) else Measured.load(study)
    return _Advisor(data, data.axis(axis), seed).advise(target, budget)


class _Advisor:
    def __init__(self, data: Measured, axis: Axis, seed: int) -> None:
        self.data, self.axis, self.seed = data, axis, seed
        usable = [p for p in data.points if not p.oracle]
        if not usable:
            raise StudyError(
                f"every strategy in {data.folder} looks at the reference answer (verifier=exact), which cannot be "
                "used on an open question. Add one that does not, such as 'repeated_sampling | majority'"
            )
        # Cheapest first; of two that cost the same, the one with the simpler text.
        self.points = sorted(usable, key=lambda p: (self.cost(p), p.strategy != "single", len(p.strategy)))
        self.means, self.paired = data.resampled(self.points, resamples=_RESAMPLES, seed=seed)
        base = data.baseline
        self.base = base if not base.oracle else self.points[0]

    def cost(self, point: Point) -> float:
        value = point.cost(self.axis)
        return math.inf if value is None else value

    def advise(self, target: float | None, budget: float | None) -> Recommendation:
        inside = [i for i, p in enumerate(self.points) if budget is None or self.cost(p) <= budget * (1 + 1e-9)]
        notes: list[str] = []
        if not inside:
            cheapest = self.points[0]
            headline = (
                f"Nothing fits {amount(budget or 0.0, self.axis)} a problem: the cheapest is {_name(cheapest)} at "
                f"{amount(self.cost(cheapest), self.axis)}."
            )
            return self._result("budget", None, None, False, (), None, headline, notes, target)
        if target is not None:
            return self._for_target(target, budget, inside, notes)
        if budget is not None:
            return self._for_budget(budget, inside, notes)
        return self._knee(notes)

    def _for_budget(self, budget: float, inside: list[int], notes: list[str]) -> Recommendation:
        chosen = self._best(inside)
        probability = self._chance_of_best(chosen, inside)
        contenders = self._contenders(chosen, inside)
        decided = not contenders
        point = self.points[chosen]
        headline = (
            f"Within {amount(budget, self.axis)} a problem, use {_name(point)}: accuracy {_share(point)} "
            f"for {amount(self.cost(point), self.axis)}."
        )
        if decided:
            notes.append("No other measured choice within this budget does as well.")
        else:
            notes += self._undecided(contenders, probability, "is really the best within the budget")
        return self._result("budget", chosen, probability, decided, contenders, None, headline, notes, None)

    def _for_target(self, target: float, budget: float | None, inside: list[int], notes: list[str]) -> Recommendation:
        reach = {i: float((self.means[:, i] >= target - 1e-12).mean()) for i in inside}
        reaching = [i for i in inside if self.points[i].accuracy >= target - 1e-12]
        safe = next((i for i in inside if reach[i] >= SURE and self.points[i].accuracy >= target - 1e-12), None)
        if not reaching:
            best = self._best(inside)
            point = self.points[best]
            limit = f" within {amount(budget, self.axis)} a problem" if budget is not None else ""
            headline = (
                f"Nothing measured{limit} reaches {_percent(target)}: the best is {_name(point)} with {_share(point)}."
            )
            if reach[best] > 1 - SURE:
                needed = _problems_for_level(point, target)
                notes.append(
                    f"It may still do so (probability {reach[best]:.0%}); about {needed} problems would decide "
                    f"(the study has {point.n_problems})."
                )
            return self._result("target", None, reach[best], reach[best] <= 1 - SURE, (), None, headline, notes, target)
        chosen = reaching[0]
        point, probability = self.points[chosen], reach[chosen]
        headline = (
            f"To reach {_percent(target)}, use {_name(point)}: accuracy {_share(point)} for "
            f"{amount(self.cost(point), self.axis)} a problem."
        )
        cheaper = [i for i in inside if self.cost(self.points[i]) < self.cost(point) and reach[i] > 1 - SURE]
        contenders = tuple(self._contender(chosen, i, _problems_for_level(self.points[i], target)) for i in cheaper)
        decided = probability >= SURE and not contenders
        if probability >= SURE:
            notes.append(f"It reaches the target with probability {probability:.0%}.")
        else:
            needed = _problems_for_level(point, target)
            more = f"about {needed} problems" if needed else "no number of problems"
            notes.append(
                f"The data cannot decide: it reaches the target with probability {probability:.0%}. "
                f"To be sure of it {more} would be needed (the study has {point.n_problems})."
            )
            if safe is not None:
                notes.append(
                    f"To be on the safe side use {_name(self.points[safe])} ({_share(self.points[safe])}) for "
                    f"{amount(self.cost(self.points[safe]), self.axis)}."
                )
        if cheaper:
            likely = max(cheaper, key=lambda i: reach[i])
            least = self.points[likely]
            notes.append(
                f"Cheaper and perhaps enough: {_name(least)} with {_share(least)} for "
                f"{amount(self.cost(least), self.axis)} (reaches the target with probability {reach[likely]:.0%})."
            )
        return self._result("target", chosen, probability, decided, contenders, safe, headline, notes, target)

    def _knee(self, notes: list[str]) -> Recommendation:
        front = self._front()
        chosen = front[_knee([self.cost(self.points[i]) for i in front], [self.points[i].accuracy for i in front])]
        point, best = self.points[chosen], self.points[front[-1]]
        gain = self._difference(point, self.base)
        same = point is self.base
        headline = f"Use {_name(point)}: accuracy {_share(point)} for {amount(self.cost(point), self.axis)} a problem"
        if same:
            headline += "; nothing that costs more is worth it."
        else:
            factor = self.cost(point) / self.cost(self.base) if self.cost(self.base) else math.inf
            headline += f", {_signed(gain)} over {_name(self.base)} at {factor:.2g} times its compute."
        if best is not point:
            extra = self._difference(best, point)
            verdict = "" if extra.low > 0 else ", which these problems cannot tell from nothing"
            notes.append(
                f"The most accurate is {_name(best)}: {_share(best)} for {amount(self.cost(best), self.axis)}, "
                f"{_signed(extra)}{verdict}."
            )
        contenders: tuple[Contender, ...] = ()
        decided = True
        if same:
            # The baseline is chosen because nothing beats it: what might still do so is worth knowing.
            rivals = [i for i, p in enumerate(self.points) if p is not point]
            contenders = tuple(
                c for c in (self._contender(chosen, i) for i in rivals) if c.low < 0 < c.high and c.difference < 0
            )
            decided = not contenders
        elif gain.low <= 0:
            decided = False
            needed = gain.problems_to_decide()
            notes.append(
                f"The data cannot decide whether it is better than {_name(self.base)} at all (probability "
                f"{gain.probability:.0%}). About {needed} problems would be needed (the study has {gain.n})."
                if needed
                else f"It answers exactly as {_name(self.base)} does."
            )
            contenders = (self._contender(chosen, self.points.index(self.base)),)
        # Other strategies for no more compute that the data cannot tell from the choice.
        near = [
            c
            for c in (
                self._contender(chosen, i)
                for i, p in enumerate(self.points)
                if self.cost(p) <= self.cost(point) * 1.001 and p.strategy != point.strategy and p is not self.base
            )
            if c.low <= 0 and c.high > 0
        ]
        if near:
            decided = False
            closest = min(near, key=lambda c: c.difference)
            contenders += tuple(near)
            notes.append(
                f"{_name(closest.option)} ({_percent(closest.option.accuracy)}) costs no more and cannot be told apart"
                + (f"; about {closest.problems_needed} problems would decide." if closest.problems_needed else ".")
            )
        return self._result("knee", chosen, None if same else gain.probability, decided, contenders, None, headline,
                            notes, None)  # fmt: skip

    def _best(self, inside: Sequence[int]) -> int:
        """Most accurate, then cheapest."""
        return max(inside, key=lambda i: (self.points[i].accuracy, -i))

    def _chance_of_best(self, chosen: int, inside: Sequence[int]) -> float:
        """Share of resamples in which the choice is the best; among equals the share is split."""
        means = self.means[:, list(inside)]
        top = np.abs(means - means.max(axis=1, keepdims=True)) < 1e-12
        # A point that never differs from the choice is the same thing for more compute, not a rival.
        twin = np.array([np.abs(self.means[:, i] - self.means[:, chosen]).max() < 1e-12 for i in inside])
        mine = top[:, list(inside).index(chosen)]
        rivals = (top & ~twin).sum(axis=1)
        return float((mine / (1 + rivals)).mean())

    def _contenders(self, chosen: int, inside: Sequence[int]) -> tuple[Contender, ...]:
        found = [self._contender(chosen, i) for i in inside if i != chosen]
        return tuple(c for c in found if c.low <= 0 and c.high > 0)

    def _contender(self, chosen: int, other: int, needed: int | None = None) -> Contender:
        gap = self._difference(self.points[chosen], self.points[other])
        return Contender(
            self._option(self.points[other]), gap.estimate, gap.low, gap.high,
            gap.problems_to_decide() if needed is None else needed,
        )  # fmt: skip

    def _difference(self, a: Point, b: Point) -> PairedDifference:
        table = self.data.shared([a, b])
        if table is not None:
            return paired_difference(table[:, 0], table[:, 1], resamples=_RESAMPLES, seed=self.seed)
        means, _ = self.data.resampled([a, b], resamples=_RESAMPLES, seed=self.seed)
        gaps = means[:, 0] - means[:, 1]
        n = min(a.n_problems, b.n_problems)
        spread = math.sqrt(a.accuracy * (1 - a.accuracy) + b.accuracy * (1 - b.accuracy))
        above = float((gaps > 0).mean() + 0.5 * (gaps == 0).mean())
        return PairedDifference(a.accuracy - b.accuracy, *percentiles(gaps), above, n, spread)

    def _undecided(self, contenders: tuple[Contender, ...], probability: float, what: str) -> list[str]:
        names = [f"{_name(c.option)} ({_percent(c.option.accuracy)})" for c in contenders[:4]]
        more = f" and {len(contenders) - 4} more" if len(contenders) > 4 else ""
        lines = [
            f"The data cannot decide: the choice {what} with probability {probability:.0%}. "
            f"It cannot be told from {', '.join(names)}{more}."
        ]
        needed = [c.problems_needed for c in contenders if c.problems_needed]
        if needed:
            have = self.points[0].n_problems
            lines.append(
                f"Roughly {min(needed)} to {max(needed)} problems would be needed to decide (the study has {have})."
                if min(needed) != max(needed)
                else f"Roughly {needed[0]} problems would be needed to decide (the study has {have})."
            )
        cheapest = min(contenders, key=lambda c: c.option.cost)
        choice_cost = max(c.option.cost for c in contenders)
        if cheapest.option.cost < choice_cost:
            lines.append(f"The cheapest of them is {_name(cheapest.option)}.")
        return lines

    def _front(self) -> list[int]:
        """Points that no cheaper one equals, cheapest first."""
        front: list[int] = []
        for i, point in enumerate(self.points):
            if not front or point.accuracy > self.points[front[-1]].accuracy + 1e-12:
                if front and self.cost(point) <= self.cost(self.points[front[-1]]) * (1 + 1e-9):
                    front.pop()
                front.append(i)
        return front

    def _option(self, point: Point) -> Option:
        low, high = point.interval
        return Option(point.strategy, point.budget, point.accuracy, low, high, self.cost(point))

    def _result(
        self,
        goal: Goal,
        chosen: int | None,
        probability: float | None,
        decided: bool,
        contenders: tuple[Contender, ...],
        safe: int | None,
        headline: str,
        notes: list[str],
        target: float | None,
    ) -> Recommendation:
        point = None if chosen is None else self.points[chosen]
        gain = None
        if point is not None and point is not self.base:
            gap = self._difference(point, self.base)
            gain = (gap.estimate, gap.low, gap.high)
        bound = _upper_bound(self.data, target)
        if bound is not None and goal == "target" and point is None and target is not None:
            notes.append(
                f"An upper bound: with a verifier that is never wrong, about {bound.draws:.0f} draws would reach it."
                if bound.draws is not None
                else "Even a verifier that is never wrong would not reach it with any practical number of draws."
            )
        if not self.paired:
            notes.append("Outcomes per problem are missing, so comparisons are not paired and less sharp.")
        return Recommendation(
            goal, self.axis.name, None if point is None else self._option(point), probability, decided, gain,
            self._option(self.base), contenders, None if safe is None else self._option(self.points[safe]),
            tuple(self._option(self.points[i]) for i in self._front()),
            tuple(self._option(p) for p in self.data.points if p.oracle), bound,
            max(p.n_problems for p in self.points), self.paired, headline, tuple(notes),
        )  # fmt: skip


def largest_pool(data: Measured) -> tuple[str, NDArray[np.int64], NDArray[np.int64]] | None:
    """The strategy with the most draws a problem, with its counts; problems without a draw are left out.

    Strategies that stop early draw more where it is hard, so those with as many draws on every problem come first.
    """
    best: tuple[tuple[bool, int, int], str] | None = None
    for name, (n, _) in data.draws.items():
        drawn = n[n > 0]
        if drawn.size < 2 or drawn.max() < 2:
            continue
        key = (bool(drawn.min() * 2 > drawn.max()), int(drawn.min()), int(drawn.sum()))
        if best is None or key > best[0]:
            best = (key, name)
    if best is None:
        return None
    n, c = data.draws[best[1]]
    return best[1], n[n > 0], np.minimum(c[n > 0], n[n > 0])


def _upper_bound(data: Measured, target: float | None) -> UpperBound | None:
    """Coverage now and at ten times the draws, by the beta-binomial law."""
    pool = largest_pool(data)
    if pool is None:
        return None
    _, n, c = pool
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            law = BetaBinomialLaw.fit(n, c)
    except LawFitError:
        return None
    k = int(n.min())
    low, high = law.predict_interval(10 * k)
    draws = law.inverse(target) if target is not None else None
    practical = draws is not None and draws <= 1e6
    return UpperBound(
        math.ceil(draws) if practical and draws is not None else None,
        float((c > 0).mean()), k, 10 * k, law.predict(10 * k), low, high,
    )  # fmt: skip


def _knee(costs: Sequence[float], values: Sequence[float]) -> int:
    """Index farthest above the chord of the front in (ln cost, value)."""
    if len(costs) < 3:
        return len(costs) - 1
    x, y = np.log(np.maximum(costs, 1e-300)), np.asarray(values)
    x, y = (x - x[0]) / (x[-1] - x[0]), (y - y[0]) / (y[-1] - y[0])
    above = y - x
    # Where the curve hardly rises above the chord, more compute pays off to the end.
    return int(np.argmax(above)) if above.max() > _BEND else len(costs) - 1


def _problems_for_level(point: Point, level: float) -> int | None:
    """Problems that would tell the point's accuracy from a level, if it is what was measured."""
    gap = abs(point.accuracy - level)
    if gap < 1e-9:
        return None
    normal = NormalDist()
    z = normal.inv_cdf(SURE) + normal.inv_cdf(0.8)
    spread = max(point.accuracy * (1 - point.accuracy), level * (1 - level))
    return max(point.n_problems, math.ceil(z * z * spread / gap**2))


def _name(what: Point | Option) -> str:
    """Strategy and samples, for a sentence."""
    if what.strategy == "single":
        return "a single sample"
    return f"'{what.strategy}' with {what.budget} sample{'s' if what.budget != 1 else ''}"


def _share(point: Point) -> str:
    low, high = point.interval
    return f"{_percent(point.accuracy)} ({low * 100:.0f} to {high * 100:.0f})"


def _percent(value: float) -> str:
    return f"{value * 100:.1f}".removesuffix(".0") + " %"


def _signed(gap: PairedDifference) -> str:
    return f"{gap.estimate * 100:+.1f} points ({gap.low * 100:+.0f} to {gap.high * 100:+.0f})"


def amount(value: float, axis: Axis) -> str:
    """An amount with its unit, for a sentence."""
    if axis.name == "cost_usd":
        return f"${value:.3g}"
    text = f"{value:,.0f}" if 100 <= value < 1e6 else f"{value:.3g}"
    return f"{text} {axis.unit}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
