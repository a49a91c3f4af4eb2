"""Asking a model which candidate it prefers."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.judging import judge_of
from ponder.core.model import Model, Sampling
from ponder.core.pool import Floats, Pool
from ponder.core.problem import Message, Problem
from ponder.core.selector import Ranking, Selection, Selector, abstained, check_k, selection
from ponder.errors import CapabilityError, ContextLengthError
from ponder.selectors._mbr import expected_utility
from ponder.selectors._utilities import token_f1

_CUT = " […] "
_NUMBER = r"(?<![\d.,\-])(\d+)(?![\d]|[.,]\d)"
_TAG = re.compile(r"<\s*best\s*>(.*?)<\s*/\s*best\s*>", re.IGNORECASE | re.DOTALL)
_SAID = re.compile(
    r"\b(?:best|choose|choice|select|pick|prefer|winner|final)\b[^\d\n<>]{0,60}?" + _NUMBER, re.IGNORECASE
)
_BARE = re.compile(r"\W*(?:candidate|response|answer|option|number|no\.)?\W*" + _NUMBER + r"\W*", re.IGNORECASE)


@dataclass(frozen=True)
class Reply:
    """A judge's reply: its text, or why there is none."""

    text: str | None
    problem: str | None = None


@dataclass(frozen=True)
class Pick:
    """Which of the texts shown was picked, and why by another rule than the judge's word, if so."""

    index: int
    fallback: str | None = None


def needs_context(name: str) -> CapabilityError:
    """The error of a pure `select` that would have to ask a model."""
    return CapabilityError(
        f"{name} asks a model, which select() cannot. Run it in a strategy, as in "
        f"'repeated_sampling(n=8) | {name}', or call await selector.choose(problem, candidates, ctx)."
    )


async def ask(
    ctx: Context,
    judge: Model,
    messages: Sequence[Message],
    *path: object,
    max_new_tokens: int,
    temperature: float = 0.0,
) -> Reply:
    """One reply; a failed call or an exhausted budget is said, not raised."""
    sampling = Sampling(temperature=temperature, max_new_tokens=max_new_tokens)
    landing = ctx.generate(judge, tuple(messages), seeds=ctx.seeds(1, *path), sampling=sampling)
    replies = [reply async for _, reply in landing]  # to its end, which gives its reservation back
    if not replies:
        return Reply(None, "the budget did not allow the judge's call")
    if replies[0].error is not None:
        return Reply(None, f"the judge failed: {replies[0].error}")
    return Reply(replies[0].text)


def fits(judge: Model, prompt: str, max_new_tokens: int) -> bool:
    """Whether a prompt leaves room for a reply in the judge's context (True if that is unknown)."""
    context = judge.capabilities.context_tokens
    return context is None or judge.count_tokens(({"role": "user", "content": prompt},)) + max_new_tokens <= context


def shortened(
    owner: object, judge: Model, texts: Sequence[str], prompt: Callable[[Sequence[str]], str], max_new_tokens: int
) -> list[str]:
    """The texts, each cut in its middle to the longest common limit at which the prompt fits.

    Raises:
        ContextLengthError: not even empty texts would fit.
    """
    if fits(judge, prompt(texts), max_new_tokens):
        return list(texts)
    low, high = 0, max(len(t) for t in texts)
    if not fits(judge, prompt([_middle_cut(t, 0) for t in texts]), max_new_tokens):
        raise ContextLengthError(
            f"{getattr(owner, 'name', owner)}: {len(texts)} candidates do not fit the judge's context of "
            f"{judge.capabilities.context_tokens} tokens even when cut. Use fewer candidates or a longer context."
        )
    while low < high:
        limit = (low + high + 1) // 2
        if fits(judge, prompt([_middle_cut(t, limit) for t in texts]), max_new_tokens):
            low = limit
        else:
            high = limit - 1
    return [_middle_cut(t, low) for t in texts]


