"""What a prompt asks to be seen, as yes-or-no questions to which yes is right: objects, attributes, counts, relations.

By rules, for short English prompts: noun phrases joined by commas, `and`, and words such as `left of` or `riding`. A
noun phrase is a determiner or number, words that describe, and a noun; a describing word is one that is known (colours,
shapes, sizes, materials) or ends like one. What is not understood stays part of a noun's name and is still asked about.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Kind = Literal["object", "attribute", "count", "relation"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Part:
    """One thing that has to be seen.

    Attributes:
        kind: what it is about.
        question: to which yes is right.
        about: places (in the list of parts) of the objects without which it cannot be true.
    """

    kind: Kind
    question: str
    about: tuple[int, ...] = ()


_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_COUNTS = frozenset({*_NUMBERS, "single"})


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_DETERMINERS = _words("a an the some its his her their this these those several many")
_COLOURS = _words("""red orange yellow green blue purple violet pink brown black white grey gray golden silver beige
    cyan magenta turquoise dark bright pale light""")
_SHAPES = _words("""round square circular triangular rectangular oval cubic spherical cylindrical conical flat thin
    thick long short tall big small large tiny huge little wide narrow giant""")
_STATES = _words("""wooden metal metallic plastic glass stone leather rubber fluffy furry smooth rough soft hard shiny
    transparent striped dotted spotted checkered old new young open closed empty full wet dry hot cold happy sad""")
_DESCRIBES = _COLOURS | _SHAPES | _STATES
_DESCRIBING_ENDS = re.compile(r"\w{3,}(?:ish|ous|ful|less|shaped|colored|coloured)$")
_NOUNS_IN_ING = _words("king ring wing building ceiling painting string spring thing morning evening clothing wedding")
_FILLERS = _words("is are there which who that very")
_PLACES = (
    "to the left of", "to the right of", "on the left of", "on the right of", "left of", "right of", "on top of",
    "in front of", "next to", "close to", "at the bottom of", "at the top of", "on the side of", "behind", "above",
    "below", "under", "underneath", "beneath", "beside", "near", "inside", "outside", "between", "around", "over",
    "against", "on", "in", "at", "with", "without", "by", "into", "through", "from", "along", "among",
)  # fmt: skip
_PLACE = "|".join(map(re.escape, _PLACES))
_ONE_WORD_PLACE = "|".join(place for place in _PLACES if " " not in place)
_JOINT = re.compile(
    rf"\s*[,;.:!?](?:\s+and\b)?|\s+(?:and|while)\b|(?:^|\s+)({_PLACE})\s"
    rf"|(?<=\w)\s+(\w+ing(?:\s+(?:{_ONE_WORD_PLACE}))?)\s+(?=(?:an?|the|{'|'.join(_NUMBERS)}|\d+)\s)"
)
_PREFACE = re.compile(
    r"^\s*(?:an?|the)?\s*(?:\w+\s+)?(?:photo|photograph|picture|image|painting|drawing|illustration|rendering|video)"
    r"\s+(?:of|showing)\s+"
)


def split_prompt(text: str) -> list[Part]:
    """The questions of a prompt, objects first; empty if nothing is found in it.

    >>> for part in split_prompt("a red cube left of a blue ball; three cats"):
    ...     print(part.kind, part.question, part.about)
    object Is there a cube? ()
    object Is there a ball? ()
    object Are there any cats? ()
    attribute Is the cube red? (0,)
    attribute Is the ball blue? (1,)
    count Are there exactly three cats? (2,)
    relation Is the cube left of the ball? (0, 1)
    """
    phrases, relations = _read(_PREFACE.sub("", " ".join(text.casefold().split())))
    names = [phrase.name(phrases) for phrase in phrases]
    parts = [Part("object", phrase.asked(name)) for phrase, name in zip(phrases, names, strict=True)]
    for i, (phrase, name) in enumerate(zip(phrases, names, strict=True)):
        new = [word for word in (*phrase.describes, *phrase.later) if word not in name.split()]
        parts += [Part("attribute", f"{phrase.verb} the {name} {word}?", (i,)) for word in new]
    for i, (phrase, name) in enumerate(zip(phrases, names, strict=True)):
        if phrase.count is not None:
            parts.append(Part("count", f"{phrase.verb} there exactly {phrase.count} {name}?", (i,)))
    for first, how, second in relations:
        question = f"{phrases[first].verb} the {names[first]} {how} the {names[second]}?"
        parts.append(Part("relation", question, (first, second)))
    return parts


def read_parts(value: Any) -> list[Part]:
    """Parts out of a model's JSON: a list of objects with `kind`, `question` and perhaps `about`.

    Raises:
        ValueError, TypeError, KeyError: it is no such list.
    """
    if not isinstance(value, list) or not value:
        raise ValueError("a list of questions is expected")
    found: list[Part] = []
    for row in value:
        kind, question, about = row["kind"], row["question"], row.get("about") or []
        if kind not in KINDS or not isinstance(question, str) or not question.strip():
            raise ValueError(f"no question of a kind {', '.join(KINDS)}: {row}")
        places = tuple(int(i) for i in about)
        if any(not 0 <= i < len(value) or value[i]["kind"] != "object" for i in places) or (
            places and kind == "object"
        ):
            raise ValueError(f"about={list(about)} does not name objects of the list")
        found.append(Part(kind, question.strip(), places))
    return found


@dataclass
class _Phrase:
    """A noun phrase, or the beginning of one.

    Attributes:
        noun: its words that are left when all others are taken out.
        describes: words before the noun that describe it.
        later: those after it (`the cube is red`).
        count: the number's word, where one is given.
        article: `a`, `the`, or another word that stands for them; empty if there is none.
    """

    noun: str = ""
    describes: list[str] = field(default_factory=list)
    later: list[str] = field(default_factory=list)
    count: str | None = None
    article: str = ""

    @property
    def plural(self) -> bool:
        if self.count is not None:
            return self.count not in ("one", "1")
        return self.article != "a" and self.noun.endswith("s") and not self.noun.endswith(("ss", "us", "is"))

    @property
    def verb(self) -> str:
        return "Are" if self.plural else "Is"

    def name(self, beside: Sequence[_Phrase]) -> str:
        """The noun; with its descriptions where another phrase has the same one."""
        alike = any(other is not self and other.noun == self.noun for other in beside)
        return " ".join([*self.describes, self.noun]) if alike else self.noun

    def asked(self, name: str) -> str:
        if self.article == "the":
            return f"{self.verb} the {name} visible?"
        if self.plural:
            return f"Are there any {name}?"
        article = "" if not self.article else "an " if name[0] in "aeiou" else "a "
        return f"Is there {article}{name}?"

    def read(self, words: Sequence[str]) -> _Phrase:
        """Itself, with more words."""
        noun = self.noun.split()
        for word in (word.strip("\"'()") for word in words):
            if word in _COUNTS or word.isdigit():
                self.count, self.article = ("one" if word == "single" else word), self.article or "a"
            elif word in _DETERMINERS:
                self.article = "the" if word == "the" else "a"
            elif _describes(word):
                (self.later if noun else self.describes).append(word)
            elif word and word not in _FILLERS:
                noun.append(word)
        self.noun = " ".join(noun)
        return self


def _read(text: str) -> tuple[list[_Phrase], list[tuple[int, str, int]]]:
    """Noun phrases and what relates them, each to the next one."""
    phrases: list[_Phrase] = []
    relations: list[tuple[int, str, int]] = []
    begun, how, last, start = _Phrase(), "", -1, 0
    for joint in [*_JOINT.finditer(text), None]:
        phrase = begun.read(text[start : joint.start() if joint else None].split())
        if phrase.noun:
            place = _place(phrase, phrases)
            if how and last >= 0 and place != last:
                relations.append((last, how, place))
            begun, how, last = _Phrase(), "", place
        elif phrase.article or last < 0:
            begun = phrase  # `a black and white cat`: the noun is still to come
        else:
            phrases[last].later += phrase.describes  # `the cube is red and shiny`
            begun = _Phrase()
        if joint:
            related = joint[1] or joint[2]
            how, start = " ".join(related.split()) if related else how, joint.end()
    return phrases, relations


def _place(phrase: _Phrase, phrases: list[_Phrase]) -> int:
    """Where a phrase is in the list: `the …` refers back to an earlier one that it fits, else it is new."""
    for i, other in enumerate(phrases):
        if (
            phrase.article == "the"
            and other.noun == phrase.noun
            and set(phrase.describes) <= {*other.describes, *other.later}
        ):
            other.later += [word for word in phrase.later if word not in other.later]
            return i
    phrases.append(phrase)
    return len(phrases) - 1


def _describes(word: str) -> bool:
    in_ing = word.endswith("ing") and len(word) > 4 and word not in _NOUNS_IN_ING
    return in_ing or word in _DESCRIBES or bool(_DESCRIBING_ENDS.match(word))
