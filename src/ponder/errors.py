"""Every exception that ponder raises on purpose.

```
PonderError
├── SpecError               a text form that cannot be read (position marked)
│   └── UnknownNameError    no such strategy, selector, model …; the nearest names are given
├── TagError                a tag that the taxonomy does not have (also a ValueError)
├── ParameterError          a value outside what the parameter allows (also a ValueError)
├── CapabilityError         the model cannot do what the technique needs
│   ├── NotStochasticError  several children were asked of a step that has only one
│   ├── GradientUnavailableError  a model or verifier gives no gradients
│   └── NotAutoregressiveError    a process makes all parts of its output at once
├── MissingExtraError       an optional dependency is not installed (also an ImportError)
├── ModelError              a model call failed
│   ├── ModelNotFoundError  no such model file or name
│   ├── EndpointError       the endpoint refused, is down, or answered garbage
│   │   └── AuthenticationError
│   ├── ContextLengthError  the prompt does not fit the model's context
│   └── EmptyResponseError  the endpoint kept returning no choices
├── VerifierError           a verifier raised or returned something that is not a score
├── GraderError             a grader raised
├── TaskError               a task cannot be loaded, or has no problems
├── BudgetError             a budget that can never buy anything, or one that is used up
├── EmptyPoolError          a selector was given no candidates (also a ValueError)
├── CandidateError          a candidate carries a value it cannot have (also a ValueError)
├── LawFitError             the data do not identify a law
├── StoreError              a study store that cannot be used
│   ├── StoreBusyError      another run holds it
│   └── StoreMismatchError  it belongs to another study, or to another version of ponder
├── StudyError              a study cannot start or go on
│   └── RaggedRunsError     problems have unequal numbers of runs
└── EngineError             an engine cannot be measured with these settings
    ├── NoisyHostError      the machine is too busy for the measurement to mean anything
    └── TuningPausedError   a tuning has used up its slice of time; started again it goes on
```

A message says what was given, what is allowed, and what to do next. Errors about one sample
are recorded on that sample (`ponder.Failure`) and do not end a run; the ones above do.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class PonderError(Exception):
    """Base of every error that ponder raises on purpose."""


class SpecError(PonderError):
    """A text form could not be read.

    Args:
        text: what was given.
        position: index of the character at which reading failed.
        problem: what is wrong there.
    """

    def __init__(self, text: str, position: int, problem: str) -> None:
        self.text, self.position, self.problem = text, position, problem
        super().__init__(f"{problem}\n  {text}\n  {' ' * position}^")


class UnknownNameError(SpecError):
    """A name that no registered object has."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, text: str = "", position: int = 0) -> None:
        self.kind, self.name = kind, name
        names = sorted(set(known))
        near = get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names) or 'none'}"
        super().__init__(text or name, position, f"unknown {kind} {name!r}: {hint}")


class TagError(PonderError, ValueError):
    """A tag that the taxonomy does not have.

    Args:
        dimension: `what`, `how`, `where` or `how_well`.
        tag: what was given.
        known: the tags that there are.
        near: those that were probably meant; by default the ones that look alike.
    """

    def __init__(self, dimension: str, tag: str, known: Iterable[str], near: Iterable[str] = ()) -> None:
        names = list(known)
        meant = list(near) or get_close_matches(tag, names, n=3)
        hint = f"did you mean {' or '.join(meant)}?" if meant else f"the tags are {', '.join(names)}"
        super().__init__(f"{dimension}: {tag!r} is no tag; {hint}")


class TaxonomyWarning(UserWarning):
    """A technique was registered with missing or unknown tags; it works, but filters may miss it."""


class ParameterError(PonderError, ValueError):
    """A parameter has a value that it cannot have.

    Args:
        owner: the object (or its name) that the parameter belongs to.
        parameter: the parameter's name.
        value: the value given.
        allowed: what would have been right.
        hint: what to do next.
    """

    def __init__(self, owner: object, parameter: str, value: object, *, allowed: str, hint: str = "") -> None:
        name = owner if isinstance(owner, str) else getattr(owner, "name", type(owner).__name__)
        tail = f". {hint}" if hint else ""
        super().__init__(f"{name}: {parameter}={value!r} is not allowed; {parameter} must be {allowed}{tail}")


class CapabilityError(PonderError):
    """The model cannot do what was asked of it."""


class NotStochasticError(CapabilityError):
    """A deterministic step was asked for several children, which would all be the same."""


class GradientUnavailableError(CapabilityError):
    """A gradient was asked of a model or verifier that gives none."""


class NotAutoregressiveError(CapabilityError):
    """A search over the parts of an output was asked of a process that makes all of them at once."""


class MissingExtraError(PonderError, ImportError):
    """An optional dependency is missing."""

    def __init__(self, what: str, package: str, extra: str) -> None:
        self.extra = extra
        super().__init__(f"{what} needs {package}. Install it with: pip install 'ponder[{extra}]'")


class ModelError(PonderError):
    """A call to a model failed.

    `requests` is how many requests the backend had received for it.
    """

    requests: int = 0


class ModelNotFoundError(ModelError):
    """No model file or model of that name."""


class EndpointError(ModelError):
    """An endpoint refused a request, is down, or returned something unusable.

    `status` is the HTTP status, or None when there was no answer at all.
    `fatal` says that every further request would fail the same way.
    """

    def __init__(self, message: str, *, status: int | None = None, fatal: bool = False) -> None:
        self.status, self.fatal = status, fatal
        super().__init__(message)


class AuthenticationError(EndpointError):
    """The endpoint wants a key, or another one."""


class ContextLengthError(ModelError):
    """A prompt is longer than the model's context allows."""


class EmptyResponseError(ModelError):
    """An endpoint kept returning no choices."""


class VerifierError(PonderError):
    """A verifier raised, or returned something that is not a score."""


class GraderError(PonderError):
    """A grader raised."""


class TaskError(PonderError):
    """A task cannot be loaded, or holds no problems."""


class BudgetError(PonderError):
    """A budget is used up, or too small to buy anything."""


class AllParticlesDeadError(PonderError):
    """No particle has a weight above zero."""


class EmptyPoolError(PonderError, ValueError):
    """A selector was given no candidates at all."""


class CandidateError(PonderError, ValueError):
    """A candidate carries a value that it cannot have; the message names the candidate."""


class LawFitError(PonderError, ValueError):
    """The data do not identify the law."""


class StoreError(PonderError):
    """A study store cannot be used."""


class StoreBusyError(StoreError):
    """Another run is using the store."""


class StoreMismatchError(StoreError):
    """The store belongs to another study, or another version of ponder wrote it."""


class StudyError(PonderError):
    """A study cannot start, or cannot go on."""


class RaggedRunsError(StudyError):
    """Problems have unequal numbers of runs, so that worst, best and majority would not compare.

    Args:
        fewest: runs of the problem with the fewest.
        most: runs of the problem with the most.
    """

    def __init__(self, fewest: int, most: int) -> None:
        super().__init__(
            f"problems have between {fewest} and {most} runs; run the study again to draw what is missing, or compare "
            f"on the first {fewest} of each with --common"
        )


class EngineError(PonderError):
    """An engine with these settings cannot be measured: it crashed, ran out of time, or gave no answer."""


class NoisyHostError(EngineError):
    """Repetitions of the same measurement differ too much to say anything."""


class TuningPausedError(EngineError):
    """A tuning has used up its slice of time; started again it goes on."""
