"""What `ponder check` does not ask of an engine: prefix caching by its time, continuous batching, cancelling, length.

Each probe says what it saw. A probe that could cost more than the tokens left is skipped.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Awaitable, Callable
from contextlib import aclosing

from ponder.core.model import Chunk, Completion, Model, Request, Sampling
from ponder.core.scheduler import is_fatal
from ponder.errors import ModelError, PonderError
from ponder.studies.preflight import Finding, Verdict
from ponder.tuning.workload import Workload

_LONG = 1000
"""Tokens, about, of the prompt whose caching is probed."""

Outcome = tuple[Verdict, str]


async def probe_engine(model: Model, *, max_tokens: int = 20000) -> list[Finding]:
    """Probe a model that answers.

    Args:
        model: what to probe.
        max_tokens: prompts included, that all probes together may cost.

    Raises:
        ModelError: every further call would fail the same way (a wrong key, a wrong name).
    """
    probes: tuple[tuple[str, int, Callable[[Model], Awaitable[Outcome]]], ...] = (
        ("distinct_samples", 200, _distinct),
        ("prefix_caching", 6 * _LONG, _caches_prefix),
        ("continuous_batching", 400, _batches),
        ("throughput_x4", 500, _scales),
        ("greedy_in_a_batch", 500, _same_in_a_batch),
        ("cancelling", 600, _cancels),
        ("too_long_a_prompt", 0, _refuses_long),
    )
    findings, left = [], max_tokens
    for name, cost, probe in probes:
        limit = model.capabilities.context_tokens
        if name == "too_long_a_prompt":
            cost = (limit or 0) + 100
        if cost > left or (name == "prefix_caching" and limit is not None and limit < 2 * _LONG):
            findings.append(Finding(name, "unknown", f"not tried: it may cost {cost} tokens, {left} are left"))
            continue
        left -= cost
        try:
            verdict, detail = await probe(model)
        except ModelError as error:
            if is_fatal(error):
                raise
            verdict, detail = "no", f"the call failed: {error}"
        findings.append(Finding(name, verdict, detail))
    return findings


def which_run(model: Model) -> tuple[list[str], dict[str, str]]:
    """Strategies that the model's capabilities allow, and why not the others (after `preflight`)."""
    from ponder.api import check_capabilities
    from ponder.core.registry import STRATEGIES

    runs, refused = [], {}
    for entry in STRATEGIES.entries():
        try:
            built = STRATEGIES.build(entry.name)
        except PonderError:
            continue  # it wants an argument, such as a strategy inside
        try:
            check_capabilities(built, model)
            if built.stepwise:
                model.require("prefix", entry.name, "see docs/guide/models.md for how to say how")
        except PonderError as error:
            refused[entry.name] = str(error)
            continue
        runs.append(entry.name)
    return runs, refused


# ---------------------------------------------------------------------- the probes


def _text(tokens: int, seed: int) -> str:
    load = Workload(requests=1, prompt=(tokens,), shared=0, output=(1,))
    return f"({seed}) " + load.jobs(seed)[0].prompt


async def _ask(model: Model, text: str, tokens: int, seeds: tuple[int, ...] = (1,), temperature: float = 1.0,
               watch: Callable[[Chunk], bool] | None = None) -> list[Completion]:  # fmt: skip
    prompt = ({"role": "user", "content": text},) if model.capabilities.chat else text
    request = Request(prompt, Sampling(temperature=temperature, max_new_tokens=tokens), seeds, watch=watch)
    async with aclosing(model.sample(request)) as landing:  # type: ignore[type-var]
        return [completion async for _, completion in landing]


async def _ttft(model: Model, text: str) -> tuple[float, Completion]:
    now = asyncio.get_running_loop().time
    started, first = now(), []

    def watch(chunk: Chunk) -> bool:
        first.append(now() - started)
        return False

    got = await _ask(model, text, 2, watch=watch)
    return (first[0] if first else now() - started), got[0]


