"""What a machine can do at its best: operations and bytes a second, memory, price."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ponder.costs.shape import read_numbers
from ponder.errors import ParameterError

HERE = "here"
"""Names this machine, as `ponder hardware` has measured it."""


@dataclass(frozen=True, slots=True)
class HardwareProfile:
    """A machine, or one accelerator.

    Args:
        name: for tables.
        peak_flops: floating-point operations a second.
        memory_bandwidth: bytes a second.
        memory_bytes: 0 if unknown.
        usd_per_hour: rent; None if unknown.
        source: where the numbers come from.
        step_s: seconds that a pass through the model takes besides; of an engine rather than of the hardware (see
            `fit_profile`).
        kv_bandwidth: bytes a second at which caches are read; None is `memory_bandwidth`.
    """

    name: str
    peak_flops: float
    memory_bandwidth: float
    memory_bytes: float = 0.0
    usd_per_hour: float | None = None
    source: str = ""
    step_s: float = 0.0
    kv_bandwidth: float | None = None

    def __post_init__(self) -> None:
        for field in ("peak_flops", "memory_bandwidth"):
            if not getattr(self, field) > 0:
                raise ParameterError("hardware", field, getattr(self, field), allowed="above 0")
        if self.memory_bytes < 0 or (self.usd_per_hour is not None and self.usd_per_hour < 0):
            raise ParameterError(
                "hardware", "memory_bytes/usd_per_hour", (self.memory_bytes, self.usd_per_hour), allowed="≥ 0"
            )  # fmt: skip
        if self.step_s < 0 or (self.kv_bandwidth is not None and not self.kv_bandwidth > 0):
            raise ParameterError(
                "hardware", "step_s/kv_bandwidth", (self.step_s, self.kv_bandwidth), allowed="≥ 0, and above 0"
            )

    @property
    def intensity(self) -> float:
        """I: operations that can be done while one byte is read."""
        return self.peak_flops / self.memory_bandwidth


_SHEET = "vendor's data sheet: 16-bit tensor operations, dense"

HARDWARE: dict[str, HardwareProfile] = {
    name: HardwareProfile(name, tflops * 1e12, gbytes * 1e9, memory * 1e9, None, source)
    for name, tflops, gbytes, memory, source in (
        ("b200", 4500, 8000, 192, "vendor's data sheet: 8-bit tensor operations, dense; what the Kinetics paper takes"),
        ("h200", 989, 4800, 141, _SHEET),
        ("h100", 989, 3350, 80, f"{_SHEET}; SXM"),
        ("a100-80gb", 312, 2039, 80, f"{_SHEET}; SXM"),
        ("a100-40gb", 312, 1555, 40, _SHEET),
        ("l40s", 362, 864, 48, _SHEET),
        ("l4", 121, 300, 24, _SHEET),
        ("a10g", 70, 600, 24, _SHEET),
        ("t4", 65, 300, 16, _SHEET),
        ("rtx-4090", 165, 1008, 24, f"{_SHEET}, accumulated in 32 bits"),
        ("rtx-3090", 71, 936, 24, f"{_SHEET}, accumulated in 32 bits"),
        ("mi300x", 1307, 5300, 192, _SHEET),
        ("m2-ultra", 27.2, 800, 192, "vendor's data sheet: 32-bit operations of the 76-core GPU"),
        ("xeon-8480", 7.2, 307, 0, "computed: 56 cores x 64 32-bit operations x 2.0 GHz; 8 x DDR5-4800; one socket"),
        ("epyc-9654", 7.4, 461, 0, "computed: 96 cores x 32 32-bit operations x 2.4 GHz; 12 x DDR5-4800; one socket"),
    )
}
"""Accelerators and processors by name. Prices differ too much from place to place to be listed."""


def hardware(what: HardwareProfile | str = "b200") -> HardwareProfile:
    """The profile that a text means.

    Args:
        what: a profile; a name of the table; `here` (measured once by `ponder hardware`, and measured now if it was
            not); or numbers. Changes come after commas: `h100,usd_per_hour=2.5`,
            `peak_flops=1e13,memory_bandwidth=4e11`.

    Raises:
        ParameterError: no such name (the known ones are listed), or a number that cannot be read or is not above 0.

    >>> hardware("b200").intensity
    562.5
    """
    if isinstance(what, HardwareProfile):
        return what
    if what in HARDWARE:
        return HARDWARE[what]
    first, *rest = (part.strip() for part in what.split(","))
    numbers = read_numbers(
        "hardware profile", [first, *rest] if "=" in first else rest,
        ["peak_flops", "memory_bandwidth", "memory_bytes", "usd_per_hour", "step_s", "kv_bandwidth"],
    )  # fmt: skip
    if "=" in first:
        if not {"peak_flops", "memory_bandwidth"} <= set(numbers):
            raise ParameterError(
                "hardware", "profile", what, allowed="peak_flops=… and memory_bandwidth=…, a second", hint=_KNOWN
            )
        return HardwareProfile("given", source="given", **numbers)
    if first == HERE:
        from ponder.costs.hardware_probe import measured_here

        found = measured_here()
    elif first in HARDWARE:
        found = HARDWARE[first]
    else:
        raise ParameterError(
            "hardware", "name", first, allowed=f"one of {_KNOWN}", hint="or peak_flops=…,memory_bandwidth=…"
        )
    return replace(found, **numbers) if numbers else found


_KNOWN = ", ".join([*HARDWARE, HERE])
