"""Hard limits: nothing is sent that could pass them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields

from ponder.errors import ParameterError, SpecError
from ponder.ledger.spend import Spend

_ALIASES = {
    "usd": "cost_usd",
    "dollars": "cost_usd",
    "generated": "generated_tokens",
    "evaluations": "function_evaluations",
}


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be spent on one problem (or one study); None is no limit.

    Args:
        tokens: prompt and generated tokens together.
        generated_tokens: generated tokens.
        calls: model calls and verifier calls together.
        function_evaluations: evaluations of a process without tokens.
        transitions: steps of such a process, evaluations shared by several of them or not.
        cost_usd: dollars, by the configured prices.
        seconds: wall-clock time; what is under way at the end is cancelled.
    """

    tokens: float | None = None
    generated_tokens: float | None = None
    calls: float | None = None
    function_evaluations: float | None = None
    transitions: float | None = None
    cost_usd: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if value is not None and not (value >= 0):
                raise ParameterError("budget", f.name, value, allowed="a number ≥ 0")

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read `tokens=2000, calls=8, seconds=30, usd=0.05`.

        >>> Budget.parse("calls=8,usd=0.5")
        Budget(tokens=None, generated_tokens=None, calls=8.0, function_evaluations=None, transitions=None,
               cost_usd=0.5, seconds=None)
        """
        known = [f.name for f in fields(cls)]
        limits: dict[str, float] = {}
        at = 0
        for part in text.split(","):
            key, sign, value = part.partition("=")
            name = _ALIASES.get(key.strip(), key.strip())
            if part.strip():
                if name not in known or not sign:
                    raise SpecError(text, at, f"a budget is a list of limit=number with limits {', '.join(known)}")
                try:
                    limits[name] = float(value)
                except ValueError:
                    raise SpecError(text, at, f"{value.strip()!r} is not a number") from None
            at += len(part) + 1
        return cls(**limits)

    def __str__(self) -> str:
        return ",".join(f"{f.name}={v:g}" for f in fields(self) if (v := getattr(self, f.name)) is not None)

    @property
    def unlimited(self) -> bool:
        """Whether there is no limit at all."""
        return all(getattr(self, f.name) is None for f in fields(self))


_COUNTED = ("tokens", "generated_tokens", "calls", "function_evaluations", "transitions", "cost_usd")


class Meter:
    """A budget in use: what is spent, and what is reserved for requests under way.

    `reserve` grants only what fits even in the worst case; `settle` replaces a reservation by what was
    really spent. A meter may sit under another (a problem's under the study's); both must then allow.
    """

    def __init__(self, budget: Budget, parent: Meter | None = None, clock: object = None) -> None:
        self.budget, self.parent = budget, parent
        self._limits = {k: v for k in _COUNTED if (v := getattr(budget, k)) is not None}
        self._spent = dict.fromkeys(self._limits, 0.0)
        self._reserved = dict.fromkeys(self._limits, 0.0)
        self._started = time.monotonic()

    @property
    def limited(self) -> bool:
        """Whether any counted limit applies here or above."""
        return bool(self._limits) or (self.parent is not None and self.parent.limited)

    @property
    def seconds_left(self) -> float:
        """Until the nearest deadline; infinite without one."""
        own = math.inf if self.budget.seconds is None else self.budget.seconds - (time.monotonic() - self._started)
        return min(own, self.parent.seconds_left) if self.parent else own

    def left(self, name: str) -> float:
        """How much of one limit is neither spent nor reserved, here and above."""
        own = self._limits[name] - self._spent[name] - self._reserved[name] if name in self._limits else math.inf
        return min(own, self.parent.left(name)) if self.parent else own

    def affordable(self, worst: Spend, shared: Spend = Spend()) -> int | float:
        """How many units of `worst` fit, given one `shared` cost; infinite without limits."""
        count = math.inf
        if self.seconds_left <= 0:
            return 0
        for name in _COUNTED:
            left = self.left(name)
            if left == math.inf:
                continue
            unit, once = float(getattr(worst, name)), float(getattr(shared, name))
            if once > left + 1e-12 or (unit > 0 and left - once < unit - 1e-12) or (left <= 0 and unit > 0):
                return 0
            if unit > 0:
                count = min(count, math.floor((left - once) / unit + 1e-9))
        return min(count, self.parent.affordable(worst, shared)) if self.parent else count

    def reserve(self, amount: Spend) -> Spend:
        """Set an amount aside; the caller has asked `affordable` and does not await in between."""
        self._shift(self._reserved, amount, 1)
        if self.parent:
            self.parent.reserve(amount)
        return amount

    def settle(self, reserved: Spend, spent: Spend) -> None:
        """Give a reservation back and book what was spent instead."""
        self._shift(self._reserved, reserved, -1)
        self._shift(self._spent, spent, 1)
        if self.parent:
            self.parent.settle(reserved, spent)

    def _shift(self, amounts: dict[str, float], by: Spend, sign: int) -> None:
        for name in self._limits:
            amounts[name] += sign * float(getattr(by, name))


class Allowance(Meter):
    """A hard limit on one number that is worked out from a cost: FLOPs, dollars, or any other meaning of compute.

    Args:
        most: the limit.
        measure: from a cost to the number; it must add up.
    """

    def __init__(self, most: float, measure: Callable[[Spend], float]) -> None:
        super().__init__(Budget())
        self.most, self.measure = most, measure
        self.spent = 0.0
        self._held = 0.0

    @property
    def limited(self) -> bool:
        """Always."""
        return True

    def begin(self, spent: Spend) -> None:
        """Take note of what an earlier run has left; a second run under the same allowance has seen it already."""
        self.spent = max(self.spent, self.measure(spent))

    def affordable(self, worst: Spend, shared: Spend = Spend()) -> int | float:
        """How many units of `worst` fit, given one `shared` cost; infinite for what costs nothing."""
        left = self.most - self.spent - self._held - self.measure(shared)
        unit = self.measure(worst)
        if left < -1e-9 * self.most or (left <= 0 and unit > 0):
            return 0
        return math.floor(left / unit + 1e-9) if unit > 0 else math.inf

    def reserve(self, amount: Spend) -> Spend:
        """Set an amount aside."""
        self._held += self.measure(amount)
        return amount

    def settle(self, reserved: Spend, spent: Spend) -> None:
        """Give a reservation back and book what was spent instead."""
        self._held -= self.measure(reserved)
        self.spent += self.measure(spent)
