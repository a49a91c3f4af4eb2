"""What a backend really does, found out by a few tiny calls and remembered.

Servers differ from what they document: some ignore `n`, some ignore seeds, an instruct model asked to
continue a partial answer may start over. `preflight` asks once per endpoint and model, and says what
it saw; a study is warned, or refused, before it spends.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import orjson

from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.model import Completion, Model, Request, Sampling
from ponder.core.problem import Problem, Prompt, Task
from ponder.core.runtime import Runtime
from ponder.core.scheduler import is_fatal
from ponder.core.verifier import Verifier
from ponder.errors import CapabilityError, ModelError
from ponder.models.catalog import cache_dir
from ponder.processes.text_steps import TextSteps

Verdict = Literal["yes", "no", "unknown"]

_PROMPT = "List some animals, one per line, without any comment."
_PREFIX = "Sure: cat, dog, horse,"
_PROBES = ("answers", "n", "seeds", "logprobs", "stop", "prefix", "prompt_cache")


@dataclass(frozen=True)
class Finding:
    """One thing that was tried.

    Attributes:
        name: what was asked of the backend.
        verdict: whether it did it.
        detail: what was seen.
    """

    name: str
    verdict: Verdict
    detail: str


@dataclass(frozen=True)
class Preflight:
    """Everything that was found about a model, and a verifier if one was given."""

    model: str
    findings: tuple[Finding, ...]
    context_tokens: int | None = None
    checked_at: float = field(default_factory=time.time)

    def verdict(self, name: str) -> Verdict:
        """The verdict of one probe; `unknown` if it was not made."""
        return next((f.verdict for f in self.findings if f.name == name), "unknown")

    def warnings(self, requires: frozenset[str] = frozenset()) -> list[str]:
        """What a study should know before it spends; `requires` are capabilities that it cannot do without."""
        lines = [
            f"{f.name}: {f.detail}" for f in self.findings if f.verdict == "no" and f.name in ("answers", *requires)
        ]
        if self.verdict("n") == "no":
            lines.append("n: the backend ignores n, so every sample pays for the prompt")
        if self.verdict("seeds") == "no":
            lines.append("seeds: the same seed gave different texts, so a run cannot be repeated exactly")
        if self.verdict("verifier") == "no":
            lines.append(next(f"verifier: {f.detail}" for f in self.findings if f.name == "verifier"))
        return lines


async def preflight(
    model: Model,
    *,
    task: Task | None = None,
    verifier: Verifier | None = None,
    refresh: bool = False,
    runtime: Runtime | None = None,
) -> Preflight:
    """Probe a model, and a verifier on a task's known cases.

    Args:
        model: what to probe; about a dozen calls of a few tokens.
        task: its problems and references make known right and wrong answers for the verifier.
        verifier: tried on eight right and eight wrong answers.
        refresh: probe again even if this model was probed before.
        runtime: shared schedulers; a fresh one otherwise.

    Raises:
        ModelError: the model cannot be reached at all.
    """
    known = None if refresh else _recall(model)
    if known is None:
        findings = await _probe(model)
        known = Preflight(str(model), findings, model.capabilities.context_tokens)
        if known.verdict("answers") == "yes":
            _remember(model, known)
    apply(known, model)
    if verifier is None or task is None:
        return known
    finding = await _try_verifier(model, task, verifier, runtime or Runtime())
    return Preflight(known.model, (*known.findings, finding), known.context_tokens, known.checked_at)


def apply(found: Preflight, model: Model) -> None:
    """Let a model's capabilities say what was found, where they said "unknown"."""
    changes: dict[str, Any] = {}
    for name in ("n", "seeds", "logprobs", "prefix", "prompt_cache"):
        verdict = found.verdict(name)
        if getattr(model.capabilities, name) is None and verdict != "unknown":
            changes[name] = verdict == "yes"
    if changes:
        object.__setattr__(model, "capabilities", replace(model.capabilities, **changes))


