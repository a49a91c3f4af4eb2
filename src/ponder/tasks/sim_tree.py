"""Simulated reasoning problems with known truth: every step may go wrong for good, and a score may be wrong about it.

An output of `depth` steps is right if every step stayed right, so a single sample is right with probability
survival ** depth. A wrong turn is final and leads to one of four wrong answers. `sim_tree` (process) builds the
outputs and `sim_tree_score` (verifier) scores the steps; all parameters of the world are the task's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ponder.core.problem import Grade, Problem, Task
from ponder.core.registry import Registered, task
from ponder.core.seeds import generator
from ponder.errors import ParameterError

RIGHT = "right"


@task("sim_tree")
@dataclass(frozen=True)
class SimTree(Registered, Task):
    """Simulated trees. Where a parameter is a list, problem i takes its i-th element (in turn): mixed difficulties.

    Args:
        depth: steps of an output.
        survival: chance that a step stays right.
        sharpness: how far the score of a right step lies from that of a wrong one, in logits.
        noise: standard deviation of a score's error, in logits.
        trap: chance that a wrong turn looks very good at first.
        trap_depth: until which step it does.
        step_tokens: what a step counts as, in tokens.
        count: problems in all.
        paraphrases: in how many wordings a parent's next thought comes; 0 words every thought anew.
        variants: names of the settings (`variant` in a state's meta) of which each problem suits some; a state without
            one has the first.
        suited: how many variants, drawn for each problem, keep `survival`.
        unsuited_survival: chance that a step of any other variant stays right.
    """

    depth: int = 8
    survival: tuple[float, ...] = (0.8,)
    sharpness: tuple[float, ...] = (2.0,)
    noise: tuple[float, ...] = (1.0,)
    trap: tuple[float, ...] = (0.0,)
    trap_depth: int = 0
    step_tokens: int = 1
    count: int = 200
    paraphrases: int = 0
    variants: tuple[str, ...] = ()
    suited: int = 3
    unsuited_survival: float = 0.5

    def __post_init__(self) -> None:
        for name in ("depth", "step_tokens", "count"):
            if getattr(self, name) < 1:
                raise ParameterError(self, name, getattr(self, name), allowed="an integer ≥ 1")
        for name in ("survival", "trap"):
            values = getattr(self, name)
            if not values or not all(0 <= v <= 1 for v in values):
                raise ParameterError(self, name, values, allowed="numbers in [0, 1]")
        if not self.sharpness or not self.noise or not all(v >= 0 for v in self.noise):
            raise ParameterError(self, "sharpness/noise", (self.sharpness, self.noise), allowed="numbers; noise ≥ 0")
        if self.paraphrases < 0:
            raise ParameterError(self, "paraphrases", self.paraphrases, allowed="an integer ≥ 0")
        if self.variants and not 1 <= self.suited <= len(self.variants):
            raise ParameterError(self, "suited", self.suited, allowed=f"an integer from 1 to {len(self.variants)}")
        if not 0 <= self.unsuited_survival <= 1:
            raise ParameterError(self, "unsuited_survival", self.unsuited_survival, allowed="a number in [0, 1]")

    def problems(self, limit: int | None = None, *, seed: int = 0) -> Sequence[Problem]:
        """`limit` problems (`count` if None); the seed is part of their ids, and so of every draw."""
        n = self.count if limit is None else min(limit, self.count)
        return [Problem(f"tree-{seed}-{i}", f"simulated problem {i}", RIGHT, self._world(i, seed)) for i in range(n)]

    def _world(self, i: int, seed: int) -> dict[str, Any]:
        lists = {name: getattr(self, name) for name in ("survival", "sharpness", "noise", "trap")}
        chosen = {name: values[i % len(values)] for name, values in lists.items()}
        fixed = {name: getattr(self, name) for name in ("depth", "trap_depth", "step_tokens", "paraphrases")}
        return {**chosen, **fixed, "survival_of": self._survival_of(chosen["survival"], seed, i)}

    def _survival_of(self, survival: float, seed: int, i: int) -> dict[str, float]:
        """Each variant's survival on problem i; empty if variants make no difference."""
        if not self.variants:
            return {}
        suited = generator("sim_tree", seed, i).choice(len(self.variants), self.suited, replace=False)
        return {v: survival if k in suited else self.unsuited_survival for k, v in enumerate(self.variants)}

    def grade(self, problem: Problem, output: Any) -> Grade:
        """Whether every step stayed right."""
        return Grade.of(output == problem.reference)

    def extract(self, output: Any) -> Any | None:
        """The answer; an output that is not complete has none."""
        return output
