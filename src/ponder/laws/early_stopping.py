"""What stopping a vote early costs and saves: closed forms for windows, exact recursion for adaptive consistency.

Papers   Li et al. 2024, "Escape Sky-high Cost" (windows, §3.2 and the control scheme); Aggarwal et al. 2023, "Let's
         Sample Step by Step" (adaptive consistency).
Equal    A window of w samples from answer probabilities π is unanimous with q = Σ π_g^w, independently of the
         others, so that the number of windows is geometric, cut off at M = floor(L / w).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ponder.core.stopping import leader_doubt
from ponder.errors import LawFitError, ParameterError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class WindowedStopping:
    """Early stopping on unanimous windows, for known answer probabilities.

    Args:
        probabilities: of each answer; what is missing to 1 are samples without an answer.
        window: w, samples per window.
        n: L, samples at most; what does not fill a window is not drawn.

    >>> law = WindowedStopping((0.7, 0.3), 5, 40)
    >>> round(law.expected_samples(), 3), round(law.wrong_stop(), 4)
    (22.752, 0.0111)
    """

    probabilities: tuple[float, ...]
    window: int
    n: int

    def __post_init__(self) -> None:
        p = self.probabilities
        if not p or min(p) < 0 or sum(p) > 1 + 1e-9:
            raise ParameterError("early stopping", "probabilities", p, allowed="numbers ≥ 0 that sum to at most 1")
        if not 1 <= self.window <= self.n:
            raise ParameterError("early stopping", "window", self.window, allowed=f"from 1 to n={self.n}")

    @property
    def unanimous(self) -> float:
        """q, the chance that one window is unanimous."""
        return float(sum(p**self.window for p in self.probabilities))

    @property
    def windows(self) -> int:
        """M, windows at most."""
        return self.n // self.window

    def stops(self) -> float:
        """Chance that any window is unanimous."""
        return 1.0 - (1.0 - self.unanimous) ** self.windows

    def expected_samples(self) -> float:
        """Mean number of samples: w (1 - (1-q)^M) / q."""
        q = self.unanimous
        return self.window * (self.stops() / q if q > 0 else self.windows)

    def wrong_stop(self, right: int = 0) -> float:
        """Chance to stop at a wrong answer: (Σ_wrong π_g^w / q) (1 - (1-q)^M)."""
        q = self.unanimous
        wrong = sum(p**self.window for g, p in enumerate(self.probabilities) if g != right)
        return wrong / q * self.stops() if q > 0 else 0.0


def choose_window(
    first_window: Sequence[int], n: int, *, most_wrong: float = 0.05, windows: Sequence[int] = (3, 4, 5, 6, 8, 10)
) -> WindowedStopping:
    """The control scheme: a window size from the answer counts of a first look.

    Args:
        first_window: how often each answer came, the leader first; the leader is taken to be right.
        n: samples at most.
        most_wrong: largest accepted chance to stop at another answer.
        windows: sizes to choose from; those above n are left out.

    Returns:
        The cheapest one that keeps to `most_wrong`; if none does, the one that errs least. Probabilities are the
        shares with half a vote added for an unseen answer, so that one unanimous look is not taken for certainty.

    Raises:
        LawFitError: no answer was counted.
    """
    counts = sorted((c for c in first_window if c > 0), reverse=True)
    if not counts:
        raise LawFitError("choose_window needs at least one answer; the first look has none")
    shares = np.asarray([*counts, 0.5])
    probabilities = tuple((shares / shares.sum()).tolist())
    options = [WindowedStopping(probabilities, w, n) for w in windows if 1 <= w <= n]
    if not options:
        raise ParameterError("choose_window", "windows", tuple(windows), allowed=f"sizes from 1 to n={n}")
    safe = [o for o in options if o.wrong_stop() <= most_wrong]
    if safe:
        return min(safe, key=lambda o: (o.expected_samples(), o.window))
    return min(options, key=lambda o: (o.wrong_stop(), o.expected_samples()))


class AdaptiveOutcome(NamedTuple):
    """What adaptive consistency achieves.

    Attributes:
        accuracy: chance that the final majority is right, ties at the end sharing the credit.
        samples: mean number of samples.
    """

    accuracy: float
    samples: float


def adaptive_consistency(
    probability: float,
    n: int = 40,
    *,
    threshold: float = 0.95,
    batch: int = 1,
    stops: Callable[[int, int], bool] | None = None,
) -> AdaptiveOutcome:
    """Exact accuracy and cost of adaptive consistency on two answers, by recursion over the vote.

    Args:
        probability: of the right answer; the other one has the rest.
        n: samples at most.
        threshold: of the Beta criterion.
        batch: samples between two looks.
        stops: another criterion, given the leader's and the other answer's votes.

    >>> [round(x, 4) for x in adaptive_consistency(0.7)]
    [0.9851, 15.1137]
    """
    if not 0 <= probability <= 1:
        raise ParameterError("adaptive_consistency", "probability", probability, allowed="in [0, 1]")
    if n < 1 or batch < 1:
        raise ParameterError("adaptive_consistency", "n/batch", (n, batch), allowed="integers ≥ 1")

    def decided(first: int, second: int) -> bool:
        leader, other = max(first, second), min(first, second)
        return stops(leader, other) if stops is not None else leader_doubt(leader, other) <= 1 - threshold

    reach: Floats = np.zeros(n + 1)
    reach[0] = 1.0
    accuracy = samples = 0.0
    for drawn in range(1, n + 1):
        reach[1:] = reach[1:] * (1 - probability) + reach[:-1] * probability
        reach[0] *= 1 - probability
        if drawn % batch and drawn < n:
            continue
        for first in range(drawn + 1):
            if reach[first] and (drawn == n or decided(first, drawn - first)):
                won = 1.0 if 2 * first > drawn else 0.5 if 2 * first == drawn else 0.0
                accuracy += reach[first] * won
                samples += reach[first] * drawn
                reach[first] = 0.0
    return AdaptiveOutcome(float(accuracy), float(samples))
