"""The text form: `best_of_n(n=8, verifier=llm_judge(model=sim:default)) | majority`.

Grammar (white space is free between tokens)::

    pipeline = term { "|" term }
    term     = name [ ":" locator ] [ "(" [ argument { "," argument } ] ")" ]
    argument = [ key "=" ] value
    value    = number | true | false | none | string | "[" [ value { "," value } ] "]" | term

A locator is everything up to a parenthesis, comma, bar or white space (`openai:gpt@http://host/v1`,
`jsonl:data.jsonl`), or a quoted string. A bare word that is not a number or a constant is a term
without arguments; whoever receives it decides whether it is a word or the name of an object.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from ponder.errors import SpecError

Value: TypeAlias = "int | float | bool | str | tuple[Value, ...] | Term | None"

_WORD = re.compile(r"""[^\s,()\[\]|="':]+""")
_LOCATOR = re.compile(r"""[^\s,()\[\]|"']+""")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$")
_CONSTANTS: dict[str, Value] = {"true": True, "false": False, "none": None}


@dataclass(frozen=True, slots=True)
class Term:
    """One name with its locator and arguments; `str` gives its text form.

    `position` is where it stands in `source`, the whole text that was read.
    """

    name: str
    locator: str | None = None
    arguments: Mapping[str, Value] = field(default_factory=dict)
    positional: tuple[Value, ...] = ()
    position: int = 0
    source: str = ""

    @property
    def is_word(self) -> bool:
        """True if there is nothing but the name, so that it may just be a string."""
        return self.locator is None and not self.arguments and not self.positional

    def __str__(self) -> str:
        head = self.name if self.locator is None else f"{self.name}:{_quote_locator(self.locator)}"
        parts = [format_value(v) for v in self.positional]
        parts += [f"{k}={format_value(v)}" for k, v in self.arguments.items()]
        return f"{head}({', '.join(parts)})" if parts else head

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Term) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))


def format_value(value: object) -> str:
    """The text form of one argument value.

    >>> format_value((1, 2.5, True, None, "two words"))
    '[1, 2.5, true, none, "two words"]'
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(format_value(v) for v in value)}]"
    if isinstance(value, str):
        return value if _is_plain_word(value) else _quote(value)
    return _quote(str(value)) if getattr(value, "name", "") == "pipeline" else str(value)


def parse_terms(text: str) -> tuple[Term, ...]:
    """The terms of a pipeline, in order.

    Raises:
        SpecError: with the position of the first character that does not fit.

    >>> [str(t) for t in parse_terms("best_of_n( n=8 )|majority")]
    ['best_of_n(n=8)', 'majority']
    """
    reader = _Reader(text)
    terms = [reader.term()]
    while reader.take("|"):
        terms.append(reader.term())
    reader.end()
    return tuple(terms)


def parse_term(text: str) -> Term:
    """A text that must be exactly one term."""
    terms = parse_terms(text)
    if len(terms) > 1:
        raise SpecError(text, text.index("|"), "one name was expected here, not a pipeline")
    return terms[0]


class _Reader:
    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def fail(self, problem: str, at: int | None = None) -> SpecError:
        return SpecError(self.text, self.at if at is None else at, problem)

    def skip(self) -> None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def take(self, symbol: str) -> bool:
        self.skip()
        if self.text.startswith(symbol, self.at):
            self.at += len(symbol)
            return True
        return False

    def expect(self, symbol: str, opened_at: int) -> None:
        if not self.take(symbol):
            what = repr(self.text[self.at]) if self.at < len(self.text) else "the text ends"
            raise self.fail(f"{symbol!r} or ',' was expected for the bracket opened at {opened_at}, but {what}")

    def end(self) -> None:
        self.skip()
        if self.at < len(self.text):
            raise self.fail(f"unexpected {self.text[self.at]!r}")

    def term(self) -> Term:
        self.skip()
        start = self.at
        match = _WORD.match(self.text, self.at)
        if match is None:
            what = repr(self.text[self.at]) if self.at < len(self.text) else "the text ends"
            raise self.fail(f"a name was expected, but {what}")
        self.at = match.end()
        locator = None
        if self.at < len(self.text) and self.text[self.at] == ":":
            self.at += 1
            locator = self.locator()
        positional: list[Value] = []
        arguments: dict[str, Value] = {}
        opened = self.at
        if self.take("("):
            while not self.take(")"):
                self.argument(positional, arguments)
                if not self.take(","):
                    self.expect(")", opened)
                    break
        return Term(match.group(), locator, arguments, tuple(positional), start, self.text)

    def locator(self) -> str:
        if self.at < len(self.text) and self.text[self.at] in "\"'":
            return self.string()
        match = _LOCATOR.match(self.text, self.at)
        if match is None:
            raise self.fail("something was expected after ':'")
        self.at = match.end()
        return match.group()

    def argument(self, positional: list[Value], arguments: dict[str, Value]) -> None:
        self.skip()
        start = self.at
        match = re.compile(r"([A-Za-z_]\w*)\s*=").match(self.text, self.at)
        if match is None:
            if arguments:
                raise self.fail("a parameter without a name cannot follow one with a name")
            positional.append(self.value())
            return
        self.at = match.end()
        if match.group(1) in arguments:
            raise self.fail(f"parameter {match.group(1)!r} is given twice", start)
        arguments[match.group(1)] = self.value()

    def value(self) -> Value:
        self.skip()
        if self.at >= len(self.text):
            raise self.fail("a value was expected, but the text ends")
        if self.text[self.at] in "\"'":
            return self.string()
        opened = self.at
        if self.take("["):
            items: list[Value] = []
            while not self.take("]"):
                items.append(self.value())
                if not self.take(","):
                    self.expect("]", opened)
                    break
            return tuple(items)
        match = _LOCATOR.match(self.text, self.at)
        if match is not None and _NUMBER.match(match.group()):
            self.at = match.end()
            return _number(match.group())
        term = self.term()
        return _CONSTANTS.get(term.name.lower(), term) if term.is_word else term

    def string(self) -> str:
        quote, start = self.text[self.at], self.at
        out, i = [], self.at + 1
        while i < len(self.text):
            if self.text[i] == "\\" and i + 1 < len(self.text):
                out.append({"n": "\n", "t": "\t"}.get(self.text[i + 1], self.text[i + 1]))
                i += 2
            elif self.text[i] == quote:
                self.at = i + 1
                return "".join(out)
            else:
                out.append(self.text[i])
                i += 1
        raise self.fail("this quoted string is not closed", start)


def _number(text: str) -> int | float:
    return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)


def _is_plain_word(text: str) -> bool:
    return bool(_WORD.fullmatch(text)) and not _NUMBER.match(text) and text.lower() not in _CONSTANTS


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'


def _quote_locator(text: str) -> str:
    return text if _LOCATOR.fullmatch(text) else _quote(text)
