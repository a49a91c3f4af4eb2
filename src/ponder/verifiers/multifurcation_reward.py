"""A trained multifurcation reward model: rewards of all next tokens of a prefix from one pass.

Paper    Qiu et al. 2025, "Saffron-1: Towards an Inference Scaling Paradigm for LLM Safety Assurance".
Equal    One vector of rewards a prefix, over the vocabulary; tokens never seen in training are forbidden (-inf).
Differs  A low-rank linear head on frozen states instead of a tuned guard model (see `ponder train-prm --head
         multifurcation`). Prefixes of one call, and of earlier ones, share evaluation through a trie.
Needs    A trained head, and the same model in this process (extra `torch`).
Cost     Tokens of a prefix that were not read before, as verifier tokens: one for each new node of a search.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ponder.core.context import Context
from ponder.core.judging import judge_of
from ponder.core.model import Model
from ponder.core.problem import Problem
from ponder.core.registry import verifier
from ponder.core.state import State
from ponder.core.verifier import NextStepVerifier
from ponder.engine.vocabulary import Vocabulary, by_name
from ponder.errors import ParameterError
from ponder.verifiers._head_file import Arrays, HeadFile, load_head
from ponder.verifiers._hidden_states import states_for


@verifier(
    "multifurcation_reward", aliases=("mrm", "next_token_reward"),
    how="verification:process:reward_model", where="open_ended",
)  # fmt: skip
@dataclass(frozen=True)
class MultifurcationReward(NextStepVerifier):
    """Rewards of next tokens, in the units of the teacher that the head was trained by.

    Args:
        head: the folder that `ponder train-prm --head multifurcation` wrote, or the `.safetensors` file in it.
        model: whose states are read; None: the one that writes. It must be the one that the head was trained on.
        reencode: whether another model may write; what it writes is then put into the head's own tokens, and a step
            that is several of them counts by its first.
    """

    head: str
    model: Model | None = None
    reencode: bool = False

    name: ClassVar[str]
    range: ClassVar[tuple[float, float]] = (float("-inf"), float("inf"))

    def __post_init__(self) -> None:
        if not self.head.strip():
            raise ParameterError(self, "head", self.head, allowed="a folder that ponder train-prm wrote")

    @cached_property
    def _file(self) -> HeadFile:
        return load_head(self.name, self.head)

    async def score_next(
        self, problem: Problem, states: Sequence[State], steps: Sequence[Sequence[Any]], ctx: Context
    ) -> Sequence[Sequence[float]]:
        """One pass over all states' texts; shared beginnings are evaluated once."""
        reader = states_for(self, self._file, self.model, ctx)
        if self.model is not None and not self.reencode:
            self._check_writer(ctx)
        running, vocabulary = reader.model.running(), reader.vocabulary
        prompt = vocabulary.text(problem.prompt)
        texts = [running.tokens(prompt + str(ctx.process.output(state) or "")) for state in states]
        features = await reader.read(states, texts, ctx)
        return rewards_of(self._file.arrays, features, [[_token(vocabulary, s) for s in own] for own in steps])

    def _check_writer(self, ctx: Context) -> None:
        writer = judge_of(self, None, ctx)
        if writer.identity != self._file.card["identity"]:
            raise ParameterError(
                self, "model", str(self.model), allowed=f"the model that writes, {writer}, whose tokens these rewards "
                "are for", hint="reencode=true puts what it writes into the head's own tokens",
            )  # fmt: skip


def _token(vocabulary: Vocabulary, step: Any) -> int:
    """The token that a step is (the first one if it is several); an empty step is the end."""
    text = str(step)
    if not text:
        return vocabulary.end
    found = by_name(vocabulary).get(text)
    return found if found is not None else next(iter(vocabulary.plain(text)), -1)


def rewards_of(head: Arrays, features: npt.ArrayLike, tokens: Sequence[Sequence[int]]) -> list[list[float]]:
    """A head's rewards of some next tokens of each prefix; -inf for tokens never seen in training.

    Args:
        head: see `ponder.recipes.multifurcation_reward_model.fit_multifurcation_head`.
        features: of prefixes, shape (n, width).
        tokens: for each prefix.
    """
    inner = np.asarray(features, dtype=np.float64) @ head["projection"] + head["offset"]
    place: Mapping[int, int] = {int(t): i for i, t in enumerate(head["tokens"])}
    out = []
    for row, own in zip(inner, tokens, strict=True):
        at = np.array([place.get(t, -1) for t in own], dtype=np.int64)
        rewards = head["rows"][at] @ row + head["bias"][at] if len(at) else np.zeros(0)
        out.append([float(r) if i >= 0 else -np.inf for r, i in zip(rewards, at, strict=True)])
    return out