async def _probe(model: Model) -> tuple[Finding, ...]:
    """All probes, one after another, so that a failure of one says nothing about the next."""
    probes = {
        "answers": _answers,
        "n": _honours_n,
        "seeds": _keeps_seeds,
        "logprobs": _gives_logprobs,
        "stop": _stops,
        "prefix": _continues_prefix,
        "prompt_cache": _caches_prompt,
    }
    findings: list[Finding] = []
    for name in _PROBES:
        try:
            verdict, detail = await probes[name](model)
        except CapabilityError as error:
            verdict, detail = "no", str(error)
        except ModelError as error:
            if is_fatal(error) or name == "answers":
                raise
            verdict, detail = "no", f"the call failed: {error}"
        findings.append(Finding(name, verdict, detail))
    return tuple(findings)


def _prompt(model: Model, text: str) -> Prompt:
    return ({"role": "user", "content": text},) if model.capabilities.chat else text


async def _ask(
    model: Model, seeds: Sequence[int], *, prefix: str = "", text: str = _PROMPT, **changes: Any
) -> list[Completion]:
    sampling = Sampling(**{"temperature": 1.0, "max_new_tokens": 12, **changes})
    request = Request(_prompt(model, text), sampling, tuple(seeds), prefix)
    async with aclosing(model.sample(request)) as completions:  # type: ignore[type-var]
        landed = [item async for item in completions]
    return [completion for _, completion in sorted(landed, key=lambda item: item[0])]


async def _answers(model: Model) -> tuple[Verdict, str]:
    start = time.monotonic()
    got = await _ask(model, [1])
    if not got or got[0].error:
        return "no", got[0].error or "no text" if got else "no choices came back"
    return "yes", f"{got[0].n_tokens} tokens in {time.monotonic() - start:.2f} s"


async def _honours_n(model: Model) -> tuple[Verdict, str]:
    got = await _ask(model, [1, 2, 3])
    return ("yes" if len(got) == 3 else "no"), f"{len(got)} of 3 choices came back from one call"


async def _keeps_seeds(model: Model) -> tuple[Verdict, str]:
    first, again, other = [(await _ask(model, [seed]))[0].text for seed in (11, 11, 12)]
    if first != again:
        return "no", "the same seed gave two different texts"
    if first == other:
        return "unknown", "two seeds gave the same text, so nothing can be said"
    return "yes", "the same seed gave the same text, another seed another"


async def _gives_logprobs(model: Model) -> tuple[Verdict, str]:
    got = (await _ask(model, [1], logprobs=0))[0]
    if got.logprob is None:
        return "no", "none came back"
    return "yes", f"{got.logprob:.2f} nats over {got.n_tokens} tokens"


async def _stops(model: Model) -> tuple[Verdict, str]:
    free = (await _ask(model, [3], max_new_tokens=24, temperature=0.0))[0].text
    stop = next((piece for piece in free.split() if len(piece) > 1 and free.find(piece) > 0), None)
    if stop is None:
        return "unknown", "its answer was too short to try"
    cut = (await _ask(model, [3], max_new_tokens=24, temperature=0.0, stop=(stop,)))[0].text
    return ("yes" if stop not in cut else "no"), f"asked to stop before {stop!r}, it ended with {cut[-20:]!r}"


async def _continues_prefix(model: Model) -> tuple[Verdict, str]:
    if model.capabilities.prefix is False:
        return "no", "the backend does not continue a partial answer"
    got = (await _ask(model, [1], prefix=_PREFIX, temperature=0.0))[0].text
    restarted = got.strip().lower().startswith(("sure", "cat", "here", "1.", "certainly"))
    return ("no" if restarted else "yes"), f"{_PREFIX!r} was followed by {got[:30]!r}"


