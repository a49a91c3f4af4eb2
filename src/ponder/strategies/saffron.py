"""SAFFRON: beam search over tokens with a reward model that scores all next tokens in one call.

Paper    Qiu et al. 2025, "Saffron-1: Towards an Inference Scaling Paradigm for LLM Safety Assurance".
Equal    Each round lists the policy's next tokens within the nucleus (cumulated probability before a token below
         top_p, the likeliest always), scores them by one call per open prefix, forbids tokens that the reward model
         was never trained on, and keeps the n best over all; an ended output keeps the reward of its end token.
Differs  If nothing ends in time, open prefixes rank by their last reward, marked `unfinished` (paper: arbitrary). If
         a prefix's tokens are all forbidden, the likeliest stays, and the result counts how often. Equal rewards rank
         by the policy's probability. Prefixes share evaluation through the backend's own prompt cache.
Needs    Alternatives to tokens, continuing a prefix, and a verifier of next steps.    Cost: one token and one
         score per kept prefix and round.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.core.registry import SELECTORS, VERIFIERS, strategy
from ponder.core.search_tree import Search, SearchTree, search_result
from ponder.core.selector import Selector
from ponder.core.state import State
from ponder.core.strategy import Result, Strategy
from ponder.core.verifier import NextStepVerifier, Verifier
from ponder.errors import ParameterError


@strategy(
    "saffron", aliases=("multifurcation_search",),
    what="hybrid", how="search:beam, verification:process:reward_model", where="open_ended",
)  # fmt: skip
@dataclass(frozen=True)
class Saffron(Strategy):
    """Token by token, keep the `n` prefixes that the reward model likes best among those the policy finds likely.

    Args:
        n: prefixes kept; None takes the number from the study's sample axis.
        verifier: scores next tokens, all of a prefix in one call.
        top_p: probability mass of the policy that is explored; small is conservative.
        max_new_tokens: rounds at most.
        min_new_tokens: an output may not end before so many tokens.
        alternatives: next tokens asked of the backend at most.
        choose: chooses among the finished outputs.
    """

    n: int | None = None
    verifier: Verifier = field(default_factory=lambda: VERIFIERS.build("banned_words"))
    top_p: float = 0.8
    max_new_tokens: int = 50
    min_new_tokens: int = 16
    alternatives: int = 40
    choose: Selector = field(default_factory=lambda: SELECTORS.build("best_score"))

    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "prefix"})

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "alternatives"):
            if getattr(self, name) < 1:
                raise ParameterError(self, name, getattr(self, name), allowed="an integer ≥ 1")
        if self.n is not None and self.n < 1:
            raise ParameterError(self, "n", self.n, allowed="an integer ≥ 1")
        if not 0 < self.top_p <= 1:
            raise ParameterError(self, "top_p", self.top_p, allowed="in (0, 1]")
        if not isinstance(self.verifier, NextStepVerifier):
            raise ParameterError(
                self, "verifier", str(self.verifier), allowed="a verifier of next steps",
                hint="such as banned_words or next_token_reward; others score one output at a time",
            )  # fmt: skip

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Round after round until all kept prefixes have ended."""
        assert isinstance(self.verifier, NextStepVerifier)
        tree, kept, forbidden, listed, rounds = SearchTree(), [ctx.root()], 0, 0, 0
        rewards: dict[State, float] = {}
        stopped: str | None = None
        for number in range(self.max_new_tokens):
            opened = [s for s in kept if not ctx.process.done(s)]
            if not opened:
                break
            before = len(ctx.shortfalls)
            groups = [self._nucleus(g, number) for g in await ctx.branch(opened, self.alternatives)]
            scores = await ctx.score_next(problem, groups, self.verifier)
            rounds += 1
            children: list[State] = []
            for group, values in zip(groups, scores, strict=True):
                listed += len(group)
                allowed = [i for i, v in enumerate(values) if not math.isnan(v) and v != -math.inf]
                forbidden += not allowed and bool(group)
                for i in allowed or range(min(1, len(group))):
                    children.append(group[i])
                    rewards[group[i]] = values[i] if allowed else -math.inf
            last = number + 1 == self.max_new_tokens
            if last:
                children = [c if ctx.process.done(c) else self._cut(c, rewards) for c in children]
            tree.add(children, [rewards[c] for c in children])
            pool = [s for s in kept if ctx.process.done(s)] + children
            kept = sorted(pool, key=lambda s: (-rewards[s], -(s.total_logprob() or 0.0)))[: self.n or 1]
            going = {s for s in kept if not ctx.process.done(s)}
            if len(ctx.shortfalls) > before and not children:
                kept, stopped = opened, "budget"
                break
            tree.note("continuations", {s: float(s in going) for s in pool})
        ended = tuple(s for s in kept if ctx.process.done(s))
        search = Search(
            tree, ended, tuple(s for s in kept if not ctx.process.done(s) and s.parent is not None), stopped,
            {"rounds": rounds, "mean_nucleus": listed / max(rounds, 1), "all_forbidden": forbidden},
        )  # fmt: skip
        return await search_result(problem, ctx, search, self.verifier, choose=self.choose)

    def _nucleus(self, group: Sequence[State], number: int) -> list[State]:
        """The next tokens before which less than `top_p` of the probability lies; no end before its time."""
        open_to = [s for s in group if s.finish != "stop" or number >= self.min_new_tokens]
        if not open_to:
            return []
        mass = np.exp([s.logprob or 0.0 for s in open_to])
        total = mass.sum() if len(open_to) < len(group) else max(float(mass.sum()), 1.0)
        before = np.cumsum(mass) - mass
        return [s for s, b in zip(open_to, before, strict=True) if b < self.top_p * total - 1e-12] or open_to[:1]

    def _cut(self, state: State, rewards: dict[State, float]) -> State:
        """An output that the length limit ends."""
        ended = replace(state, finish="length")
        rewards[ended] = rewards[state]
        return ended
