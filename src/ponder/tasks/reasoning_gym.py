"""Procedural problems with exact graders, from the package `reasoning-gym`.

`reasoning_gym:chain_sum(min_terms=2, max_terms=2, shots=4)`: parameters of ponder's own are `shots`,
`format`, `instruction`, `max_new_tokens`, `size`, `seed`; every other one is a field of the
dataset's own configuration.
"""

from __future__ import annotations

import ast
import importlib
import os
import random
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np

from ponder.core.problem import Grade, Problem, Task
from ponder.core.registry import TASKS, arguments_for, task
from ponder.core.seeds import derive_seed
from ponder.core.spec import Term
from ponder.errors import GraderError, MissingExtraError, ParameterError, SpecError, TaskError, UnknownNameError
from ponder.tasks._limited import Limited
from ponder.tasks.final_answer import clean, final_answer
from ponder.tasks.prompts import PLAIN_STOP, Format, first_line, render

_APART = 1_000_003
_LOOKED_AT = 100
_NEXT = "\n\nQ:"
_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_BOILERPLATE = re.compile(r"^(?:State the final answer to the following arithmetic problem|Solve the following): *")


@task("reasoning_gym", aliases=("rg",))
@dataclass(frozen=True)
class ReasoningGym(Task):
    """One dataset of reasoning-gym with its own grader.

    Seeds are far apart: problems of two seeds have no more in common than chance gives them (in the package itself the
    problems of seed 1 are those of seed 0 without the first).

    Args:
        dataset: its name, such as `chain_sum` or `countdown`.
        config: fields of its configuration.
        shots: solved examples in the prompt, drawn from another seed than the problems; no problem repeats one.
        format: `plain` (few-shot text, for small or base models) or `chat`.
        instruction: stands before the examples (plain) or is the system message (chat).
        max_new_tokens: length limit of an answer; None: 32 for plain (256 if answers have several lines), 512 for chat.
        size: how many problems there are where no limit is given.
        seed: is added to the seed that problems are asked for with.
    """

    dataset: str
    config: Mapping[str, Any] = field(default_factory=dict)
    shots: int = 4
    format: Format = "plain"
    instruction: str | None = None
    max_new_tokens: int | None = None
    size: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if self.shots < 0:
            raise ParameterError(self, "shots", self.shots, allowed="an integer ≥ 0")
        if self.format not in ("plain", "chat"):
            raise ParameterError(self, "format", self.format, allowed="plain or chat")
        if self.size < 1:
            raise ParameterError(self, "size", self.size, allowed="an integer ≥ 1")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ParameterError(self, "max_new_tokens", self.max_new_tokens, allowed="an integer ≥ 1, or none")

    @classmethod
    def from_term(cls, term: Term) -> ReasoningGym:
        """Read `reasoning_gym:NAME(field=value, …)`; unknown names are answered with the nearest valid ones."""
        if not term.locator:
            raise SpecError(term.source, term.position, "a dataset is expected: reasoning_gym:chain_sum")
        if term.positional:
            raise SpecError(term.source, term.position, "parameters of reasoning_gym have names: min_terms=2")
        own = {f.name for f in fields(cls)} - {"dataset", "config"}
        settings = {k: v for k, v in term.arguments.items() if k in own}
        entry = TASKS.entry("reasoning_gym")
        built = cls(
            term.locator,
            {k: _plain(v) for k, v in sorted(term.arguments.items()) if k not in own},
            **arguments_for(entry, Term(term.name, None, settings, source=term.source), term.source),
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
        """Its text and the package's version (other versions may generate other problems), and how seeds are spread."""
        from importlib.metadata import version

        _package()
        return f"{self}@{version('reasoning-gym')}+seeds{_APART}"

    @property
    def sampling(self) -> Mapping[str, Any]:
        """Plain answers end with their line, or before the next question if they have several."""
        if self.format == "chat":
            return {"max_new_tokens": self.max_new_tokens or 512}
        if self._many_lines:
            return {"stop": (_NEXT,), "max_new_tokens": self.max_new_tokens or 256}
        return {"stop": PLAIN_STOP, "max_new_tokens": self.max_new_tokens or 32}

    def problems(self, limit: int | None = None, *, seed: int = 0) -> Sequence[Problem]:
        """`limit` problems (`size` if None). A larger limit keeps the first ones and their prompts as they are."""
        size = self.size if limit is None else limit
        if size < 1:
            raise TaskError(f"{self}: limit={limit} leaves no problems; give at least 1")
        if self.dataset in _HASH_ORDERED and os.environ.get("PYTHONHASHSEED") in (None, "", "random"):
            warnings.warn(
                f"reasoning_gym:{self.dataset} makes other problems in each process, whatever the seed; "
                "set the environment variable PYTHONHASHSEED=0 to repeat or go on with a study",
                stacklevel=2,
            )
        seed += self.seed
        shown = self._shots(seed)
        examples = {entry["question"] for entry in shown}
        shots = [(_question(entry), str(entry["answer"])) for entry in shown]
        found: list[Problem] = []
        for i, entry in enumerate(self._stream(seed, size)):
            if entry["question"] in examples:
                continue
            prompt = render(_question(entry), shots, self.format, self.instruction, tagged=self._many_lines)
            metadata = {"question": _question(entry), "entry": entry}
            found.append(Problem(f"{self.dataset}-{seed}-{i}", prompt, entry["answer"], metadata))
            if len(found) == size:
                return found
        raise TaskError(f"{self}: only {len(found)} problems differ from the examples; lower shots or the limit")

    def extract(self, output: Any) -> str | None:
        """Plain: the first line. Chat: the final answer. Answers of several lines: all of them."""
        text = str(output)
        if self._many_lines:
            tag = _TAG.findall(text)
            if self.format == "chat" and not tag:
                return final_answer(text)
            return (tag[-1] if tag else text.split(_NEXT, 1)[0]).strip("\n").rstrip() or None
        return first_line(text) if self.format == "plain" else final_answer(text)

    def grade(self, problem: Problem, output: Any) -> Grade:
        """The dataset's own score of the extracted answer; right means full score.

        Raises:
            GraderError: the dataset's scorer raised on this answer, as some do on malformed ones, or took too long.
        """
        answer = self.extract(output)
        if answer is None:
            return Grade.of(False)
        entry = problem.metadata["entry"]
        truth = str(entry["answer"] or "")
        if self.format == "chat" and answer == clean(truth):
            answer = truth  # reading a reply drops the mark that ends a sentence; some datasets ask for sentences
        try:
            if self.dataset in _EVALUATING:
                score = float(_score_apart(self.dataset, dict(self.config), answer, entry))
            else:
                score = float(self._scorer().score_answer(answer=answer, entry=entry))
        except Exception as error:
            raise GraderError(f"reasoning_gym:{self.dataset} could not score {answer[:80]!r}: {error}") from error
        return Grade(score >= 1 - 1e-9, min(max(score, 0.0), 1.0))

    @cached_property
    def _many_lines(self) -> bool:
        """Whether answers of this dataset have several lines, as grids have."""
        key = str(self)
        if key not in _MANY_LINES:
            _MANY_LINES[key] = "\n" in str(self._entries(0, 1)[0]["answer"] or "").strip()
        return _MANY_LINES[key]

    def _stream(self, seed: int, size: int) -> Iterator[Mapping[str, Any]]:
        """Entries one after the other: as many as asked for, and some more if need be."""
        done = 0
        for upto in (size, 2 * size + 64, 16 * size + 1024):
            yield from self._entries(_spread(seed), upto)[done:]
            done = upto

    def _shots(self, seed: int) -> list[Mapping[str, Any]]:
        """Examples that differ from each other, and from the first problems where those are so few that it matters."""
        if not self.shots:
            return []
        drawn = self._entries(derive_seed("shots", seed) % 2**30, 4 * self.shots + 8)
        different = {entry["question"]: entry for entry in drawn}
        if len(different) < len(drawn):
            asked = {entry["question"] for entry in self._entries(_spread(seed), _LOOKED_AT)}
            different = dict(sorted(different.items(), key=lambda item: item[0] in asked))
        picked = list(different.values())[: self.shots]
        if len(picked) < self.shots:
            raise TaskError(f"{self}: there are only {len(picked)} different examples; lower shots")
        if any(entry["answer"] is None for entry in picked):
            raise TaskError(f"{self}: the problems of {self.dataset} come without answers to show; set shots=0")
        return picked

    def _entries(self, seed: int, size: int) -> list[Mapping[str, Any]]:
        """The first entries of a seed, made in order: some datasets keep a generator that each entry moves on."""
        with _global_generators(seed):
            made = self._create(seed, max(size, _PLANNED.get(self.dataset, 0)))
            return [made[i] for i in range(min(size, len(made)))]

    def _create(self, seed: int, size: int) -> Any:
        try:
            return _package().create_dataset(self.dataset, seed=seed, size=size, **self.config)
        except (AssertionError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise TaskError(f"reasoning_gym:{self.dataset} refuses {dict(self.config)}: {error}") from error

    def _scorer(self) -> Any:
        """A dataset that is kept for scoring: creating one per graded answer would be slow."""
        key = str(self)
        if key not in _SCORERS:
            if len(_SCORERS) > 64:
                _SCORERS.clear()
            _SCORERS[key] = self._create(0, 1)
        return _SCORERS[key]

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


_SCORERS: dict[str, Any] = {}
_PLANNED = {"acre": 500}
"""Datasets that mix all their entries by their number: that many are planned, so that a limit is a prefix."""

_HASH_ORDERED = frozenset({"isomorphic_strings", "polynomial_multiplication", "ransom_note", "word_ladder"})
"""Datasets that go through sets of text, whose order Python changes from process to process."""

_MANY_LINES: dict[str, bool] = {}

_EVALUATING = frozenset(
    {
        "binary_matrix", "composite", "countdown", "intermediate_integration", "n_queens", "number_sorting",
        "polynomial_multiplication", "puzzle24", "simple_integration", "spiral_matrix", "string_insertion",
    }
)  # fmt: skip
"""Datasets whose scorers evaluate the answer as Python: done in a process of its own, within limits."""

_NO_FORMULA = re.compile(
    r"""__|["'\\\n;:{}@`]|\.\s*[A-Za-z_]|\b(?:lambda|import|eval|exec|open|input|print|exit|quit|help|compile|breakpoint
    |getattr|setattr|delattr|globals|locals|vars|dir|type|object|super|memoryview|preview|doctest|test|plot\w*)\b""",
    re.VERBOSE,
)
"""What no formula holds, and what could make evaluating one do more than compute."""

_FORMULAS = frozenset(
    {
        "composite",
        "countdown",
        "intermediate_integration",
        "polynomial_multiplication",
        "puzzle24",
        "simple_integration",
    }
)
_score_apart = Limited("ponder.tasks.reasoning_gym:score_evaluating", cpu_s=2.0)


def prepare() -> None:
    """Load the package in the process that scores; what its scorers evaluate as lists is read as literals only."""
    _package()
    for name in ("binary_matrix", "number_sorting", "spiral_matrix", "string_insertion"):
        vars(importlib.import_module(f"reasoning_gym.algorithmic.{name}"))["eval"] = ast.literal_eval
    vars(importlib.import_module("reasoning_gym.games.n_queens"))["eval"] = ast.literal_eval


def score_evaluating(dataset: str, config: dict[str, Any], answer: str, entry: dict[str, Any]) -> float:
    """What `_score_apart` runs in its process; 0 for an answer that is not evaluated since no formula looks so."""
    if dataset in _FORMULAS and answer != entry["answer"] and _NO_FORMULA.search(answer):
        return 0.0
    return float(ReasoningGym(dataset, config)._scorer().score_answer(answer=answer, entry=entry))


@contextmanager
def _global_generators(seed: int) -> Iterator[None]:
    """Seed Python's and numpy's global generators, which a few datasets draw from, and put them back afterwards."""
    before, numpy_before = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(numpy_before)


def _spread(seed: int) -> int:
    """The package's seed: far enough apart, since it adds a problem's number to it."""
    return seed * _APART % 2**31


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
