"""What reward models of pictures share: one loaded model in a process, batches, costs, and gradients."""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar

from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.core.verifier import Scorable, Verifier, output_of
from ponder.errors import BudgetError, ModelNotFoundError, ParameterError, VerifierError
from ponder.ledger.spend import Spend
from ponder.verifiers._pictures import picture_of, words_of
from ponder.verifiers._pixels import Pixels
from ponder.verifiers._reward_model import loaded, need_transformers, shared

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


class Looker(ABC):
    """A loaded model that scores pictures beside a text.

    Args:
        pixels: how it wants its pictures.
        device: where it is.
        dtype: of its weights.
    """

    def __init__(self, pixels: Pixels, device: Any, dtype: Any) -> None:
        self.pixels, self.device, self.dtype = pixels, device, dtype
        self._lock = threading.Lock()

    @abstractmethod
    def scores(self, pixels: Tensor, text: str) -> Tensor:
        """(n,) scores of (n, 3, side, side), differentiable."""

    def prepared(self, pictures: Sequence[Image]) -> Tensor:
        """(n, 3, side, side) of images."""
        return self.pixels.of_pictures(pictures)

    def look(self, pictures: Sequence[Image], text: str) -> list[float]:
        """Scores of images, without gradients."""
        import torch

        with self._lock, torch.inference_mode():
            found: list[float] = self.scores(self.prepared(pictures).to(self.device, self.dtype), text).tolist()
        return found


class PictureReward(Verifier):
    """A reward model that reads pictures in this process; subclasses are frozen dataclasses that can `load`."""

    batch: int
    by_output: ClassVar[bool] = True

    @abstractmethod
    def load(self) -> Looker:
        """The model, on its device."""

    def words(self, problem: Problem) -> str:
        """The text that a picture is compared with."""
        return words_of(problem)

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ParameterError(self, "batch", self.batch, allowed="an integer ≥ 1")

    async def score(self, problem: Problem, items: Sequence[Scorable], ctx: Context) -> Sequence[float]:
        """One number per item, `batch` of them in one pass."""
        pictures = [picture_of(output_of(item, ctx)) for item in items]
        looker, text = await shared(self._key, self.load), self.words(problem)

        def read(m: int) -> list[float]:
            return [v for i in range(0, m, self.batch) for v in looker.look(pictures[i : min(i + self.batch, m)], text)]

        m, values = await ctx.evaluate(len(pictures), read, costs=[Spend()] * len(pictures))
        if m < len(pictures):
            raise BudgetError("the budget did not allow the pictures to be scored")
        if not all(map(math.isfinite, values or [])):
            raise VerifierError(f"{self} gave numbers that are not finite")
        return list(values or [])

    def score_tensors(self, problem: Problem, outputs: Tensor, ctx: Context) -> Tensor:
        """(n,) scores of pictures (n, height, width) or (n, height, width, 3) from 0 to 1, differentiable."""
        looker = loaded(self._key, self.load)
        pixels = looker.pixels.of_tensors(outputs).to(looker.device, looker.dtype)
        return looker.scores(pixels, self.words(problem)).to(outputs.device)

    @property
    def _key(self) -> tuple[object, ...]:
        """What `load` depends on, here all parameters but `batch`: verifiers with the same key share a model."""
        return (self.name, *(getattr(self, f.name) for f in fields(self) if f.name != "batch"))  # type: ignore[arg-type]


def tokenizer_of(owner: str, source: str) -> Any:
    """A tokenizer from a directory or the model hub.

    Raises:
        ModelNotFoundError: there is none.
    """
    _, transformers = need_transformers()
    try:
        return transformers.AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(f"{owner}: no tokenizer can be loaded from {source}: {error}") from None
