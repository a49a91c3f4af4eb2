"""What tasks made of records (JSON lines, rows of a dataset) have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

from ponder.core.problem import Grade, Problem, Task
from ponder.core.registry import TASKS, arguments_for, canonical
from ponder.core.spec import Term
from ponder.errors import SpecError, TaskError
from ponder.tasks.graders.base import GRADERS, Grader
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
        id: field of the problem's id; a missing one is replaced by the record's number.
        prompt: field of the question: text, or a list of chat messages.
        reference: field of the truth.
        options: field of the options of a multiple-choice question.
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

    def __str__(self) -> str:
        whole = canonical(self)
        head = Term(self.name, self.location)
        rest = whole.partition("location=")[2]
        tail = rest.partition(", ")[2] if ", " in rest else ""
        return f"{head}({tail}" if tail else str(head)

    @property
    def sampling(self) -> Mapping[str, Any]:
        """Plain answers end with their line."""
        if self.format == "plain":
            return {"stop": PLAIN_STOP, "max_new_tokens": self.max_new_tokens or 64}
        return {"max_new_tokens": self.max_new_tokens or 512}

    def records(self) -> Iterable[tuple[str, Mapping[str, Any]]]:
        """Each record with the text that names its place in messages."""
        raise NotImplementedError

    def problems(self, limit: int | None = None, *, seed: int = 0) -> Sequence[Problem]:
        """Problems in the order of the records; the first `shots` records are examples."""
        shots: list[tuple[str, str]] = []
        found: list[Problem] = []
        seen: set[str] = set()
        for number, (place, record) in enumerate(self.records()):
            if self.prompt not in record:
                have = ", ".join(map(str, record)) or "nothing"
                raise TaskError(f"{place}: no field {self.prompt!r} (there are: {have}); set prompt=FIELD")
            asked, truth = record[self.prompt], record.get(self.reference)
            if len(shots) < self.shots:
                if not isinstance(asked, str):
                    raise TaskError(f"{place}: an example must have a text prompt, not {type(asked).__name__}")
                shots.append((asked, str(truth)))
                continue
            name = str(record.get(self.id, number))
            if name in seen:
                raise TaskError(f"{place}: the id {name!r} occurs twice; ids must differ")
            seen.add(name)
            found.append(self._problem(name, asked, truth, record, shots, place))
            if limit is not None and len(found) >= limit:
                break
        if not found:
            raise TaskError(f"{self} holds no problems")
        return found

    def _problem(
        self, name: str, asked: Any, truth: Any, record: Mapping[str, Any], shots: list[tuple[str, str]], place: str
    ) -> Problem:
        kept = {k: v for k, v in record.items() if k not in (self.prompt, self.reference, self.id)}
        if isinstance(asked, str):
            return Problem(
                name, render(asked, shots, self.format, self.instruction), truth, {**kept, "question": asked}
            )
        good = isinstance(asked, list) and asked and all(isinstance(m, dict) and "role" in m for m in asked)
        if not good:
            raise TaskError(f"{place}: {self.prompt!r} must be text or a list of chat messages, not {asked!r:.60}")
        return Problem(name, tuple(asked), truth, kept)

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
