"""What models that run a GGUF file in this process share: the file, its identity, the text form, the checks."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from ponder.core.model import Model
from ponder.core.registry import MODELS, arguments_for, canonical
from ponder.core.spec import Term
from ponder.costs.shape import ModelShape
from ponder.errors import ContextLengthError, ParameterError, SpecError
from ponder.models.catalog import model_digest, model_file
from ponder.models.gguf import shape


class GgufModel(Model):
    """A model whose first argument is a name from `ponder models list`, or a path to a `.gguf` file."""

    source: str
    context: int
    parallel: int
    threads: int | None

    def checked_shape(self) -> tuple[ModelShape | None, int]:
        """The decoder's shape, and the tokens that one sequence may have.

        Raises:
            ParameterError: a setting that no model can be run with.
            ModelNotFoundError: the file is not there.
        """
        for name, value, least in (("context", self.context, 64), ("parallel", self.parallel, 1)):
            if value < least:
                raise ParameterError(self, name, value, allowed=f"an integer ≥ {least}")
        if self.threads is not None and self.threads < 1:
            raise ParameterError(self, "threads", self.threads, allowed="an integer ≥ 1 or none")
        found, trained = shape(self.path)
        return found, min(self.context, trained) if trained else self.context

    @classmethod
    def from_term(cls, term: Term) -> Self:
        """Read `NAME:FILE(…)`."""
        if not term.locator:
            what = f"a model is expected: {cls.name}:smollm2-135m or a .gguf path"
            raise SpecError(term.source, term.position, what)
        options = Term(term.name, None, term.arguments, term.positional, term.position, term.source)
        return cls(term.locator, **arguments_for(MODELS.entry(cls.name), options, term.source))  # type: ignore[call-arg]

    def __str__(self) -> str:
        rest = canonical(self).partition(", ")[2]
        return f"{Term(self.name, self.source)}({rest}" if rest else str(Term(self.name, self.source))

    @property
    def path(self) -> Path:
        """The file.

        Raises:
            ModelNotFoundError: it is not there; says how to get it.
        """
        return model_file(self.source, self.name)

    @property
    def identity(self) -> str:
        """The digest of the weights: the same file under another name is the same model."""
        return f"gguf:{model_digest(self.path)[:24]}"


def too_long(who: str, given: object, limit: object) -> ContextLengthError:
    """A prompt that leaves no room for an answer."""
    return ContextLengthError(
        f"{who}: the prompt has {given} tokens, the context holds {limit}, an answer included; "
        "shorten it, or use a model (or context=…) that holds it"
    )
