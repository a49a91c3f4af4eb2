r"""A recorded trace of requests as a workload: arrivals, prompts or their lengths, shared beginnings, output lengths.

A trace is a file of JSON lines, one a request:

    {"prompt": "Q: 2 + 3\nA:", "output_tokens": [5, 9], "correct": [true, false], "arrival_s": 0.4}
    {"prompt_tokens": 180, "shared": "system", "shared_tokens": 120, "output_tokens": 32}

Each completion has the length that was recorded (unless `natural=true`). `correct` says which of them were right, for
the price of a solved problem. Without arrival times `clients` ask in a closed loop, in the order of the file.

Differs  Every repetition puts words of its own before all prompts, so that what the requests share stays shared and an
         earlier repetition's cache helps none. Lengths are the trace's on every seed: a validation sees other words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson

from ponder.core.registry import Entry, arguments_for
from ponder.core.seeds import derive_seeds, generator
from ponder.core.spec import Term
from ponder.errors import ParameterError, TaskError
from ponder.tuning.workload import _WORDS, Job, Workload


@dataclass(frozen=True)
class Recorded:
    """One request of a trace.

    Attributes:
        prompt: its text; None if only lengths are known.
        prompt_tokens: about, if the text is not known.
        shared: name of the beginning that it has in common with others of that name; empty for none.
        shared_tokens: of that beginning.
        outputs: tokens of each completion.
        correct: whether each was right; None if that is not known.
        arrival_s: from the start; None in a closed loop.
    """

    prompt: str | None
    prompt_tokens: int
    shared: str
    shared_tokens: int
    outputs: tuple[int, ...]
    correct: tuple[bool, ...] | None
    arrival_s: float | None


@dataclass(frozen=True)
class Replay(Workload):
    """A trace, replayed.

    Args:
        path: the file.
        speed: arrivals come so many times as fast.
        clients: of the closed loop, if there are no arrival times.
        natural: texts may end by themselves.
        digest: of the file; refuses another one. Filled in by itself.
    """

    path: str = ""
    speed: float = 1.0
    digest: str = ""
    trace: tuple[Recorded, ...] = field(default=(), init=False, repr=False, compare=False)

    name = "replay"

    def __post_init__(self) -> None:
        if not 0 < self.speed < math.inf or self.clients < 1:
            raise ParameterError(self.name, "speed/clients", (self.speed, self.clients), allowed="above 0, and ≥ 1")
        raw = _bytes(self.path)
        digest = sha256(raw).hexdigest()[:12]
        if self.digest not in ("", digest):
            raise TaskError(f"{self.path} is not the trace that it was (digest {digest}, not {self.digest})")
        trace = _read(self.path, raw)
        last = max((r.arrival_s or 0.0) for r in trace)
        timed = any(r.arrival_s is not None for r in trace)
        rate = max(len(trace) - 1, 1) / last * self.speed if timed and last > 0 else 1e3 if timed else None
        for key, value in (("kind", "replay"), ("digest", digest), ("trace", trace), ("requests", len(trace)),
                           ("rate", rate)):  # fmt: skip
            object.__setattr__(self, key, value)

    @classmethod
    def from_term(cls, term: Term, text: str) -> Replay:
        """Read `replay:FILE(speed=2, clients=8, natural=true)`."""
        if not term.locator:
            raise ParameterError("workload", "replay", text, allowed="replay:FILE")
        bare = Term(term.name, None, term.arguments, term.positional, term.position, term.source)
        given = arguments_for(Entry("workload", "replay", cls), bare, text)
        allowed = {"speed", "clients", "natural", "digest"}
        if odd := sorted(set(given) - allowed):
            raise ParameterError("replay", odd[0], given[odd[0]], allowed=f"only {', '.join(sorted(allowed))}")
        return cls(path=term.locator, **given)

    def __str__(self) -> str:
        changed: dict[str, Any] = {"digest": self.digest}
        changed |= {n: getattr(self, n) for n, d in (("speed", 1.0), ("clients", 4), ("natural", False))
                    if getattr(self, n) != d}  # fmt: skip
        return str(Term("replay", self.path, changed))

    def jobs(self, seed: int, repetition: int = 0, fraction: float = 1.0) -> tuple[Job, ...]:
        """The requests; completions of different lengths are calls of their own that come together."""
        count = max(1, math.ceil(len(self.trace) * fraction))
        mark = " ".join(str(w) for w in generator("replay", seed, repetition).choice(_WORDS, 3))
        jobs = []
        for i, r in enumerate(self.trace[:count]):
            text = f"{mark}. {self._text(i, r, seed, repetition)}"
            at = (r.arrival_s or 0.0) / self.speed
            seeds = derive_seeds(("replay", seed, repetition, i), range(len(r.outputs)))
            for length in dict.fromkeys(r.outputs):
                own = tuple(s for s, n in zip(seeds, r.outputs, strict=True) if n == length)
                jobs.append(Job(text, length, own, at))
        return tuple(jobs)

    @property
    def width(self) -> int:
        """See `Workload.width`."""
        each = max(len(r.outputs) for r in self.trace)
        return each * (1 if self.rate is not None else min(self.clients, len(self.trace)))

    def features(self) -> dict[str, float]:
        """See `Workload.features`; of the recorded lengths."""
        prompts = [r.prompt_tokens for r in self.trace]
        outputs = [n for r in self.trace for n in r.outputs]
        low, high = min(outputs), max(outputs)
        rate = self.rate
        return {
            "log prompt": math.log2(sum(prompts) / len(prompts)),
            "shared share": _shared(self.trace) / sum(prompts),
            "log output": math.log2(sum(outputs) / len(outputs)),
            "output spread": (high - low) / (high + low),
            "log samples": math.log2(len(outputs) / len(self.trace)),
            "log clients": math.log2(self.clients) if rate is None else math.log2(1 + rate),
            "open": float(rate is not None),
        }

    def solved(self) -> Solved | None:
        """What the recorded completions solved; None if the trace does not say."""
        known = [r.correct for r in self.trace if r.correct is not None]
        if len(known) < len(self.trace):
            return None
        return Solved(sum(sum(c) / len(c) for c in known), sum(any(c) for c in known))

    def _text(self, i: int, r: Recorded, seed: int, repetition: int) -> str:
        if r.prompt is not None:
            return r.prompt
        common = generator("replay shared", seed, repetition, r.shared).choice(_WORDS, r.shared_tokens)
        own = generator("replay own", seed, repetition, i).choice(_WORDS, r.prompt_tokens - r.shared_tokens)
        return " ".join([*map(str, common), *map(str, own)])


@dataclass(frozen=True)
class Solved:
    """Problems of a trace that its completions solve.

    Attributes:
        single: by one completion each, expected.
        any: by at least one of theirs: what a verifier that is never wrong finds.
    """

    single: float
    any: int


def write_trace(path: Path, requests: Sequence[Mapping[str, Any]]) -> None:
    """Write requests as the lines that `replay:FILE` reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(orjson.dumps(dict(r)) + b"\n" for r in requests))


