"""Search spaces in the text form: a strategy in which values are ranges (`n=4..32`) or choices (`branch=2|4|8`).

A range of whole numbers gives whole numbers, both ends included; from a factor of ten on it is searched on a
logarithmic scale. A choice may contain anything that a value may be, ranges and further choices too, which are then
searched only where it is taken: `verifier=log_probability|llm_judge(votes=1..5)`. Outside brackets `|` joins
selectors, as ever.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ponder.core.spec import parse_terms
from ponder.errors import SpecError

if TYPE_CHECKING:
    import optuna

_NUMBER = r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"\s*({_NUMBER})\.\.({_NUMBER})\s*")
_KEY = re.compile(r"\s*([A-Za-z_]\w*)\s*=")
_HEAD = re.compile(r"([^\s,()\[\]|=\"':]+)(?::\S*)?\s*$")


@dataclass(frozen=True)
class Range:
    """Numbers between two ends, both included.

    Attributes:
        name: of the parameter.
        low: lower end.
        high: upper end.
    """

    name: str
    low: int | float
    high: int | float

    def suggest(self, trial: optuna.Trial) -> str:
        """A value, as text."""
        log = self.low > 0 and self.high / self.low >= 10
        if isinstance(self.low, int) and isinstance(self.high, int):
            return str(trial.suggest_int(self.name, self.low, self.high, log=log))
        return repr(trial.suggest_float(self.name, self.low, self.high, log=log))


@dataclass(frozen=True)
class Choice:
    """One of several texts, each of which may have parameters of its own.

    Attributes:
        name: of the parameter.
        options: each as it was written, and in parts.
    """

    name: str
    options: tuple[tuple[str, tuple[Part, ...]], ...]

    def suggest(self, trial: optuna.Trial) -> str:
        """A value, as text."""
        taken = trial.suggest_categorical(self.name, [text for text, _ in self.options])
        return _filled(next(parts for text, parts in self.options if text == taken), trial)


Part = str | Range | Choice


@dataclass(frozen=True)
class SearchSpace:
    """Strategies that a text stands for.

    Args:
        text: as it was written.
        parts: fixed text, ranges and choices, in order.
    """

    text: str
    parts: tuple[Part, ...]

    @classmethod
    def parse(cls, text: str, prefix: str = "") -> SearchSpace:
        """Read a space.

        Args:
            text: the space.
            prefix: put before the name of each parameter, so that several spaces can be searched together.

        Raises:
            SpecError: malformed; the position is marked.
        """
        space = cls(text, tuple(_Reader(text, prefix).sequence()))
        parse_terms(space.example())  # anything but ranges and choices must be right already
        return space

    def example(self, last: bool = False) -> str:
        """The text with the lower end of each range and the first of each choice, or the upper ends and the last."""
        return _end(self.parts, last)

    @property
    def parameters(self) -> list[Range | Choice]:
        """Everything that varies, outer choices first."""
        return list(_varying(self.parts))

    def suggest(self, trial: optuna.Trial) -> str:
        """The text that a trial stands for."""
        return _filled(self.parts, trial)


class _Reader:
    def __init__(self, text: str, prefix: str) -> None:
        self.text, self.prefix, self.at = text, prefix, 0
        self.names: dict[str, int] = {}

    def sequence(self, stops: str = "") -> list[Part]:
        """Everything up to one of `stops` outside brackets and quotes."""
        out: list[Part] = []
        start = self.at
        while self.at < len(self.text) and self.text[self.at] not in stops:
            letter = self.text[self.at]
            self.at += 1
            if letter in "\"'":
                self._to_end_of(letter)
            elif letter in "([":
                head = _HEAD.search(self.text[start : self.at - 1])
                out.append(self.text[start : self.at])
                out += self._arguments(head.group(1) if head else "")
                start = self.at
                self.at += self.at < len(self.text)
        out.append(self.text[start : self.at])
        return out

    def _arguments(self, head: str) -> list[Part]:
        """Up to the closing bracket, which is left."""
        out: list[Part] = []
        while self.at < len(self.text) and self.text[self.at] not in ")]":
            key = _KEY.match(self.text, self.at)
            if key:
                out.append(key.group())
                self.at = key.end()
            out += self._value(".".join(filter(None, (head, key.group(1) if key else "value"))))
            if self.text[self.at : self.at + 1] == ",":
                out.append(",")
                self.at += 1
        return out

    def _value(self, name: str) -> list[Part]:
        """A range, a choice, or what is neither."""
        options: list[tuple[str, tuple[Part, ...]]] = []
        while not options or self.text[self.at : self.at + 1] == "|":
            self.at += bool(options)
            start = self.at
            parts = self.sequence("|,)]")
            written = self.text[start : self.at]
            found = _RANGE.fullmatch(written)
            if found:
                parts = [self._range(name, found.group(1), found.group(2), start)]
            options.append((written.strip(), tuple(parts)))
        if len(options) == 1:
            return list(options[0][1])
        if not all(text for text, _ in options):
            raise SpecError(self.text, self.at, f"{name}: a choice is missing beside '|'")
        return [Choice(self._name(name), tuple(options))]

    def _range(self, name: str, low: str, high: str, at: int) -> Range:
        whole = all(re.fullmatch(r"[+-]?\d+", x) for x in (low, high))
        ends: tuple[int | float, int | float] = (int(low), int(high)) if whole else (float(low), float(high))
        if ends[0] >= ends[1]:
            raise SpecError(self.text, at, f"{low}..{high} is empty; the lower end comes first")
        return Range(self._name(name), *ends)

    def _name(self, name: str) -> str:
        """A parameter's name; the second of one name gets #2."""
        count = self.names[name] = self.names.get(name, 0) + 1
        return self.prefix + (name if count == 1 else f"{name}#{count}")

    def _to_end_of(self, quote: str) -> None:
        while self.at < len(self.text) and self.text[self.at] != quote:
            self.at += 1 + (self.text[self.at] == "\\")
        self.at += 1


def _varying(parts: Sequence[Part]) -> Iterator[Range | Choice]:
    for part in parts:
        if isinstance(part, Choice):
            yield part
            for _, option in part.options:
                yield from _varying(option)
        elif isinstance(part, Range):
            yield part


def _end(parts: Sequence[Part], last: bool) -> str:
    return "".join(
        p if isinstance(p, str)
        else str(p.high if last else p.low) if isinstance(p, Range)
        else _end(p.options[-1 if last else 0][1], last)
        for p in parts
    )  # fmt: skip


def _filled(parts: Sequence[Part], trial: optuna.Trial) -> str:
    return "".join(p if isinstance(p, str) else p.suggest(trial) for p in parts)
