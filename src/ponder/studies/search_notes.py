"""What a study's searches should make one think about: worse than what is simpler, led astray, stuck, or cut."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ponder.core.pool import Floats
from ponder.core.strategy import parse_strategy
from ponder.laws.intervals import paired_difference
from ponder.studies.baselines import unwrapped
from ponder.studies.measured import sees_reference
from ponder.studies.results import Series

_BASELINES = ("single", "repeated_sampling", "best_of_n")
_EQUAL = 1.05
"""What counts as no more compute."""
_CUT, _NEW = 0.2, 0.1
"""Shares: of outputs that end at a limit, above which one is told; of siblings that say something new, below which."""
_FEWEST = 5
"""Problems without which nothing is said."""


def search_notes(series: Sequence[Series], problem_ids: Sequence[str]) -> list[str]:
    """One line for each thing that is wrong with a step-wise search, by the problems that all rows finished.

    - It is worse (95 % interval of the paired difference below 0) than a baseline that costs no more, and asks the same
      verifier or none.
    - Its accuracy falls with the number of samples (also told of best-of-N, if the chosen outputs' scores rise).
    - More than 20 % of its outputs end at a limit.
    - Nearly all the steps that it draws beside each other are the same.
    """
    if len(problem_ids) < _FEWEST:
        return []
    kinds = {s.strategy: parse_strategy(s.strategy) for s in series}
    plain = [s for s in series if unwrapped(kinds[s.strategy]).name in _BASELINES]
    notes = []
    for name, strategy in kinds.items():
        own = sorted((s for s in series if s.strategy == name), key=lambda s: s.budget)
        if strategy.stepwise:
            judge = getattr(unwrapped(strategy), "verifier", None)
            fair = [s for s in plain if getattr(unwrapped(kinds[s.strategy]), "verifier", None) in (None, judge)]
            notes += _worse(own, [s for s in fair if not sees_reference(s.strategy)], problem_ids)
        if strategy.stepwise or unwrapped(strategy).name == "best_of_n":
            notes += _falling(own, problem_ids, search=strategy.stepwise)
        if strategy.stepwise:
            notes += _stuck_or_cut(own[-1], problem_ids)
    return notes


def _column(series: Series, problem_ids: Sequence[str], name: str) -> Floats:
    values = [getattr(series.outcomes[p], name) for p in problem_ids]
    return np.asarray([math.nan if v is None else float(v) for v in values])


def _compute(series: Series, problem_ids: Sequence[str]) -> float:
    """Generated tokens, or evaluations where there are no tokens, per problem."""
    names = ("generated_tokens", "function_evaluations")
    spent = [stage.get(name, 0) for p in problem_ids for stage in series.outcomes[p].spend.values() for name in names]
    return sum(spent) / len(problem_ids)


def _worse(own: Sequence[Series], plain: Sequence[Series], problem_ids: Sequence[str]) -> list[str]:
    """The search at its largest number of samples at which a baseline of no more compute is better."""
    for search in reversed(own):
        right = _column(search, problem_ids, "correct")
        limit = _EQUAL * _compute(search, problem_ids)
        rivals = [s for s in plain if _compute(s, problem_ids) <= limit]
        if not rivals:
            continue
        best = max(rivals, key=lambda s: _column(s, problem_ids, "correct").mean())
        theirs = _column(best, problem_ids, "correct")
        gap = paired_difference(right, theirs)
        if gap.high < 0:
            return [
                f"{search.strategy} at {search.budget} is right on {right.mean():.0%}, {best.strategy} at {best.budget}"
                f" on {theirs.mean():.0%} for no more compute (difference {gap.estimate:+.2f}, 95 % {gap.low:+.2f} to "
                f"{gap.high:+.2f}): here the search is not worth it"
            ]
    return []


def _falling(own: Sequence[Series], problem_ids: Sequence[str], *, search: bool) -> list[str]:
    """Whether accuracy falls from the fewest samples to the most, and what the verifier's scores do meanwhile."""
    if len(own) < 2:
        return []
    few, many = own[0], own[-1]
    before, after = (_column(s, problem_ids, "correct") for s in (few, many))
    if paired_difference(after, before).high >= 0:
        return []
    scores = np.stack([_column(s, problem_ids, "score") for s in (few, many)])
    known = ~np.isnan(scores).any(axis=0)
    low, high = scores[:, known].mean(axis=1) if known.any() else (math.nan, math.nan)
    rises = bool(known.any()) and paired_difference(scores[1, known], scores[0, known]).low > 0
    if not rises and not search:
        return []
    fall = f"from {before.mean():.0%} at {few.budget} to {after.mean():.0%} at {many.budget}"
    why = (
        f" while the score of the chosen output rises from {low:.2f} to {high:.2f}: the verifier is over-optimised"
        if rises
        else ", and the scores of what is chosen do not rise: the verifier misleads the search on the way"
    )
    return [f"{many.strategy}: accuracy falls {fall}{why}. Use fewer samples, a vote, or another verifier"]


def _stuck_or_cut(own: Series, problem_ids: Sequence[str]) -> list[str]:
    notes = []
    drawn = sum(own.outcomes[p].drawn for p in problem_ids)
    cut = sum(own.outcomes[p].cut for p in problem_ids)
    if drawn and cut > _CUT * drawn:
        notes.append(
            f"{own.strategy} at {own.budget}: {cut / drawn:.0%} of the outputs end at a limit of steps or length; "
            "raise max_steps or max_new_tokens, or give an answer_marker"
        )
    new = _column(own, problem_ids, "new_siblings")
    if not np.isnan(new).all() and np.nanmean(new) < _NEW:
        notes.append(
            f"{own.strategy} at {own.budget}: only {np.nanmean(new):.0%} of the steps drawn beside another say "
            "something new; raise the temperature, or make steps longer"
        )
    return notes
