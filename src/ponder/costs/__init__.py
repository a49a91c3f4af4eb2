"""One cost model: from a model's shape and the hardware to FLOPs, bytes, eFLOPs, seconds and dollars.

Everything public is here; nothing is imported before it is used.

>>> from ponder import costs
>>> shape = costs.ModelShape.read("smollm2-135m")
>>> round(shape.crossover_tokens())
3892
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_WHERE = {
    "BlockTopK": "decoding",
    "Configuration": "frontier",
    "Cost": "decoding",
    "Frontier": "frontier",
    "GradedSamples": "frontier",
    "HardwareProfile": "profiles",
    "Measurement": "frontier",
    "ModelShape": "shape",
    "TopK": "decoding",
    "TreeCounts": "sharing",
    "best_of_n_costs": "frontier",
    "cut": "frontier",
    "exchange_multiplier": "exchange",
    "exchange_table": "exchange",
    "fit_profile": "fit",
    "generation": "decoding",
    "hardware": "profiles",
    "kinetics_frontier": "frontier",
    "measure_hardware": "hardware_probe",
    "of": "ledgers",
    "tree_counts": "sharing",
}

__all__ = sorted(_WHERE)

if TYPE_CHECKING:
    from ponder.costs.decoding import BlockTopK as BlockTopK
    from ponder.costs.decoding import Cost as Cost
    from ponder.costs.decoding import TopK as TopK
    from ponder.costs.decoding import generation as generation
    from ponder.costs.exchange import exchange_multiplier as exchange_multiplier
    from ponder.costs.exchange import exchange_table as exchange_table
    from ponder.costs.fit import fit_profile as fit_profile
    from ponder.costs.frontier import Configuration as Configuration
    from ponder.costs.frontier import Frontier as Frontier
    from ponder.costs.frontier import GradedSamples as GradedSamples
    from ponder.costs.frontier import Measurement as Measurement
    from ponder.costs.frontier import best_of_n_costs as best_of_n_costs
    from ponder.costs.frontier import cut as cut
    from ponder.costs.frontier import kinetics_frontier as kinetics_frontier
    from ponder.costs.hardware_probe import measure_hardware as measure_hardware
    from ponder.costs.ledgers import of as of
    from ponder.costs.profiles import HardwareProfile as HardwareProfile
    from ponder.costs.profiles import hardware as hardware
    from ponder.costs.shape import ModelShape as ModelShape
    from ponder.costs.sharing import TreeCounts as TreeCounts
    from ponder.costs.sharing import tree_counts as tree_counts


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'ponder.costs' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"ponder.costs.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
