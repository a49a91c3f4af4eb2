"""A video's score from a verifier of single pictures, asked about its frames.

Needs    A process whose output is a sequence of frames: `frames`, or `denoising` with a video pipeline.
Cost     The verifier's, for each frame that counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.core.registry import verifier
from ponder.core.verifier import Scorable, Verifier, output_of
from ponder.errors import GradientUnavailableError, VerifierError

if TYPE_CHECKING:
    from torch import Tensor


@verifier("per_frame", how="verification:process", where="generation_video")
@dataclass(frozen=True)
class PerFrame(Verifier):
    """Scores of frames, put together.

    Args:
        verifier: scores one picture.
        how: the mean over the first, middle and last frame (`ends`), the `last` alone, or the `mean` or `min` of all.
    """

    verifier: Verifier
    how: Literal["ends", "last", "mean", "min"] = "ends"

    def __post_init__(self) -> None:
        object.__setattr__(self, "needs", self.verifier.needs)

    @property
    def range(self) -> tuple[float, float]:  # type: ignore[override]
        """That of the verifier."""
        return self.verifier.range

    @property
    def by_output(self) -> bool:  # type: ignore[override]
        """That of the verifier."""
        return self.verifier.by_output

    async def score(self, problem: Problem, items: Sequence[Scorable], ctx: Context) -> Sequence[float]:
        """One number per item; all frames of all items in one call."""
        videos = [output_of(item, ctx) for item in items]
        for video in videos:
            if np.ndim(video) < 2 or len(video) == 0 or (np.ndim(video) == 3 and np.shape(video)[-1] == 3):
                given = f"a picture of shape {np.shape(video)}" if np.ndim(video) == 3 else f"a {type(video).__name__}"
                raise VerifierError(
                    f"per_frame scores outputs that are sequences of frames, not {given}; use it with the process "
                    "frames or a video pipeline"
                )
        chosen = [[video[i] for i in self._counted(len(video))] for video in videos]
        pictures = [Candidate(frame, None, index=i) for i, frame in enumerate(f for video in chosen for f in video)]
        scores = np.asarray(await self.verifier.score(problem, pictures, ctx), dtype=float)
        ends = np.cumsum([len(video) for video in chosen])[:-1]
        join = np.min if self.how == "min" else np.mean
        return [float(join(own)) for own in np.split(scores, ends)]

    @property
    def differentiable(self) -> bool:
        """Whether the verifier of frames gives gradients."""
        return hasattr(self.verifier, "score_tensors") and getattr(self.verifier, "differentiable", True)

    def score_tensors(self, problem: Problem, outputs: Tensor, ctx: Context) -> Tensor:
        """(n,) scores of videos (n, frames, …), differentiable.

        Raises:
            GradientUnavailableError: the verifier of frames has none.
        """
        if not self.differentiable:
            raise GradientUnavailableError(f"{self.verifier} gives no gradients")
        judge: Any = self.verifier
        chosen = outputs[:, self._counted(outputs.shape[1])]
        scores: Tensor = judge.score_tensors(problem, chosen.flatten(0, 1), ctx).reshape(chosen.shape[:2])
        return scores.amin(dim=1) if self.how == "min" else scores.mean(dim=1)

    def _counted(self, frames: int) -> list[int]:
        """The places of the frames that count."""
        if self.how in ("ends", "last"):
            return sorted({0, (frames - 1) // 2, frames - 1}) if self.how == "ends" else [frames - 1]
        return list(range(frames))
