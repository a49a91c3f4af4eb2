"""Generative verification: a model checks the solution step by step, several times, and gives verdicts.

Paper    Zhang et al. 2024, "Generative Verifiers: Reward Modeling as Next-Token Prediction"; Singhi et al. 2025, "When
         To Solve, When To Verify: Compute-Optimal Problem Solving and Generative Verification for LLM Reasoning".
Equal    V verification chains per solution at temperature 0.7, each ending in Yes or No; the score is their mean.
         Verdicts come from the text, from the probability of the Yes or No token, or from that where there is
         one and else from the text.
Differs  The prompt is ours. A solution none of whose verdicts could be read is recorded as a failure (NaN) instead of
         scoring 0. A solution without an answer scores 0 and is not checked.
Needs    Chat; tokens with log-probabilities for mode=logprob.    Cost: `verdicts` completions per solution.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ponder.core.candidate import Candidate, Failure
from ponder.core.context import Context
from ponder.core.judging import judge_of, prompt_text
from ponder.core.model import Completion, Model, Sampling
from ponder.core.problem import Problem
from ponder.core.registry import verifier
from ponder.core.verifier import Scorable, Verifier, output_of, place_of
from ponder.errors import CapabilityError, ParameterError

PROMPT = """Check a solution to a problem.

Problem:
{problem}

Proposed solution:
{solution}

Go through the solution step by step: redo each calculation, and see whether each conclusion follows. Then end with one
line, which is either
Verdict: Yes
if the final answer is correct, or
Verdict: No
if it is not."""

_MARKUP = re.compile(r"\\(?:boxed|text|textbf|mathrm|mathbf)\b|[*_`$#{}\\]")
_LINE = re.compile(r"verdict|(?:answer|solution)\s+(?:is\s+)?correct\s*(?:\([^)]*\))?\s*\?", re.IGNORECASE)
_YES, _NO = re.compile(r"\byes\b", re.IGNORECASE), re.compile(r"\bno\b", re.IGNORECASE)
_BAD = re.compile(
    r"\b(?:incorrect|wrong|invalid|false)\b|\bnot\s+(?:\w+\s+)?(?:correct|right|valid|true)\b", re.IGNORECASE
)
_GOOD = re.compile(r"\b(?:correct|right|valid|true)\b", re.IGNORECASE)


@verifier("generative_verification", aliases=("genrm",), how="verification:outcome:judge", where="reasoning")
@dataclass(frozen=True)
class GenerativeVerification(Verifier):
    """The share of verification chains that accept the solution, in [0, 1].

    Args:
        verdicts: verification chains per solution.
        mode: `text` reads Yes or No; `logprob` takes the probability of Yes (or 1 minus that of No);
            `hybrid` takes the probability where there is one, else the text.
        model: the verifier model; none asks the model that wrote the solutions.
        temperature: of the chains.
        max_new_tokens: length limit of one chain.
        prompt: template with `{problem}` and `{solution}`; none uses ponder's own.
    """

    verdicts: int = 4
    mode: Literal["text", "logprob", "hybrid"] = "text"
    model: Model | None = None
    temperature: float = 0.7
    max_new_tokens: int = 512
    prompt: str | None = None

    def __post_init__(self) -> None:
        if self.verdicts < 1:
            raise ParameterError(self, "verdicts", self.verdicts, allowed="an integer ≥ 1")
        if self.prompt is not None and "{solution}" not in self.prompt:
            raise ParameterError(self, "prompt", self.prompt, allowed="a template with {problem} and {solution}")

    async def score(self, problem: Problem, items: Sequence[Scorable], ctx: Context) -> Sequence[float]:
        """Mean verdicts; NaN where no verdict could be read."""
        model = judge_of(self, self.model, ctx)
        if self.mode == "logprob":
            model.require("logprobs", "generative_verification(mode=logprob)", "Use mode=text.")
        return await ctx.score_each(items, lambda item: self._one(problem, item, model, ctx))

    async def _one(self, problem: Problem, item: Scorable, model: Model, ctx: Context) -> float:
        if isinstance(item, Candidate) and not item.valid:
            return 0.0
        filled = (self.prompt or PROMPT).replace("{problem}", prompt_text(problem))
        filled = filled.replace("{solution}", str(output_of(item, ctx)))
        sampling = Sampling(
            temperature=self.temperature,
            max_new_tokens=self.max_new_tokens,
            logprobs=None if self.mode == "text" else 0,
        )
        seeds = ctx.seeds(self.verdicts, "generative_verification", *place_of(item))
        read: dict[int, float] = {}
        unread: list[str] = []
        async for position, reply in ctx.generate(
            model, ({"role": "user", "content": filled},), seeds=seeds, sampling=sampling
        ):
            verdict = None if reply.error is not None else self._verdict(reply)
            if verdict is None:
                unread.append(reply.error or f"…{reply.text[-80:]!r}")
            else:
                read[position] = verdict
        if unread:
            said = "; ".join(unread[:3])
            message = f"{len(unread)} of {len(unread) + len(read)} verdicts could not be read: {said}"
            index = item.index if isinstance(item, Candidate) else None
            ctx.failures.append(Failure("verify", index, "missing_verdict", message))
        return math.fsum(read.values()) / len(read) if read else math.nan

    def _verdict(self, reply: Completion) -> float | None:
        if self.mode == "text":
            return parse_verdict(reply.text)
        probability = verdict_probability(reply)
        if probability is None and self.mode == "hybrid":
            return parse_verdict(reply.text)
        if probability is None and (reply.tokens is None or reply.token_logprobs is None):
            raise CapabilityError(
                "generative_verification(mode=logprob) needs the sampled tokens with their log-probabilities; the "
                "backend returned none. Use mode=hybrid or mode=text."
            )
        return probability


def parse_verdict(reply: str) -> float | None:
    """1 for a verdict of Yes, 0 for No, None if there is none that is clear.

    The last line that states a verdict counts; without one, the last line, read for words such as
    "incorrect" and then "correct".

    >>> parse_verdict("**Verdict: Yes**"), parse_verdict("So it is incorrect."), parse_verdict("Hm.")
    (1.0, 0.0, None)
    """
    lines = [line for line in _MARKUP.sub("", reply).splitlines() if line.strip()]
    for number in range(len(lines) - 1, -1, -1):
        found = list(_LINE.finditer(lines[number]))
        if found:
            rest = lines[number][found[-1].end() :]
            if not re.search(r"\w", rest) and number + 1 < len(lines):
                rest = lines[number + 1]
            yes, no = bool(_YES.search(rest)), bool(_NO.search(rest))
            if yes != no:
                return float(yes)
            if not yes and (word := _status(rest)) is not None:
                return word
    if not lines:
        return None
    alone = re.fullmatch(r"\W*(yes|no)\W*", lines[-1], re.IGNORECASE)
    return float(alone.group(1).lower() == "yes") if alone else _status(lines[-1])


def _status(text: str) -> float | None:
    if _BAD.search(text):
        return 0.0
    return 1.0 if _GOOD.search(text) else None


def verdict_probability(reply: Completion) -> float | None:
    """Probability of Yes: that of the last Yes token, or 1 minus that of the last No token; None without either."""
    if reply.tokens is None or reply.token_logprobs is None:
        return None
    for token, logprob in zip(reversed(reply.tokens), reversed(reply.token_logprobs), strict=False):
        word = re.sub(r"[^a-z]", "", token.lower())
        if word in ("yes", "no") and not math.isnan(logprob):
            p = math.exp(min(logprob, 0.0))
            return p if word == "yes" else 1.0 - p
    return None
