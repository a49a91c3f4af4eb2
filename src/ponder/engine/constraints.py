"""Texts that keep to a grammar, by llguidance: which tokens may come next is worked out token by token."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from ponder.core.model import Sampling
from ponder.engine.job import Constraint
from ponder.engine.vocabulary import Vocabulary
from ponder.errors import MissingExtraError, ParameterError

_KINDS = ("json_schema", "regex", "grammar")


def constraint_of(sampling: Sampling, vocabulary: Vocabulary) -> Callable[[], Constraint] | None:
    """What makes the constraint that the settings ask for in `extra`, None if they ask for none.

    `ignore_eos`, for measuring speed, forbids the tokens that end a text; under a grammar it does nothing.

    Raises:
        ParameterError: two at once, or one that llguidance cannot read.
        MissingExtraError: llguidance is not installed.
    """
    asked = [(name, value) for name, value in sampling.extra if name in _KINDS]
    if not asked:
        endless = dict(sampling.extra).get("ignore_eos")
        return (lambda: _Endless(sorted(vocabulary.ends))) if endless else None
    if len(asked) > 1:
        raise ParameterError("sampling", "extra", [name for name, _ in asked], allowed="one of them at a time")
    kind, value = asked[0]
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    tokens, grammar = _compiled(vocabulary, kind, text)
    return lambda: _Guided(tokens, grammar)


@lru_cache(8)
def _tokenizer(vocabulary: Vocabulary) -> Any:
    try:
        import llguidance
    except ImportError:
        raise MissingExtraError("constrained decoding", "llguidance", "grammar") from None
    return llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Tokens(vocabulary)))


class _Tokens:
    """A vocabulary as llguidance wants it described."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        names = vocabulary.control()
        self.tokens = vocabulary.pieces()
        for token, name in zip(names, vocabulary.named(names), strict=True):
            self.tokens[token] = name.encode()
        self.eos_token_id = vocabulary.end
        self.bos_token_id = vocabulary.begin if vocabulary.begin >= 0 else None
        self.special_token_ids = names

    def __call__(self, text: str | bytes) -> list[int]:
        return self._vocabulary.plain(text.decode("utf-8", "replace") if isinstance(text, bytes) else text)


@lru_cache(256)
def _compiled(vocabulary: Vocabulary, kind: str, text: str) -> tuple[Any, str]:
    tokens = _tokenizer(vocabulary)
    import llguidance

    make = {
        "json_schema": llguidance.LLMatcher.grammar_from_json_schema,
        "regex": llguidance.LLMatcher.grammar_from_regex,
        "grammar": llguidance.LLMatcher.grammar_from_lark,
    }[kind]
    try:
        grammar = str(make(text))
        error = llguidance.LLMatcher.validate_grammar(grammar, tokens)
    except ValueError as refused:
        error = str(refused)
    if error:
        raise ParameterError("sampling", kind, text[:80], allowed=f"one that llguidance reads ({error[:200]})")
    return tokens, grammar


class _Guided:
    """One text's place in a grammar."""

    def __init__(self, tokens: Any, grammar: str) -> None:
        import llguidance
        import llguidance.numpy as bits

        self._matcher = llguidance.LLMatcher(tokens, grammar)
        self._mask = bits.allocate_token_bitmask(1, tokens.vocab_size)
        self._bits = bits

    def allow(self, logits: npt.NDArray[np.float32]) -> None:
        """See `Constraint`. When the grammar is complete only the end is left."""
        self._bits.fill_next_token_bitmask(self._matcher, self._mask, 0)
        self._bits.apply_token_bitmask_inplace(logits[None], self._mask)

    def take(self, token: int) -> None:
        """See `Constraint`."""
        self._matcher.consume_token(token)


class _Endless:
    """A text that may not end by itself."""

    def __init__(self, ends: list[int]) -> None:
        self._ends = ends

    def allow(self, logits: npt.NDArray[np.float32]) -> None:
        """See `Constraint`."""
        logits[self._ends] = -np.inf

    def take(self, token: int) -> None:
        """See `Constraint`."""
