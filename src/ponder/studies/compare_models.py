"""Two studies of one task: is a cheap model with many samples worth more than a dear one with few?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ponder.errors import StudyError
from ponder.laws.intervals import PairedDifference, paired_difference
from ponder.laws.model_costs import CostComparison, SampledModel, compare_at_equal_cost
from ponder.studies.measured import Axis, Measured, Point, axis_named
from ponder.studies.recommend import largest_pool

_PREFERRED = ("cost_usd", "flops", "eflops", "seconds", "tokens", "generated_tokens", "calls", "samples")
"""What compute means if it is not said: a token of one model does not cost what a token of another does."""


@dataclass(frozen=True)
class StrategyPair:
    """One strategy with both models, at the dear one's cost.

    Attributes:
        strategy: canonical text.
        dear_budget: samples with the dear model.
        cheap_budget: the most samples with the cheap model that were measured and cost no more.
        cost: of the dear point, per problem.
        dear_accuracy: share of problems answered rightly.
        cheap_accuracy: the same with the cheap model.
        difference: cheap minus dear, paired over problems.
    """

    strategy: str
    dear_budget: int
    cheap_budget: int
    cost: float
    dear_accuracy: float
    cheap_accuracy: float
    difference: PairedDifference


@dataclass(frozen=True)
class ModelComparison:
    """A cheap and a dear model on the same problems, at equal cost.

    Attributes:
        cheap: the model whose draws cost less.
        dear: the other one.
        axis: what cost means.
        problems: how many are shared.
        coverage: for 1, 2, 4, … draws of the dear model, what the same cost buys of the cheap one: what a verifier
            that is never wrong would reach.
        strategies: accuracies of the strategies that both studies ran and that need no reference.
    """

    cheap: str
    dear: str
    axis: str
    problems: int
    coverage: tuple[CostComparison, ...]
    strategies: tuple[StrategyPair, ...]

    @property
    def headline(self) -> str:
        """One sentence."""
        first = self.coverage[0]
        gap = first.difference
        verdict = "more" if gap.low > 0 else "less" if gap.high < 0 else "perhaps as much"
        match = first.matching_k
        reach = (
            f"{match} draw{'s' if match != 1 else ''} of {self.cheap} reach the same at "
            f"{first.matching_cost_ratio:.2g} times the cost."
            if match is not None and first.matching_cost_ratio is not None
            else f"No measured number of draws of {self.cheap} reaches the same."
        )
        return (
            f"For the {self.axis} of one draw of {self.dear}, {first.cheap_k} of {self.cheap} cover {verdict}: "
            f"{first.cheap_coverage:.1%} against {first.dear_coverage:.1%} ({gap.estimate * 100:+.1f} points, "
            f"{gap.low * 100:+.0f} to {gap.high * 100:+.0f}). {reach}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"headline": self.headline, **asdict(self)}


def compare_models(
    first: Path | str | Measured, second: Path | str | Measured, axis: str | None = None, *, seed: int = 0
) -> ModelComparison:
    """Compare the models of two studies on the problems that both have, at equal cost per problem.

    Args:
        first: a study's directory, or what was read from it.
        second: another one, of the same task.
        axis: what cost means (see `ponder.recommend`); by default dollars, else FLOPs, else seconds, else tokens.
        seed: of the bootstrap over problems.

    Raises:
        StudyError: no study there, no problems shared, no draws stored, or a cost that only one of them measured.
        ParameterError: an unknown axis.
    """
    studies = [s if isinstance(s, Measured) else Measured.load(s) for s in (first, second)]
    chosen = _axis(studies, axis)
    shared = _shared(studies)
    models = [_sampled(s, rows, chosen) for s, rows in zip(studies, shared, strict=True)]
    at = 0 if models[0].draw_cost <= models[1].draw_cost else 1
    cheap, dear = models[at], models[1 - at]
    draws = [2**i for i in range(dear.max_k.bit_length()) if 2**i <= dear.max_k]
    found = [compare_at_equal_cost(cheap, dear, dear_k=k, seed=seed) for k in draws if cheap.affordable(dear.cost(k))]
    if not found:
        raise StudyError(f"{dear.name} costs less a problem than one draw of {cheap.name}; there is nothing to compare")
    return ModelComparison(
        cheap.name, dear.name, chosen.name, len(shared[0]), tuple(found),
        _pairs(studies[at], studies[1 - at], shared[at], shared[1 - at], chosen, seed),
    )  # fmt: skip


def _axis(studies: list[Measured], name: str | None) -> Axis:
    if name is not None:
        axis_named(name)
        return [s.axis(name) for s in studies][-1]  # each of them refuses what it did not measure
    usable = [{a.name for a in s.usable_axes()} for s in studies]
    common = [a for a in _PREFERRED if all(a in names for names in usable)]
    if not common:
        raise StudyError(
            f"{studies[0].folder} and {studies[1].folder} measured no cost in common: "
            f"{sorted(usable[0])} and {sorted(usable[1])}"
        )
    return axis_named(common[0])


def _shared(studies: list[Measured]) -> list[list[int]]:
    """Where the problems that both studies drew for lie in each of them."""
    a, b = studies
    if a.tasks != b.tasks:
        raise StudyError(
            f"{a.folder} measured {', '.join(a.tasks)} and {b.folder} {', '.join(b.tasks)}; models are compared on "
            "one task: run ponder bench with the same --task and --seed for both"
        )
    drawn = []
    for study in studies:
        counts = study.draws[_pool(study)][0]
        drawn.append({p: i for i, p in enumerate(study.problem_ids) if counts[i] > 0})
    both = [p for p in drawn[0] if p in drawn[1]]
    if not both:
        raise StudyError(f"{a.folder} and {b.folder} share no problem; run both with the same --seed and --limit")
    return [[where[p] for p in both] for where in drawn]


def _pool(study: Measured) -> str:
    """The strategy whose draws stand for the model."""
    pool = largest_pool(study)
    if pool is None or not study.problem_ids:
        raise StudyError(f"{study.folder} holds no two draws of two problems; add repeated_sampling to its strategies")
    return pool[0]


def _sampled(study: Measured, rows: list[int], axis: Axis) -> SampledModel:
    """The largest pool of a study on some of its problems, with what a draw and a shared prompt cost."""
    pool = _pool(study)
    n, c = (counts[rows] for counts in study.draws[pool])
    points = sorted((p for p in study.points if p.strategy == pool), key=lambda p: p.budget)
    few, many = points[0], points[-1]
    most = _draw_cost(many, axis)
    per_draw, prompt = most / float(n.mean()), 0.0
    if many.budget > few.budget and n.min() == many.budget:
        slope = (most - _draw_cost(few, axis)) / (many.budget - few.budget)
        if 0 < slope < per_draw:  # the rest is paid once a problem: the prompt that the draws share
            per_draw, prompt = slope, most - slope * many.budget
    name = ", ".join(study.models)
    if not per_draw > 0:
        raise StudyError(f"{study.folder} did not measure what a draw of {name} costs in {axis.name}")
    return SampledModel(name, n.tolist(), np.minimum(c, n).tolist(), per_draw, max(prompt, 0.0))


def _draw_cost(point: Point, axis: Axis) -> float:
    """Cost of drawing alone, per problem: verifying is no part of coverage."""
    stage = point.stages.get("draw")
    if not stage:
        return point.cost(axis) or 0.0
    names = dict.fromkeys(point.row, 0.0)
    row = {**names, **stage, "budget": point.budget, "n_problems": point.n_problems}
    return (axis.total(row) or 0.0) / point.n_problems


def _pairs(
    cheap: Measured, dear: Measured, cheap_rows: list[int], dear_rows: list[int], axis: Axis, seed: int
) -> tuple[StrategyPair, ...]:
    out = []
    for point in dear.points:
        cost = point.cost(axis)
        if point.oracle or point.correct is None or cost is None:
            continue
        inside = [
            (p.budget, p.correct) for p in cheap.points
            if p.strategy == point.strategy and p.correct is not None and (p.cost(axis) or 0.0) <= cost * 1.02
        ]  # fmt: skip
        if not inside:
            continue
        budget, correct = max(inside, key=lambda found: found[0])
        a, b = correct[cheap_rows], point.correct[dear_rows]
        known = ~(np.isnan(a) | np.isnan(b))
        if known.any():
            gap = paired_difference(a[known], b[known], seed=seed)
            out.append(
                StrategyPair(
                    point.strategy,
                    point.budget,
                    budget,
                    cost,
                    float(b[known].mean()),
                    float(a[known].mean()),
                    gap,
                )
            )
    return tuple(out)
