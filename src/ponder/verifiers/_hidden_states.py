"""Hidden states of texts by a model in this process, charged to the ledger: what trained heads read."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.judging import judge_of
from ponder.core.model import Model
from ponder.core.problem import Problem
from ponder.core.verifier import Scorable, output_of
from ponder.engine.token_trie import Place, TokenTrie
from ponder.errors import BudgetError, CapabilityError, ParameterError
from ponder.models._gguf_model import GgufModel
from ponder.verifiers._head_file import HeadFile

if TYPE_CHECKING:
    from ponder.engine.vocabulary import Vocabulary
    from ponder.engine.weights import Weights
    from ponder.models.embedded import Embedded

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class HiddenStates:
    """A model's states at chosen layers.

    Args:
        model: reads.
        trie: what it has read.
    """

    model: Embedded
    trie: TokenTrie

    @property
    def vocabulary(self) -> Vocabulary:
        """Text to tokens."""
        return self.model.running().vocabulary

    def tokens(self, problem: Problem, item: Scorable, ctx: Context) -> tuple[int, ...]:
        """The tokens of a prompt with what was written after it; a finished one has the model's end token, too.

        They are the tokenizer's own for the text, not those it was drawn with, so that a text has one score.
        """
        vocabulary = self.vocabulary
        text = vocabulary.tokens(vocabulary.text(problem.prompt) + str(output_of(item, ctx) or ""))
        finished = isinstance(item, Candidate) or ctx.process.done(item)
        return (*text, vocabulary.end) if finished and vocabulary.end >= 0 else text

    async def read(self, items: Sequence[Scorable], sequences: Sequence[Sequence[int]], ctx: Context) -> Floats:
        """Features of the last tokens of items, shape (n, width); NaN where the budget did not allow reading.

        One batched evaluation; what sequences share, with each other or with what was read before, is evaluated once.
        """
        places: list[Place | None] = []
        for item, tokens in zip(items, sequences, strict=True):
            try:
                ctx.charge_reading(self.model, len(tokens), self.trie.cached(tokens))
            except BudgetError as error:
                ctx.no_score(item, error)
                places.append(None)
            else:
                places.append(self.trie.place(tokens))
        known = [p for p in places if p is not None]
        out = np.full((len(places), self.trie.width), np.nan, dtype=np.float32)
        if known:
            states = await asyncio.to_thread(self.trie.states, known)
            out[[i for i, p in enumerate(places) if p is not None]] = states.numpy()
        return out


def hidden_states(model: Model, layers: Sequence[int], needed_by: str) -> HiddenStates:
    """A model opened for reading; models of one file and the same layers share what they have read.

    Raises:
        CapabilityError: the model does not run in this process.
        MissingExtraError: torch is not installed.
    """
    from ponder.models.embedded import Embedded

    if not isinstance(model, GgufModel):
        raise CapabilityError(
            f"{needed_by} reads hidden states, which {model} does not show; use a GGUF file in this process, such as "
            "embedded:smollm2-135m"
        )
    opened = model if isinstance(model, Embedded) else Embedded(model.source)
    return HiddenStates(opened, _trie(opened.path.resolve(), tuple(layers)))


def states_for(owner: object, head: HeadFile, model: Model | None, ctx: Context) -> HiddenStates:
    """The states that a head was trained on.

    Args:
        owner: the verifier, for messages.
        head: the trained head.
        model: reads; None: the one that wrote what is scored.
        ctx: knows who wrote it.

    Raises:
        ParameterError: it is another model than the head was trained on.
    """
    found = judge_of(owner, model, ctx)
    card = head.card
    if found.identity != card["identity"]:
        raise ParameterError(
            owner, "model", str(found), allowed=f"the model whose states {head.path} was trained on, {card['model']}",
            hint=f"That one is {card['identity']}, this one {found.identity}. Give model={card['model']} to let it "
            "read what another model writes, or train a head for this one",
        )  # fmt: skip
    return hidden_states(found, card["layers"], str(owner))


@lru_cache(maxsize=2)
def _weights(path: Path) -> Weights:
    from ponder.engine.weights import from_gguf

    return from_gguf(path)


@lru_cache(maxsize=4)
def _trie(path: Path, layers: tuple[int, ...]) -> TokenTrie:
    return TokenTrie(_weights(path), layers)
