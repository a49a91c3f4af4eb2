"""Diffusion models on this machine: `diffusers:digits`, trained here once, or a pipeline of the diffusers library.

A pipeline gives its weights, text encoders and tables; the steps are ours (see `ponder.diffusion.solvers`), so that
any state can be stepped at any time.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from ponder.core.registry import MODELS, arguments_for, canonical, model
from ponder.core.spec import Term, format_value
from ponder.diffusion.model import DiffusionModel, Prediction
from ponder.diffusion.schedule import Floats, Schedule
from ponder.errors import ParameterError

if TYPE_CHECKING:
    from torch import Tensor

_DIGITS = "digits"


@model("diffusers")
@dataclass(frozen=True)
class Diffusers(DiffusionModel):
    """A denoiser with its prompt encoder and decoder.

    Args:
        source: `digits`, or a folder or hub name of a pipeline that `ponder.diffusion.pipelines` knows.
        guidance: classifier-free guidance, x̂ = x̂(nothing) + guidance · (x̂(prompt) - x̂(nothing)); 1 is none and 0 leaves
            the prompt out, both with one network evaluation for each prediction instead of two. A network that was
            made to take the guidance as an input (Flux dev) is given it, with one evaluation.
        height: of the output in pixels; none takes the model's own size.
        width: of the output.
        frames: of a video; none takes the pipeline's own number.
        device: `cpu`, `cuda`, …; none takes a GPU if there is one. The digits are always read here.
        precision: of a pipeline's weights; the steps between its predictions are in double precision.
        offload: keep only the network in use on the device, the others on the host, and decode in tiles; for
            pipelines that do not fit.
    """

    source: str
    guidance: float = 1.0
    height: int | None = None
    width: int | None = None
    frames: int | None = None
    device: str | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    offload: bool = False

    name: ClassVar[str]
    differentiable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.guidance < 0:
            raise ParameterError(self, "guidance", self.guidance, allowed="a number ≥ 0", hint="1 is none")
        if self.source == _DIGITS:
            for name in ("height", "width", "frames"):
                if (size := getattr(self, name)) is not None:
                    raise ParameterError(self, name, size, allowed="left out", hint="the digits are pictures of 8 x 8")

    @classmethod
    def from_term(cls, term: Term) -> Diffusers:
        """Read `diffusers:SOURCE(…)`."""
        given = arguments_for(MODELS.entry("diffusers"), term, str(term))
        return cls(**{"source": term.locator or _DIGITS, **given})

    def __str__(self) -> str:
        shown = canonical(self).removeprefix(f"diffusers(source={format_value(self.source)}").removeprefix(", ")
        head = str(Term("diffusers", self.source))
        return head if shown == ")" else f"{head}({shown}"

    @property
    def identity(self) -> str:
        """Its text form and the version of its weights."""
        if self.source == _DIGITS:
            from ponder.diffusion.digits import VERSION

            return f"{self} v{VERSION}"
        return str(self)

    @cached_property
    def _parts(self) -> Any:
        if self.source == _DIGITS:
            return _DigitParts()
        from ponder.diffusion.hub import load
        from ponder.diffusion.pipelines import Size

        size = Size(self.height, self.width, self.frames)
        return load(self.source, size, self.guidance, self.device, self.precision, self.offload)

    @property
    def _mixes(self) -> bool:
        """Whether predictions for the prompt and for none are mixed."""
        return self.guidance not in (0.0, 1.0) and not self._parts.embeds_guidance

    def _alone(self, condition: Any) -> Any:
        """What is asked for where nothing is mixed."""
        given, nothing = condition
        return nothing if self.guidance == 0.0 and not self._parts.embeds_guidance else given

    @property
    def denoiser_calls(self) -> int:  # type: ignore[override]
        """Two for each prediction with guidance."""
        return 2 if self._mixes else 1

    @property
    def latent_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """Of one state."""
        shape: tuple[int, ...] = self._parts.latent_shape
        return shape

    def schedule(self, steps: int) -> Schedule:
        """The pipeline's tables (digits: the cosine schedule)."""
        found: Schedule = self._parts.schedule(steps)
        return found

    def encode(self, prompt: Any) -> Any:
        """The prompt's condition and that of no prompt: `(condition, nothing)`."""
        return self._parts.encode(prompt)

    def decode(self, latents: Floats) -> Floats:
        """A picture (height, width) or (height, width, 3), or a video (frames, height, width, 3), 0 to 1.

        A pipeline's has 8 bits a channel, as files have.
        """
        output: Floats = self._parts.decode(latents)
        return output

    def predict(self, x: Floats, a: Floats, s: Floats, t: Floats, condition: Any) -> Prediction:
        """With guidance, both are asked in one call."""
        ask, n = self._parts.predict, len(x)
        if not self._mixes:
            found: Prediction = ask(x, a, s, t, [self._alone(condition)] * n)
            return found
        given, nothing = condition
        both = ask(*(np.concatenate([v, v]) for v in (x, a, s, t)), [nothing] * n + [given] * n)
        x0, eps = (v[:n] + self.guidance * (v[n:] - v[:n]) for v in (both.x0, both.eps))
        return Prediction(x0, eps, np.zeros(n))

    def predict_tensors(self, x: Tensor, a: float, s: float, t: float, condition: Any) -> tuple[Tensor, Tensor]:
        """With guidance, both are asked one after the other."""
        if not self._mixes:
            only: tuple[Tensor, Tensor] = self._parts.tensors(x, a, s, t, self._alone(condition))
            return only
        with_prompt, without = (self._parts.tensors(x, a, s, t, c) for c in condition)
        x0, eps = (b + self.guidance * (g - b) for g, b in zip(with_prompt, without, strict=True))
        return x0, eps

    def decode_tensors(self, latents: Tensor) -> Tensor:
        """Outputs (n, …), as `decode` gives them."""
        outputs: Tensor = self._parts.decode_tensors(latents)
        return outputs


