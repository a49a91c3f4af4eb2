"""ponder: spend compute at inference time, get better output, and know what it is worth.

Everything public is here; nothing is imported before it is used, so `import ponder` is cheap.

>>> import ponder
>>> str(ponder.parse("best_of_n( n = 8 ) | majority"))
'best_of_n(n=8) | majority'
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "Allocator": "ponder.core.allocator",
    "Assignment": "ponder.core.allocator",
    "Budget": "ponder.ledger.budget",
    "Candidate": "ponder.core.candidate",
    "Capabilities": "ponder.core.model",
    "Completion": "ponder.core.model",
    "Context": "ponder.core.context",
    "Failure": "ponder.core.candidate",
    "Grade": "ponder.core.problem",
    "Ledger": "ponder.ledger.spend",
    "Model": "ponder.core.model",
    "Pipeline": "ponder.core.strategy",
    "Pool": "ponder.core.pool",
    "Prices": "ponder.ledger.prices",
    "Problem": "ponder.core.problem",
    "Process": "ponder.core.process",
    "Request": "ponder.core.model",
    "Result": "ponder.core.strategy",
    "Runtime": "ponder.core.context",
    "Sampling": "ponder.core.model",
    "Selection": "ponder.core.selector",
    "Selector": "ponder.core.selector",
    "Spend": "ponder.ledger.spend",
    "State": "ponder.core.state",
    "Strategy": "ponder.core.strategy",
    "Study": "ponder.studies.plan",
    "Task": "ponder.core.problem",
    "Verifier": "ponder.core.verifier",
    "abench": "ponder.studies.runner",
    "asolve": "ponder.api",
    "bench": "ponder.studies.runner",
    "model": "ponder.api",
    "parse": "ponder.api",
    "plan": "ponder.studies.planner",
    "recommend": "ponder.studies.recommend",
    "register": "ponder.api",
    "selector": "ponder.api",
    "solve": "ponder.api",
    "strategy": "ponder.api",
    "task": "ponder.api",
    "tune": "ponder.studies.tune",
    "verifier": "ponder.api",
}
_MODULES = ("costs", "errors", "laws")

__all__ = sorted([*_WHERE, *_MODULES, "__version__"])

if TYPE_CHECKING:
    from ponder import costs as costs
    from ponder import errors as errors
    from ponder import laws as laws
    from ponder.api import asolve as asolve
    from ponder.api import model as model
    from ponder.api import parse as parse
    from ponder.api import register as register
    from ponder.api import selector as selector
    from ponder.api import solve as solve
    from ponder.api import strategy as strategy
    from ponder.api import task as task
    from ponder.api import verifier as verifier
    from ponder.core.allocator import Allocator as Allocator
    from ponder.core.allocator import Assignment as Assignment
    from ponder.core.candidate import Candidate as Candidate
    from ponder.core.candidate import Failure as Failure
    from ponder.core.context import Context as Context
    from ponder.core.model import Capabilities as Capabilities
    from ponder.core.model import Completion as Completion
    from ponder.core.model import Model as Model
    from ponder.core.model import Request as Request
    from ponder.core.model import Sampling as Sampling
    from ponder.core.pool import Pool as Pool
    from ponder.core.problem import Grade as Grade
    from ponder.core.problem import Problem as Problem
    from ponder.core.problem import Task as Task
    from ponder.core.process import Process as Process
    from ponder.core.runtime import Runtime as Runtime
    from ponder.core.selector import Selection as Selection
    from ponder.core.selector import Selector as Selector
    from ponder.core.state import State as State
    from ponder.core.strategy import Pipeline as Pipeline
    from ponder.core.strategy import Result as Result
    from ponder.core.strategy import Strategy as Strategy
    from ponder.core.verifier import Verifier as Verifier
    from ponder.ledger.budget import Budget as Budget
    from ponder.ledger.prices import Prices as Prices
    from ponder.ledger.spend import Ledger as Ledger
    from ponder.ledger.spend import Spend as Spend
    from ponder.studies.plan import Study as Study
    from ponder.studies.planner import plan as plan
    from ponder.studies.recommend import recommend as recommend
    from ponder.studies.runner import abench as abench
    from ponder.studies.runner import bench as bench
    from ponder.studies.tune import tune as tune


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        value = getattr(importlib.import_module(_WHERE[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"ponder.{name}")
    else:
        raise AttributeError(f"module 'ponder' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
