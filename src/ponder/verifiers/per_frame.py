"""A video's score from a verifier of single pictures, asked about its frames.

Needs    A process whose output is a sequence of frames (`frames`).    Cost: the verifier's, for each frame that counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ponder.core.candidate import Candidate
from ponder.core.context import Context
from ponder.core.problem import Problem
from ponder.core.registry import verifier
from ponder.core.verifier import Scorable, Verifier, output_of
from ponder.errors import VerifierError


@verifier("per_frame", how="verification:process", where="generation_video")
@dataclass(frozen=True)
class PerFrame(Verifier):
    """Scores of frames, put together.

    Args:
        verifier: scores one picture.
        how: `last` frame alone, or the `mean` or `min` over all of them.
    """

    verifier: Verifier
    how: Literal["last", "mean", "min"] = "last"

    def __post_init__(self) -> None:
        object.__setattr__(self, "needs", self.verifier.needs)

    @property
    def range(self) -> tuple[float, float]:  # type: ignore[override]
        """That of the verifier."""
        return self.verifier.range

    async def score(self, problem: Problem, items: Sequence[Scorable], ctx: Context) -> Sequence[float]:
        """One number per item; all frames of all items in one call."""
        videos = [output_of(item, ctx) for item in items]
        if any(np.ndim(video) < 2 or len(video) == 0 for video in videos):
            raise VerifierError("per_frame scores outputs that are sequences of frames; use it with the process frames")
        chosen = [video[-1:] if self.how == "last" else video for video in videos]
        pictures = [Candidate(frame, None, index=i) for i, frame in enumerate(f for video in chosen for f in video)]
        scores = np.asarray(await self.verifier.score(problem, pictures, ctx), dtype=float)
        ends = np.cumsum([len(video) for video in chosen])[:-1]
        join = np.min if self.how == "min" else np.mean
        return [float(join(own)) for own in np.split(scores, ends)]
