"""A tournament of pairwise judgements: a model compares candidates two by two.

Paper    Khairi et al. 2025, "When Life Gives You Samples: The Benefits of Scaling up Inference Compute for
         Multilingual LLMs" (pairwise selection); Jiang et al. 2023, "LLM-Blender" (pairwise ranking).
Equal    Round robin: every pair is compared, a win counts 1, a tie ½; the most wins are chosen.
Differs  Each pair is shown in both orders by default, and a choice that follows the place and not the text is a tie.
         `knockout` needs n - 1 comparisons: losers leave. Identical texts are one contestant. An unreadable
         reply is a tie. Equal wins: the winner of their own comparison, else the earlier draw.
Needs    A judge (the generator itself will do).    Cost: T(T-1)/2 pairs of T different texts, or T - 1; two calls
         a pair, one with both_orders=false.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.judging import prompt_text
from ponder.core.merge import gather_all
from ponder.core.model import Model
from ponder.core.problem import Problem
from ponder.core.registry import selector
from ponder.selectors._judge import JudgedSelector, Pick, ask, shortened
from ponder.selectors._mbr import distinct_items

_PROMPT = """Two answers to the same task follow.

Task:
{task}

Answer A:
{a}

Answer B:
{b}

Which answer is better? Think briefly, then end with one line that is either
Better: A
or
Better: B
or, if neither is,
Better: tie"""

_TAG = re.compile(r"better\W{0,6}(?:answer\W{0,3})?(a|b|tie|neither|equal|both)\b", re.IGNORECASE)
_ALONE = re.compile(r"\W*(?:answer\W{0,3})?(a|b|tie)\W*", re.IGNORECASE)


def parse_better(reply: str) -> float | None:
    """What a reply says of A: 1 better, 0 worse, ½ a tie; None if it cannot be read.

    >>> [parse_better(reply) for reply in ("A is neat. Better: B", "a", "Both fail. Better: tie", "?")]
    [0.0, 1.0, 0.5, None]
    """
    found = _TAG.findall(reply)
    if not found:
        lines = [line for line in reply.splitlines() if line.strip()]
        alone = _ALONE.fullmatch(lines[-1]) if lines else None
        if alone is None:
            return None
        found = [alone.group(1)]
    return {"a": 1.0, "b": 0.0}.get(found[-1].lower(), 0.5)


@selector(
    "judge_tournament", aliases=("judge_pairwise", "pairwise"),
    how="verification:outcome:judge, aggregation:best_of_n",
)  # fmt: skip
@dataclass(frozen=True)
class JudgeTournament(JudgedSelector):
    """The winner of pairwise comparisons by a judge.

    Args:
        mode: `round_robin` compares every pair, `knockout` only winners.
        both_orders: ask twice with the places changed; answers that follow the place are ties.
        model: the judge; none asks the model that wrote the candidates.
        max_new_tokens: length limit of one reply.
        temperature: of the judge.
    """

    mode: Literal["round_robin", "knockout"] = "round_robin"
    both_orders: bool = True
    model: Model | None = None
    max_new_tokens: int = 256
    temperature: float = 0.0

    async def pick(
        self, problem: Problem, candidates: Sequence[Candidate], judge: Model, ctx: Context, turn: int
    ) -> Pick:
        """The candidate that wins most, or the last one left."""
        item, texts = distinct_items([str(c.output) for c in candidates])
        first = [int((item == number).argmax()) for number in range(len(texts))]
        if len(texts) == 1:
            return Pick(0)
        if self.mode == "round_robin":
            pairs = list(combinations(range(len(texts)), 2))
            results = await self._compare(problem, texts, pairs, judge, ctx, turn)
            best, unread = _most_wins(len(texts), pairs, results), sum(r is None for r in results)
            return Pick(first[best], self._told(unread, len(pairs)))
        left, unread, played = list(range(len(texts))), 0, 0
        while len(left) > 1:
            pairs = list(zip(left[::2], left[1::2], strict=False))
            results = await self._compare(problem, texts, pairs, judge, ctx, turn)
            unread, played = unread + sum(r is None for r in results), played + len(pairs)
            winners = [a if r is None or r >= 0.5 else b for (a, b), r in zip(pairs, results, strict=True)]
            left = winners + ([left[-1]] if len(left) % 2 else [])
        return Pick(first[left[0]], self._told(unread, played))

    def _told(self, unread: int, pairs: int) -> str | None:
        if not unread:
            return None
        rest = ": the earlier draw decides" if unread == pairs else ", taken as ties"
        return f"{unread} of {pairs} comparisons could not be read{rest}"

    async def _compare(
        self,
        problem: Problem,
        texts: Sequence[str],
        pairs: Sequence[tuple[int, int]],
        judge: Model,
        ctx: Context,
        turn: int,
    ) -> list[float | None]:
        """For each pair what the judge says of its first text: 1, ½ or 0, None if nothing could be read."""

        async def one(a: int, b: int) -> float | None:
            def prompt(two: Sequence[str]) -> str:
                return _PROMPT.format(task=prompt_text(problem), a=two[0], b=two[1])

            orders = [(a, b), (b, a)] if self.both_orders else [(a, b)]
            votes = []
            for x, y in orders:
                shown = shortened(self, judge, [texts[x], texts[y]], prompt, self.max_new_tokens)
                reply = await ask(
                    ctx, judge, [{"role": "user", "content": prompt(shown)}], self.name, turn, x, y,
                    max_new_tokens=self.max_new_tokens, temperature=self.temperature,
                )  # fmt: skip
                vote = None if reply.text is None else parse_better(reply.text)
                if vote is not None:
                    votes.append(vote if x == a else 1.0 - vote)
            return sum(votes) / len(votes) if votes else None

        return await gather_all(one(a, b) for a, b in pairs)


def _most_wins(n: int, pairs: Sequence[tuple[int, int]], results: Sequence[float | None]) -> int:
    """Most wins; of two equals the winner of their comparison, else the earlier."""
    wins = np.zeros(n)
    beats = {}
    for (a, b), result in zip(pairs, results, strict=True):
        score = 0.5 if result is None else result
        wins[a] += score
        wins[b] += 1 - score
        beats[a, b] = score
    equal = np.flatnonzero(wins >= wins.max() - 1e-9).tolist()
    if len(equal) == 2 and beats[equal[0], equal[1]] < 0.5:
        return int(equal[1])
    return int(equal[0])
