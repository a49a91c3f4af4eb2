"""Ways to spend compute on one problem, and what comes of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from ponder.core.candidate import Candidate, Failure
from ponder.core.problem import Problem
from ponder.core.registry import REGISTRY_OF, SELECTORS, STRATEGIES, Registered
from ponder.core.selector import Selection, Selector
from ponder.core.spec import Term, parse_terms
from ponder.ledger.spend import Spend

if TYPE_CHECKING:
    from ponder.core.context import Context
    from ponder.core.search_tree import SearchTree

Status = Literal["ok", "abstain", "failed"]


@dataclass(frozen=True, slots=True)
class Result:
    """What a strategy made of one problem.

    Attributes:
        candidates: everything that was finished, in draw order; failed draws included, marked.
        chosen: indexes into `candidates`, best first; empty when it abstains.
        status: `ok`; `abstain` if no candidate has an answer; `failed` if nothing was finished.
        reason: why it abstained or failed, or what fell short (a budget that ended a search).
        selection: the votes behind the choice, if a selector made it.
        spend: what it cost, per stage.
        failures: what went wrong with single samples.
        details: numbers that the strategy wants to show (rounds, stopping reason, tree size).
        tree: what a search has built, for viewing.
    """

    problem: Problem
    candidates: tuple[Candidate, ...]
    chosen: tuple[int, ...]
    status: Status = "ok"
    reason: str | None = None
    selection: Selection | None = None
    spend: Mapping[str, Spend] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    tree: SearchTree | None = field(default=None, compare=False, repr=False)

    @property
    def best(self) -> Candidate | None:
        """The chosen candidate; None when it abstains."""
        return self.candidates[self.chosen[0]] if self.chosen else None

    @property
    def output(self) -> Any:
        """The chosen candidate's output; None when it abstains."""
        return self.best.output if self.best else None

    @property
    def answer(self) -> Any:
        """The chosen answer; None when it abstains."""
        if self.selection is not None:
            return self.selection.answers[0] if self.selection.answers else None
        return self.best.answer if self.best else None

    @property
    def total(self) -> Spend:
        """What it cost, all stages together."""
        return sum(self.spend.values(), Spend())


class Strategy(Registered, ABC):
    """Spends compute on one problem. Subclasses are frozen dataclasses of their parameters."""

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    """Model capabilities without which it cannot work (`logprobs`, `streaming`, `prefix`)."""

    stepwise: ClassVar[bool] = False
    """Whether it works on steps of an output; a model's text is then written paragraph by paragraph by default."""

    process: ClassVar[str | None] = None
    """The only process that it works on; None is any."""

    n: int | None
    """How many samples it draws; None takes the number from the study's sample axis."""

    @abstractmethod
    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Solve one problem through `ctx`, and through nothing else."""

    @classmethod
    def parse(cls, text: str | Term) -> Strategy:
        """Read `strategy(…) | selector(…)`; as a parameter of something else it stands in quotes."""
        return parse_strategy(text)

    def with_samples(self, n: int) -> Self:
        """This strategy at `n` samples, unless it fixes its own number."""
        if getattr(self, "n", 0) is None:
            return replace(self, n=n)  # type: ignore[type-var]
        return self

    @property
    def takes_samples(self) -> bool:
        """Whether its number of samples is still open."""
        return getattr(self, "n", 0) is None

    @property
    def requires(self) -> frozenset[str]:
        """Everything it and what it contains need from the model."""
        nested = [v for v in vars(self).values() if hasattr(v, "needs")]
        return self.needs.union(*(v.needs for v in nested)) if nested else self.needs


@dataclass(frozen=True)
class Pipeline(Strategy):
    """A strategy whose candidates go through a selector (then maybe another)."""

    strategy: Strategy
    selectors: tuple[Selector, ...]

    name: ClassVar[str] = "pipeline"

    async def run(self, problem: Problem, ctx: Context) -> Result:
        """Run the strategy, then let each selector in turn choose among what is left."""
        result = await self.strategy.run(problem, ctx)
        for selector in self.selectors:
            result = await ctx.select(result, selector)
        return result

    def with_samples(self, n: int) -> Pipeline:
        """The inner strategy at `n` samples."""
        return Pipeline(self.strategy.with_samples(n), self.selectors)

    @property
    def takes_samples(self) -> bool:
        """Whether the inner strategy's number of samples is open."""
        return self.strategy.takes_samples

    @property
    def requires(self) -> frozenset[str]:
        """What the strategy and the selectors need."""
        return self.strategy.requires.union(*(s.needs for s in self.selectors))

    @property
    def stepwise(self) -> bool:  # type: ignore[override]
        """Whether the inner strategy works on steps."""
        return self.strategy.stepwise

    def __str__(self) -> str:
        return " | ".join(str(part) for part in (self.strategy, *self.selectors))


def parse_strategy(text: str | Term | Sequence[Term]) -> Strategy:
    """The strategy, with its selectors, that a text describes.

    Raises:
        SpecError: malformed; the position is marked.
        UnknownNameError: no such strategy, selector or parameter.
        ParameterError: a parameter has a value that it cannot have.
    """
    terms = parse_terms(text) if isinstance(text, str) else [text] if isinstance(text, Term) else text
    first, rest = STRATEGIES.build(terms[0]), [SELECTORS.build(t) for t in terms[1:]]
    return Pipeline(first, tuple(rest)) if rest else first


REGISTRY_OF[Strategy] = STRATEGIES
