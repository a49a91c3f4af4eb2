"""A trained value head: the chance that what is written so far ends correct, read from a model's hidden state.

Paper    Snell et al. 2024, "Scaling LLM Test-Time Compute Optimally", app. D, and Wang et al. 2024, "Math-Shepherd":
         a value per step, trained on the share of Monte-Carlo rollouts that end correct.
Equal    One value for each prefix; a whole answer's score is that of its last step.
Differs  The head is a logistic regression or a small network on the frozen states of the model that writes; the papers
         tune a whole language model.
Needs    A head from `ponder train-prm`, and the same model in this process (extra `torch`).
Cost     Tokens of the text that were not read before, as verifier tokens; nothing is generated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from ponder.core.context import Context
from ponder.core.model import Model
from ponder.core.problem import Problem
from ponder.core.registry import verifier
from ponder.core.verifier import Scorable, Verifier
from ponder.errors import ParameterError
from ponder.verifiers._head_file import Arrays, HeadFile, load_head
from ponder.verifiers._hidden_states import states_for


@verifier("value_head", aliases=("value_model",), how="verification:process:reward_model")
@dataclass(frozen=True)
class ValueHead(Verifier):
    """The chance that a text ends correct if the model goes on by itself.

    Args:
        head: the folder that `ponder train-prm` wrote, or the `.safetensors` file in it.
        model: whose states are read; None: the one that writes. It must be the one that the head was trained on.
    """

    head: str
    model: Model | None = None

    name: ClassVar[str]

    def __post_init__(self) -> None:
        if not self.head.strip():
            raise ParameterError(self, "head", self.head, allowed="a folder that ponder train-prm wrote")

    @cached_property
    def _file(self) -> HeadFile:
        return load_head(self.name, self.head)

    async def score(self, problem: Problem, items: Sequence[Scorable], ctx: Context) -> Sequence[float]:
        """All items in one batched evaluation; shared beginnings are evaluated once."""
        states = states_for(self, self._file, self.model, ctx)
        features = await states.read(items, [states.tokens(problem, item, ctx) for item in items], ctx)
        return [float(v) for v in values_of(self._file.arrays, features)]


def values_of(head: Arrays, features: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """A head's values in (0, 1), shape (n,), of features, shape (n, width); NaN stays NaN.

    Args:
        head: `mean` and `scale` of features (width,); then `weight` (width,) and `bias` (), or with a hidden layer
            `hidden` (width, units), `hidden_bias` (units,), `weight` (units,) and `bias` ().
        features: as the head was trained on.
    """
    x = (np.asarray(features, dtype=np.float64) - head["mean"]) / head["scale"]
    if "hidden" in head:
        x = np.maximum(x @ head["hidden"] + head["hidden_bias"], 0.0)
    logit = x @ head["weight"] + head["bias"]
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logit)), dtype=np.float64)
