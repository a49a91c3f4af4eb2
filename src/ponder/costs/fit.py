"""A profile of an engine on a machine, from measured steps: what it reaches instead of what the hardware could.

The peak of a matrix product and the bandwidth of a large copy are bounds. Real engines have a time that each pass takes
however little there is to do, quantised products that are slower than the peak, and caches that are read in pieces.

    seconds = flops / peak_flops + weight_bytes / memory_bandwidth + kv_bytes / kv_bandwidth + passes · step_s

Weights read and a pass' own time are both once a pass, so the bandwidth of weights is not fitted: it stays the
machine's, and `step_s` holds what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ponder.costs.decoding import Cost
from ponder.costs.profiles import HardwareProfile, hardware
from ponder.errors import ParameterError

_FASTEST = 100.0
"""Times the machine's own rate: a term that the data do not show is taken as so fast."""


def fit_profile(
    measured: Sequence[tuple[Cost, float]], on: HardwareProfile | str = "here", *, name: str = "fitted"
) -> HardwareProfile:
    """The profile whose seconds are nearest to measured ones, in relative terms.

    Args:
        measured: costs (with `passes`) and their seconds, above 0; batches and contexts of several sizes.
        on: the machine; its bandwidth is kept.
        name: of the profile.

    Raises:
        ParameterError: fewer than four, or seconds that are not above 0.
    """
    from scipy.optimize import nnls

    machine = hardware(on)
    if len(measured) < 4 or min(seconds for _, seconds in measured) <= 0:
        raise ParameterError("fit_profile", "measured", len(measured), allowed="four costs or more, seconds above 0")
    columns = np.array([[c.flops, c.kv_bytes, c.passes] for c, _ in measured])
    seconds = np.array([s for _, s in measured])
    weights = np.array([c.weight_bytes for c, _ in measured]) / machine.memory_bandwidth
    scale = np.maximum(columns.max(0), 1e-300)
    found = nnls(columns / scale / seconds[:, None], (seconds - weights) / seconds)[0] / scale
    peak = _FASTEST * machine.peak_flops if found[0] <= 0 else min(1 / found[0], _FASTEST * machine.peak_flops)
    caches = _FASTEST * machine.memory_bandwidth
    kv = caches if found[1] <= 0 else min(1 / found[1], caches)
    source = f"fitted to {len(measured)} measured steps on {machine.name}"
    return replace(machine, name=name, peak_flops=float(peak), kv_bandwidth=float(kv), step_s=float(found[2]),
                   source=source)  # fmt: skip
