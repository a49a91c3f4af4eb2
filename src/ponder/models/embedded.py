"""A GGUF file decoded in this process by ponder's own engine: every shared prefix is evaluated once.

All texts under way, of all problems, are decoded in one batch. The samples of a prompt, the continuations of a
partial output, and prompts that begin alike share what they have in common; a text that a search continues is found in
the cache token by token. A text that is stopped frees its place within one step.

Few texts are fastest on llama.cpp's quantised weights, many on PyTorch's matrix products: `engine=auto` measures once
on each machine from how many on (`ponder check` shows it) and decides for what arrives together.

Each completion draws with its own seed and so gives the same text whatever else is decoded with it, up to the rounding
of the products, which depends on the size of a batch and now and then changes a token.

Log-probabilities are of the distribution before temperature, filters and constraints, one for each token drawn, the
one that ends the text included.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from ponder.core.model import Capabilities
from ponder.core.registry import model
from ponder.engine.decoder import Decoder
from ponder.engine.engine import Engine, Settings, engine
from ponder.engine.job import Job
from ponder.engine.weights import Precision
from ponder.models._engine_model import EngineModel
from ponder.models._gguf_model import GgufModel

if TYPE_CHECKING:
    from ponder.engine.whitebox import WhiteBox


@model("embedded")
@dataclass(frozen=True)
class Embedded(EngineModel, GgufModel):
    """A GGUF model on this machine.

    `Sampling.extra` may hold one of `json_schema`, `regex` or `grammar` (Lark): every text keeps to it; or
    `ignore_eos`: no text ends before its length limit.

    Args:
        source: a name from `ponder models list`, or a path to a `.gguf` file.
        engine: `llamacpp`, `torch`, or whichever is measured to be faster for as many texts as come together.
        context: tokens of key-value cache, shared by all texts under way and those kept for being continued.
        parallel: most texts decoded together (llama.cpp holds at most 256).
        threads: processor threads; None takes all cores that this process may use.
        precision: of torch's products; `auto` is bfloat16 where the processor multiplies it natively.
        lookup: `auto` guesses the next tokens by what was written before, where that is faster; `off` never does.
    """

    source: str
    engine: Literal["auto", "llamacpp", "torch"] = "auto"
    context: int = 32768
    parallel: int = 256
    threads: int | None = None
    precision: Precision | Literal["auto"] = "auto"
    lookup: Literal["auto", "off"] = "auto"
    max_concurrency: int = field(default=1024, init=False)

    name: ClassVar[str]

    def __post_init__(self) -> None:
        found, limit = self.checked_shape()
        can = Capabilities(
            max_n=1024,
            logprobs=True,
            max_top_logprobs=100,
            prefix=True,
            prompt_cache=True,
            context_tokens=limit,
        )
        object.__setattr__(self, "shape", found)
        object.__setattr__(self, "capabilities", can)

    def notes(self) -> list[str]:
        """How fast each backend decodes here, and which one `engine=auto` takes."""
        from ponder.engine.calibration import calibration

        if self.engine != "auto":
            return [f"engine {self.engine}, as asked", *self._lookup_notes({})]
        found = calibration(self._settings())
        if not found.speeds:
            return ["engine llamacpp (torch is not installed)", *self._lookup_notes({})]
        lines = [
            f"engine {kind}: "
            + ", ".join(f"{speed:.0f} tokens/s with {n} text{'s' * (n > 1)}" for n, speed in sorted(by.items()))
            for kind, by in found.speeds.items()
        ]
        start = f"from {found.crossover} texts on" if found.crossover is not None else "never"
        return [*lines, f"engine auto takes torch {start}", *self._lookup_notes(found.speeds)]

    def _lookup_notes(self, speeds: Mapping[str, Mapping[int, float]]) -> list[str]:
        if self.lookup == "off":
            return ["lookup off, as asked"]
        dear = {kind: 4 * by[1] / by[4] for kind, by in speeds.items() if {1, 4} <= set(by)}
        shown = ", ".join(f"{times:.1f} times one without on {kind}" for kind, times in dear.items())
        return [
            "lookup auto drafts where that pays" + (f"; a text's step with 3 drafted tokens costs {shown}" * bool(dear))
        ]

    def running(self) -> Engine:
        """The engine, loaded if need be and shared by all models of these settings."""
        return engine(self._settings())

    def whitebox(self) -> WhiteBox:
        """The same weights in full precision, open: states, gradients, masks, caches that can be cut and joined.

        Raises:
            MissingExtraError: torch is not installed.
        """
        from ponder.engine.weights import from_gguf
        from ponder.engine.whitebox import WhiteBox

        return WhiteBox(from_gguf(self.path))

    def _settings(self) -> Settings:
        return Settings(self.path.resolve(), self.context, self.parallel, self.threads, self.precision)

    async def _begin(self, *jobs: Job) -> Decoder:
        running = self.running()
        for job in jobs:
            job.lookup = self.lookup == "auto"
        if self.engine == "auto":
            return await running.gather(jobs)
        decoder = await asyncio.to_thread(running.decoder, self.engine)
        decoder.submit(jobs)
        return decoder
