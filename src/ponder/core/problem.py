"""What is to be solved, and how an output is judged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from ponder.core.registry import REGISTRY_OF, TASKS

if TYPE_CHECKING:
    from ponder.core.model import Sampling

Message = Mapping[str, Any]
"""One chat message: `{"role": "user", "content": "…"}` and whatever else the backend understands."""

Prompt = str | tuple[Message, ...]
"""Text to be continued, or chat messages to be answered."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to solve.

    Args:
        id: unique within its task; part of every seed.
        prompt: text, chat messages, or anything that the process understands.
        reference: what the grader compares with; never shown to a model.
        metadata: anything else; kept with results.
    """

    id: str
    prompt: Any
    reference: Any = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Grade:
    """The judgement on one output: `correct`, and a `score` in [0, 1] where partial credit exists."""

    correct: bool
    score: float
    error: str | None = None

    @classmethod
    def of(cls, correct: bool) -> Grade:
        """Full or no credit."""
        return cls(correct, float(correct))


class Task(ABC):
    """Problems, and the rules by which their answers are read and graded."""

    name: ClassVar[str]

    @abstractmethod
    def problems(self, limit: int | None = None, *, seed: int = 0) -> Sequence[Problem]:
        """The first `limit` problems (all if None). The same seed gives the same problems.

        Raises:
            TaskError: nothing to load, or a malformed record (named by line or index).
        """

    @abstractmethod
    def grade(self, problem: Problem, output: Any) -> Grade:
        """Judge a finished output. May raise; the caller records that as an error on the sample."""

    def extract(self, output: Any) -> Any | None:
        """The answer inside an output, in the form used for voting and equality; None if there is none."""
        return output

    def same(self, first: Any, second: Any) -> bool:
        """Whether two answers mean the same although neither text nor number is equal."""
        return False

    @property
    def sampling(self) -> Mapping[str, Any]:
        """Sampling settings that the task wants (stop strings, length); the user's own win."""
        return {}

    @property
    def identity(self) -> str:
        """Text that changes whenever problems or grading would."""
        return str(self)


def instructed(prompt: Prompt, instruction: str) -> Prompt:
    """A prompt with an instruction: after the last question of a chat, before the text of a plain prompt."""
    if isinstance(prompt, str):
        return f"{instruction}\n\n{prompt}"
    last = max((i for i, message in enumerate(prompt) if message.get("role") == "user"), default=None)
    if last is None:
        return (*prompt, {"role": "user", "content": instruction})
    asked = {**prompt[last], "content": f"{prompt[last].get('content', '')}\n\n{instruction}"}
    return (*prompt[:last], asked, *prompt[last + 1 :])


def merged_sampling(base: Sampling, *overrides: Mapping[str, Any]) -> Sampling:
    """Sampling with later settings over earlier ones; None entries change nothing."""
    from dataclasses import replace

    changes: dict[str, Any] = {}
    for override in overrides:
        changes.update({k: v for k, v in override.items() if v is not None})
    return replace(base, **changes) if changes else base


REGISTRY_OF[Task] = TASKS
