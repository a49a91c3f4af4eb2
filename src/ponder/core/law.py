"""What every fitted law can do: quality for a budget, budget for a quality, and how sure it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


class Law(ABC):
    """A curve of quality against compute, fitted to data.

    A subclass has a classmethod `fit(...)`, and a `formula` for people. Compute is k, the number of draws,
    unless the subclass says otherwise.
    """

    formula: str = ""

    @property
    @abstractmethod
    def parameters(self) -> Mapping[str, float]:
        """The fitted numbers by name."""

    @abstractmethod
    def predict(self, k: ArrayLike) -> Any:
        """Quality at compute k: a float for a number, an array for an array."""

    @abstractmethod
    def inverse(self, quality: float) -> float:
        """Compute at which the law reaches a quality; infinite if it never does."""

    @abstractmethod
    def predict_interval(self, k: ArrayLike, level: float = 0.95) -> tuple[Any, Any]:
        """Lower and upper end of an interval around `predict(k)`.

        Raises:
            ponder.errors.LawFitError: the law was fitted to a curve, which does not say how sure it is.
        """

    def saturation(self, share: float = 0.95) -> float:
        """Compute at which the law reaches this share of its limit; infinite if only there."""
        return self.inverse(share * self.limit)

    @property
    def limit(self) -> float:
        """Quality as compute grows without end."""
        return 1.0


def like(k: ArrayLike, values: Any) -> Any:
    """Give values as a float if k is one number, else as an array."""
    return float(np.asarray(values).reshape(())) if np.ndim(k) == 0 else np.asarray(values)
