"""Candidates in, the best answers out."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ponder.core.candidate import Candidate
from ponder.core.registry import REGISTRY_OF, SELECTORS, Registered
from ponder.errors import ParameterError, PonderError

if TYPE_CHECKING:
    from ponder.core.answers import Same
    from ponder.core.context import Context
    from ponder.core.pool import Floats, Ints, Pool
    from ponder.core.problem import Problem


@dataclass(frozen=True, slots=True)
class Group:
    """One answer's row in a selection's table.

    Attributes:
        answer: as its earliest member states it.
        count: members.
        weight: what the selector ranks by.
        members: candidate positions, in order.
    """

    answer: Any
    count: int
    weight: float
    members: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Selection:
    """The outcome of a selector.

    Attributes:
        answers: the chosen answers, best first; empty when it abstains.
        indices: the candidate that stands for each of them.
        table: one row per distinct answer, by falling weight.
        status: `ok`, or `abstain` if no candidate has an answer that may win.
        confidence: the winner's weight over all weight, in [0, 1]; None where that means nothing.
        tie: whether another answer ranks equal with the last one chosen.
        fallback: why another rule than the asked one decided, if so.
        excluded: valid samples that had no say because their score or probability is unknown.
    """

    answers: list[Any]
    indices: list[int]
    table: tuple[Group, ...]
    status: Literal["ok", "abstain"] = "ok"
    confidence: float | None = None
    tie: bool = False
    fallback: str | None = None
    excluded: int = 0

    @property
    def margin_p_value(self) -> float | None:
        """Chance that a fair coin puts the largest group as far ahead of the second one; None without answers.

        One-sided binomial test of the two largest counts; small means that more samples would hardly
        change which answer leads.
        """
        counts = sorted((group.count for group in self.table), reverse=True)
        if not counts:
            return None
        first, both = counts[0], sum(counts[:2])
        return float(sum(math.comb(both, i) for i in range(first, both + 1)) / 2**both)


@dataclass(frozen=True)
class Ranking:
    """What a voting selector computes for a pool of P problems, N samples, G groups.

    Attributes:
        weights: shape (P, G); -inf for a group that may not be chosen.
        fallback: per problem, why another rule decided; None everywhere if no one needed one.
        representatives: shape (P, N), the larger the better a member stands for its group; None means the
            most probable member, or the earliest if probabilities are unknown.
        share: whether weight over total weight is a confidence.
        tiebreak: shape (P, G), decides among groups of equal weight; what is still equal goes to the first.
        tolerance: relative difference below which weights are equal: 0 where they are given numbers,
            `SUMMED` where they are sums, which depend a little on the order of adding.
        errors: per problem, why it cannot be decided; None everywhere if all can.
        excluded: shape (P,), valid samples without a say.
    """

    weights: Floats
    fallback: Sequence[str | None] | None = None
    representatives: Floats | None = None
    share: bool = True
    tiebreak: Floats | None = None
    tolerance: float = 0.0
    errors: Sequence[PonderError | None] | None = None
    excluded: Ints | None = None


SUMMED = 1e-12
"""Relative tolerance for weights that are sums of floating-point numbers."""


class Selector(Registered, ABC):
    """Chooses among candidates. Pure and deterministic, unless it asks a judge (`choose`)."""

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def select(self, candidates: Sequence[Candidate], k: int = 1, *, same: Same | None = None) -> Selection:
        """The `k` best answers of hand-built or drawn candidates.

        Args:
            candidates: of one problem, in draw order.
            k: how many distinct answers to return, k ≥ 1; fewer come back if there are fewer.
            same: the task's own equivalence of answers.

        Raises:
            EmptyPoolError: no candidates at all. (Candidates without any valid answer abstain instead.)
        """

    async def choose(self, problem: Problem, candidates: Sequence[Candidate], ctx: Context, k: int = 1) -> Selection:
        """Like `select`, with a context at hand; selectors that ask a judge override this."""
        return self.select(candidates, k, same=ctx.same)


class VotingSelector(Selector):
    """Gives each group of equal answers a weight and takes the heaviest.

    Subclasses say only how a pool's groups are weighed. A tie goes to the group that appeared first.
    """

    @abstractmethod
    def rank(self, pool: Pool) -> Ranking:
        """Group weights for a whole pool at once."""

    def select(self, candidates: Sequence[Candidate], k: int = 1, *, same: Same | None = None) -> Selection:
        """The `k` heaviest answers; see `Selector.select`."""
        from ponder.core.pool import Pool

        check_k(self, k)
        pool = Pool.of(candidates, same)
        return selection(pool, self.rank(pool), k) if pool.valid.any() else abstained()

    def select_many(self, pool: Pool, k: int = 1) -> Ints:
        """Positions of the chosen samples for every problem of a pool, shape (P, k); -1 where there is none.

        Raises:
            PonderError: no problem at all can be decided (one that can not alone gets -1).
        """
        import numpy as np

        check_k(self, k)
        chosen, failed, error = [], 0, None
        for block in pool.blocks():
            ranking = self.rank(block)
            order = best_groups(ranking, k)
            for row, problem_error in enumerate(ranking.errors or ()):
                if problem_error is not None:
                    order[row], failed, error = -1, failed + 1, problem_error
            chosen.append(_representatives(block, ranking, order))
        if error is not None and failed == pool.shape[0]:
            raise error
        return np.concatenate(chosen) if chosen else np.empty((0, k), dtype=np.intp)


def check_k(owner: object, k: int) -> None:
    """Raise a ParameterError unless k ≥ 1."""
    if k < 1:
        raise ParameterError(owner, "k", k, allowed="an integer ≥ 1")


def abstained(fallback: str = "no candidate has a valid answer") -> Selection:
    """The selection that chooses nothing."""
    return Selection([], [], (), "abstain", fallback=fallback)


def best_groups(ranking: Ranking, k: int) -> Ints:
    """The `k` heaviest groups of each problem, shape (P, k); -1 where there is none."""
    import numpy as np

    weights = ranking.weights
    out = np.full((weights.shape[0], k), -1, dtype=np.intp)
    left = weights if k == 1 else weights.copy()
    rows = np.arange(len(weights))
    for j in range(min(k, weights.shape[1])):
        best = _first_best(left, ranking)
        out[:, j] = np.where(np.isneginf(left[rows, best]), -1, best)
        if j + 1 < k:
            left[rows, best] = -np.inf
    return out


def _first_best(weights: Floats, ranking: Ranking) -> Ints:
    """The heaviest group of each problem; ties by the second key, then to the first."""
    import numpy as np

    if ranking.tiebreak is None and not ranking.tolerance:
        return np.asarray(weights.argmax(axis=1))
    top = weights.max(axis=1, keepdims=True)
    slack = ranking.tolerance * np.abs(np.where(np.isfinite(top), top, 0.0))
    tied = weights >= top - slack
    if ranking.tiebreak is None:
        return np.asarray(tied.argmax(axis=1))
    return np.asarray(np.where(tied, ranking.tiebreak, -np.inf).argmax(axis=1))


def _representatives(pool: Pool, ranking: Ranking, groups: Ints) -> Ints:
    """For each chosen group the position of the member that stands for it, shape (P, k)."""
    import numpy as np

    quality = pool.mean_logprob if ranking.representatives is None else ranking.representatives
    quality = np.where(np.isnan(quality), -np.inf, quality)
    out = np.full(groups.shape, -1, dtype=np.intp)
    for j in range(groups.shape[1]):
        member = (pool.groups == groups[:, j : j + 1]) & (groups[:, j : j + 1] >= 0)
        best = np.where(member, quality, -np.inf).argmax(axis=1)
        # argmax over all -inf gives 0, which need not be a member: take the earliest member then.
        is_member = np.take_along_axis(member, best[:, None], axis=1)[:, 0]
        out[:, j] = np.where(member.any(axis=1), np.where(is_member, best, member.argmax(axis=1)), -1)
    return out


def selection(pool: Pool, ranking: Ranking, k: int) -> Selection:
    """What a ranking makes of one problem's candidates (`pool` is that of `Pool.of`)."""
    import numpy as np

    if ranking.errors and ranking.errors[0] is not None:
        raise ranking.errors[0]
    if pool.samples is None:
        raise ParameterError("selection", "pool", pool, allowed="one that was built from candidates")
    candidates = pool.samples[0]
    weights = ranking.weights[0]
    best = [int(g) for g in best_groups(ranking, k + 1)[0] if g >= 0]
    chosen, following = best[:k], best[k:]
    fallback = ranking.fallback[0] if ranking.fallback else None
    excluded = int(ranking.excluded[0]) if ranking.excluded is not None else 0
    members: dict[int, list[int]] = {g: [] for g in best}
    keys = ranking.tiebreak[0] if ranking.tiebreak is not None else np.zeros_like(weights)
    members.update({int(g): [] for g in np.lexsort((-keys, -weights)) if int(g) not in members})
    for position, g in enumerate(pool.groups[0].tolist()):
        if g >= 0:
            members[g].append(position)
    rows = [Group(candidates[m[0]].answer, len(m), float(weights[g]), tuple(m)) for g, m in members.items() if m]
    if not chosen:
        return Selection([], [], tuple(rows), "abstain", None, False, fallback or "no answer may be chosen", excluded)
    indices = [int(i) for i in _representatives(pool, ranking, np.asarray([chosen]))[0]]
    answers = [candidates[int(pool.earliest[0, g])].answer for g in chosen]
    tie = bool(following) and _equal(ranking, chosen[-1], following[0])
    finite = weights[np.isfinite(weights)]
    total = float(finite.sum()) if ranking.share and (finite >= 0).all() else 0.0
    confidence = float(weights[chosen[0]]) / total if total > 0 else None
    return Selection(answers, indices, tuple(rows), "ok", confidence, tie, fallback, excluded)


def _equal(ranking: Ranking, first: int, second: int) -> bool:
    """Whether two groups of the first problem rank equal."""
    weights, keys = ranking.weights[0], ranking.tiebreak
    same = weights[first] == weights[second] or math.isclose(
        weights[first], weights[second], rel_tol=ranking.tolerance, abs_tol=0.0
    )
    return bool(same and (keys is None or keys[0, first] == keys[0, second]))


REGISTRY_OF[Selector] = SELECTORS
