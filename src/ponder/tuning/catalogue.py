"""Engines for language models as data: what they are for, what they can do, how ponder reaches them.

From the engines' documentation as far as remembered; nothing here was measured. `ponder engine probe` measures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import orjson

from ponder.errors import UnknownNameError

AS_OF = "from memory of documentation up to mid-2025, not measured"

AXES = ("general_purpose", "ease_of_use", "ease_of_deployment", "latency", "throughput", "scalability")
"""The six axes of Park et al. 2025, "A Survey on Inference Engines for Large Language Models", from 1 to 3. The marks
are ours: the survey's own table was not at hand."""

FEATURES = (
    "continuous_batching", "chunked_prefill", "prefix_caching", "paged_attention", "speculative_decoding",
    "guided_decoding", "quantised_weights", "quantised_cache", "lora", "tensor_parallel", "pipeline_parallel",
    "expert_parallel", "multi_node", "cpu", "offloading", "disaggregated_prefill", "openai_api",
)  # fmt: skip
"""What an engine may be able to do."""


@dataclass(frozen=True)
class EngineEntry:
    """One engine.

    Attributes:
        name: of the project or service.
        kind: `open` or `commercial`.
        hardware: what it runs on.
        axes: marks from 1 to 3 by axis; none for what is not known.
        can: features, of `FEATURES`.
        launch: the command that serves a model, with `{model}` and `{port}`; empty if it is a service or a library.
        ponder: how ponder reaches it.
    """

    name: str
    kind: str
    hardware: tuple[str, ...]
    axes: Mapping[str, int]
    can: tuple[str, ...]
    launch: str
    ponder: str


@lru_cache(1)
def catalogue() -> tuple[EngineEntry, ...]:
    """All engines, by kind and name."""
    raw = orjson.loads((files("ponder.tuning") / "engines.json").read_bytes())
    out = []
    for e in raw:
        axes = dict(zip(AXES, e["axes"], strict=True)) if e["axes"] else {}
        out.append(
            EngineEntry(e["name"], e["kind"], tuple(e["hardware"]), axes, tuple(e["can"]), e["launch"], e["ponder"])
        )
    return tuple(out)


def engines(can: Sequence[str] = ()) -> tuple[EngineEntry, ...]:
    """Engines that have all of these features.

    Raises:
        UnknownNameError: no such feature.
    """
    for feature in can:
        if feature not in FEATURES:
            raise UnknownNameError("engine feature", feature, FEATURES)
    return tuple(e for e in catalogue() if set(can) <= set(e.can))
