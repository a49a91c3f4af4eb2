"""Names to objects and back.

A technique registers itself by its class decorator (`@strategy("best_of_n")`); other packages do
it through the entry-point group `ponder`. The file that holds a name is found by the name itself
(`ponder/strategies/best_of_n.py`), so that asking for one technique imports one file.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import types
import typing
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from ponder.core.spec import Term, Value, format_value, parse_term
from ponder.core.taxonomy import Tags, read_tags
from ponder.errors import ParameterError, SpecError, TaxonomyWarning, UnknownNameError

C = TypeVar("C", bound=Callable[..., Any])

ENTRY_POINT_GROUP = "ponder"


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """What the registry knows of one name: its class (a recipe's function) and what `ponder list` shows.

    `tags` are its values in the taxonomy (`ponder.core.taxonomy`), `mistakes` what is wrong with those it gave.
    """

    kind: str
    name: str
    cls: Any
    aliases: tuple[str, ...] = ()
    tags: Tags = dataclasses.field(default_factory=dict)
    mistakes: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (self.cls.__doc__ or "").strip().split("\n", 1)[0]

    @property
    def needs(self) -> list[str]:
        """Model capabilities without which it cannot work, and `steps` if it works on steps of an output."""
        steps = ["steps"] if getattr(self.cls, "stepwise", False) is True else []
        return sorted([*getattr(self.cls, "needs", ()), *steps])


class Registry:
    """All objects of one kind (strategies, selectors, …), by name.

    Args:
        kind: the noun, as messages name it.
        package: the package whose files carry the names; found lazily.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package = kind, package
        self._entries: dict[str, Entry] = {}
        self._aliases: dict[str, str] = {}
        self._complete = False

    def register(self, name: str, *, aliases: tuple[str, ...] = (), **tags: str) -> Callable[[C], C]:
        """Class decorator: this class is what `name` (or an alias) stands for.

        Args:
            name: its name.
            aliases: its other names.
            tags: `what`, `how`, `where` and `how_well` as the taxonomy has them, such as `how="search:beam"`; each
                kind has its defaults. A mistake is a TaxonomyWarning, and the technique works all the same.
        """
        read, mistakes = read_tags(self.kind, tags)
        if mistakes:
            warnings.warn(f"{self.kind} {name}: {'; '.join(mistakes)}", TaxonomyWarning, stacklevel=2)

        def decorate(cls: C) -> C:
            known = self._entries.get(name)
            if known is not None and known.cls.__qualname__ != cls.__qualname__:
                raise ParameterError(self.kind, "name", name, allowed="a name that is not taken yet")
            cls.name = name  # type: ignore[attr-defined]
            self._entries[name] = Entry(self.kind, name, cls, aliases, read, mistakes)
            self._aliases.update(dict.fromkeys(aliases, name))
            return cls

        return decorate

    def names(self) -> list[str]:
        """Every registered name, sorted; imports all files of the kind."""
        self._load_all()
        return sorted(self._entries)

    def entries(self) -> Iterator[Entry]:
        """Every entry, by name."""
        return (self._entries[name] for name in self.names())

    def __contains__(self, name: str) -> bool:
        try:
            self.entry(name)
        except UnknownNameError:
            return False
        return True

    def entry(self, name: str, *, text: str = "", position: int = 0) -> Entry:
        """The entry of a name or alias.

        Raises:
            UnknownNameError: with the nearest names.
        """
        if name not in self._entries and name not in self._aliases:
            self._load_one(name)
        if name not in self._entries and name not in self._aliases:
            self._load_all()
        found = self._entries.get(self._aliases.get(name, name))
        if found is None:
            known = [*self._entries, *self._aliases]
            raise UnknownNameError(self.kind, name, known, text=text, position=position)
        return found

    def build(self, spec: str | Term, **extra: Any) -> Any:
        """The object that a text or a parsed term describes.

        A class may define `from_term(term, text)` to read its own arguments (models and tasks, whose
        locator matters); otherwise arguments are matched with the dataclass fields.
        """
        term = parse_term(spec) if isinstance(spec, str) else spec
        text = term.source or str(term)
        entry = self.entry(term.name, text=text, position=term.position)
        reader = getattr(entry.cls, "from_term", None)
        if reader is not None:
            return reader(term)
        if term.locator is not None:
            raise SpecError(text, term.position, f"{self.kind} {entry.name!r} takes no ':' part")
        return entry.cls(**arguments_for(entry, term, text), **extra)

    def _load_one(self, name: str) -> None:
        if name.isidentifier() and not name.startswith("_"):
            _import_if_there(f"{self.package}.{name}")

    def _load_all(self) -> None:
        if self._complete:
            return
        self._complete = True
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            if not module.name.startswith("_"):
                importlib.import_module(f"{self.package}.{module.name}")
        load_entry_points()


def arguments_for(entry: Entry, term: Term, text: str) -> dict[str, Any]:
    """Match a term's arguments with the fields of a dataclass, converting and checking types."""
    fields = {f.name: f for f in dataclasses.fields(entry.cls) if f.init}
    given = dict(term.arguments)
    if len(term.positional) > len(fields):
        raise SpecError(text, term.position, f"{entry.name} takes at most {len(fields)} parameters")
    for name, value in zip(fields, term.positional, strict=False):
        if name in given:
            raise SpecError(text, term.position, f"{entry.name}: {name} is given twice")
        given[name] = value
    hints = typing.get_type_hints(entry.cls) if given else {}  # a millisecond, and `majority` is built for every vote
    out = {}
    for key, value in given.items():
        if key not in fields:
            at = max(text.find(key, term.position), 0)
            raise UnknownNameError(f"parameter of {entry.name}", key, fields, text=text, position=at)
        out[key] = _convert(entry, key, value, hints[key])
    return out


def _convert(entry: Entry, key: str, value: Value, hint: Any) -> Any:
    """A parsed value as the type that the field declares; a ParameterError if it cannot be that."""
    wanted = (
        typing.get_args(hint)
        if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
        else (hint,)
    )
    told: UnknownNameError | ParameterError | None = None
    for option in wanted:
        try:
            return _as_type(value, option)
        except (UnknownNameError, ParameterError) as error:  # of what the value names, which says more than we could
            told = error
        except (TypeError, ValueError):
            continue
    if told is not None:
        raise told
    allowed = " or ".join(_type_name(o) for o in wanted)
    given = str(value) if isinstance(value, Term) else value
    raise ParameterError(entry.name, key, given, allowed=allowed)


def _as_type(value: Value, option: Any) -> Any:
    if option is Any:
        return str(value) if isinstance(value, Term) else value
    if option is type(None):
        if value is None:
            return None
        raise TypeError
    origin = typing.get_origin(option)
    if origin is typing.Literal:
        text = str(value) if isinstance(value, Term) else value
        if text in typing.get_args(option):
            return text
        raise ValueError
    if origin is tuple:
        inner = typing.get_args(option)[0]
        items = value if isinstance(value, tuple) else (value,)
        return tuple(_as_type(v, inner) for v in items)
    if option is bool:
        if isinstance(value, bool):
            return value
        raise TypeError
    if option is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        raise TypeError
    if option is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, Term) and value.is_word and value.name in ("inf", "-inf"):
            return float(value.name)
        raise TypeError
    if option is str:
        if isinstance(value, (str, Term)):
            return str(value)
        raise TypeError
    if isinstance(option, type):
        if isinstance(value, option):
            return value
        registry = REGISTRY_OF.get(option)
        if registry is not None and isinstance(value, (str, Term)):
            return getattr(option, "parse", registry.build)(value)  # a strategy may come with its selectors
    raise TypeError


