"""Model size against trials against length: which of them reaches most for a cost, from graded samples.

Paper    Sadhukhan et al. 2025, "Kinetics: Rethinking Test-Time Scaling Laws", best-of-N and long-CoT frontiers.
Equal    Unbiased pass@k of k trials; traces cut at caps cost min(length, cap); the curve of the best configuration per
         problem within a cost (`oracle`, what the paper plots).
Differs  The default is what one can deploy: one configuration for all problems. The cost of k trials is its expectation
         over the real lengths of the measured ones: own tokens in proportion, the shared prompt's by the expected
         longest of k. Steps have intervals, and switches of the model too, by resampling problems.
Needs    Graded draws with token counts, and the models' shapes.    Cost: seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ponder.costs.decoding import Cost, shared_prompt_reads
from ponder.costs.profiles import HardwareProfile, hardware
from ponder.costs.shape import ModelShape
from ponder.errors import ParameterError
from ponder.laws.best_of_k import rank_weights
from ponder.laws.intervals import percentiles, resampling_weights
from ponder.laws.pass_at_k import pass_at_k

Floats = NDArray[np.float64]
_GRID = 100


@dataclass(frozen=True)
class GradedSamples:
    """What was drawn from one model.

    Args:
        model: its name.
        shape: its size.
        prompt_tokens: of each problem.
        lengths: per problem, the generated tokens of each draw.
        correct: per problem, whether each draw is right.
        cap: length at which the draws were cut; None if they ended by themselves.
    """

    model: str
    shape: ModelShape
    prompt_tokens: Sequence[int]
    lengths: Sequence[Sequence[int]]
    correct: Sequence[Sequence[bool]]
    cap: int | None = None

    def __post_init__(self) -> None:
        counts = {len(self.prompt_tokens), len(self.lengths), len(self.correct)}
        if len(counts) > 1 or counts == {0}:
            raise ParameterError("GradedSamples", "problems", sorted(counts), allowed="as many everywhere, 1 or more")
        for lengths, correct in zip(self.lengths, self.correct, strict=True):
            if len(lengths) != len(correct) or not lengths or min(lengths) < 0:
                raise ParameterError(
                    "GradedSamples", "lengths", lengths, allowed=f"a length ≥ 0 for each of {len(correct)} verdicts"
                )

    @property
    def draws(self) -> int:
        """Draws that every problem has."""
        return min(map(len, self.lengths))

    def coverage(self, k: int) -> Floats:
        """Chance per problem that k draws hold a right one, without bias."""
        n, c = [len(row) for row in self.correct], [sum(map(bool, row)) for row in self.correct]
        return np.asarray(pass_at_k(np.asarray(n), np.asarray(c), k), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Configuration:
    """What can be chosen.

    Attributes:
        model: name.
        trials: draws per problem.
        cap: length limit; None is the length that the study gave.
    """

    model: str
    trials: int
    cap: int | None = None

    def __str__(self) -> str:
        what = f"{self.trials} trial{'s' if self.trials != 1 else ''} of {self.model}"
        return what if self.cap is None else f"{what}, at most {self.cap} tokens each"


@dataclass(frozen=True)
class Measurement:
    """A configuration with its cost and quality on each problem, shape (problems,)."""

    configuration: Configuration
    cost: Floats
    quality: Floats


@dataclass(frozen=True, slots=True)
class Step:
    """A configuration on the frontier: nothing cheaper is as good.

    Attributes:
        configuration: what it is.
        cost: mean per problem.
        quality: mean over problems, with the 95 % interval from `low` to `high`.
    """

    configuration: Configuration
    cost: float
    quality: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Switch:
    """Where another model takes over.

    Attributes:
        cost: from here on.
        before: the model below it.
        after: the model above it.
        low: lower end of the 95 % interval of the cost, over resampled problems in which it happens.
        high: upper end.
        share: of the resamples in which it happens.
    """

    cost: float
    before: str
    after: str
    low: float
    high: float
    share: float


@dataclass(frozen=True)
class Frontier:
    """What is reached for what cost.

    Attributes:
        unit: of the cost.
        steps: deployable: one configuration for all problems, cheapest first.
        oracle: (cost, quality) if the best configuration within the cost were known for each problem; above
            `steps` by what knowing is worth, and a little by luck, because the best is picked from estimates.
        switches: where the model of `steps` changes.
    """

    unit: str
    steps: tuple[Step, ...]
    oracle: tuple[tuple[float, float], ...]
    switches: tuple[Switch, ...]

    def at(self, cost: float) -> Step | None:
        """The best step within a cost per problem; None if there is none."""
        inside = [s for s in self.steps if s.cost <= cost * (1 + 1e-12)]
        return inside[-1] if inside else None

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def best_of_n_costs(
    samples: GradedSamples,
    trials: Sequence[int] | None = None,
    *,
    unit: str = "eflops",
    on: HardwareProfile | str = "b200",
    prefill: bool = False,
    batch: float | None = None,
) -> list[Measurement]:
    """Cost and coverage of k trials of a model on each problem.

    Args:
        samples: graded draws.
        trials: numbers of trials; None takes 1, 2, 4, … as far as every problem has draws.
        unit: eflops, flops, seconds, dollars or bytes.
        on: the hardware.
        prefill: count the prompt's own pass.
        batch: count reading the weights, each pass shared by so many problems; None leaves them out.

    Raises:
        ParameterError: more trials than draws, or an unknown unit.
    """
    profile = hardware(on)
    chosen = [2**i for i in range(samples.draws.bit_length())] if trials is None else list(trials)
    for k in chosen:
        if not 1 <= k <= samples.draws:
            raise ParameterError("best_of_n_costs", "trials", k, allowed=f"from 1 to {samples.draws}")
    table = np.array(
        [
            [cost.amount(unit, profile) for cost in _expected(samples, i, chosen, prefill, batch)]
            for i in range(len(samples.lengths))
        ]
    )
    return [
        Measurement(Configuration(samples.model, k, samples.cap), table[:, j], samples.coverage(k))
        for j, k in enumerate(chosen)
    ]


def _expected(samples: GradedSamples, i: int, trials: list[int], prefill: bool, batch: float | None) -> list[Cost]:
    """Expected cost of k of a problem's draws, for each k."""
    shape, prompt = samples.shape, samples.prompt_tokens[i]
    lengths = np.sort(np.asarray(samples.lengths[i]))[::-1]
    known = {int(n): (shape.attended(prompt, int(n)), shape.attended(0, int(n))) for n in set(lengths.tolist())}
    attended = float(np.mean([known[int(n)][0] for n in lengths]))
    own = float(np.mean([known[int(n)][1] for n in lengths]))
    beside = np.array([shared_prompt_reads(shape, prompt, int(n)) for n in lengths])
    each = Cost(
        2.0 * shape.params_active * float(lengths.mean()) + shape.attention_flops(attended), shape.kv_bytes(own)
    )
    once = Cost()
    if prefill:
        once = Cost(2.0 * shape.params_active * prompt + shape.attention_flops(shape.attended(0, prompt)))
    out = []
    for k in trials:
        longest = rank_weights(len(lengths), k)
        cost = each.times(k) + once + Cost(kv_bytes=shape.kv_bytes(float(longest @ beside)))
        if batch is not None:
            passes = float(longest @ lengths) / batch
            cost += Cost(weight_bytes=passes * shape.weight_bytes(k * batch), passes=passes)
        out.append(cost)
    return out


