"""What an engine is measured with: prompts, lengths and arrivals, the same for every configuration.

Lengths and arrival times follow from the seed; texts from the seed and the repetition, so that no repetition finds
the prompts of an earlier one in a cache.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace

from ponder.core.registry import Entry, arguments_for
from ponder.core.seeds import derive_seeds, generator
from ponder.core.spec import Term, parse_term
from ponder.errors import ParameterError, UnknownNameError

_WORDS = [
    "river", "stone", "quiet", "winter", "signal", "water", "house", "light", "paper", "green", "music",
    "letter", "garden", "table", "window", "summer", "morning", "people", "number", "market", "street", "school",
    "doctor", "father", "mother", "friend", "story", "answer", "second", "minute", "island", "mountain",
]  # fmt: skip
"""Words that common tokenizers write as one token each."""


@dataclass(frozen=True)
class Job:
    """One request.

    Attributes:
        prompt: text.
        output: tokens of each completion.
        seeds: one a completion.
        arrival_s: when it is due, in seconds from the start; 0 in a closed loop.
    """

    prompt: str
    output: int
    seeds: tuple[int, ...]
    arrival_s: float = 0.0


@dataclass(frozen=True)
class Workload:
    """Requests of one kind.

    Args:
        requests: how many.
        prompt: tokens of a prompt, about, from … to.
        shared: of them, those at the beginning that all prompts have in common.
        output: tokens of a completion, from … to.
        samples: completions of each prompt.
        clients: closed loop: so many clients, each asking anew when it is answered.
        rate: open loop: requests a second, arriving at random (Poisson) however long the answers take; `clients`
            then does not count.
        burst: in an open loop, requests that arrive at once.
        natural: texts may end by themselves; otherwise each has exactly its length (`ignore_eos`).
    """

    kind: str = field(default="chat", init=False)
    requests: int = 16
    prompt: tuple[int, ...] = (80, 200)
    shared: int = 64
    output: tuple[int, ...] = (16, 96)
    samples: int = 1
    clients: int = 4
    rate: float | None = None
    burst: int = 1
    natural: bool = False

    name = "workload"

    def __post_init__(self) -> None:
        for name in ("requests", "samples", "clients", "burst"):
            if getattr(self, name) < 1:
                raise ParameterError(self, name, getattr(self, name), allowed="an integer ≥ 1")
        for name in ("prompt", "output"):
            ends = getattr(self, name)
            if not ends or len(ends) > 2 or ends[0] < 1 or ends[-1] < ends[0]:
                raise ParameterError(self, name, ends, allowed="a number ≥ 1, or two in order such as [16, 96]")
        if not 0 <= self.shared <= self.prompt[0]:
            raise ParameterError(
                self, "shared", self.shared, allowed=f"from 0 to the shortest prompt, {self.prompt[0]}"
            )
        if self.rate is not None and not 0 < self.rate < math.inf:
            raise ParameterError(self, "rate", self.rate, allowed="a number > 0 or none")

    @classmethod
    def parse(cls, text: str) -> Workload:
        """Read `KIND(setting=…, …)`, such as `samples(requests=8, output=64)`, or `replay:FILE`.

        Raises:
            UnknownNameError: no such kind, or setting.
        """
        term = parse_term(text)
        if term.name == "replay":
            from ponder.tuning.replay import Replay

            return Replay.from_term(term, text)
        if term.name not in WORKLOADS:
            raise UnknownNameError("workload", term.name, WORKLOADS, text=text, position=term.position)
        given = arguments_for(Entry("workload", term.name, cls), term, text)
        return replace(WORKLOADS[term.name], **given)._named(term.name)

    def __str__(self) -> str:
        preset = WORKLOADS[self.kind]
        names = (f.name for f in fields(self) if f.init)
        changed = {n: getattr(self, n) for n in names if getattr(self, n) != getattr(preset, n)}
        return str(Term(self.kind, arguments=changed))

    def jobs(self, seed: int, repetition: int = 0, fraction: float = 1.0) -> tuple[Job, ...]:
        """The requests in order of arrival.

        Args:
            seed: fixes lengths and arrivals.
            repetition: changes the texts and nothing else.
            fraction: of the requests, the first ones; at least one.
        """
        count = max(1, math.ceil(self.requests * fraction))
        rng = generator("workload", seed)
        prompts = rng.integers(self.prompt[0], self.prompt[-1] + 1, self.requests)[:count]
        outputs = rng.integers(self.output[0], self.output[-1] + 1, self.requests)[:count]
        arrivals = [0.0] * count
        if self.rate is not None:
            groups = math.ceil(self.requests / self.burst)
            starts = rng.exponential(self.burst / self.rate, groups).cumsum()
            arrivals = [float(starts[i // self.burst] - starts[0]) for i in range(count)]
        words = generator("workload text", seed, repetition)
        common = [str(w) for w in words.choice(_WORDS, self.shared)]
        jobs = []
        for i in range(count):
            own = words.choice(_WORDS, int(prompts[i]) - self.shared)
            seeds = derive_seeds(("workload", seed, repetition, i), range(self.samples))
            jobs.append(Job(" ".join([*common, *map(str, own)]), int(outputs[i]), seeds, arrivals[i]))
        return tuple(jobs)

    @property
    def width(self) -> int:
        """Completions under way at once, about: what an engine is warmed up with."""
        return self.samples * (self.burst if self.rate is not None else min(self.clients, self.requests))

    def features(self) -> dict[str, float]:
        """Numbers that tell workloads apart, on scales where differences are comparable."""
        prompt, output = sum(self.prompt) / len(self.prompt), sum(self.output) / len(self.output)
        return {
            "log prompt": math.log2(prompt),
            "shared share": self.shared / prompt,
            "log output": math.log2(output),
            "output spread": (self.output[-1] - self.output[0]) / (self.output[-1] + self.output[0]),
            "log samples": math.log2(self.samples),
            "log clients": math.log2(self.clients) if self.rate is None else math.log2(1 + self.rate * self.burst),
            "open": float(self.rate is not None),
        }

    def _named(self, kind: str) -> Workload:
        object.__setattr__(self, "kind", kind)
        return self


WORKLOADS: dict[str, Workload] = {
    kind: made._named(kind)
    for kind, made in {
        "chat": Workload(),
        "single": Workload(requests=4, clients=1, shared=0, output=(32, 64)),
        "samples": Workload(requests=3, prompt=(60, 120), shared=0, output=(48, 64), samples=8, clients=3),
        "search": Workload(requests=24, prompt=(110, 130), shared=100, output=(8, 128), clients=12),
        "judge": Workload(requests=12, prompt=(300, 500), shared=200, output=(2, 6), clients=6),
        "arrivals": Workload(requests=16, rate=2.0, output=(16, 48)),
    }.items()
}
"""Kinds of workload by name; each setting can be changed."""