async def _distinct(model: Model) -> Outcome:
    got = await _ask(model, "Write a sentence about the sea.", 24, (1, 2, 3, 4), temperature=1.0)
    texts = {c.text for c in got}
    if len(got) < 2:
        return "unknown", f"{len(got)} completion came back from one call"
    return ("yes" if len(texts) > 1 else "no"), f"{len(texts)} different texts among {len(got)} of one call"


async def _caches_prefix(model: Model) -> Outcome:
    ratios, reused = [], 0
    for seed in range(3):
        cold, _ = await _ttft(model, _text(_LONG, 100 + seed))
        warm, again = await _ttft(model, _text(_LONG, 100 + seed))
        ratios.append(warm / max(cold, 1e-9))
        reused = max(reused, again.cached_tokens)
    ratio = statistics.median(ratios)
    verdict: Verdict = "yes" if ratio < 0.5 or reused else "no"
    told = f"; {reused} prompt tokens reported as cached" if reused else "; none reported as cached"
    return verdict, f"the first token of a repeated {_LONG}-token prompt takes {ratio:.2f} of the first time{told}"


async def _batches(model: Model) -> Outcome:
    started = asyncio.Event()

    def watch(chunk: Chunk) -> bool:
        started.set()
        return False

    long = asyncio.create_task(_ask(model, "Tell a long story about a river.", 128, watch=watch))
    beginning = asyncio.create_task(started.wait())
    await asyncio.wait({long, beginning}, return_when=asyncio.FIRST_COMPLETED)
    beginning.cancel()
    if long.done():
        await long
        return "unknown", "the long answer ended at once"
    await _ask(model, "Say hello.", 4)
    overtaken = not long.done()
    tokens = (await long)[0].n_tokens
    if tokens < 16:
        return "unknown", f"the long answer had only {tokens} tokens"
    detail = "was answered while a long one was being written" if overtaken else "waited until a long one was written"
    return ("yes" if overtaken else "no"), f"a short request {detail}"


async def _scales(model: Model) -> Outcome:
    now = asyncio.get_running_loop().time

    async def speed(clients: int) -> float:
        start = now()
        got = await asyncio.gather(*(_ask(model, f"Tell story {i}.", 48) for i in range(clients)))
        return sum(c.n_tokens for part in got for c in part) / max(now() - start, 1e-9)

    one, four = await speed(1), await speed(4)
    factor = four / max(one, 1e-9)
    return ("yes" if factor > 1.3 else "no"), f"4 clients get {factor:.1f} times the tokens/s of one ({one:.0f})"


async def _same_in_a_batch(model: Model) -> Outcome:
    text = "Explain in one sentence why the sky is blue."
    alone = (await _ask(model, text, 32, temperature=0.0))[0].text
    others = [_ask(model, f"Tell story {i}.", 32) for i in range(3)]
    together = (await asyncio.gather(_ask(model, text, 32, temperature=0.0), *others))[0][0].text
    if alone == together:
        return "yes", "a greedy answer was the same alone and beside three others"
    return "no", "a greedy answer differed beside three others (rounding depends on the batch)"


async def _cancels(model: Model) -> Outcome:
    """Whether a call after 4 cancelled long ones starts about as soon as on an idle engine."""
    idle = statistics.median([(await _ttft(model, f"Say hello {i}."))[0] for i in range(3)])
    running = [asyncio.create_task(_ask(model, f"Tell a very long story {i}.", 512)) for i in range(4)]
    await asyncio.sleep(max(0.05, idle))
    ended = sum(task.done() for task in running)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    if ended:
        return "unknown", "the long answers ended at once"
    busy = (await _ttft(model, "Say hello again."))[0]
    verdict: Verdict = "yes" if busy < 4 * idle + 0.2 else "no"
    return verdict, f"after four cancelled calls the first token took {busy:.2f} s, {idle:.2f} s on an idle engine"


async def _refuses_long(model: Model) -> Outcome:
    limit = model.capabilities.context_tokens
    if limit is None:
        return "unknown", "its context length is not known"
    try:
        await _ask(model, _text(limit + 64, 7), 2)
    except ModelError as error:
        return "yes", f"refused: {str(error).splitlines()[0][:120]}"
    return "no", f"a prompt of more than {limit} tokens was taken (cut, or the limit is another)"