async def _caches_prompt(model: Model) -> tuple[Verdict, str]:
    text = _PROMPT + " " + "Think of animals that live in the sea, in the air, or on land. " * 12
    await _ask(model, [1], text=text)
    got = (await _ask(model, [2], text=text))[0]
    if got.cached_tokens:
        return "yes", f"{got.cached_tokens} of {got.prompt_tokens} prompt tokens came from the cache the second time"
    return ("unknown" if model.capabilities.prompt_cache is None else "no"), "it reported no cached tokens"


async def _try_verifier(model: Model, task: Task, verifier: Verifier, runtime: Runtime) -> Finding:
    """Whether right answers score above wrong ones: the chance that they do, ties counted half."""
    problems = [p for p in task.problems(16) if p.reference is not None]
    if len(problems) < 2:
        return Finding("verifier", "unknown", "the task has no references to make known cases from")
    if "logprobs" in verifier.needs:
        return Finding("verifier", "unknown", f"{verifier} scores only what the model itself has drawn")
    right, wrong = [], []
    for problem, other in zip(problems, [*problems[1:], problems[0]], strict=True):
        texts = _known_case(task, problem, other)
        if texts is None:
            continue
        ctx = Context(problem, TextSteps(model), task=task, runtime=runtime)
        cases = [Candidate(text, task.extract(text), index=i) for i, text in enumerate(texts)]
        scores = await ctx.score(problem, cases, verifier)
        right.append(float(scores[0]))
        wrong.append(float(scores[1]))
    usable = [(r, w) for r, w in zip(right, wrong, strict=True) if not math.isnan(r + w)]
    if len(usable) < 2:
        return Finding("verifier", "unknown", "too few known cases could be scored")
    better = sum(map(_ahead, *zip(*usable, strict=True))) / len(usable)
    overall = auroc([r for r, _ in usable], [w for _, w in usable])
    detail = (
        f"a right answer scored above a wrong one in {better:.0%} of {len(usable)} known pairs, "
        f"AUROC {overall:.2f} over all"
    )
    return Finding("verifier", "yes" if better > 0.6 else "no", detail + ("" if better > 0.6 else " (chance is 50%)"))


def auroc(right: Sequence[float], wrong: Sequence[float]) -> float:
    """The chance that the score of a right answer is above that of a wrong one, whatever problem it is from.

    Ties count half. Pairs of one problem say whether a verifier can choose among its samples; this says also whether
    one threshold could serve all problems.

    >>> auroc([0.9, 0.4], [0.4, 0.1])
    0.875
    """
    return sum(_ahead(r, w) for r in right for w in wrong) / (len(right) * len(wrong))


def _ahead(right: float, wrong: float) -> float:
    return (right > wrong) + 0.5 * (right == wrong)


def _known_case(task: Task, problem: Problem, other: Problem) -> tuple[str, str] | None:
    """A right and a wrong output for a problem, in a form that its grader tells apart; None if there is none."""
    for form in ("The answer is {}.", " {}"):
        right, wrong = form.format(problem.reference), form.format(other.reference)
        try:
            if task.grade(problem, right).correct and not task.grade(problem, wrong).correct:
                return right, wrong
        except Exception:  # this form is none that the grader understands
            continue
    return None


# ---------------------------------------------------------------------- memory


def _memory(model: Model) -> Path:
    from hashlib import blake2b

    digest = blake2b(f"{model}\x1f{model.identity}".encode(), digest_size=12).hexdigest()
    return cache_dir() / "preflight" / f"{digest}.json"


def _recall(model: Model) -> Preflight | None:
    try:
        data = orjson.loads(_memory(model).read_bytes())
        return Preflight(
            data["model"], tuple(Finding(**f) for f in data["findings"]), data["context_tokens"], data["checked_at"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(model: Model, found: Preflight) -> None:
    path = _memory(model)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(f".{os.getpid()}")
        scratch.write_bytes(orjson.dumps(asdict(found)))
        scratch.replace(path)
    except OSError:
        return  # a cache that cannot be written costs a few calls next time, nothing else
