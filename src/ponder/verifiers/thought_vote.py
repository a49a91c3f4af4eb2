"""Which of several partial solutions is best: a model's ballots over all of them together.

Paper    Yao et al. 2023, "Tree of Thoughts: Deliberate Problem Solving with Large Language Models", §3 (vote).
Equal    All states of a level in one prompt, `votes` ballots, a state's value is the number of ballots for it.
Differs  Divided by the ballots that could be read. Copies of a text are listed once, and count 0. A single state is
         worth 1 and not voted on. If no ballot can be read, no state has a score.
Needs    Chat, and a context as long as all states together.    Cost: `votes` completions per level.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ponder.core.context import Context
from ponder.core.judging import ask, judge_of, prompt_text
from ponder.core.problem import Problem
from ponder.core.registry import verifier
from ponder.core.verifier import Scorable
from ponder.errors import BudgetError, VerifierError
from ponder.verifiers._thoughts import ThoughtVerifier, worth_asking

PROMPT = """Here is a problem, and several solutions of it, which may not be finished.

Problem:
{problem}
{choices}

Compare the choices briefly: which one leads to the right answer? Then end with one line of the form
Vote: N
where N is the number of the best choice."""

_VOTE = re.compile(r"(?:vote|choice)\W{0,6}(\d+)", re.IGNORECASE)


def parse_vote(reply: str, choices: int) -> int | None:
    """The last choice (from 1) that a reply names; None if it names none, or none of those there are.

    >>> parse_vote("Choice 2 is wrong. Vote: 1", 3), parse_vote("Vote: 9", 3), parse_vote("hm", 3)
    (1, None, None)
    """
    found = _VOTE.findall(reply)
    return int(found[-1]) if found and 1 <= int(found[-1]) <= choices else None


@verifier("thought_vote", how="verification:process:judge")
@dataclass(frozen=True)
class ThoughtVote(ThoughtVerifier):
    """The share of a model's ballots for each of several (partial) solutions, in [0, 1].

    Args:
        votes: ballots, ≥ 1.
        model: the judge; none asks the model that writes the solutions.
        temperature: of the judge.
        max_new_tokens: length limit of one reply.
    """

    async def score(self, problem: Problem, items: Sequence[Scorable], ctx: Context) -> Sequence[float]:
        """Shares of the ballots; scores of different calls cannot be compared."""
        texts = worth_asking(items, ctx)
        listed = [text for text in texts if text is not None]
        shares: dict[str, float] | VerifierError | BudgetError
        try:
            shares = await self._vote(problem, listed, ctx) if len(listed) > 1 else dict.fromkeys(listed, 1.0)
        except (
            VerifierError,
            BudgetError,
        ) as error:  # it concerns all alike; asked again one by one, each would win alone
            shares = error
        texts_of = {id(item): text for item, text in zip(items, texts, strict=True)}

        async def one(item: Scorable) -> float:
            if not isinstance(shares, dict):
                raise shares
            text = texts_of[id(item)]
            return 0.0 if text is None else shares[text]

        return await ctx.score_each(items, one)

    async def _vote(self, problem: Problem, texts: Sequence[str], ctx: Context) -> dict[str, float]:
        judge = judge_of(self, self.model, ctx)
        choices = "".join(f"\n\nChoice {i}:\n{text}" for i, text in enumerate(texts, 1))
        filled = PROMPT.replace("{problem}", prompt_text(problem)).replace("{choices}", choices)
        seeds = ctx.seeds(self.votes, "thought_vote", *texts)
        replies = await ask(
            judge, filled, ctx, seeds=seeds, temperature=self.temperature, max_new_tokens=self.max_new_tokens
        )
        ballots = [vote for reply in replies if (vote := parse_vote(reply, len(texts))) is not None]
        if not ballots:
            raise VerifierError(f"no vote in the judge's reply: {replies[0][-120:]!r}")
        return {text: ballots.count(i) / len(ballots) for i, text in enumerate(texts, 1)}
