"""What tasks made of records (JSON lines, rows of a dataset) have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

from ponder.core.problem import Grade, Problem, Task
from ponder.core.registry import TASKS, arguments_for
from ponder.core.spec import Term
from ponder.errors import ParameterError, SpecError, TaskError
from ponder.tasks.graders.base import GRADERS, Grader
from ponder.tasks.graders.multiple_choice import with_options
from ponder.tasks.prompts import PLAIN_STOP, Format, first_line, render


def _numeric() -> Grader:
    built: Grader = GRADERS.build("numeric")
    return built


@dataclass(frozen=True)
class RecordTask(Task):
    """Problems from records with fields for prompt, reference and id.

    Args:
        location: path or name after the colon.
        grader: compares answers with references.
        id: field of the problem's id; a missing one is replaced by the number of the line (file) or row (dataset).
        prompt: field of the question: text, or a list of chat messages, which are sent as they are.
        reference: field of the truth; may be missing only where the grader needs none.
        options: field of the options of a multiple-choice question; with that grader they are added to the question
            unless it holds them already.
        shots: that many first records become examples instead of problems.
        format: `chat` or `plain`.
        instruction: system message (chat) or text before the examples (plain).
        max_new_tokens: length limit of an answer; None: 64 for plain, 512 for chat.
    """

    location: str
    grader: Grader = field(default_factory=_numeric)
    id: str = "id"
    prompt: str = "prompt"
    reference: str = "reference"
    options: str = "options"
    shots: int = 0
    format: Format = "chat"
    instruction: str | None = None
    max_new_tokens: int | None = None

    name: ClassVar[str]

    @classmethod
    def from_term(cls, term: Term) -> Self:
        """Read `name:LOCATION(field=…)`."""
        if not term.locator:
            raise SpecError(term.source, term.position, f"{cls.name} needs a location: {cls.name}:PATH")
        own = {f.name for f in fields(cls)} - {"location"}
        given = arguments_for(
            TASKS.entry(cls.name), Term(term.name, None, term.arguments, source=term.source), term.source
        )
        return cls(term.locator, **{k: v for k, v in given.items() if k in own})

    def __post_init__(self) -> None:
        if self.shots < 0:
            raise ParameterError(self.name, "shots", self.shots, allowed="an integer ≥ 0")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ParameterError(self.name, "max_new_tokens", self.max_new_tokens, allowed="an integer ≥ 1, or none")

    def __str__(self) -> str:
        changed = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "location"}
        for f in fields(self):
            default = f.default_factory() if callable(f.default_factory) else f.default
            if changed.get(f.name) == default:
                del changed[f.name]
        return str(Term(self.name, self.location, changed))

    @property
    def sampling(self) -> Mapping[str, Any]:
        """Plain answers end with their line."""
        if self.format == "plain":
            return {"stop": PLAIN_STOP, "max_new_tokens": self.max_new_tokens or 64}
        return {"max_new_tokens": self.max_new_tokens or 512}

    @property
    def _grading(self) -> str:
        """What the identity adds where the grader depends on more than its text."""
        identity = self.grader.identity
        return "" if identity == str(self.grader) else f"+{identity}"

    @abstractmethod
    def records(self) -> Iterable[tuple[int, str, Mapping[str, Any]]]:
        """Each record with its number and the text that names its place in messages."""

    def problems(self, limit: int | None = None, *, seed: int = 0) -> Sequence[Problem]:
        """Problems in the order of the records; the first `shots` records are examples.

        Raises:
            TaskError: nothing to load, or a record that lacks a field or repeats an id (named by line or row).
        """
        if limit is not None and limit < 1:
            raise TaskError(f"{self}: limit={limit} leaves no problems; give at least 1")
        shots: list[tuple[str, str]] = []
        found: list[Problem] = []
        seen: dict[str, str] = {}
        for number, place, record in self.records():
            asked, truth = self._fields(record, place)
            if len(shots) < self.shots:
                if not isinstance(asked, str) or truth is None:
                    raise TaskError(f"{place}: an example (shots={self.shots}) needs a text prompt and a reference")
                shots.append((asked, str(truth)))
                continue
            given = record.get(self.id)
            name = str(number if given is None else given)
            if name in seen:
                raise TaskError(f"{place}: the id {name!r} occurs twice (first in {seen[name]}); ids must differ")
            seen[name] = place
            found.append(self._problem(name, asked, truth, record, shots, place))
            if limit is not None and len(found) >= limit:
                break
        if not found:
            used = f": its {len(shots)} records are all examples; lower shots" if shots else ""
            raise TaskError(f"{self} holds no problems{used}")
        return found

    def _fields(self, record: Mapping[str, Any], place: str) -> tuple[Any, Any]:
        """What is asked (with its options) and the truth."""
        have = ", ".join(map(str, record)) or "nothing"
        if self.prompt not in record:
            raise TaskError(f"{place}: no field {self.prompt!r} (there are: {have}); set prompt=FIELD")
        if self.grader.needs_reference and record.get(self.reference) is None:
            raise TaskError(
                f"{place}: no field {self.reference!r} (there are: {have}), which the grader {self.grader} needs; "
                "set reference=FIELD"
            )
        if self.options != "options" and self.options not in record:
            raise TaskError(f"{place}: no field {self.options!r} (there are: {have}); set options=FIELD")
        asked = record[self.prompt]
        if isinstance(asked, str) and self.grader.name == "multiple_choice":
            asked = with_options(asked, record.get(self.options))
        return asked, record.get(self.reference)

    def _problem(
        self, name: str, asked: Any, truth: Any, record: Mapping[str, Any], shots: list[tuple[str, str]], place: str
    ) -> Problem:
        kept = {k: v for k, v in record.items() if k not in (self.prompt, self.reference, self.id)}
        if self.options in record:
            kept["options"] = record[self.options]
        if isinstance(asked, str):
            prompt = render(asked, shots, self.format, self.instruction)
            return Problem(name, prompt, truth, {**kept, "question": asked})
        good = isinstance(asked, list) and asked and all(isinstance(m, dict) and "role" in m for m in asked)
        if not good:
            raise TaskError(f"{place}: {self.prompt!r} must be text or a list of chat messages, not {asked!r:.60}")
        if self.shots or self.instruction is not None or self.format == "plain":
            raise TaskError(f"{place}: chat messages are sent as they are; shots, instruction and plain want text")
        users = [m["content"] for m in asked if m["role"] == "user" and isinstance(m.get("content"), str)]
        question = {"question": users[-1]} if users else {}
        return Problem(name, tuple(asked), truth, {**kept, **question})

    def extract(self, output: Any) -> str | None:
        """What the grader reads as the answer; for plain prompts, in the first line."""
        text = str(output)
        if self.format == "plain":
            line = first_line(text)
            return None if line is None else self.grader.extract(line)
        return self.grader.extract(text)

    def grade(self, problem: Problem, output: Any) -> Grade:
        """The grader's credit; an output without an answer is wrong."""
        answer = self.extract(output)
        if answer is None:
            return Grade.of(False)
        score = self.grader.score(problem, str(output), answer)
        return Grade(score >= 1 - 1e-9, score)

    def same(self, first: Any, second: Any) -> bool:
        """The grader's own equivalence."""
        return self.grader.same(first, second)
