"""Candidates in, the best answers out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ponder.core.candidate import Candidate
from ponder.core.registry import REGISTRY_OF, SELECTORS, Registered
from ponder.errors import ParameterError

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
    """

    answers: tuple[Any, ...]
    indices: tuple[int, ...]
    table: tuple[Group, ...]
    status: Literal["ok", "abstain"] = "ok"
    confidence: float | None = None
    tie: bool = False
    fallback: str | None = None


@dataclass(frozen=True)
class Ranking:
    """What a voting selector computes for a pool of P problems, N samples, G groups.

    Attributes:
        weights: shape (P, G); -inf for a group that may not be chosen.
        fallback: per problem, why another rule decided; None everywhere if no one needed one.
        representatives: shape (P, N), the larger the better a member stands for its group; None means the
            most probable member, or the earliest if probabilities are unknown.
        share: whether weight over total weight is a confidence.
    """

    weights: Floats
    fallback: Sequence[str | None] | None = None
    representatives: Floats | None = None
    share: bool = True


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

        if k < 1:
            raise ParameterError(self, "k", k, allowed="an integer ≥ 1")
        pool = Pool.of(candidates, same)
        if not pool.valid.any():
            return Selection((), (), (), "abstain", fallback="no candidate has a valid answer")
        return _selection(pool, self.rank(pool), candidates, k)

    def select_many(self, pool: Pool, k: int = 1) -> Ints:
        """Positions of the chosen samples for every problem of a pool, shape (P, k); -1 where there is none."""
        ranking = self.rank(pool)
        order = best_groups(ranking.weights, k)
        return _representatives(pool, ranking, order)


def best_groups(weights: Floats, k: int) -> Ints:
    """The `k` heaviest groups of each problem, shape (P, k); ties to the lower number; -1 for -inf."""
    import numpy as np

    order = weights.argmax(axis=1)[:, None] if k == 1 else np.argsort(-weights, axis=1, kind="stable")[:, :k]
    chosen = np.where(np.isneginf(np.take_along_axis(weights, order, axis=1)), -1, order)
    if chosen.shape[1] < k:
        chosen = np.pad(chosen, ((0, 0), (0, k - chosen.shape[1])), constant_values=-1)
    return chosen


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


def _selection(pool: Pool, ranking: Ranking, candidates: Sequence[Candidate], k: int) -> Selection:
    import numpy as np

    weights = ranking.weights[0]
    chosen = [int(g) for g in best_groups(ranking.weights, k)[0] if g >= 0]
    fallback = ranking.fallback[0] if ranking.fallback else None
    groups = pool.groups[0]
    rows = []
    for g in np.argsort(-weights, kind="stable"):
        members = tuple(int(i) for i in np.flatnonzero(groups == g))
        if members:
            rows.append(Group(candidates[members[0]].answer, len(members), float(weights[g]), members))
    if not chosen:
        return Selection((), (), tuple(rows), "abstain", fallback=fallback or "no answer may be chosen")
    indices = [int(i) for i in _representatives(pool, ranking, np.asarray([chosen]))[0]]
    answers = tuple(candidates[int(np.flatnonzero(groups == g)[0])].answer for g in chosen)
    last = weights[chosen[-1]]
    tie = bool((weights == last).sum() > sum(weights[g] == last for g in chosen))
    finite = weights[np.isfinite(weights)]
    total = float(finite.sum())
    confidence = float(weights[chosen[0]]) / total if ranking.share and total > 0 and (finite >= 0).all() else None
    return Selection(answers, tuple(indices), tuple(rows), "ok", confidence, tie, fallback)


REGISTRY_OF[Selector] = SELECTORS