def study_trace(folder: Path, *, rate: float | None = None, seed: int = 0) -> list[dict[str, Any]]:
    """The stored samples of a study as a trace: its prompts, the lengths drawn, and which were right.

    A study does not keep when it asked; with `rate` requests arrive at random (Poisson), else they have no times.

    Args:
        folder: directory that `ponder bench` wrote.
        rate: requests a second.
        seed: of the arrivals.

    Raises:
        StoreError: no study, or no stored samples of text.
    """
    from ponder.api import run_sync
    from ponder.errors import StoreError
    from ponder.studies.offline import StoredStudy

    found: list[dict[str, Any]] = []
    with StoredStudy.open(folder) as stored:
        source = stored.source()

        async def look() -> None:
            for problem in stored.problems():
                _, candidates = await stored.candidates(problem, source)
                drawn = [c for c in candidates if c.n_tokens]
                if not drawn:
                    continue
                prompt = problem.prompt
                text = prompt if isinstance(prompt, str) else "\n".join(str(m.get("content", "")) for m in prompt)
                right = [bool(stored.right(problem, c.output)) for c in drawn]
                found.append({"prompt": text, "output_tokens": [c.n_tokens for c in drawn], "correct": right})

        run_sync(look)
    if not found:
        raise StoreError(f"{folder} holds no stored samples")
    if rate is not None:
        if not rate > 0:
            raise ParameterError("trace", "rate", rate, allowed="above 0, or none")
        gaps = generator("trace", seed).exponential(1 / rate, len(found)).cumsum()
        for request, at in zip(found, gaps - gaps[0], strict=True):
            request["arrival_s"] = round(float(at), 4)
    return found


# ---------------------------------------------------------------- reading


def _bytes(path: str) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise TaskError(f"replay: {path} cannot be read: {error.strerror}") from None


def _read(path: str, raw: bytes) -> tuple[Recorded, ...]:
    out = []
    for number, line in enumerate(raw.splitlines(), 1):
        if line.strip():
            try:
                out.append(_recorded(orjson.loads(line)))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise TaskError(f"{path}, line {number} is no request of a trace: {error!r}") from None
    if not out:
        raise TaskError(f"{path} holds no requests")
    if any(r.arrival_s is None for r in out) and any(r.arrival_s is not None for r in out):
        raise TaskError(f"{path}: some requests have an arrival_s and some have none")
    return tuple(sorted(out, key=lambda r: r.arrival_s or 0.0))


def _recorded(raw: Mapping[str, Any]) -> Recorded:
    outputs = raw["output_tokens"]
    lengths = tuple(int(n) for n in (outputs if isinstance(outputs, list) else [outputs] * int(raw.get("samples", 1))))
    correct = raw.get("correct")
    marks = None if correct is None else tuple(map(bool, correct if isinstance(correct, list) else [correct]))
    prompt = raw.get("prompt")
    tokens = int(raw.get("prompt_tokens") or len(str(prompt).split()))
    shared = int(raw.get("shared_tokens", 0))
    if not lengths or min(lengths) < 1:
        raise ValueError("output_tokens must be ≥ 1")
    if prompt is None and "prompt_tokens" not in raw:
        raise ValueError("prompt or prompt_tokens is needed")
    if tokens < 1 or not 0 <= shared <= tokens or float(raw.get("arrival_s") or 0.0) < 0:
        raise ValueError("prompt_tokens ≥ 1, shared_tokens up to them, arrival_s ≥ 0")
    if marks is not None and len(marks) != len(lengths):
        raise ValueError(f"{len(marks)} verdicts for {len(lengths)} completions")
    arrival = raw.get("arrival_s")
    return Recorded(None if prompt is None else str(prompt), tokens, str(raw.get("shared", "")), shared, lengths, marks,
                    None if arrival is None else float(arrival))  # fmt: skip


def _shared(trace: Sequence[Recorded]) -> int:
    """Prompt tokens (or words of texts) that an earlier request of the trace began with too."""
    seen: set[tuple[str, ...]] = set()
    named: set[str] = set()
    total = 0
    for r in trace:
        if r.prompt is None:
            total += r.shared_tokens * (r.shared in named)
            named.add(r.shared)
            continue
        words = r.prompt.split()
        heads = [tuple(words[:i]) for i in range(1, len(words) + 1)]
        total += sum(head in seen for head in heads)
        seen.update(heads)
    return min(total, sum(r.prompt_tokens for r in trace))
