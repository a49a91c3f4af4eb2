"""Procedural problems with exact graders, from the package `reasoning-gym`.

`reasoning_gym:chain_sum(min_terms=2, max_terms=2, shots=4)`: parameters of ponder's own are `shots`,
`format`, `instruction`, `max_new_tokens`; every other one is a field of the dataset's own configuration.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from ponder.core.problem import Grade, Problem, Task
from ponder.core.registry import task
from ponder.core.seeds import derive_seed
from ponder.core.spec import Term
from ponder.errors import GraderError, MissingExtraError, ParameterError, SpecError, TaskError, UnknownNameError
from ponder.tasks.final_answer import final_answer
from ponder.tasks.prompts import PLAIN_STOP, Format, first_line, render

_BOILERPLATE = re.compile(r"^(?:State the final answer to the following arithmetic problem|Solve the following): *")


@task("reasoning_gym", aliases=("rg",))
@dataclass(frozen=True)
class ReasoningGym(Task):
    """One dataset of reasoning-gym with its own grader.

    Args:
        dataset: its name, such as `chain_sum` or `countdown`.
        config: fields of its configuration.
        shots: solved examples in the prompt, drawn from another seed than the problems.
        format: `plain` (few-shot text, for small or base models) or `chat`.
        instruction: stands before the examples (plain) or is the system message (chat).
        max_new_tokens: length limit of an answer; None: 32 for plain, 512 for chat.
    """

    dataset: str
    config: Mapping[str, Any] = field(default_factory=dict)
    shots: int = 4
    format: Format = "plain"
    instruction: str | None = None
    max_new_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.shots < 0:
            raise ParameterError(self, "shots", self.shots, allowed="an integer ≥ 0")
        if self.format not in ("plain", "chat"):
            raise ParameterError(self, "format", self.format, allowed="plain or chat")

    @classmethod
    def from_term(cls, term: Term) -> ReasoningGym:
        """Read `reasoning_gym:NAME(field=value, …)`; unknown names are answered with the nearest valid ones."""
        if not term.locator:
            raise SpecError(term.source, term.position, "a dataset is expected: reasoning_gym:chain_sum")
        if term.positional:
            raise SpecError(term.source, term.position, "parameters of reasoning_gym have names: min_terms=2")
        own = {f.name for f in fields(cls)} - {"dataset", "config"}
        given = {k: _plain(v) for k, v in term.arguments.items()}
        built = cls(
            term.locator,
            {k: v for k, v in sorted(given.items()) if k not in own},
            **{k: v for k, v in given.items() if k in own},
        )
        built._check(term)
        return built

    def __str__(self) -> str:
        arguments = dict(self.config)
        for f in fields(self):
            if f.name not in ("dataset", "config") and getattr(self, f.name) != f.default:
                arguments[f.name] = getattr(self, f.name)
        return str(Term("reasoning_gym", self.dataset, arguments))

    @property
    def identity(self) -> str:
        """Its text and the package's version: other versions may generate other problems."""
        from importlib.metadata import version

        return f"{self}@{version('reasoning-gym')}"

    @property
    def sampling(self) -> Mapping[str, Any]:
        """Plain answers end with their line."""
        if self.format == "plain":
            return {"stop": PLAIN_STOP, "max_new_tokens": self.max_new_tokens or 32}
        return {"max_new_tokens": self.max_new_tokens or 512}

    def problems(self, limit: int | None = None, *, seed: int = 0) -> Sequence[Problem]:
        """`limit` problems (100 if None); their examples come from another seed and never repeat a problem."""
        size = 100 if limit is None else limit
        if size < 1:
            raise TaskError(f"{self}: limit={limit} leaves no problems; give at least 1")
        entries = list(self._make(seed, size))
        asked = {entry["question"] for entry in entries}
        shots = self._shots(seed, asked)
        return [
            Problem(
                f"{self.dataset}-{seed}-{i}",
                render(_question(entry), shots, self.format, self.instruction),
                entry["answer"],
                {"question": _question(entry), "entry": entry},
            )
            for i, entry in enumerate(entries)
        ]

    def extract(self, output: Any) -> str | None:
        """Plain: the first line. Chat: the final answer."""
        return first_line(str(output)) if self.format == "plain" else final_answer(str(output))

    def grade(self, problem: Problem, output: Any) -> Grade:
        """The dataset's own score of the extracted answer; right means full score.

        Raises:
            GraderError: the dataset's scorer raised on this answer, as many do on malformed ones.
        """
        answer = self.extract(output)
        if answer is None:
            return Grade.of(False)
        entry = problem.metadata["entry"]
        try:
            score = float(self._make(0, 1).score_answer(answer=answer, entry=entry))
        except Exception as error:
            raise GraderError(f"reasoning_gym:{self.dataset} could not score {answer[:80]!r}: {error}") from error
        return Grade(score >= 1 - 1e-9, min(max(score, 0.0), 1.0))

    def _shots(self, seed: int, asked: set[str]) -> list[tuple[str, str]]:
        if not self.shots:
            return []
        spare = self._make(derive_seed("shots", seed) % 2**30, 4 * self.shots + 8)
        fresh = {e["question"]: e for e in spare if e["question"] not in asked}
        picked = list(fresh.values())[: self.shots]
        if len(picked) < self.shots:
            raise TaskError(f"{self}: only {len(picked)} examples differ from the problems; lower shots or the limit")
        return [(_question(e), str(e["answer"])) for e in picked]

    def _make(self, seed: int, size: int) -> Any:
        key = (str(self), seed, size)
        if key not in _MADE:
            if len(_MADE) > 64:
                _MADE.clear()
            try:
                _MADE[key] = _package().create_dataset(self.dataset, seed=seed, size=size, **self.config)
            except (AssertionError, ValueError, TypeError) as error:
                raise TaskError(f"reasoning_gym:{self.dataset} refuses {dict(self.config)}: {error}") from error
        return _MADE[key]

    def _check(self, term: Term) -> None:
        """Known dataset, known configuration fields."""
        _package()
        from reasoning_gym.factory import DATASETS

        if self.dataset not in DATASETS:
            raise UnknownNameError(
                "reasoning_gym dataset", self.dataset, DATASETS, text=term.source, position=term.position
            )
        known = {f.name for f in fields(DATASETS[self.dataset][1])} - {"seed", "size"}
        own = {f.name for f in fields(self)} - {"dataset", "config"}
        for name in self.config:
            if name not in known:
                at = max(term.source.find(name), 0)
                raise UnknownNameError(
                    f"parameter of reasoning_gym:{self.dataset}", name, known | own, text=term.source, position=at
                )


_MADE: dict[tuple[str, int, int], Any] = {}
"""Datasets already created, by text form, seed and size: creating one per graded answer would be slow."""


def _package() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its dependencies have syntax warnings of their own
            import reasoning_gym
    except ImportError:
        raise MissingExtraError("the task reasoning_gym", "reasoning-gym", "tasks") from None
    return reasoning_gym


def _plain(value: Any) -> Any:
    """Bare words are text; lists stay lists, as the configurations expect them."""
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Term) else value


def _question(entry: Mapping[str, Any]) -> str:
    return _BOILERPLATE.sub("", str(entry["question"])).strip()
