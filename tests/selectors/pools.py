"""Random sample tables and judges with canned replies, for the selectors' tests."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.model import Capabilities, Completion, Model, Request
from ponder.core.problem import Problem
from ponder.processes.text_steps import TextSteps


def candidates(answers, *, p=None, scores=None, texts=None, **same_for_all):
    """Hand-built candidates of one token each; `p` are mean token probabilities."""
    return [
        Candidate(
            texts[i] if texts else f"path {i}: {a}",
            a,
            logprob=float(np.log(p[i])) if p is not None else -1.0 - 0.01 * i,
            n_tokens=1,
            scores={"reward": float(scores[i])} if scores is not None else {},
            index=i,
            **same_for_all,
        )
        for i, a in enumerate(answers)
    ]


@dataclass
class CannedJudge(Model):
    """Answers by a function of the request (or one text), and keeps what it was asked."""

    reply: object = "<best>1</best>"
    context: int | None = None
    asked: list = field(default_factory=list)
    tokens: tuple | None = None
    token_logprobs: tuple | None = None

    name: ClassVar[str] = "canned"

    def __post_init__(self) -> None:
        self.capabilities = Capabilities(logprobs=True, context_tokens=self.context)

    def __str__(self) -> str:
        return "canned"

    @property
    def identity(self) -> str:
        return "canned"

    async def sample(self, request: Request) -> AsyncIterator[tuple[int, Completion]]:
        for position, _ in enumerate(request.seeds):
            self.asked.append(request)
            text = self.reply(request) if callable(self.reply) else self.reply
            yield (
                position,
                Completion(
                    text,
                    3,
                    prompt_tokens=5 if position == 0 else 0,
                    requests=position == 0,
                    tokens=self.tokens,
                    token_logprobs=self.token_logprobs,
                ),
            )


def context_with(judge, seed=7):
    problem = Problem("p", "What is 6 times 7?", "42")
    return Context(problem, TextSteps(judge), seed=seed)
