"""What verifiers that know the truth about a step share: the dial that makes them err."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.core.seeds import SEED_BITS, derive_seed
from ponder.core.state import State
from ponder.core.verifier import Scorable, Verifier, output_of, place_of
from ponder.errors import ParameterError

_NORMAL = NormalDist()


@dataclass(frozen=True)
class NoisyTruth(Verifier):
    """Scores a partial output by whether it can still become right; all errors are dialled in.

    A verdict is first turned round with probability `flip`. The score is then sigmoid(sharpness · z + noise · ε),
    where z is 1 or -1 and ε is standard normal. Both are drawn once for each place in the tree, so the same place has
    the same score in every strategy.

    Args:
        sharpness: how far the scores of the two verdicts lie from one half, in logits; inf gives 1 and 0.
        noise: standard deviation of a score's error, in logits.
        flip: chance that a verdict is turned round, in [0, 1].
    """

    sharpness: float = math.inf
    noise: float = 0.0
    flip: float = 0.0

    def __post_init__(self) -> None:
        if not self.sharpness >= 0:
            raise ParameterError(self, "sharpness", self.sharpness, allowed="a number ≥ 0, or inf")
        if not 0 <= self.noise < math.inf:
            raise ParameterError(self, "noise", self.noise, allowed="a finite number ≥ 0")
        if self.noise > 0 and math.isinf(self.sharpness):
            raise ParameterError(
                self, "noise", self.noise, allowed="0 while sharpness=inf", hint="Give a sharpness too, such as 2"
            )
        if not 0 <= self.flip <= 1:
            raise ParameterError(self, "flip", self.flip, allowed="in [0, 1]")

    @abstractmethod
    def hopeful(self, problem: Problem, text: str, *, finished: bool) -> bool:
        """Whether a text is right (finished), or can still become right.

        Raises:
            TaskError: the problem is of another kind.
            VerifierError: it cannot be said about this text.
        """

    async def score(self, problem: Problem, items: Sequence[Scorable], ctx: Context) -> Sequence[float]:
        """One score per item in [0, 1]; equal texts are searched once."""
        verdicts: dict[tuple[str, bool], bool] = {}

        async def one(item: Scorable) -> float:
            key = (str(output_of(item, ctx)), isinstance(item, Candidate) or ctx.process.done(item))
            if key not in verdicts:
                verdicts[key] = self.hopeful(problem, key[0], finished=key[1])
            return self._dialled(verdicts[key], item, problem, ctx)

        return await ctx.score_each(items, one)

    def _dialled(self, verdict: bool, item: Scorable, problem: Problem, ctx: Context) -> float:
        state: State | None = item.state if isinstance(item, Candidate) else item
        place = (ctx.seed, problem.id, self.name, *(place_of(item) if state is None else state.path))
        if self.flip and (derive_seed(*place, "flip") + 0.5) / (1 << SEED_BITS) < self.flip:
            verdict = not verdict
        if math.isinf(self.sharpness):
            return float(verdict)
        error = _NORMAL.inv_cdf((derive_seed(*place, "noise") + 0.5) / (1 << SEED_BITS)) if self.noise else 0.0
        logit = (self.sharpness if verdict else -self.sharpness) + self.noise * error
        return 1.0 / (1.0 + math.exp(-logit)) if logit > -700 else 0.0