def _middle_cut(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    head = (limit + 1) // 2
    return text[:head] + _CUT + text[len(text) - (limit - head) :]


def numbered(texts: Sequence[str], label: str) -> str:
    """The texts under headings `label 1`, `label 2`, …."""
    return "\n\n".join(f"{label} {i}:\n{text}" for i, text in enumerate(texts, start=1))


def parse_best(reply: str, n: int) -> int | None:
    """The position (from 0) of the candidate that a reply names as the best, None if it names none clearly.

    The last `<best>…</best>` counts. Without one, the last line counts if it says which is best and names
    one number only, or if it is nothing but a number. Numbers outside 1 to n are no choice.

    >>> parse_best("2 is wrong. <best>3</best>", 4), parse_best("Best: 9", 4), parse_best("I cannot say", 4)
    (2, None, None)
    """
    tags = _TAG.findall(reply)
    if tags:
        return _single(re.findall(_NUMBER, tags[-1]), n)
    lines = [line for line in reply.splitlines() if line.strip()]
    if not lines:
        return None
    bare = _BARE.fullmatch(lines[-1])
    if bare:
        return _single([bare.group(1)], n)
    if not _SAID.search(lines[-1]) or re.search(r"\b(?:not|no|neither|none|cannot|can't)\b", lines[-1], re.IGNORECASE):
        return None
    return _single(re.findall(_NUMBER, lines[-1]), n)


def _single(found: Sequence[str], n: int) -> int | None:
    """The one number found, from 0, if it is in range."""
    numbers = {int(f) for f in found}
    return numbers.pop() - 1 if len(numbers) == 1 and 1 <= min(numbers) <= n else None


def most_typical(texts: Sequence[str]) -> int:
    """The text with the highest mean word F1 to the others: what decides when a judge does not."""
    return int(expected_utility(token_f1(texts), np.arange(len(texts)), np.ones(len(texts))).argmax())


def judged(pool: Pool, picks: Sequence[int], k: int, fallback: str | None) -> Selection:
    """The selection of candidates that a judge picked one after the other."""
    weights = np.where(pool.counts > 0, 0.0, -np.inf)
    stands: Floats = np.zeros(pool.shape)
    for place, i in enumerate(picks):
        weights[0, pool.groups[0, i]] = len(picks) - place
        stands[0, i] = 1.0
    ranking = Ranking(weights, fallback=[fallback], representatives=stands, share=False)
    return selection(pool, ranking, k)


class JudgedSelector(Selector):
    """Has a judge pick one candidate; for k answers it picks again without the answers picked before."""

    model: Model | None

    def select(self, candidates: Sequence[Candidate], k: int = 1, *, same: Any = None) -> Selection:
        """Only what needs no judge: no valid answer, or a single different text.

        Raises:
            CapabilityError: there is something to choose; use it in a strategy, or `choose`.
        """
        check_k(self, k)
        pool = Pool.of(candidates, same)
        if not pool.valid.any():
            return abstained()
        if len({str(c.output) for c in pool.valid_samples()}) > 1:
            raise needs_context(self.name)
        return judged(pool, [int(pool.valid[0].argmax())], k, None)

    async def choose(self, problem: Problem, candidates: Sequence[Candidate], ctx: Context, k: int = 1) -> Selection:
        """Ask the judge; for k answers, once for each, without those chosen before."""
        check_k(self, k)
        pool = Pool.of(candidates, ctx.same)
        if not pool.valid.any():
            return abstained()
        judge = judge_of(self, self.model, ctx)
        picks: list[int] = []
        fallbacks: dict[str, None] = {}
        while len(picks) < k:
            taken = {int(pool.groups[0, i]) for i in picks}
            left = [int(i) for i in np.flatnonzero(pool.valid[0]) if int(pool.groups[0, i]) not in taken]
            if not left:
                break
            pick = await self.pick(problem, [candidates[i] for i in left], judge, ctx, len(picks))
            picks.append(left[pick.index])
            if pick.fallback:
                fallbacks[pick.fallback] = None
        return judged(pool, picks, k, "; ".join(fallbacks) or None)

    @abstractmethod
    async def pick(
        self, problem: Problem, candidates: Sequence[Candidate], judge: Model, ctx: Context, turn: int
    ) -> Pick:
        """The judge's pick among the candidates whose answers are still open, in the turn-th round."""
