"""Text to tokens and back, and the chat template, as a GGUF file defines them."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property, lru_cache
from typing import Any

from ponder.core.problem import Prompt
from ponder.engine import _llama_c as c
from ponder.engine.vocabulary import REMEMBERED
from ponder.errors import ModelError


class GgufVocabulary:
    """The tokens of a GGUF file; its weights are not read.

    Args:
        path: the file.

    Raises:
        MissingExtraError: xllamacpp is not installed.
        ModelError: llama.cpp cannot read it.
    """

    def __init__(self, path: str) -> None:
        lib = c.library()
        self.path = path
        self._model = c.load_model(path, vocabulary_only=True)
        self._vocabulary = lib.llama_model_get_vocab(self._model)
        self.size = int(lib.llama_vocab_n_tokens(self._vocabulary))
        self.begin = int(lib.llama_vocab_bos(self._vocabulary))
        self.end = int(lib.llama_vocab_eos(self._vocabulary))
        raw = lib.llama_model_chat_template(self._model, None)
        self.template: str | None = raw.decode("utf-8", "replace") if raw else None
        self._lock = threading.Lock()
        self._pieces: dict[int, bytes] = {}
        self._remembered = lru_cache(REMEMBERED)(self._tokens)

    def tokens(self, text: str, /) -> tuple[int, ...]:
        """See `Vocabulary`."""
        return self._remembered(text)

    def _tokens(self, text: str) -> tuple[int, ...]:
        found = c.tokens_of(self._vocabulary, text, special=True)
        return tuple(found) or (self.begin if self.begin >= 0 else self.end,)

    def plain(self, text: str) -> list[int]:
        """The tokens of a text that goes on: none put before it, control tokens read as text."""
        return c.tokens_of(self._vocabulary, text, special=False, begin=False)

    def text(self, prompt: Prompt) -> str:
        """Text as it is; messages through the model's chat template."""
        return prompt if isinstance(prompt, str) else self._render([dict(m) for m in prompt])

    def piece(self, token: int) -> bytes:
        """A token's bytes; those of a control token are empty."""
        found = self._pieces.get(token)
        if found is None:
            found = self._pieces[token] = c.pieces_of(self._vocabulary, [token], special=False)[0]
        return found

    def pieces(self) -> list[bytes]:
        """The bytes of all tokens, in their order."""
        return [self.piece(token) for token in range(self.size)]

    def named(self, tokens: Sequence[int]) -> list[str]:
        """How tokens are written in a list of alternatives, control tokens by their names."""
        return [raw.decode("utf-8", "replace") for raw in c.pieces_of(self._vocabulary, tokens, special=True)]

    def control(self) -> list[int]:
        """The tokens that are no text."""
        lib = c.library()
        return [t for t in range(self.size) if lib.llama_vocab_is_control(self._vocabulary, t)]

    @cached_property
    def ends(self) -> frozenset[int]:
        """The tokens that end an output."""
        lib = c.library()
        return frozenset(t for t in range(self.size) if lib.llama_vocab_is_eog(self._vocabulary, t))

    def _render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        if self.template is None:
            raise ModelError(f"{self.path} has no chat template; give the prompt as text")
        from jinja2 import TemplateError

        marks = self.named([t for t in (self.begin, self.end) if t >= 0])
        begin = marks[0] if self.begin >= 0 else ""
        try:
            whole = self._compiled.render(
                messages=messages, add_generation_prompt=True, bos_token=begin, eos_token=marks[-1] if marks else ""
            )
        except TemplateError as error:
            raise ModelError(f"{self.path}: its chat template refuses these messages: {error}") from None
        return str(whole).removeprefix(begin) if self._begins_by_itself else whole

    @cached_property
    def _compiled(self) -> Any:
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        assert self.template is not None
        return environment.from_string(self.template)

    @cached_property
    def _begins_by_itself(self) -> bool:
        """Whether reading a text puts the beginning token before it."""
        return c.tokens_of(self._vocabulary, "", special=True)[:1] == [self.begin]


def _refuse(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)
