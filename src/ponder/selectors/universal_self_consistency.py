"""Universal self-consistency: a model reads all responses and says which agrees best with the majority.

Paper    Chen et al. 2023, "Universal Self-Consistency for Large Language Model Generation".
Equal    One call with all responses, numbered; the answer names one of them.
Differs  The prompt is ours. An unreadable reply is asked for once more in another order; after that MBR with word F1
         decides, and the selection says so. Responses that overflow the judge's context are chosen among in a
         tournament of five at a time. Two responses or fewer need no call: the first wins.
Needs    A judge (the generator itself will do).    Cost: 1 call, at most 2; about n/4 in a tournament.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.judging import prompt_text
from ponder.core.model import Model
from ponder.core.problem import Problem
from ponder.core.registry import selector
from ponder.selectors._judge import (
    JudgedSelector,
    Pick,
    ask,
    fits,
    most_typical,
    numbered,
    shortened,
)

_PROMPT = """Several responses to the same question follow.

Question:
{task}

{candidates}

Which one of these responses agrees best with what most of them say? Compare what they conclude, and do not judge
which is right. Think briefly, then end with one line of the form
Response N
where N is a number from 1 to {n}."""

_CHUNK = 5
_RESPONSE = re.compile(r"\bresponse\W{0,4}(\d+)(?![\d]|[.,]\d)", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\d.,\-])(\d+)(?![\d]|[.,]\d)")


@selector("universal_self_consistency", aliases=("usc",), how="verification:outcome:judge, aggregation:majority")
@dataclass(frozen=True)
class UniversalSelfConsistency(JudgedSelector):
    """The response that a model finds most consistent with the others; for free-form outputs.

    Args:
        model: the judge; none asks the model that wrote the responses.
        max_new_tokens: length limit of its reply.
        temperature: of the judge.
    """

    model: Model | None = None
    max_new_tokens: int = 256
    temperature: float = 0.0

    async def pick(
        self, problem: Problem, candidates: Sequence[Candidate], judge: Model, ctx: Context, turn: int
    ) -> Pick:
        """One response; in chunks of five while all do not fit the judge's context."""
        texts, open_ = [str(c.output) for c in candidates], list(range(len(candidates)))
        notes: list[str] = []
        stage = 0
        while len(open_) > _CHUNK and not fits(judge, _prompt(problem, [texts[i] for i in open_]), self.max_new_tokens):
            winners = []
            for start in range(0, len(open_), _CHUNK):
                won = await self._among(problem, texts, open_[start : start + _CHUNK], judge, ctx, turn, stage, start)
                winners.append(won.index)
                notes += [won.fallback] if won.fallback else []
            open_, stage = winners, stage + 1
        last = await self._among(problem, texts, open_, judge, ctx, turn, stage)
        notes += [last.fallback] if last.fallback else []
        return Pick(last.index, "; ".join(dict.fromkeys(notes)) or None)

    async def _among(
        self, problem: Problem, texts: Sequence[str], open_: Sequence[int], judge: Model, ctx: Context, *path: object
    ) -> Pick:
        if len(open_) <= 2 or len({texts[i] for i in open_}) == 1:
            return Pick(open_[0])
        reason: str | None = None
        for attempt in range(2):
            order = ctx.rng(self.name, "order", *path, attempt).permutation(len(open_)).tolist()
            shown = shortened(
                self, judge, [texts[open_[i]] for i in order], lambda t: _prompt(problem, t), self.max_new_tokens
            )
            message = {"role": "user", "content": _prompt(problem, shown)}
            reply = await ask(
                ctx, judge, [message], self.name, *path, attempt, max_new_tokens=self.max_new_tokens,
                temperature=self.temperature,
            )  # fmt: skip
            if reply.text is None:
                reason = reply.problem
                break
            choice = parse_response(reply.text, len(shown))
            if choice is not None:
                return Pick(open_[order[choice]])
            reason = "unreadable_reply"
        typical = most_typical([texts[i] for i in open_])
        return Pick(open_[typical], f"{reason}: minimum_bayes_risk decides")


def _prompt(problem: Problem, texts: Sequence[str]) -> str:
    listing = numbered(texts, "Response")
    return _PROMPT.format(task=prompt_text(problem), candidates=listing, n=len(texts))


def parse_response(reply: str, n: int) -> int | None:
    """The position (from 0) of the response that a reply names, None if it names none of 1 to n.

    The last line that is a plain `Response N` counts, else the first `Response N` in range, else the first
    number in range.

    >>> parse_response("Most say 4. Response 2", 3), parse_response("3", 3), parse_response("Response 7", 3)
    (1, 2, None)
    """
    for line in reversed(reply.splitlines()):
        alone = re.fullmatch(r"\W*(?:answer\W+)?response\W{0,4}(\d+)\W*", line, re.IGNORECASE)
        if alone and 1 <= int(alone.group(1)) <= n:
            return int(alone.group(1)) - 1
    named = _RESPONSE.findall(reply)
    for found in named or _NUMBER.findall(reply):
        if 1 <= int(found) <= n:
            return int(found) - 1
    return None
