"""What models that run in this process share: the text form with a file or name, and the checks of how they run."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Self

from ponder.core.model import Model
from ponder.core.registry import MODELS, arguments_for, canonical
from ponder.core.spec import Term
from ponder.errors import ContextLengthError, ParameterError, SpecError


class LocalModel(Model):
    """A model whose first argument says which one."""

    source: str
    context: int
    parallel: int
    threads: int | None

    example: ClassVar[str]
    """How one is given, for messages."""

    profile_note = ""
    """Which tuned settings it has that its text did not give, and why (see `ponder.tuning.profiles`)."""

    def _check_settings(self) -> None:
        """Refuse settings that no model can be run with."""
        for name, value, least in (("context", self.context, 64), ("parallel", self.parallel, 1)):
            if value < least:
                raise ParameterError(self, name, value, allowed=f"an integer ≥ {least}")
        if self.threads is not None and self.threads < 1:
            raise ParameterError(self, "threads", self.threads, allowed="an integer ≥ 1 or none")

    @classmethod
    def from_term(cls, term: Term) -> Self:
        """Read `NAME:FILE(…)`."""
        if not term.locator:
            what = f"a model is expected: {cls.name}:{cls.example}"
            raise SpecError(term.source, term.position, what)
        from ponder.tuning.profiles import with_profile

        tuned, note = with_profile(replace(term, name=cls.name))
        options = replace(tuned, locator=None)
        built = cls(term.locator, **arguments_for(MODELS.entry(cls.name), options, term.source))  # type: ignore[call-arg]
        object.__setattr__(built, "profile_note", note)
        return built

    def __str__(self) -> str:
        rest = canonical(self).partition(", ")[2]
        return f"{Term(self.name, self.source)}({rest}" if rest else str(Term(self.name, self.source))


def too_long(who: str, given: object, limit: object) -> ContextLengthError:
    """A prompt that leaves no room for an answer."""
    return ContextLengthError(
        f"{who}: the prompt has {given} tokens, the context holds {limit}, an answer included; "
        "shorten it, or use a model (or context=…) that holds it"
    )
