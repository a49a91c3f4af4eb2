"""The model's own confidence: log-probability of the output, per token or summed.

Needs    log-probabilities.    Cost: none beyond the draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.core.registry import verifier
from ponder.core.verifier import Scorable, Verifier
from ponder.errors import VerifierError


@verifier("log_probability", aliases=("logprob", "perplexity"), how="verification:outcome:self_evaluation")
@dataclass(frozen=True)
class LogProbability(Verifier):
    """Log-probability in nats, at most 0.

    Args:
        normalise: divide by the number of tokens (the logarithm of the inverse perplexity), so that
            long outputs are not punished for being long.
    """

    normalise: bool = True

    needs: ClassVar[frozenset[str]] = frozenset({"logprobs"})
    range: ClassVar[tuple[float, float]] = (float("-inf"), 0.0)

    async def score(self, problem: Problem, items: Sequence[Scorable], ctx: Context) -> Sequence[float]:
        """Read off what the draws carry."""
        return [self._one(item, ctx) for item in items]

    def _one(self, item: Scorable, ctx: Context) -> float:
        if isinstance(item, Candidate):
            total, n = item.logprob, item.n_tokens
        else:
            total, n = ctx.process.measure(item)
        if total is None:
            raise VerifierError(
                "log_probability: the model gave no log-probabilities. Use a backend that does (llamacpp, sim, a "
                "server with logprobs on), or another verifier."
            )
        return total / max(n or 1, 1) if self.normalise else total
