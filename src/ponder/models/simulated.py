"""A simulated model with known truth, for theory, tests and four orders of magnitude of cheap samples.

Each problem has a hidden chance p of being answered rightly, drawn once from Beta(alpha, beta) by the
problem's id. A draw is right with probability p, else one of `wrong_answers` wrong ones, each half as
likely as the one before. Right draws carry log-probabilities per token from Normal(-right_nats, 0.15),
wrong ones from Normal(-wrong_nats, 0.15). Asked to judge (by a prompt that wants a line `Score: N` or
`Verdict: Yes`), it recognises a right answer with probability `judge_true_positive` and accepts a wrong
one with probability `judge_false_positive` (the same for `Verdict: sure` and `Vote: N`); asked whether it
could do better if it started over, it says No as often.

Time is simulated too: `seconds` follows from the number of tokens, so that ledgers of two runs are
equal to the last digit. `latency_s` waits for real, for tests of scheduling.
"""

from __future__ import annotations

import asyncio
import math
import re
from bisect import bisect_right
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, ClassVar

from ponder.core.model import Capabilities, Chunk, Completion, Model, Request
from ponder.core.problem import Prompt
from ponder.core.registry import MODELS, arguments_for, canonical, model
from ponder.core.seeds import derive_seed, generator
from ponder.core.spec import Term
from ponder.costs.shape import ModelShape
from ponder.errors import ParameterError, UnknownNameError

PROFILES: dict[str, dict[str, Any]] = {
    "default": {},
    "weak": {"alpha": 0.3, "beta": 3.0},
    "strong": {"alpha": 4.0, "beta": 1.0},
}

_SECONDS_PER_TOKEN = 0.01
_MOST_PROBLEMS = 100_000
"""Problems whose chances are remembered."""
_PARAGRAPH = "\n\n"
_SHOWN = re.compile(r"[Aa]nswer is (.+?)\.?\s")
_STEPS = 3
"""Paragraphs of an answer that is asked for paragraph by paragraph; only the last one says anything."""


