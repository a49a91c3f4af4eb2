"""Text to tokens and back, and the chat template, as a Hugging Face tokenizer defines them."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from typing import Any

from ponder.core.problem import Prompt
from ponder.engine.vocabulary import REMEMBERED
from ponder.errors import ModelError

_SPACE = "\u2581"
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class HfVocabulary:
    """A tokenizer of transformers, as the engine reads it.

    Args:
        tokenizer: an `AutoTokenizer`.
        size: logits of the model; it may have more than the tokenizer has tokens.
        ends: the tokens that end an output.
        name: of the model, for messages.
    """

    def __init__(self, tokenizer: Any, size: int, ends: Sequence[int], name: str) -> None:
        self.path, self.size = name, size
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._control = set(tokenizer.all_special_ids)
        self.ends = frozenset(ends)
        bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        self.begin: int = -1 if bos is None else int(bos)
        self.end: int = int(eos) if eos is not None else min(self.ends, default=0)
        self.template: str | None = tokenizer.chat_template
        self._pieces: dict[int, bytes] = {}
        self._remembered = lru_cache(REMEMBERED)(self._tokens)

    def tokens(self, text: str, /) -> tuple[int, ...]:
        """See `Vocabulary`."""
        return self._remembered(text)

    def _tokens(self, text: str) -> tuple[int, ...]:
        """What some tokenizers put behind a text is left out: it is to be continued."""
        begin = (self.begin,) if self._begins_by_itself else ()
        return (*begin, *self._encode(text)) or (self.begin if self.begin >= 0 else self.end,)

    def plain(self, text: str) -> list[int]:
        """See `Vocabulary.plain`."""
        return self._encode(text, split_special_tokens=True)

    def text(self, prompt: Prompt) -> str:
        """See `Vocabulary.text`."""
        if isinstance(prompt, str):
            return prompt
        if self.template is None:
            raise ModelError(f"{self.path} has no chat template; give the prompt as text")
        from jinja2 import TemplateError

        messages = [dict(m) for m in prompt]
        try:
            whole = str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        except TemplateError as error:
            raise ModelError(f"{self.path}: its chat template refuses these messages: {error}") from None
        return whole.removeprefix(self._tokenizer.bos_token) if self._begins_by_itself else whole

    def piece(self, token: int) -> bytes:
        """See `Vocabulary.piece`; those of a number that is no token are empty."""
        found = self._pieces.get(token)
        if found is None:
            found = self._pieces[token] = b"" if token in self._control else self._bytes(token)
        return found

    def pieces(self) -> list[bytes]:
        """See `Vocabulary.pieces`."""
        return [self.piece(token) for token in range(self.size)]

    def named(self, tokens: Sequence[int]) -> list[str]:
        """See `Vocabulary.named`."""
        return [
            str(self._tokenizer.convert_ids_to_tokens(t))
            if t in self._control
            else self.piece(t).decode("utf-8", "replace")
            for t in tokens
        ]

    def control(self) -> list[int]:
        """See `Vocabulary.control`."""
        return sorted(t for t in self._control if t < self.size)

    def _encode(self, text: str, **how: Any) -> list[int]:
        with self._lock:
            return list(self._tokenizer.encode(text, add_special_tokens=False, **how))

    @cached_property
    def _begins_by_itself(self) -> bool:
        return self.begin >= 0 and list(self._tokenizer.encode(""))[:1] == [self.begin]

    def _bytes(self, token: int) -> bytes:
        added = self._tokenizer.added_tokens_decoder.get(token)
        if added is not None and not _BYTE.fullmatch(added.content):
            return str(added.content).encode()
        written = self._tokenizer.convert_ids_to_tokens(token) if token < len(self._tokenizer) else None
        return b"" if written is None else self._read(written)

    @cached_property
    def _read(self) -> Callable[[str], bytes]:
        """How a token's bytes are read from the way it is written: as bytes in disguise, or as text."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        decoder = json.dumps(json.loads(backend.to_str())["decoder"], ensure_ascii=False) if backend is not None else ""
        if '"ByteLevel"' in decoder:
            return _disguised
        return _marked if _SPACE in decoder else self._decoded

    def _decoded(self, written: str) -> bytes:
        """What the tokenizer's own decoding makes of it behind another token."""
        anchor = self._encode("a")[-1:]
        token = self._tokenizer.convert_tokens_to_ids(written)
        both, one = (self._tokenizer.decode(t, clean_up_tokenization_spaces=False) for t in ([*anchor, token], anchor))
        return str(both).removeprefix(str(one)).encode()


def _disguised(written: str) -> bytes:
    """Each letter stands for a byte."""
    known = _letters()
    return b"".join(bytes([known[x]]) if x in known else x.encode() for x in written)


def _marked(written: str) -> bytes:
    """Text with a mark for a space, or the name of one byte."""
    byte = _BYTE.fullmatch(written)
    return bytes([int(byte[1], 16)]) if byte else written.replace(_SPACE, " ").encode()


@lru_cache(1)
def _letters() -> dict[str, int]:
    """The byte that a letter stands for: printable Latin-1 for itself, the others in order from U+0100 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {**{chr(byte): byte for byte in plain}, **{chr(256 + i): byte for i, byte in enumerate(rest)}}
