"""Dynamic experts search: a beam over prefixes and the settings they were written with.

Paper    "Dynamic Experts Search: Enhancing Reasoning in Mixture-of-Experts LLMs at Test Time", 2025.
Equal    The first level is shared out over numbers of active experts (what does not divide goes to the first ones); a
         prefix keeps its number, so the verifier's cut also chooses among the numbers; the best n / 4 go on; finished
         outputs keep their score and place.
Differs  `variants` is the same for any model: temperatures, instructions, whatever a process reads off a state's
         settings. The choice is a weighted vote (paper: the best score or a majority). `inherit=false` draws a new
         setting for each prefix that goes on: the paper's ablation.
Needs    A process in steps, a verifier of partial outputs; for `experts`, a mixture-of-experts model with a router that
         can be set.    Cost: n steps and n scores per level. More experts cost more operations per token: equal
         tokens are not equal operations; `tokens_by_variant` has what it takes to count them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from ponder.core.context import Context
from ponder.core.level_loop import Level, scorer, shared_out
from ponder.core.pool import Floats
from ponder.core.problem import Problem
from ponder.core.registry import strategy
from ponder.core.search_tree import Search
from ponder.core.spec import parse_term
from ponder.core.state import State
from ponder.core.strategy import Result
from ponder.errors import CapabilityError, ParameterError
from ponder.strategies._beam import Beam, run_beam

VARIANTS = ("plain", "cool(temperature=0.4)", "warm(temperature=1.1)", 'careful(instruction="Check every step.")')
"""Settings for a model without a router."""


@strategy(
    "dynamic_experts", aliases=("des", "dynamic_experts_search"),
    what="hybrid", how="search:beam, verification:process, stimulation:mixture",
)  # fmt: skip
@dataclass(frozen=True)
class DynamicExperts(Beam):
    """A beam in which every prefix keeps the setting that its first step was drawn with.

    Args:
        n: prefixes at a level; None takes the number from the study's sample axis.
        branch: continuations of each kept prefix.
        keep: prefixes kept at a level; None is max(1, n // branch).
        verifier: scores prefixes.
        how: how the scores of a prefix's steps become one number.
        finished: what a finished output does, as in `beam_search`.
        choose: chooses among the finished outputs.
        experts: numbers of active experts, distinct and ≥ 1 (paper: 4 … 11 around a default of 8); instead of
            `variants`.
        variants: named settings such as `hot(temperature=1.2)`; a name alone changes nothing.
        inherit: whether a prefix keeps its setting.
    """

    finished: Literal["retire", "shrink", "compete"] = "compete"
    experts: tuple[int, ...] = ()
    variants: tuple[str, ...] = VARIANTS
    inherit: bool = True

    stepwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.experts)) < len(self.experts) or any(k < 1 for k in self.experts):
            raise ParameterError(self, "experts", self.experts, allowed="distinct integers ≥ 1")
        names = [parse_term(text).name for text in self.variants]
        if not self.experts and (not names or len(set(names)) < len(names)):
            raise ParameterError(self, "variants", self.variants, allowed="settings with distinct names")
        if self.experts and self.variants != VARIANTS:
            raise ParameterError(self, "variants", self.variants, allowed="left out if experts are given")

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Search level by level over all settings, then choose among what was finished."""
        n = self.n or 1
        every = self._expert_settings(ctx) if self.experts else self._variant_settings()
        used = every[:n]
        roots = [ctx.root(settings) for settings in used]
        start = list(zip(roots, shared_out(n, range(len(used)), len(used)).tolist(), strict=True))

        def redrawn(level: Level) -> list[Mapping[str, Any]]:
            chosen = ctx.rng("dynamic_experts", level.number).integers(len(used), size=len(level.states))
            return [used[i] for i in chosen]

        async def scoring(problem: Problem, ctx: Context, states: Sequence[State]) -> Floats:
            return await scorer(problem, ctx, self.verifier)(states)

        settings = None if self.inherit or len(used) == 1 else redrawn
        result = await run_beam(self, problem, ctx, scoring, start=start, settings=settings, details=self._details)
        if len(used) == len(every):
            return result
        note = f"n={n} first steps reach {n} of {len(every)} settings"
        return replace(result, reason=f"{result.reason}; {note}" if result.reason else note)

    def _variant_settings(self) -> list[dict[str, Any]]:
        """Each variant's settings with its name; a single one without any is the plain beam."""
        terms = [parse_term(text) for text in self.variants]
        if len(terms) == 1:
            return [dict(terms[0].arguments)]
        return [{"variant": term.name, **term.arguments} for term in terms]

    def _expert_settings(self, ctx: Context) -> list[dict[str, Any]]:
        """Each number of experts as a setting, those nearest to the model's own number first.

        Raises:
            CapabilityError: the model has no router.
            ParameterError: the model has fewer experts.
        """
        model = getattr(ctx.process, "model", None)
        most = getattr(getattr(model, "capabilities", None), "experts", 0)
        if not most:
            raise CapabilityError(
                f"dynamic_experts(experts=…): {model or ctx.process.identity} has no router whose experts can be set; "
                "use variants= instead"
            )
        if max(self.experts) > most:
            raise ParameterError(self, "experts", self.experts, allowed=f"integers from 1 to {most} for {model}")
        own = getattr(getattr(model, "shape", None), "experts", 0) or math.fsum(self.experts) / len(self.experts)
        fewer = len(self.experts) > (self.n or 1)
        order = sorted(self.experts, key=lambda k: abs(k - own)) if fewer else self.experts
        return [{"experts": k} for k in order]

    def _details(self, search: Search) -> dict[str, Any]:
        """Distinct settings among what each level drew, tokens drawn with each, the mean number of experts."""
        nodes = [(_name(node.parent), node) for node in search.tree.nodes if node.parent is not None]
        depths = max((node.depth for _, node in nodes), default=0)
        alive = [len({name for name, node in nodes if node.depth == d}) for d in range(1, depths + 1)]
        tokens: Counter[str | int] = Counter()
        for name, node in nodes:
            tokens[name] += node.n_tokens
        details: dict[str, Any] = {"variants_by_level": alive, "tokens_by_variant": dict(tokens)}
        if self.experts and (total := sum(tokens.values())):
            details["mean_experts"] = sum(int(k) * t for k, t in tokens.items()) / total
        return details


def _name(parent: State) -> str | int:
    """The setting that a state's children are drawn with."""
    found: str | int = parent.meta.get("experts", parent.meta.get("variant", "plain"))
    return found
