"""What all problems of a run share."""

from __future__ import annotations

from dataclasses import dataclass, field

from ponder.core.cache import Cache, NoCache
from ponder.core.model import Model
from ponder.core.scheduler import Scheduler
from ponder.ledger.budget import Meter
from ponder.ledger.prices import Prices
from ponder.ledger.spend import Spend


@dataclass
class Runtime:
    """What all problems of a run share: schedulers, the cache of finished calls, prices.

    Args:
        cache: where finished model calls are kept.
        prices: dollars per model.
        meter: a budget over the whole run; None for no limit.
    """

    cache: Cache = field(default_factory=NoCache)
    prices: Prices = field(default_factory=Prices)
    meter: Meter | None = None
    _schedulers: dict[int, Scheduler] = field(default_factory=dict)

    def scheduler(self, model: Model) -> Scheduler:
        """The one scheduler of a model."""
        found = self._schedulers.get(id(model))
        if found is None:
            found = self._schedulers[id(model)] = Scheduler(model)
        return found

    def admit(self, spend: Spend) -> None:
        """Told what evaluations are about to cost that no scheduler sees; a study raises if it may not spend that."""

    async def aclose(self) -> None:
        """Close every model that was used."""
        for scheduler in self._schedulers.values():
            await scheduler.model.aclose()
        self._schedulers.clear()
