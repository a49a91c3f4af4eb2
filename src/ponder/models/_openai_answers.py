"""What an endpoint's JSON means: texts, counts of tokens and log-probabilities, whoever wrote it.

Servers leave parts out, write NaN and null, and share their counts between choices. Whatever is missing or
has another type than the protocol says counts as absent, never as an answer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import orjson

from ponder.core.model import Completion, Request

LENGTHS = ("length", "max_tokens")
"""Finish reasons of a completion that met its length limit."""

NO_FINISH = ("content_filter", "error", "abort")
"""Finish reasons of a completion that the endpoint gave up."""

Logprobs = tuple[list[float], list[Mapping[str, float]]]
"""Log-probabilities of the tokens, and of their likeliest alternatives."""

_NO_LOGPROBS: Logprobs = ([], [])


def completions(
    answer: Mapping[str, Any], request: Request, chat: bool, requests: int, seconds: float
) -> list[tuple[int, Completion]]:
    """The choices of an answer by position; those without text are failed ones.

    Args:
        answer: the body, which has a list of choices.
        request: what was asked; choices beyond its `n` are dropped.
        chat: whether choices hold messages.
        requests: requests that it took; the first choice carries them, and the prompt.
        seconds: time that it took; the choices share it.
    """
    usage = as_object(answer.get("usage"))
    choices = [as_object(choice) for choice in answer["choices"]]
    if len(choices) > 1:
        places = [choice.get("index") for choice in choices]
        if all(isinstance(place, int) for place in places):
            choices.sort(key=lambda choice: choice["index"])
        choices = choices[: request.n]
        seconds /= max(len(choices), 1)
    wanted = request.sampling.logprobs
    texts = [choice_text(choice, chat) for choice in choices]
    parsed = [logprobs_of(choice, wanted) if wanted is not None else _NO_LOGPROBS for choice in choices]
    counts = share_tokens(count(usage.get("completion_tokens")), texts, [len(p[0]) for p in parsed])
    prompt_tokens, cached_tokens = count(usage.get("prompt_tokens")), cached(usage)
    out = []
    for i, choice in enumerate(choices):
        text, (logprobs, tops), reason = texts[i], parsed[i], choice.get("finish_reason")
        if text is None or reason in NO_FINISH:
            what = "the choice has no text" if text is None else "the endpoint gave the choice up"
            completion = Completion(
                "", counts[i], "error", None, None, prompt_tokens, cached_tokens, requests, seconds,
                error=f"EndpointError: {what} (finish_reason {reason!r})",
            )  # fmt: skip
        else:
            completion = Completion(
                text,
                counts[i],
                "length" if reason in LENGTHS else "stop",
                stop_reason(choice),
                math.fsum(logprobs) if logprobs else None,
                prompt_tokens,
                cached_tokens,
                requests,
                seconds,
                None,
                tuple(logprobs) if logprobs else None,
                tuple(tops) if tops else None,
            )
        out.append((i, completion))
        prompt_tokens = cached_tokens = requests = 0
    return out


def loads(raw: bytes | str) -> Any:
    """JSON, also with the NaN, Infinity and half characters that Python's own servers write.

    Raises:
        ValueError: it is no JSON.
    """
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return json.loads(raw)


def as_list(value: Any) -> list[Any]:
    """A JSON array; an empty one for anything else."""
    return value if isinstance(value, list) else []


def as_object(value: Any) -> Mapping[str, Any]:
    """A JSON object; an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def count(value: Any) -> int:
    """A number of tokens; 0 for anything that cannot be one."""
    return int(value) if isinstance(value, (int, float)) and 0 < value < 1e15 else 0


def cached(usage: Mapping[str, Any]) -> int:
    """Prompt tokens that the endpoint took from its cache."""
    details = usage.get("prompt_tokens_details")
    return count(as_object(details).get("cached_tokens")) if details else 0


def choice_text(choice: Mapping[str, Any], chat: bool) -> str | None:
    """A choice's text, also where a message comes in parts; None if there is none."""
    text = as_object(choice.get("message")).get("content") if chat else choice.get("text")
    if isinstance(text, list):
        parts = [part["text"] for part in map(as_object, text) if isinstance(part.get("text"), str)]
        return "".join(parts) if parts else None
    return text if isinstance(text, str) else None


def has_text(answer: Mapping[str, Any]) -> bool:
    """Whether any choice has text, as a message or plain."""
    choices = [as_object(choice) for choice in answer["choices"]]
    return any(choice_text(choice, chat) is not None for choice in choices for chat in (True, False))


def logprobs_of(choice: Mapping[str, Any], wanted: int | None) -> Logprobs:
    """Log-probabilities in either shape of the protocol; a missing number is NaN."""
    found = as_object(choice.get("logprobs"))
    if wanted is None or not found:
        return _NO_LOGPROBS
    tops: list[Mapping[str, float]] = []
    if tokens := [as_object(token) for token in as_list(found.get("content"))]:
        chosen = [_float(token.get("logprob")) for token in tokens]
        if wanted:
            named = [
                [a for a in map(as_object, as_list(token.get("top_logprobs"))) if "token" in a] for token in tokens
            ]
            tops = [{str(a["token"]): _float(a.get("logprob")) for a in few} for few in named]
    else:
        chosen = [_float(value) for value in as_list(found.get("token_logprobs"))]
        if wanted:
            given = map(as_object, as_list(found.get("top_logprobs")))
            tops = [{token: _float(value) for token, value in top.items()} for top in given]
    return chosen, tops


def stop_reason(choice: Mapping[str, Any]) -> str | None:
    """Some servers (vLLM) name the stop text (or the id of the token) that ended a choice."""
    if "stop_reason" not in choice:
        return None
    reason = choice["stop_reason"]
    return reason if isinstance(reason, str) else ""


def share_tokens(total: int, texts: list[str | None], seen: list[int]) -> list[int]:
    """Tokens of each choice: those seen if they add up, else the total shared out, to the token.

    It is shared in proportion to the tokens seen, or to the lengths of the texts where none were seen. An
    endpoint that tells neither usage nor log-probabilities is taken to need a token for four bytes.
    """
    if len(texts) == 1 and total:
        return [total]
    if not total:
        return [
            known or (0 if text is None else -(-len(text.encode("utf-8", "replace")) // 4))
            for known, text in zip(seen, texts, strict=True)
        ]
    if sum(seen) == total:
        return seen
    weights = seen if all(seen) else [len(text or "") for text in texts]
    whole = sum(weights)
    if not whole:
        weights, whole = [1] * len(texts), len(texts)
    counts, running, before = [], 0, 0
    for weight in weights:
        running += weight
        end = round(total * running / whole)
        counts.append(end - before)
        before = end
    return counts


def said(raw: bytes) -> str:
    """The message in an error's body, in one line."""
    try:
        body = loads(raw)
        error = body.get("error", body) if isinstance(body, dict) else body
        text = (error.get("message") or error) if isinstance(error, dict) else error
    except ValueError:
        text = raw.decode("utf-8", "replace")
    return " ".join(str(text).split())[:300]


def _float(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan
