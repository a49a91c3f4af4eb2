"""The two-stage vote: each stratum (a temperature, a prompt, a language) casts one vote for its own majority."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class StratumMajority:
    """What one stratum says.

    Attributes:
        group: its most frequent answer group; None if no sample of it has an answer.
        count: votes for that group.
        valid: samples with an answer.
        drawn: samples altogether.
    """

    group: int | None
    count: int
    valid: int
    drawn: int

    @property
    def agreement(self) -> float:
        """Share of the valid samples that give the majority answer; 0 if none is valid."""
        return self.count / self.valid if self.valid else 0.0


@dataclass(frozen=True, slots=True)
class TwoStageVote:
    """The outcome of a two-stage vote.

    Attributes:
        weights: per answer group, the sum of the agreements of the strata whose majority it is.
        ranking: groups, best first: by weight, then by samples over all strata, then by first appearance.
        strata: what each stratum says, in order of appearance.
        consensus: the largest share of the strata that have the same majority answer; a stratum without
            any answer agrees with none.
        tie: whether weight and pooled count do not tell the first two groups apart.
    """

    weights: tuple[float, ...] = ()
    ranking: tuple[int, ...] = ()
    strata: Mapping[Hashable, StratumMajority] = field(default_factory=dict)
    consensus: float = 0.0
    tie: bool = False


def two_stage_vote(groups: Sequence[int], strata: Sequence[Hashable]) -> TwoStageVote:
    """Vote within each stratum, then among the strata.

    Args:
        groups: the answer group of each sample, numbered from 0 by first appearance; -1 for an invalid answer.
        strata: the stratum of each sample, for example its temperature.

    Returns:
        Weights, ranking and the strata's own majorities. Within a stratum a tie goes to the group with more
        samples over all strata, then to the lower number.

    >>> vote = two_stage_vote([0, 0, 1, 1, 1, 0], ["cold", "cold", "warm", "warm", "warm", "warm"])
    >>> vote.weights, vote.ranking, vote.consensus
    ((1.0, 0.75), (0, 1), 0.5)
    """
    n_groups = max(groups, default=-1) + 1
    pooled = [0] * n_groups
    counts: dict[Hashable, list[int]] = {}
    drawn: dict[Hashable, int] = {}
    for group, stratum in zip(groups, strata, strict=True):
        row = counts.setdefault(stratum, [0] * n_groups)
        drawn[stratum] = drawn.get(stratum, 0) + 1
        if group >= 0:
            row[group] += 1
            pooled[group] += 1
    weights, supporters = [0.0] * n_groups, [0] * n_groups
    majorities = {}
    for stratum, row in counts.items():
        valid = sum(row)
        leader = max((count, pooled[g], -g) for g, count in enumerate(row))[2] * -1 if valid else None
        majorities[stratum] = said = StratumMajority(
            leader, row[leader] if leader is not None else 0, valid, drawn[stratum]
        )
        if leader is not None:
            weights[leader] += said.agreement
            supporters[leader] += 1
    ranking = sorted(range(n_groups), key=lambda g: (-weights[g], -pooled[g], g))
    tie = n_groups > 1 and (weights[ranking[0]], pooled[ranking[0]]) == (weights[ranking[1]], pooled[ranking[1]])
    consensus = max(supporters, default=0) / len(majorities) if majorities else 0.0
    return TwoStageVote(tuple(weights), tuple(ranking), majorities, consensus, tie)
