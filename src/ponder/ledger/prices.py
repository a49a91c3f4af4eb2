"""Dollars per million tokens, by model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ponder.errors import ParameterError

if TYPE_CHECKING:
    from ponder.core.model import Model

Price = tuple[float, float, float]
"""Dollars per million prompt, cached and generated tokens."""


@dataclass(frozen=True)
class Prices:
    """A price table, as the configuration gives it.

    Args:
        table: model text (`openai:gpt@http://…`), or a part of it, to a price. The longest match wins.

    A model without a price costs nothing; a dollar budget then warns that it cannot bind.
    """

    table: Mapping[str, Price] = field(default_factory=dict)

    def of(self, model: Model) -> Price:
        """The model's price, zeros if there is none."""
        text = str(model)
        hits = [key for key in self.table if key in text]
        return self.table[max(hits, key=len)] if hits else (0.0, 0.0, 0.0)


def parse_price(text: str) -> tuple[str, Price]:
    """Read `MODEL=PROMPT,CACHED,GENERATED` (dollars per million tokens).

    >>> parse_price("gpt=2.5,1.25,10")
    ('gpt', (2.5, 1.25, 10.0))
    """
    name, _, amounts = text.rpartition("=")
    try:
        prompt, cached, generated = (float(a) for a in amounts.split(","))
    except ValueError:
        raise ParameterError(
            "price", "price", text, allowed="MODEL=PROMPT,CACHED,GENERATED in dollars per million tokens"
        ) from None
    if not name or min(prompt, cached, generated) < 0:
        raise ParameterError("price", "price", text, allowed="a model's name and three numbers ≥ 0")
    return name, (prompt, cached, generated)
