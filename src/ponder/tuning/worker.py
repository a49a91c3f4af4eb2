"""The process that loads one configuration and measures it: JSON lines in, JSON lines out.

Started anew for each configuration, because an engine's options, and OpenMP's, are fixed when it is loaded, and its
caches must not help the next one.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from dataclasses import asdict
from typing import Any, BinaryIO

import orjson

from ponder.core.model import Model, Request, Sampling
from ponder.tuning.measure import SLO, measure
from ponder.tuning.workload import Workload

GREEDY_PROMPTS = (
    "The capital of France is", "Once upon a time there was a", "def add(a, b):\n    ", "To make bread you need",
    "1, 2, 3, 4,", "The three states of matter are", "Question: What is 12 + 30?\nAnswer:", "In the morning the sea",
)  # fmt: skip
"""What the outputs of two configurations are compared on."""

_GREEDY_TOKENS = 32


async def _serve(requests: BinaryIO, replies: BinaryIO) -> None:
    model: Model | None = None
    load_s = 0.0
    for line in requests:
        asked = orjson.loads(line)
        try:
            if asked["do"] == "load":
                started = time.monotonic()
                model = await _load(asked["model"], asked["natural"], asked.get("width", 1))
                load_s = time.monotonic() - started
                reply: Any = load_s
            elif asked["do"] == "greedy" and model is not None:
                reply = [await _greedy(model, prompt) for prompt in GREEDY_PROMPTS]
            else:
                assert model is not None, "nothing is loaded"
                workload = Workload.parse(asked["workload"])
                slo = SLO(**asked["slo"])
                got = await measure(
                    model, workload, seed=asked["seed"], repetition=asked["repetition"], fraction=asked["fraction"],
                    slo=slo,
                )  # fmt: skip
                local = not hasattr(model, "url")
                reply = {**asdict(got), "load_s": load_s, "peak_rss_bytes": _peak_rss() if local else 0}
            answer: dict[str, Any] = {"ok": reply}
        except Exception as error:  # whatever it is, it is this configuration's outcome
            answer = {"error": f"{type(error).__name__}: {error}"}
        replies.write(orjson.dumps(answer) + b"\n")
        replies.flush()
    if model is not None:
        await model.aclose()


async def _load(spec: str, natural: bool, width: int) -> Model:
    """The model, warm: after one completion, and after as many at once as the workload has under way.

    An engine may load what it needs for many texts only when they come.
    """
    from ponder.api import model as read_model

    model = read_model(spec)
    extra: tuple[tuple[str, Any], ...] = () if natural else (("ignore_eos", True),)
    most = model.capabilities.max_n if model.capabilities.n is not False else 1
    for n in sorted({1, max(1, min(width, most))}):
        warming = Request("warm up", Sampling(max_new_tokens=8, extra=extra), tuple(range(n)))
        async for _, completion in model.sample(warming):
            if completion.error:
                raise RuntimeError(completion.error)
    return model


async def _greedy(model: Model, prompt: str) -> str:
    request = Request(prompt, Sampling(temperature=0.0, max_new_tokens=_GREEDY_TOKENS), (0,))
    return "".join([completion.text async for _, completion in model.sample(request)])


def _peak_rss() -> int:
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> None:
    """Serve until the input ends. What a library prints goes to stderr, not among the replies."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    asyncio.run(_serve(sys.stdin.buffer, replies))


if __name__ == "__main__":
    main()
    os._exit(0)  # llama.cpp's own shutting down has been seen to wait for itself