def _type_name(option: Any) -> str:
    if typing.get_origin(option) is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(option)))
    names = {int: "an integer", float: "a number", bool: "true or false", str: "text", type(None): "none"}
    if option in names:
        return names[option]
    registry = REGISTRY_OF.get(option)
    return f"a {registry.kind}" if registry else str(option).replace("typing.", "")


def canonical(obj: Any) -> str:
    """The text form of a registered dataclass: its name and the fields that differ from their defaults."""
    parts = []
    for f in dataclasses.fields(obj):
        if not f.init or f.name.startswith("_"):
            continue
        value = getattr(obj, f.name)
        default = f.default if f.default is not dataclasses.MISSING else None
        if f.default_factory is not dataclasses.MISSING:
            default = f.default_factory()
        if value != default or (f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING):
            parts.append(f"{f.name}={format_value(value)}")
    return f"{obj.name}({', '.join(parts)})" if parts else str(obj.name)


class Registered:
    """Mixin of registered dataclasses: `str(obj)` is the text form that builds an equal object."""

    name: typing.ClassVar[str]

    def __str__(self) -> str:
        return canonical(self)


STRATEGIES = Registry("strategy", "ponder.strategies")
SELECTORS = Registry("selector", "ponder.selectors")
VERIFIERS = Registry("verifier", "ponder.verifiers")
MODELS = Registry("model", "ponder.models")
TASKS = Registry("task", "ponder.tasks")
ALLOCATORS = Registry("allocator", "ponder.allocators")
PROCESSES = Registry("process", "ponder.processes")
LAWS = Registry("law", "ponder.laws")
RECIPES = Registry("recipe", "ponder.recipes")
REGISTRIES = {
    r.kind: r for r in (STRATEGIES, SELECTORS, VERIFIERS, MODELS, TASKS, ALLOCATORS, PROCESSES, LAWS, RECIPES)
}

REGISTRY_OF: dict[type[Any], Registry] = {}
"""Which registry builds a field annotated with a noun's base class; filled by the nouns themselves."""

strategy = STRATEGIES.register
selector = SELECTORS.register
verifier = VERIFIERS.register
model = MODELS.register
task = TASKS.register
allocator = ALLOCATORS.register
process = PROCESSES.register
law = LAWS.register
recipe = RECIPES.register


def _import_if_there(module: str) -> None:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise


def load_entry_points() -> None:
    """Import what other packages registered under the group `ponder`; a broken one only warns."""
    from importlib.metadata import entry_points

    for point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            point.load()
        except Exception as error:  # a third party's fault must not take ponder down
            warnings.warn(f"entry point {point.name} ({point.value}) failed to load: {error}", stacklevel=2)