class _DigitParts:
    """The digits model as a pipeline's parts."""

    latent_shape = (64,)
    embeds_guidance = False

    def __init__(self) -> None:
        from ponder.diffusion.digits import load

        self._model = load(lambda what: print(what, file=sys.stderr))

    def schedule(self, steps: int) -> Schedule:
        return Schedule.cosine(steps)

    def encode(self, prompt: Any) -> tuple[int, int]:
        from ponder.diffusion.digits import NO_CLASS

        return digit_of(prompt), NO_CLASS

    def decode(self, latents: Floats) -> Floats:
        return np.clip((latents.reshape(8, 8) + 1.0) / 2.0, 0.0, 1.0)

    def predict(self, x: Floats, a: Floats, s: Floats, t: Floats, conditions: list[int]) -> Prediction:
        return self._model.predict(x, a, s, conditions)

    def tensors(self, x: Tensor, a: float, s: float, t: float, label: int) -> tuple[Tensor, Tensor]:
        return self._model.predict_tensors(x, a, s, label)

    def decode_tensors(self, latents: Tensor) -> Tensor:
        return ((latents.reshape(-1, 8, 8) + 1.0) / 2.0).clamp(0.0, 1.0)


def digit_of(prompt: Any) -> int:
    """The digit that a prompt asks for: the one numeral or number word in it.

    Raises:
        ParameterError: there is none, or more than one.

    >>> digit_of("a bright seven"), digit_of("3"), digit_of(4)
    (7, 3, 4)
    """
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    text = "".join(c if c.isalnum() else " " for c in str(prompt).casefold())
    found = {words.index(w) if w in words else int(w) for w in text.split() if w in words or w in set("0123456789")}
    if len(found) != 1:
        raise ParameterError("diffusers:digits", "prompt", prompt, allowed="text with one digit from 0 to 9 in it")
    return found.pop()