def kinetics_frontier(
    measurements: Sequence[Measurement], *, unit: str = "eflops", resamples: int = 1000, seed: int = 0
) -> Frontier:
    """The upper envelope over models, trials and lengths.

    Args:
        measurements: of `best_of_n_costs`, for several models and caps, on the same problems in the same order.
        unit: of their costs, for tables.
        resamples: of the bootstrap over problems.
        seed: of it.

    Raises:
        ParameterError: nothing measured, or different numbers of problems.
    """
    if len({m.cost.size for m in measurements} | {m.quality.size for m in measurements}) != 1:
        raise ParameterError(
            "kinetics_frontier",
            "measurements",
            [m.cost.size for m in measurements],
            allowed="the same problems for all",
        )
    cost = np.stack([m.cost for m in measurements], axis=1)
    quality = np.stack([m.quality for m in measurements], axis=1)
    names = [m.configuration.model for m in measurements]
    weights = resampling_weights(len(cost), resamples=resamples, seed=seed) / len(cost)
    costs, qualities = weights @ cost, weights @ quality
    mean_cost, mean_quality = cost.mean(axis=0), quality.mean(axis=0)
    picks = _envelope(mean_cost, mean_quality)
    steps = tuple(
        Step(measurements[j].configuration, float(mean_cost[j]), float(mean_quality[j]), *percentiles(qualities[:, j]))
        for j in picks
    )
    resampled = [_changes(_envelope(c, q), c, names) for c, q in zip(costs, qualities, strict=True)]
    switches = []
    for (before, after), at in _changes(picks, mean_cost, names).items():
        found = [changes[before, after] for changes in resampled if (before, after) in changes]
        low, high = percentiles(found) if found else (at, at)
        switches.append(Switch(at, before, after, low, high, len(found) / resamples))
    return Frontier(unit, steps, _oracle(cost, quality, mean_cost), tuple(switches))


def _envelope(cost: Floats, quality: Floats) -> list[int]:
    """Where quality exceeds everything that costs no more, cheapest first."""
    picks: list[int] = []
    best = 0.0
    for j in np.lexsort((-quality, cost)):
        if quality[j] > best + 1e-12:
            picks.append(int(j))
            best = quality[j]
    return picks


def _changes(picks: list[int], cost: Floats, names: list[str]) -> dict[tuple[str, str], float]:
    """The first cost at which one model follows another along an envelope."""
    found: dict[tuple[str, str], float] = {}
    for a, b in pairwise(picks):
        if names[a] != names[b]:
            found.setdefault((names[a], names[b]), float(cost[b]))
    return found


def _oracle(cost: Floats, quality: Floats, mean_cost: Floats) -> tuple[tuple[float, float], ...]:
    """Mean over problems of the best quality among what costs no more on that problem."""
    low, high = max(cost.min(), 1e-300), max(cost.max(), 1e-300)
    grid = np.unique(np.concatenate([np.geomspace(low, high, _GRID), [high], mean_cost]))
    reached = np.zeros_like(grid)
    for c, q in zip(cost, quality, strict=True):
        order = np.argsort(c, kind="stable")
        best = np.concatenate([[0.0], np.maximum.accumulate(q[order])])
        reached += best[np.searchsorted(c[order], grid * (1 + 1e-12), side="right")]
    return tuple(zip(grid.tolist(), (reached / len(cost)).tolist(), strict=True))


def cut(samples: GradedSamples, cap: int, correct: Sequence[Sequence[bool]]) -> GradedSamples:
    """The same draws cut at a length, with the verdicts on what is left of them.

    Args:
        samples: as drawn.
        cap: tokens, cap ≥ 1.
        correct: whether what is left of each draw is right.
    """
    if cap < 1:
        raise ParameterError("cut", "cap", cap, allowed="an integer ≥ 1")
    return replace(samples, cap=cap, lengths=[[min(n, cap) for n in row] for row in samples.lengths], correct=correct)