@model("sim")
@dataclass(frozen=True)
class Simulated(Model):
    """A simulated language model.

    Args:
        profile: `default`, `weak` or `strong`: presets of the rest.
        alpha: first parameter of the Beta distribution of problem difficulties.
        beta: second one.
        wrong_answers: how many different wrong answers a problem has.
        mean_tokens: mean length of an answer in tokens (geometric).
        right_nats: mean negative log-probability per token of right answers.
        wrong_nats: the same for wrong ones.
        judge_true_positive: chance that it, as a judge, accepts a right answer.
        judge_false_positive: chance that it accepts a wrong one.
        latency_s: real waiting time per call.
        ignore_n: return one completion whatever is asked for, as some servers do.
        size: the shape that its FLOPs and bytes are counted by, such as `qwen3-8b`; see `ponder.costs.ModelShape.read`.
    """

    profile: str = "default"
    alpha: float = 0.8
    beta: float = 1.6
    wrong_answers: int = 4
    mean_tokens: int = 24
    right_nats: float = 0.3
    wrong_nats: float = 0.45
    judge_true_positive: float = 0.9
    judge_false_positive: float = 0.2
    latency_s: float = 0.0
    ignore_n: bool = False
    size: str | None = None

    name: ClassVar[str]
    capabilities = Capabilities(
        max_n=4096, logprobs=True, prompt_cache=True, seeds=True, prefix=True, context_tokens=8192
    )
    shape = ModelShape(100_000_000, 24, 8, 8, 64)

    def __post_init__(self) -> None:
        if self.alpha <= 0 or self.beta <= 0:
            raise ParameterError(self, "alpha/beta", (self.alpha, self.beta), allowed="numbers > 0")
        if self.wrong_answers < 1 or self.mean_tokens < 1:
            raise ParameterError(
                self, "wrong_answers/mean_tokens", (self.wrong_answers, self.mean_tokens), allowed="≥ 1"
            )
        if self.size is not None:
            object.__setattr__(self, "shape", ModelShape.read(self.size))

    @classmethod
    def from_term(cls, term: Term) -> Simulated:
        """Read `sim:profile(…)`."""
        profile = term.locator or "default"
        if profile not in PROFILES:
            raise UnknownNameError("simulated profile", profile, PROFILES, text=str(term), position=4)
        given = arguments_for(MODELS.entry("sim"), term, str(term))
        return cls(**{**PROFILES[profile], **given, "profile": profile})

    def __str__(self) -> str:
        return self._told

    @cached_property
    def _told(self) -> str:
        shown = canonical(self)
        preset = canonical(type(self)(**{**PROFILES[self.profile], "profile": self.profile}))
        return f"sim:{self.profile}" if shown == preset else f"sim:{self.profile}{shown[3:]}"

    @property
    def identity(self) -> str:
        """Its text form: nothing else decides what it answers."""
        return str(self)

    def accuracy(self, problem_id: str) -> float:
        """The hidden chance of a right answer to a problem."""
        found = self._accuracies.get(problem_id)
        if found is None:
            found = float(generator("sim", self.alpha, self.beta, problem_id).beta(self.alpha, self.beta))
            if len(self._accuracies) < _MOST_PROBLEMS:
                self._accuracies[problem_id] = found
        return found

    @cached_property
    def _accuracies(self) -> dict[str, float]:
        """What `accuracy` has given before."""
        return {}

    def count_tokens(self, prompt: Prompt) -> int:
        """Simulated tokens are white-space separated words."""
        texts = [prompt] if isinstance(prompt, str) else [str(m.get("content", "")) for m in prompt]
        return sum(len(text.split()) for text in texts) + 4 * (len(texts) - 1)

    async def sample(self, request: Request) -> AsyncIterator[tuple[int, Completion]]:
        """Completions in order; watched or raced ones arrive token by token."""
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        prompt_tokens = self.count_tokens(request.prompt) + len(request.prefix.split())
        seeds = request.seeds[:1] if self.ignore_n else request.seeds
        for position, seed in enumerate(seeds):
            share = prompt_tokens if position == 0 else 0
            completion = self._complete(request, seed, share)
            if request.watch is not None or request.stream:
                completion = await self._stream(request, position, completion)
            yield position, completion

    def _next_token(self, request: Request, seed: int, prompt_tokens: int) -> Completion:
        """One token of an answer with what else it could have been; a token is a word."""
        problem, words = request.problem, request.prefix.split()
        start = [] if isinstance(request.prompt, str) else ["Let", " me", " think.", " The", " answer", " is"]
        offered = {start[len(words)] if len(words) < len(start) else "": 0.0}
        if len(words) == len(start):
            key = problem.id if problem is not None else str(request.prompt)
            reference = str(problem.reference) if problem is not None and problem.reference is not None else None
            p = min(max(self.accuracy(key), 1e-6), 1 - 1e-6)
            right = reference or f"{derive_seed('truth', key) % 1000}"
            offered = {f" {right}.": math.log(p)}
            for i, share in enumerate(self._wrong_shares):
                offered.setdefault(f" {self._wrong(key, reference, i)}.", math.log((1 - p) * share))
        chances = [math.exp(v) for v in offered.values()]
        rng = generator("sim", str(self), seed, request.prefix)
        text = list(offered)[int(rng.choice(len(offered), p=[c / sum(chances) for c in chances]))]
        return Completion(
            text, 1, "stop" if not text else "length", "", logprob=offered[text], prompt_tokens=prompt_tokens,
            requests=1 if prompt_tokens else 0, seconds=_SECONDS_PER_TOKEN, token_logprobs=(offered[text],),
            top_logprobs=(offered,),
        )  # fmt: skip

    async def _stream(self, request: Request, position: int, full: Completion) -> Completion:
        """One token per turn of the event loop; what was generated until cancelled is reported."""
        index, words = request.offset + position, re.findall(r"\s*\S+", full.text)
        sent = 0
        try:
            for sent in range(1, full.n_tokens + 1):
                await asyncio.sleep(0)
                piece = words[sent - 1] if sent <= len(words) else ""
                logprobs = (full.token_logprobs[sent - 1],) if full.token_logprobs else None
                if request.watch is not None and request.watch(Chunk(index, piece, 1, logprobs)):
                    return self._cut(full, words, sent, "stopped_early")
        except (asyncio.CancelledError, GeneratorExit):
            if request.lost is not None:
                request.lost(index, self._cut(full, words, sent, "cancelled"))
            raise
        return full

    def _cut(self, full: Completion, words: list[str], n: int, finish: Any) -> Completion:
        kept = full.token_logprobs[:n] if full.token_logprobs else None
        return Completion(
            "".join(words[:n]), n, finish, None, sum(kept) if kept else None, full.prompt_tokens, 0, full.requests,
            n * _SECONDS_PER_TOKEN, None, kept,
        )  # fmt: skip

    def _complete(self, request: Request, seed: int, prompt_tokens: int) -> Completion:
        if request.sampling.max_new_tokens == 1 and (request.sampling.logprobs or 0) > 1:
            return self._next_token(request, seed, prompt_tokens)
        rng = generator("sim", str(self), seed, request.prefix)
        done = request.prefix.count(_PARAGRAPH)
        stepping = _PARAGRAPH in request.sampling.stop and done + 1 < _STEPS
        text, right = (f"Step {done + 1} of my work.", True) if stepping else self._text(request, rng)
        n_tokens = max(int(rng.geometric(1.0 / self.mean_tokens)), len(text.split()), 1)
        finish: Any = "stop"
        if n_tokens > request.sampling.max_new_tokens:
            n_tokens, finish = request.sampling.max_new_tokens, "length"
            text = "".join(re.findall(r"\s*\S+", text)[:n_tokens])
        logprobs = -abs(rng.normal(self.right_nats if right else self.wrong_nats, 0.15, n_tokens))
        return Completion(
            text,
            n_tokens,
            finish,
            _PARAGRAPH if stepping and finish == "stop" else "",
            logprob=float(logprobs.sum()) if request.sampling.logprobs is not None else None,
            prompt_tokens=prompt_tokens,
            requests=1 if prompt_tokens else 0,
            seconds=n_tokens * _SECONDS_PER_TOKEN,
            token_logprobs=tuple(logprobs.tolist()) if request.sampling.logprobs is not None else None,
        )

    def _text(self, request: Request, rng: Any) -> tuple[str, bool]:
        problem = request.problem
        chat = not isinstance(request.prompt, str)
        asked = "" if isinstance(request.prompt, str) else str(request.prompt[-1].get("content", ""))
        reference = str(problem.reference) if problem is not None and problem.reference is not None else None
        if "started over" in (asked if chat else request.prompt):
            said = request.prompt if isinstance(request.prompt, str) else str(request.prompt[-2].get("content", ""))
            words = said.split("\n\nWould you")[0].split()
            right = bool(words) and words[-1].strip(".") == reference
            content = rng.random() < (self.judge_true_positive if right else self.judge_false_positive)
            return ("No" if content else "Yes"), content
        if "Vote: N" in asked:
            accepting = [
                i for i, part in enumerate(asked.split("\nChoice ")) if i and self._accepts(part, reference, rng)
            ]
            return f"Vote: {accepting[0] if accepting else 1}", bool(accepting)
        if any(form in asked for form in ("Score: N", "Verdict: Yes", "Verdict: sure")):
            accepted = self._accepts(asked, reference, rng)
            if "Verdict: sure" in asked:
                open_still = not _SHOWN.search(asked + "\n")
                return f"Verdict: {'likely' if open_still else 'sure' if accepted else 'impossible'}", accepted
            if "Verdict: Yes" in asked:
                return f"Verdict: {'Yes' if accepted else 'No'}", accepted
            return f"Score: {9 if accepted else 2}", accepted
        key = problem.id if problem is not None else str(request.prompt)
        p = self.accuracy(key)
        if request.sampling.temperature == 0:
            right, wrong = p >= (1 - p) * self._wrong_shares[0], 0
        else:
            right = bool(rng.random() < p)
            wrong = bisect_right(self._wrong_bounds, rng.random())
        answer = (reference or f"{derive_seed('truth', key) % 1000}") if right else self._wrong(key, reference, wrong)
        return (f"Let me think. The answer is {answer}." if chat else f" {answer}"), right

    def _accepts(self, text: str, reference: str | None, rng: Any) -> bool:
        """Whether, as a judge, it takes the last answer in a text for right."""
        shown = _SHOWN.findall(text + "\n")
        right = bool(shown) and shown[-1].strip() == reference
        return bool(rng.random() < (self.judge_true_positive if right else self.judge_false_positive))

    @cached_property
    def _wrong_shares(self) -> list[float]:
        weights = [0.5**i for i in range(self.wrong_answers)]
        return [w / sum(weights) for w in weights]

    @cached_property
    def _wrong_bounds(self) -> list[float]:
        """Where the cumulative shares of the wrong answers end in [0, 1], without the last."""
        sums = list(accumulate(self._wrong_shares))
        return [s / sums[-1] for s in sums[:-1]]

    def _wrong(self, key: str, reference: str | None, which: int) -> str:
        """The wrong answers of a problem: numbers near a numeric reference, else made-up ones."""
        try:
            return str(int(float(reference or "")) + (which + 1) * (1 if derive_seed(key) % 2 else -1))
        except ValueError:
            return str(1000 + derive_seed("wrong", key, which) % 9000)
