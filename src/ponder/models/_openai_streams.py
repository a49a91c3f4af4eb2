"""An endpoint's stream of server-sent events, put together to a completion."""

from __future__ import annotations

import codecs
import math
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from ponder.core.model import Chunk, Completion, Finish
from ponder.models._openai_answers import (
    LENGTHS,
    NO_FINISH,
    as_list,
    as_object,
    cached,
    choice_text,
    count,
    loads,
    logprobs_of,
    stop_reason,
)


class BrokenStreamError(Exception):
    """A stream that cannot be read to its end."""


class Streamed:
    """What a stream has brought so far.

    Args:
        chat: whether pieces come as parts of a message.
        wanted: alternatives asked for, as in `Sampling.logprobs`.
        prompt_tokens: what the prompt is taken to have until the endpoint says.
    """

    def __init__(self, chat: bool, wanted: int | None, prompt_tokens: int) -> None:
        self.chat, self.wanted, self.prompt_guess = chat, wanted, prompt_tokens
        self.pieces: list[str] = []
        self.logprobs: list[float] = []
        self.tops: list[Mapping[str, float]] = []
        self.tokens = 0
        self.usage: Mapping[str, Any] = {}
        self.finish: Finish | None = None
        self.reason: str | None = None

    @property
    def n_tokens(self) -> int:
        """As the endpoint counts, or one for each piece until it says."""
        return count(self.usage.get("completion_tokens")) or self.tokens

    def add(self, event: Mapping[str, Any], index: int) -> Chunk | None:
        """Take in one event; the chunk it brings, if it brings text.

        Raises:
            BrokenStreamError: the endpoint reports an error, or gave the completion up.
        """
        if event.get("error"):
            raise BrokenStreamError(f"the stream reported an error: {str(event['error'])[:200]}")
        self.usage = as_object(event.get("usage")) or self.usage
        for choice in map(as_object, as_list(event.get("choices"))):
            piece = choice_text({"message": choice.get("delta")} if self.chat else choice, self.chat) or ""
            new, tops = logprobs_of(choice, self.wanted)
            if reason := choice.get("finish_reason"):
                if reason in NO_FINISH:
                    raise BrokenStreamError(f"the endpoint gave the completion up (finish_reason {reason!r})")
                self.finish = "length" if reason in LENGTHS else "stop"
                self.reason = stop_reason(choice)
            if piece or new:
                n_tokens = len(new) or 1
                self.pieces.append(piece)
                self.logprobs += new
                self.tops += tops
                self.tokens += n_tokens
                return Chunk(index, piece, n_tokens, tuple(new) if new else None, tuple(tops) if tops else None)
        return None

    def completion(self, finish: Finish, requests: int, seconds: float) -> Completion:
        """What there is, as a completion that took so many requests and so long."""
        return Completion(
            "".join(self.pieces),
            self.n_tokens,
            finish,
            self.reason,
            logprob=math.fsum(self.logprobs) if self.logprobs else None,
            prompt_tokens=count(self.usage.get("prompt_tokens")) or self.prompt_guess,
            cached_tokens=cached(self.usage),
            requests=requests,
            seconds=seconds,
            token_logprobs=tuple(self.logprobs) if self.logprobs else None,
            top_logprobs=tuple(self.tops) if self.tops else None,
        )


async def events(content: Any) -> AsyncGenerator[Mapping[str, Any], None]:
    """Server-sent events as objects, however the bytes were cut; an event's data may go over several lines.

    Args:
        content: has `readany()`, which gives bytes as they come and none at the end.

    Raises:
        BrokenStreamError: an event is no object.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pieces: list[str] = []  # of the line that has not ended: joined once, however many reads it takes
    data: list[str] = []
    raw = b"\n"
    while raw:
        raw = await content.readany()
        first, *lines = (decoder.decode(raw) if raw else "\n\n").split("\n")
        pieces.append(first)
        if not lines:
            continue
        lines.insert(0, "".join(pieces))
        pieces = [lines.pop()]
        for line in lines:
            if line.startswith("data:"):
                data.append(line[5:].strip())
            elif not line.strip() and data:
                for event in _parsed(data):
                    if event is None:
                        return
                    yield event
                data = []


def _parsed(data: list[str]) -> list[Mapping[str, Any] | None]:
    """The objects in the lines of an event, None for the end: one object, or one for each line."""
    out: list[Mapping[str, Any] | None] = []
    for texts in (["\n".join(data)], data):
        try:
            out = [None if text == "[DONE]" else loads(text) for text in texts]
            break
        except ValueError:
            continue
    if not out or not all(event is None or isinstance(event, dict) for event in out):
        raise BrokenStreamError(f"an event of the stream is not a JSON object: {' '.join(data)[:120]!r}")
    return out
