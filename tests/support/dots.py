"""A model of bright and dark pictures that costs nothing, with a reward and a task; it counts, and can fail."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

import ponder
from ponder.core.answers import fingerprint
from ponder.core.problem import Grade, Problem, Task
from ponder.core.registry import MODELS, TASKS, VERIFIERS, Registered
from ponder.core.verifier import Verifier, output_of
from ponder.diffusion.model import DiffusionModel, Prediction
from ponder.diffusion.schedule import Schedule


class Fault(BaseException):
    """Ends a whole study, as an interrupt does."""


@ponder.register.model("dots")
@dataclass(frozen=True)
class Dots(DiffusionModel):
    """What it expects is its state, squashed: some draws come out brighter than others.

    Args:
        side: height and width of a picture.
        fails_at: the call of `predict` that raises; 0 for none.
        log: a file that gets a line for each row that is predicted.
        colour: whether pictures have three channels of 8 bits.
    """

    side: int = 8
    fails_at: int = 0
    log: str = ""
    colour: bool = False
    seen: list[int] = field(default_factory=list, compare=False, repr=False)
    scored: list[int] = field(default_factory=list, compare=False, repr=False)

    name: ClassVar[str]

    def __str__(self) -> str:
        return f"dots(side={self.side})"

    @property
    def identity(self) -> str:
        """The same whether it fails or not."""
        return f"{self} {self.colour}"

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """One channel or three."""
        return (self.side, self.side, 3) if self.colour else (self.side, self.side)

    def schedule(self, steps: int) -> Schedule:
        """Cosine."""
        return Schedule.cosine(steps)

    def predict(self, x: Any, a: Any, s: Any, t: Any, condition: Any) -> Prediction:
        """Brighter where a state is bright on the whole."""
        self.seen.append(len(x))
        if len(self.seen) == self.fails_at:
            raise Fault
        if self.log:
            with open(self.log, "a") as log:
                log.write("x\n" * len(x))
        flat = (-1, *[1] * (x.ndim - 1))
        x0 = np.tanh(x.reshape(len(x), -1).mean(axis=1).reshape(flat) * 4.0 + x * 0.3)
        return Prediction(x0, (x - a.reshape(flat) * x0) / s.reshape(flat), np.zeros(len(x)))

    def decode(self, latents: Any) -> Any:
        """From [-1, 1] to [0, 1]."""
        picture = np.clip((latents + 1.0) / 2.0, 0.0, 1.0)
        return np.rint(picture * 255.0) / 255.0 if self.colour else picture


@ponder.register.verifier("dots_ink")
@dataclass(frozen=True)
class DotsInk(Verifier):
    """Mean brightness."""

    by_output: ClassVar[bool] = True

    async def score(self, problem: Problem, items: Sequence[Any], ctx: Any) -> list[float]:
        """One number per item."""
        getattr(getattr(ctx.process, "model", None), "scored", []).append(len(items))
        return [float(np.mean(output_of(item, ctx))) for item in items]


@ponder.register.task("dots")
@dataclass(frozen=True)
class DotsTask(Registered, Task):
    """Asks for brightness in several scripts; right if the picture is brighter than half."""

    count: int = 4

    def problems(self, limit: int | None = None, *, seed: int = 0) -> list[Problem]:
        """Prompts with the seed in their ids."""
        words = ("bright", "hell & klar <b>", "明るい", "🌞")
        return [Problem(f"dots-{seed}-{i}", words[i % 4], "bright") for i in range(min(limit or 99, self.count))]

    def grade(self, problem: Problem, output: Any) -> Grade:
        """By the mean."""
        return Grade(bool(np.mean(output) > 0.5), float(np.mean(output)))

    def extract(self, output: Any) -> Any:
        """A fingerprint."""
        return fingerprint(output)


_OWN = [(r, n, r._entries.pop(n)) for r, n in ((MODELS, "dots"), (VERIFIERS, "dots_ink"), (TASKS, "dots"))]


@contextlib.contextmanager
def registered() -> Iterator[None]:
    """Their names are known inside only, so that no other test meets them."""
    for registry, name, entry in _OWN:
        registry._entries[name] = entry
    yield
    for registry, name, _ in _OWN:
        registry._entries.pop(name, None)


if __name__ == "__main__":  # a study in a process of its own, to be killed
    import sys

    from ponder.studies.runner import bench

    out, log = sys.argv[1:]
    with registered():
        bench(
            model=Dots(log=log), task=DotsTask(12), process="denoising(steps=5, batch=4)", out=out, check=False,
            samples=[2, 4, 8], strategies=["best_of_n(verifier=dots_ink)", "repeated_sampling | first"],
            concurrency=2,
        )  # fmt: skip
